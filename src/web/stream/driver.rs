//! The task of one stream (SSE or multipart): runs its operations and writes their results.
//!
//! The body is made a chunk at a time, and the next when the kernel has taken the last: what waits
//! meanwhile is written together. It never says that an operation is over when it is not, or its client would not
//! come back. Most connections are idle most of the time, so what an idle one does not need is in boxes, made when there is
//! something to do.

use std::{
    future::{self, poll_fn},
    mem,
    sync::Arc,
    time::Duration,
};

use tokio::{
    pin, select,
    sync::{mpsc, oneshot},
    time::{Instant, MissedTickBehavior, interval_at, sleep, sleep_until, timeout},
};

use super::{
    super::{
        Site,
        connection::{End, Guard, expiry},
        running::{Progress, Running},
    },
    Format,
    commands::{Command, Label},
    line::{Line, Ready},
};
use crate::{
    auth::Pass,
    hub::{Delivery, SendQueue},
};

/// How long a client may take nothing of what waits for it before it counts as dead, in whole keep-alives.
const WRITE_TIMEOUT: Duration = Duration::from_secs(24);

/// How often a client that is told nothing is told where it stands.
const CURSOR_PERIOD: Duration = Duration::from_secs(60);

/// How long the last chunk may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Between the last chunk and the cut behind it. graphql-sse's client takes a cut that comes on the heels of a result for a
/// fatal error, or never notices it; a moment later it comes back.
const LAST_WORD: Duration = Duration::from_millis(100);

/// One connection whose body is being made.
pub(in crate::web) struct Stream {
    pub(super) site: Arc<Site>,
    guard: Guard,
    pub(super) format: &'static dyn Format,
    pub(super) send_queue: Arc<SendQueue>,
    pub(super) running: Running<Label>,
    commands: Option<mpsc::Receiver<Command>>,
    /// Whatever must last as long as the connection.
    seat: Option<Box<dyn Send>>,
    /// Where the body goes, once its head is on the way.
    line: Option<Line>,
    /// What goes into the next chunk before what waits in the send queue.
    pub(super) chunk: Vec<u8>,
    /// Whether something waits in the send queue.
    is_due: bool,
    /// How long the client has taken nothing although something waits, in whole keep-alives.
    stalled: Duration,
    /// How long ago the client was told where it stands, in whole keep-alives, and what.
    since_cursor: Duration,
    cursor: String,
    /// When the connection ends: when its token does, or when nobody has come to read it.
    deadline: Instant,
    /// When its token expires.
    expires: Instant,
}

impl Stream {
    pub(in crate::web) fn new(
        site: Arc<Site>,
        mut guard: Guard,
        format: &'static dyn Format,
        pass: &Pass,
    ) -> Self {
        let send_queue = SendQueue::new(site.settings.queue_bytes);
        guard.attach(send_queue.clone());
        let expires = expiry(pass.expires);
        Self {
            send_queue,
            site,
            guard,
            format,
            running: Running::new(),
            commands: None,
            seat: None,
            line: None,
            chunk: Vec::new(),
            is_due: false,
            stalled: Duration::ZERO,
            since_cursor: Duration::ZERO,
            cursor: String::new(),
            deadline: expires,
            expires,
        }
    }

    /// A connection that takes commands, and ends if nobody comes to read it within `patience`. It drops `seat` when it ends.
    pub(in crate::web) fn reserve(
        mut self,
        commands: mpsc::Receiver<Command>,
        patience: Duration,
        seat: Box<dyn Send>,
    ) -> Self {
        self.format.begin(&mut self.chunk, None);
        (self.commands, self.seat) = (Some(commands), Some(seat));
        self.deadline = self.expires.min(Instant::now() + patience);
        self
    }

    /// Writes the first bytes. A watcher that is not behind stands at the cursor.
    pub(super) fn begin(&mut self, cursor: String) {
        self.cursor = cursor;
        self.format.begin(&mut self.chunk, (!self.running.is_behind()).then_some(&self.cursor));
    }

    /// Ends it before it began.
    pub(super) fn end(self, end: End) {
        self.guard.end(end);
    }

    /// Runs in a task of its own, which a drain waits for, and writes to the line as soon as there is one.
    pub(in crate::web) fn spawn(mut self, line: oneshot::Receiver<Line>) {
        let tasks = self.site.connections.tasks().clone();
        tasks.spawn(async move {
            let end = self.serve(line).await;
            if matches!(end, End::Drained | End::Expired)
                && Box::pin(timeout(CLOSE_TIMEOUT, self.close(&end))).await.is_err()
            {
                tracing::trace!("the last chunk was not taken");
            }
            self.guard.end(end);
        });
    }

    /// Writes what waits until the connection ends, and says why it did.
    async fn serve(&mut self, line: oneshot::Receiver<Line>) -> End {
        let period = self.format.keep_alive_period();
        let mut keep_alive = interval_at(Instant::now() + period, period);
        keep_alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut arriving = Some(line);
        let deadline = sleep_until(self.deadline);
        pin!(deadline);
        loop {
            let is_due = self.is_due || !self.chunk.is_empty();
            let is_writing = is_due || self.line.as_ref().is_some_and(Line::is_blocked);
            // The results of queries and mutations wait for room, or they would pile up for a client that asks and does not read.
            let may_finish = self.chunk.len() < self.site.settings.queue_bytes;
            select! {
                () = self.guard.drained() => return End::Drained,
                Some(line) = arrival(&mut arriving) => match line {
                    Ok(line) => self.open(line),
                    Err(_) => return End::Left,
                },
                // Also if there is nothing new to write: a replay waits until the line is through.
                ready = ready(&mut self.line, is_writing) => match ready {
                    Ready::Room => self.write(),
                    Ready::Left => return End::Left,
                    Ready::Lost => return End::Lost,
                },
                () = self.send_queue.changed(), if !self.is_due => self.is_due = true,
                () = self.send_queue.overflow(), if self.is_due => return End::Slow,
                progress = poll_fn(|cx| self.running.poll(cx, !is_writing)), if may_finish => self.go_on(progress),
                Some(command) = next_command(&mut self.commands) => Box::pin(self.act(command)).await,
                _ = keep_alive.tick(), if self.line.is_some() => {
                    if !self.keep_alive(is_writing) {
                        return End::Dead;
                    }
                }
                () = &mut deadline => return if self.deadline < self.expires { End::Lost } else { End::Expired },
            }
            if deadline.deadline() != self.deadline {
                deadline.as_mut().reset(self.deadline);
            }
        }
    }

    /// The client reads from now on.
    fn open(&mut self, line: Line) {
        (self.line, self.deadline) = (Some(line), self.expires);
        self.write();
    }

    /// What is still to be said, and then the cut, or a proper end if the transport has words for it.
    async fn close(&mut self, end: &End) {
        // Nothing may come behind the last words.
        let waiting = self.send_queue.take();
        self.encode(&waiting);
        self.running = Running::new();
        let has_words = *end == End::Expired && self.format.expired(&mut self.chunk);
        self.write();
        let Some(line) = &mut self.line else { return };
        // A client that is gone needs no end.
        if has_words {
            let _ = line.finish().await;
        } else if line.flush().await.is_ok() {
            sleep(LAST_WORD).await;
        }
    }

    /// All that waits, in one chunk.
    fn write(&mut self) {
        let deliveries = self.send_queue.take();
        self.encode(&deliveries);
        (self.is_due, self.stalled) = (false, Duration::ZERO);
        let chunk = mem::take(&mut self.chunk);
        if let Some(line) = &mut self.line
            && !chunk.is_empty()
        {
            line.send(&chunk);
        }
    }

    fn encode(&mut self, deliveries: &[Delivery]) {
        for Delivery { watcher, result } in deliveries {
            // What was under way to an operation that the client has ended meanwhile is dropped.
            if let Some(Label { id, .. }) = self.running.label(*watcher) {
                self.format.next(&mut self.chunk, id.as_deref(), Some(&result.cursor), &result.payload);
            }
        }
        self.guard.delivered(deliveries);
    }

    fn go_on(&mut self, progress: Progress<Label>) {
        match progress {
            Progress::Missed(deliveries) => self.encode(&deliveries),
            Progress::Finished(label, response) => self.finish(label, response),
        }
    }

    /// Whether the client is still there, as far as one can tell.
    fn keep_alive(&mut self, is_writing: bool) -> bool {
        let period = self.format.keep_alive_period();
        if is_writing {
            let has_moved = self.line.as_mut().is_some_and(Line::has_moved);
            self.stalled = if has_moved { Duration::ZERO } else { self.stalled + period };
            return self.stalled < WRITE_TIMEOUT;
        }
        self.since_cursor += period;
        let cursor = self.moved_cursor();
        self.format.keep_alive(&mut self.chunk, cursor.then_some(&*self.cursor));
        true
    }

    /// Whether the client stands elsewhere than it was told last. What is still on its way to it is younger than the margin
    /// with which every replay begins.
    fn moved_cursor(&mut self) -> bool {
        if self.since_cursor < CURSOR_PERIOD || self.commands.is_some() || self.running.is_behind() {
            return false;
        }
        self.since_cursor = Duration::ZERO;
        let cursor = self.site.engine.cursor();
        let has_moved = cursor != self.cursor;
        self.cursor = cursor;
        has_moved
    }
}

/// The line when it comes, once; that it does not come is an error.
async fn arrival(
    line: &mut Option<oneshot::Receiver<Line>>,
) -> Option<Result<Line, oneshot::error::RecvError>> {
    let arrived = line.as_mut()?.await;
    *line = None;
    Some(arrived)
}

/// Whether there is room for a chunk, or nobody left to read it. Nothing happens before there is a line.
async fn ready(line: &mut Option<Line>, is_due: bool) -> Ready {
    match line {
        Some(line) => line.ready(is_due).await,
        None => future::pending().await,
    }
}

async fn next_command(commands: &mut Option<mpsc::Receiver<Command>>) -> Option<Command> {
    commands.as_mut()?.recv().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_small() {
        // its task holds this and little more, or ten thousand idle ones would not fit into 40 MB
        assert!(mem::size_of::<Stream>() <= 576, "{}", mem::size_of::<Stream>());
    }
}
