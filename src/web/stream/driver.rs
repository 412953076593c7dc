//! The driver of a connection whose body is being made: its operations to the engine, their results to the client.
//!
//! One task a connection. The body is made a chunk at a time, and the next when the kernel has taken the last: what waits
//! meanwhile is written together. It never says that an operation is over when it is not, or its client would not
//! come back. Most connections are idle most of the time, so what an idle one does not need is in boxes, made when there is
//! something to do.

use std::{
    collections::VecDeque,
    future, mem,
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_graphql::{Response as GraphQLResponse, parser::types::OperationType};
use tokio::{
    pin, select,
    sync::{mpsc, oneshot},
    task::{AbortHandle, JoinError, JoinSet},
    time::{Instant, MissedTickBehavior, interval_at, sleep, sleep_until, timeout},
};

use super::{
    super::{
        Site,
        connection::{End, Guard},
    },
    Format,
    line::{Line, Ready},
    result,
};
use crate::{
    audience::Viewer,
    auth::Pass,
    graphql::{Prepared, Watched, error::is_refusal},
    hub::{Delivery, Outbox, Replay, Step, Watching},
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

/// Longer than any connection lives.
const FAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// What the operations of a connection that several share are started and stopped by.
pub(in crate::web) enum Command {
    /// Run this operation.
    Start(Box<Start>),
    /// End this operation, if it runs.
    Stop(Arc<str>),
}

/// An operation to run.
pub(in crate::web) struct Start {
    /// The client's id of it, a JSON string.
    pub(in crate::web) id: Arc<str>,
    /// What to run.
    pub(in crate::web) prepared: Prepared,
    /// For whom.
    pub(in crate::web) viewer: Arc<Viewer>,
    /// The cursor to resume from, if not the document's own.
    pub(in crate::web) after: Option<String>,
    /// Told whether its results go into the body.
    pub(in crate::web) reply: Reply,
}

/// Tells the request that started an operation what became of it.
pub(in crate::web) type Reply = oneshot::Sender<Result<(), Rejected>>;

/// Why an operation does not run.
pub(in crate::web) enum Rejected {
    /// Another one has its id.
    Taken,
    /// There are as many others as there may be.
    Full,
    /// The engine says so.
    Refused(Box<GraphQLResponse>),
}

/// One connection whose body is being made.
pub(in crate::web) struct Stream {
    site: Arc<Site>,
    guard: Guard,
    format: &'static dyn Format,
    outbox: Arc<Outbox>,
    /// Few: a search through all of them is faster than a map.
    running: Vec<Running>,
    next_number: u64,
    /// The watchers that have not caught up, taking turns.
    behind: VecDeque<Box<Replay>>,
    jobs: JoinSet<Job>,
    commands: Option<mpsc::Receiver<Command>>,
    /// Whatever must last as long as the connection.
    seat: Option<Box<dyn Send>>,
    /// Where the body goes, once its head is on the way.
    line: Option<Line>,
    /// What goes into the next chunk before what waits in the outbox.
    chunk: Vec<u8>,
    /// Whether something waits in the outbox.
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

type Job = (u64, GraphQLResponse, Reply);

struct Running {
    /// Never used twice, so that what is left of an operation cannot pass for its successor's.
    number: u64,
    id: Option<Arc<str>>,
    _work: Work,
}

/// Ends with its owner.
enum Work {
    Watching(#[expect(dead_code, reason = "held for its drop")] Watching),
    /// Its replay is in `Stream::behind`.
    Behind,
    Job(AbortHandle),
}

impl Drop for Work {
    fn drop(&mut self) {
        if let Self::Job(job) = self {
            job.abort();
        }
    }
}

impl Stream {
    pub(in crate::web) fn new(
        site: Arc<Site>,
        mut guard: Guard,
        format: &'static dyn Format,
        pass: &Pass,
    ) -> Self {
        let outbox = Outbox::new(site.settings.queue_bytes);
        guard.attach(format.transport(), outbox.clone());
        let expires = pass.expires.map_or_else(|| Instant::now() + FAR, from_now);
        Self {
            outbox,
            site,
            guard,
            format,
            running: Vec::new(),
            next_number: 0,
            behind: VecDeque::new(),
            jobs: JoinSet::new(),
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
        self.format.begin(&mut self.chunk, self.behind.is_empty().then_some(&self.cursor));
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
            select! {
                () = self.guard.drained() => return End::Drained,
                Some(line) = arrival(&mut arriving) => match line {
                    Ok(line) => self.open(line),
                    Err(_) => return End::Left,
                },
                ready = ready(&mut self.line, is_due) => match ready {
                    Ready::Room => self.write(),
                    Ready::Left => return End::Left,
                    Ready::Lost => return End::Lost,
                },
                () = self.outbox.changed(), if !self.is_due => self.is_due = true,
                () = self.outbox.overflow(), if self.is_due => return End::Slow,
                // At the pace of the client: the next step is taken when the last one is written.
                Some(step) = next_step(&mut self.behind), if !is_writing => self.replay(step),
                Some(command) = next_command(&mut self.commands) => Box::pin(self.act(command)).await,
                Some(job) = self.jobs.join_next() => self.finish(job),
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
        let deliveries = self.outbox.take();
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
            if let Some(running) = self.running.iter().find(|running| running.number == *watcher) {
                self.format.next(
                    &mut self.chunk,
                    running.id.as_deref(),
                    Some(&result.cursor),
                    &result.payload,
                );
            }
        }
        self.guard.delivered(deliveries);
    }

    fn replay(&mut self, step: Step) {
        let Some(replay) = self.behind.pop_front() else { return };
        let (deliveries, watching) = match step {
            Step::Deliveries(deliveries) => {
                self.behind.push_back(replay);
                return self.encode(&deliveries);
            }
            Step::Live(watching) => (Vec::new(), watching),
            Step::Gap(notice, watching) => (vec![notice], watching),
        };
        if let Some(running) = self.running.iter_mut().find(|running| running.number == replay.watcher()) {
            running._work = Work::Watching(watching);
        }
        self.encode(&deliveries);
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
        if self.since_cursor < CURSOR_PERIOD || self.commands.is_some() || !self.behind.is_empty() {
            return false;
        }
        self.since_cursor = Duration::ZERO;
        let cursor = self.site.engine.cursor();
        let has_moved = cursor != self.cursor;
        self.cursor = cursor;
        has_moved
    }
}

impl Stream {
    async fn act(&mut self, command: Command) {
        match command {
            Command::Start(start) => self.start(*start).await,
            Command::Stop(id) => {
                self.running.retain(|running| running.id.as_ref() != Some(&id));
                self.behind
                    .retain(|replay| self.running.iter().any(|running| running.number == replay.watcher()));
            }
        }
    }

    async fn start(&mut self, start: Start) {
        let Start { id, prepared, viewer, after, reply } = start;
        let answer = if self.running.iter().any(|running| running.id.as_ref() == Some(&id)) {
            Err(Rejected::Taken)
        } else if self.running.len() >= self.site.settings.max_watchers {
            Err(Rejected::Full)
        } else if prepared.kind == OperationType::Subscription {
            self.watch(Some(id), prepared, viewer, after.as_deref()).await.map_err(Rejected::Refused)
        } else {
            let (number, site) = (self.next_number, self.site.clone());
            let job = async move { (number, site.engine.execute(prepared, viewer).await, reply) };
            let job = Work::Job(self.jobs.spawn(job));
            return self.admit(Some(id), job);
        };
        // Whoever asked may be gone; its operation is ended like any other.
        let _ = reply.send(answer);
    }

    pub(super) async fn watch(
        &mut self,
        id: Option<Arc<str>>,
        prepared: Prepared,
        viewer: Arc<Viewer>,
        after: Option<&str>,
    ) -> Result<(), Box<GraphQLResponse>> {
        let outbox = self.outbox.clone();
        let work = match self.site.engine.watch(prepared, viewer, outbox, self.next_number, after).await? {
            Watched::Live(watching) => Work::Watching(watching),
            Watched::Behind(replay) => {
                self.behind.push_back(replay);
                Work::Behind
            }
        };
        self.admit(id, work);
        Ok(())
    }

    fn admit(&mut self, id: Option<Arc<str>>, work: Work) {
        self.running.push(Running { number: self.next_number, id, _work: work });
        self.next_number += 1;
    }

    /// A query or mutation has ended: its result, and that there will be no other.
    fn finish(&mut self, job: Result<Job, JoinError>) {
        // A job that was aborted is nobody's any more.
        let Ok((number, response, reply)) = job else { return };
        let Some(at) = self.running.iter().position(|running| running.number == number) else { return };
        let id = self.running.swap_remove(at).id;
        let answer = if is_refusal(&response) {
            Err(Rejected::Refused(response.into()))
        } else {
            result(self.format, &mut self.chunk, id.as_deref(), &response);
            self.format.complete(&mut self.chunk, id.as_deref());
            Ok(())
        };
        let _ = reply.send(answer);
    }
}

/// The next step of the first of these.
async fn next_step(behind: &mut VecDeque<Box<Replay>>) -> Option<Step> {
    Some(Box::pin(behind.front_mut()?.step()).await)
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

fn from_now(time: SystemTime) -> Instant {
    Instant::now() + time.duration_since(SystemTime::now()).unwrap_or_default().min(FAR)
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
