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
    body::{BodyWriter, Ready},
    command::{Command, Label, Rejected},
    format::Format,
};
use crate::{
    auth::Session,
    hub::{Delivery, SendQueue},
    web::{
        connection::{End, Guard, expiry},
        operations::{Progress, Running},
        server::SocketHandoff,
        state::AppState,
    },
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
    pub(super) app: Arc<AppState>,
    guard: Guard,
    pub(super) format: &'static dyn Format,
    pub(super) send_queue: Arc<SendQueue>,
    pub(super) running: Running<Label>,
    commands: Option<mpsc::Receiver<Command>>,
    /// Whatever must last as long as the connection.
    seat: Option<Box<dyn Send>>,
    /// Where the body goes, once its head is on the way.
    writer: Option<BodyWriter>,
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
        app: Arc<AppState>,
        mut guard: Guard,
        format: &'static dyn Format,
        session: &Session,
    ) -> Self {
        let send_queue = SendQueue::new(app.settings.queue_bytes);
        guard.attach(send_queue.clone());
        let expires = expiry(session.expires);
        Self {
            send_queue,
            app,
            guard,
            format,
            running: Running::new(),
            commands: None,
            seat: None,
            writer: None,
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

    /// Runs in a task of its own, which a drain waits for, and writes to the body writer as soon as there is one.
    pub(in crate::web) fn spawn(mut self, socket: oneshot::Receiver<SocketHandoff>) {
        let tasks = self.app.connections.tasks().clone();
        tasks.spawn(async move {
            let end = self.serve(socket).await;
            if matches!(end, End::Drained | End::Expired)
                && Box::pin(timeout(CLOSE_TIMEOUT, self.close(&end))).await.is_err()
            {
                tracing::trace!("the last chunk was not taken");
            }
            self.guard.end(end);
        });
    }

    /// Writes what waits until the connection ends, and says why it did.
    async fn serve(&mut self, socket: oneshot::Receiver<SocketHandoff>) -> End {
        let period = self.format.keep_alive_period();
        let mut keep_alive = interval_at(Instant::now() + period, period);
        keep_alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut arriving = Some(socket);
        let deadline = sleep_until(self.deadline);
        pin!(deadline);
        loop {
            let is_due = self.is_due || !self.chunk.is_empty();
            let is_writing = is_due || self.writer.as_ref().is_some_and(BodyWriter::is_blocked);
            // The results of queries and mutations wait for room, or they would pile up for a client that asks and does not read.
            let may_finish = self.chunk.len() < self.app.settings.queue_bytes;
            select! {
                () = self.guard.drained() => return End::Drained,
                Some(socket) = arrival(&mut arriving) => match socket {
                    Ok(handoff) => self.attach(handoff),
                    Err(_) => return End::Left,
                },
                // Also if there is nothing new to write: a replay waits until the body writer is through.
                ready = ready(&mut self.writer, is_writing) => match ready {
                    Ready::Room => self.write(),
                    Ready::Left => return End::Left,
                    Ready::Lost => return End::Lost,
                },
                () = self.send_queue.changed(), if !self.is_due => self.is_due = true,
                () = self.send_queue.overflow(), if self.is_due => return End::Slow,
                progress = poll_fn(|cx| self.running.poll(cx, !is_writing)), if may_finish => self.go_on(progress),
                Some(command) = next_command(&mut self.commands) => Box::pin(self.act(command)).await,
                _ = keep_alive.tick(), if self.writer.is_some() => {
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
    fn attach(&mut self, handoff: SocketHandoff) {
        (self.writer, self.deadline) = (Some(BodyWriter::new(handoff)), self.expires);
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
        let Some(writer) = &mut self.writer else { return };
        // A client that is gone needs no end.
        if has_words {
            let _ = writer.finish().await;
        } else if writer.flush().await.is_ok() {
            sleep(LAST_WORD).await;
        }
    }

    /// All that waits, in one chunk.
    fn write(&mut self) {
        let deliveries = self.send_queue.take();
        self.encode(&deliveries);
        (self.is_due, self.stalled) = (false, Duration::ZERO);
        let chunk = mem::take(&mut self.chunk);
        if let Some(writer) = &mut self.writer
            && !chunk.is_empty()
        {
            writer.send(&chunk);
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
            Progress::Finished(label, response) => self.finish(label, &response),
            Progress::Refused(mut label, refusal) => label.reply(Err(Rejected::Refused(refusal))),
        }
    }

    /// Whether the client is still there, as far as one can tell.
    fn keep_alive(&mut self, is_writing: bool) -> bool {
        let period = self.format.keep_alive_period();
        if is_writing {
            let has_moved = self.writer.as_mut().is_some_and(BodyWriter::has_moved);
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
        let cursor = self.app.engine.cursor();
        let has_moved = cursor != self.cursor;
        self.cursor = cursor;
        has_moved
    }
}

/// The line when it comes, once; that it does not come is an error.
async fn arrival(
    socket: &mut Option<oneshot::Receiver<SocketHandoff>>,
) -> Option<Result<SocketHandoff, oneshot::error::RecvError>> {
    let arrived = socket.as_mut()?.await;
    *socket = None;
    Some(arrived)
}

/// Whether there is room for a chunk, or nobody left to read it. Nothing happens before there is a body writer.
async fn ready(writer: &mut Option<BodyWriter>, is_due: bool) -> Ready {
    match writer {
        Some(writer) => writer.ready(is_due).await,
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
