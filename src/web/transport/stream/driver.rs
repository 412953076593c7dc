//! The task of one stream (SSE or multipart): runs its operations and writes their results.
//!
//! The body is made one chunk at a time. The next chunk is made when the kernel has taken the last
//! one: what waits meanwhile is written together. The driver must never report the end of an
//! operation that goes on, since its client would not reconnect. Most connections are idle most of
//! the time. What an idle one does not need is boxed, and made when there is something to do.

use std::{
    future::{self, poll_fn},
    mem,
    num::NonZeroU8,
    sync::Arc,
    time::Duration,
};

use tokio::{
    pin, select,
    sync::{mpsc, oneshot},
    time::{Instant, Interval, MissedTickBehavior, interval_at, sleep, sleep_until, timeout},
};

use super::{
    body::{BodyWriter, Ready},
    command::{Command, Label, Rejected},
    format::Format,
};
use crate::{
    auth::Session,
    budget::Charge,
    cursor::Source,
    graphql::error::Code,
    hub::{Delivery, SendQueue},
    web::{
        connection::{End, Guard, expiry},
        http::refusal::DRAINING,
        operations::{Progress, Running},
        server::SocketHandoff,
        state::AppState,
    },
};

/// How long a client may take nothing of what waits for it, in whole keep-alive periods. Then it
/// counts as dead.
const WRITE_TIMEOUT: Duration = Duration::from_secs(24);

/// How often a client without results receives its cursor.
const CURSOR_PERIOD: Duration = Duration::from_secs(60);

/// How long the last chunk may take. Then the connection ends without it.
const LAST_CHUNK_TIMEOUT: Duration = Duration::from_secs(2);

/// Delay between the last chunk and the cut behind it. The client of graphql-sse takes a cut right
/// after a result for a fatal error, or never notices it. After this delay it reconnects.
const CUT_DELAY: Duration = Duration::from_millis(100);

/// Stream of one connection.
pub(in crate::web) struct Stream {
    pub(super) app: Arc<AppState>,
    pub(super) guard: Guard,
    pub(super) format: &'static dyn Format,
    pub(super) send_queue: Arc<SendQueue>,
    pub(super) running: Running<Label>,
    commands: Option<mpsc::Receiver<Command>>,
    /// Guard that is dropped when the connection ends.
    end_guard: Option<Box<dyn Send>>,
    /// Writer of the body, once the socket has arrived.
    writer: Option<BodyWriter>,
    /// Content of the next chunk, written before what waits in the send queue.
    pub(super) chunk: Vec<u8>,
    /// Charges of the answers that are not yet written; `None` if there are none.
    charges: Option<Box<Charges>>,
    /// Whether something waits in the send queue.
    is_due: bool,
    /// Whether the kernel did not take all of the last chunk at once.
    was_blocked: bool,
    /// How long the client has taken nothing although something waits, in whole keep-alive periods.
    stalled: Duration,
    /// How long ago the client received its cursor, in whole keep-alive periods.
    since_cursor: Duration,
    /// Time between two heartbeats that the client wants, in seconds.
    heartbeat: Option<NonZeroU8>,
    /// Keep-alive periods since the last heartbeat.
    since_heartbeat: u32,
    /// The cursor that the client received last.
    cursor: String,
    /// When the connection ends: when its token expires, or earlier if its reservation has no
    /// reader by then.
    deadline: Instant,
    /// When the token expires.
    expires: Instant,
}

/// Charges of the answers on their way to a client.
#[derive(Default)]
struct Charges {
    /// Those of the next chunk.
    next: Vec<Charge>,
    /// Those of the chunk that the body writer has.
    sent: Vec<Charge>,
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
        app.identify(&mut guard, session);
        let expires = expiry(session.expires);
        Self {
            send_queue,
            app,
            guard,
            format,
            running: Running::new(),
            commands: None,
            end_guard: None,
            writer: None,
            chunk: Vec::new(),
            charges: None,
            is_due: false,
            was_blocked: false,
            stalled: Duration::ZERO,
            since_cursor: Duration::ZERO,
            heartbeat: None,
            since_heartbeat: 0,
            cursor: String::new(),
            deadline: expires,
            expires,
        }
    }

    /// Makes the stream a reservation that takes commands. It ends if no reader comes within
    /// `reader_timeout`, and drops `end_guard` at its end.
    pub(in crate::web) fn reserve(
        mut self,
        commands: mpsc::Receiver<Command>,
        reader_timeout: Duration,
        end_guard: Box<dyn Send>,
    ) -> Self {
        self.format.begin(&mut self.chunk, None);
        (self.commands, self.end_guard) = (Some(commands), Some(end_guard));
        self.deadline = self.expires.min(Instant::now() + reader_timeout);
        self
    }

    /// Writes the first bytes. They hold the cursor unless a watcher has to catch up.
    pub(super) fn begin(&mut self, cursor: String, heartbeat: Option<NonZeroU8>) {
        let first = (!self.running.is_behind()).then_some(&*cursor);
        self.format.begin(&mut self.chunk, first);
        self.beat(heartbeat, first);
        self.cursor = cursor;
    }

    /// Writes heartbeats from now on, if the client wants them. The first one comes at once: some
    /// clients see a cursor only with an event.
    pub(super) fn beat(&mut self, heartbeat: Option<NonZeroU8>, cursor: Option<&str>) {
        self.heartbeat = heartbeat;
        if heartbeat.is_some() {
            self.format.heartbeat(&mut self.chunk, cursor);
        }
    }

    /// Returns the keep-alive periods between two heartbeats.
    fn periods(&self) -> Option<u32> {
        let longest = self.format.keep_alive_period().as_secs().max(1);
        let periods = u64::from(self.heartbeat?.get()).div_ceil(longest);
        u32::try_from(periods).ok()
    }

    /// Returns the time between two signs of life. It divides the time between heartbeats.
    fn period(&self) -> Duration {
        match (self.heartbeat, self.periods()) {
            (Some(heartbeat), Some(periods)) => Duration::from_secs(heartbeat.get().into()) / periods,
            _ => self.format.keep_alive_period(),
        }
    }

    /// Ends the stream before it began.
    pub(super) fn end(self, end: End) {
        self.guard.end(end);
    }

    /// Starts the stream's task, which a drain waits for. The task writes to the socket as soon as
    /// it arrives.
    pub(in crate::web) fn spawn(mut self, socket: oneshot::Receiver<Box<SocketHandoff>>) {
        let tasks = self.app.connections.tasks().clone();
        tasks.spawn(async move {
            let end = self.serve(socket).await;
            if let Some((code, text)) = interruption(&end)
                && Box::pin(timeout(LAST_CHUNK_TIMEOUT, self.close(code, text))).await.is_err()
            {
                tracing::trace!("the last chunk was not taken");
            }
            self.guard.end(end);
        });
    }

    /// Writes what waits until the connection ends. Returns the reason.
    async fn serve(&mut self, socket: oneshot::Receiver<Box<SocketHandoff>>) -> End {
        let mut keep_alive = every(self.period());
        let mut socket = Some(socket);
        let deadline = sleep_until(self.deadline);
        pin!(deadline);
        loop {
            let is_due = self.is_due || !self.chunk.is_empty();
            let is_writing = is_due || self.writer.as_ref().is_some_and(BodyWriter::is_blocked);
            // Results of queries and mutations wait for room. Otherwise they would pile up for a
            // client that sends requests and does not read.
            let may_finish = self.chunk.len() < self.app.settings.queue_bytes;
            select! {
                () = self.guard.drained() => return End::Drained,
                Some(arrived) = next_socket(&mut socket) => match arrived {
                    Ok(handoff) => self.attach(*handoff),
                    Err(_) => return End::Left,
                },
                // Polled even if nothing new waits: a replay goes on when the body writer has
                // written everything.
                ready = ready(&mut self.writer, is_writing) => match ready {
                    Ready::Room => self.write(),
                    Ready::Left => return End::Left,
                    Ready::Lost => return End::Lost,
                },
                () = self.send_queue.changed(), if !self.is_due => self.is_due = true,
                overflow = self.send_queue.overflow(), if self.is_due => return overflow.into(),
                progress = poll_fn(|cx| self.running.poll(cx, !is_writing)), if may_finish => {
                    self.on_progress(progress);
                }
                Some(command) = next_command(&mut self.commands) => Box::pin(self.act(command)).await,
                _ = keep_alive.tick(), if self.writer.is_some() => {
                    if !self.keep_alive(is_writing) {
                        return End::Dead;
                    }
                }
                () = &mut deadline => return if self.deadline < self.expires { End::Lost } else { End::Expired },
            }
            if keep_alive.period() != self.period() {
                keep_alive = every(self.period());
            }
            if deadline.deadline() != self.deadline {
                deadline.as_mut().reset(self.deadline);
            }
        }
    }

    /// Takes the socket: the client reads from now on.
    fn attach(&mut self, handoff: SocketHandoff) {
        (self.writer, self.deadline) = (Some(BodyWriter::new(handoff)), self.expires);
        self.write();
    }

    /// Writes what still waits and why the body ends, if the transport has a message for that.
    /// Otherwise cuts the body.
    async fn close(&mut self, code: Code, text: &str) {
        // Nothing may be written behind the last chunk.
        while self.send_queue.is_behind() {
            let waiting = self.send_queue.take();
            self.send_queue.blocked();
            self.encode(&waiting);
        }
        self.running = Running::new();
        let is_proper = self.format.interrupted(&mut self.chunk, code, text);
        self.write();
        let Some(writer) = &mut self.writer else { return };
        // Errors are ignored: a client that is gone needs no end.
        if is_proper {
            let _ = writer.finish().await;
        } else if writer.flush().await.is_ok() {
            sleep(CUT_DELAY).await;
        }
    }

    /// Holds the charge of an answer in the chunk until the kernel has taken the answer.
    pub(super) fn hold(&mut self, charge: Option<Charge>) {
        self.charges.get_or_insert_default().next.extend(charge);
    }

    /// Writes everything that waits, in one chunk. The kernel has taken the chunks before.
    fn write(&mut self) {
        if mem::take(&mut self.was_blocked) {
            self.send_queue.written();
        }
        let deliveries = self.send_queue.take();
        self.encode(&deliveries);
        (self.is_due, self.stalled) = (false, Duration::ZERO);
        let chunk = mem::take(&mut self.chunk);
        if let Some(writer) = &mut self.writer
            && !chunk.is_empty()
        {
            writer.send(&chunk);
        }
        let is_blocked = self.writer.as_ref().is_none_or(BodyWriter::is_blocked);
        self.was_blocked = is_blocked;
        if is_blocked {
            self.send_queue.blocked();
        } else {
            self.send_queue.written();
        }
        if let Some(mut charges) = self.charges.take()
            && is_blocked
        {
            charges.sent = mem::take(&mut charges.next);
            self.charges = Some(charges);
        }
    }

    fn encode(&mut self, deliveries: &[Delivery]) {
        for Delivery { watcher, result } in deliveries {
            // Results for an operation that the client has ended meanwhile are dropped.
            if let Some(Label { id, .. }) = self.running.label(*watcher) {
                self.format.next(&mut self.chunk, id.as_deref(), Some(&result.cursor), &result.payload);
            }
        }
        self.guard.delivered(deliveries);
    }

    fn on_progress(&mut self, progress: Progress<Label>) {
        match progress {
            Progress::Missed(deliveries) => {
                self.send_queue.hold(&deliveries);
                self.encode(&deliveries);
            }
            Progress::Finished(label, answer) => self.finish(label, *answer),
            Progress::Refused(mut label, refusal) => label.reply(Err(Rejected::Refused(refusal))),
        }
    }

    /// Returns whether the client still takes bytes, as far as that is visible. Adds a sign of life
    /// if nothing else waits.
    fn keep_alive(&mut self, is_writing: bool) -> bool {
        let period = self.period();
        if is_writing {
            let has_moved = self.writer.as_mut().is_some_and(BodyWriter::has_moved);
            self.stalled = if has_moved { Duration::ZERO } else { self.stalled + period };
            return self.stalled < WRITE_TIMEOUT;
        }
        self.since_cursor += period;
        self.since_heartbeat = self.since_heartbeat.saturating_add(1);
        let has_moved = self.has_cursor_moved();
        let cursor = has_moved.then_some(&*self.cursor);
        if self.periods().is_some_and(|periods| periods <= self.since_heartbeat) {
            self.since_heartbeat = 0;
            self.format.heartbeat(&mut self.chunk, cursor);
        } else {
            self.format.keep_alive(&mut self.chunk, cursor);
        }
        true
    }

    /// Reports whether the client has to receive a new cursor. What is still on its way to it is
    /// younger than the margin with which every replay begins.
    fn has_cursor_moved(&mut self) -> bool {
        if self.since_cursor < CURSOR_PERIOD || self.commands.is_some() || self.running.is_behind() {
            return false;
        }
        self.since_cursor = Duration::ZERO;
        let cursor = self.app.engine.cursor(Source::Result);
        let has_moved = cursor != self.cursor;
        self.cursor = cursor;
        has_moved
    }
}

/// Returns what a client is told of an end that is not the end of its operations. `None` if it
/// can be told nothing any more.
const fn interruption(end: &End) -> Option<(Code, &'static str)> {
    match end {
        End::Drained => Some((Code::LimitReached, DRAINING)),
        End::Expired => Some((Code::Unauthenticated, "the token has expired")),
        End::Moved => Some((Code::LimitReached, "this pod has too many connections; connect again")),
        End::Revoked => Some((Code::TokenRevoked, "the token was revoked")),
        End::Slow => Some((Code::LimitReached, "the results were not read in time; connect again")),
        End::NoRoom => Some((Code::LimitReached, "too many results are unread; connect again")),
        End::Behind => {
            Some((Code::LimitReached, "too many distinct subscriptions; run fewer and connect again"))
        }
        _ => None,
    }
}

/// Returns a timer with this period.
fn every(period: Duration) -> Interval {
    let mut every = interval_at(Instant::now() + period, period);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    every
}

/// Waits for the socket, once. An error means that it never comes.
async fn next_socket(
    socket: &mut Option<oneshot::Receiver<Box<SocketHandoff>>>,
) -> Option<Result<Box<SocketHandoff>, oneshot::error::RecvError>> {
    let arrived = socket.as_mut()?.await;
    *socket = None;
    Some(arrived)
}

/// Waits until there is room for a chunk or the client is gone. Without a body writer it never
/// returns.
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

    fn size_of_future<'a, F: Future>(
        _: impl FnOnce(&'a mut Stream, oneshot::Receiver<Box<SocketHandoff>>) -> F,
    ) -> usize {
        mem::size_of::<F>()
    }

    #[test]
    fn stream_is_small() {
        // A task holds little more than both: ten thousand idle ones must fit into 40 MB.
        assert!(mem::size_of::<Stream>() <= 528, "{}", mem::size_of::<Stream>());
        assert!(size_of_future(Stream::serve) <= 600, "{}", size_of_future(Stream::serve));
    }
}
