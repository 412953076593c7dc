//! [`Running`]: the operations that run on one connection, whatever its transport.
//!
//! It decides for every transport how an operation starts (a subscription watches, anything else runs as a job) and how it
//! ends (with a result, or refused).
//!
//! An operation ends when it is taken out, whichever way that goes; nothing of it may be written after that, which its number
//! tells: none is used twice. What an idle connection does not need is in boxes, made when there is something to do.

use std::{
    collections::VecDeque,
    sync::Arc,
    task::{Context, Poll, ready},
};

use async_graphql::{Response, parser::types::OperationType};
use futures_util::future::BoxFuture;
use tokio::task::{AbortHandle, JoinSet};

use super::state::AppState;
use crate::{
    audience::Viewer,
    graphql::{Prepared, Watched, error::is_refusal},
    hub::{Delivery, Replay, SendQueue, Step, Watching},
};

/// The operations whose end the client has not been told of. `L` is what the transport calls one.
pub(super) struct Running<L> {
    /// In the order of their numbers.
    runs: Vec<Run<L>>,
    next_number: u64,
    /// The watchers that have not caught up, taking turns.
    behind: VecDeque<Turn>,
    /// Queries and mutations, if there are any.
    jobs: Option<JoinSet<Finished>>,
}

struct Run<L> {
    number: u64,
    label: L,
    work: Work,
}

/// Ends with its owner.
enum Work {
    Watching(#[expect(dead_code, reason = "held for its drop")] Watching),
    /// Its replay is in [`Running::behind`].
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

/// A replay, going its next step.
struct Turn {
    number: u64,
    step: BoxFuture<'static, (Box<Replay>, Box<Step>)>,
}

impl Turn {
    fn new(mut replay: Box<Replay>) -> Self {
        let number = replay.watcher();
        let step = async move {
            let step = Box::new(replay.step().await);
            (replay, step)
        };
        Self { number, step: Box::pin(step) }
    }
}

/// The number of a query or mutation that has ended, and its result.
type Finished = (u64, Box<Response>);

/// What an operation has come to.
pub(super) enum Progress<L> {
    /// Some of what a watcher missed, or a notice that it is lost: to be written before what waits in the send queue.
    Missed(Vec<Delivery>),
    /// A query or mutation has ended with this result.
    Finished(L, Box<Response>),
    /// A query or mutation was refused: it has no result.
    Refused(L, Box<Response>),
}

/// An operation to start.
pub(super) struct Start {
    /// What to run.
    pub(super) prepared: Prepared,
    /// The viewer that it runs for.
    pub(super) viewer: Arc<Viewer>,
    /// The cursor to resume from; `None`: the document's own, if it has one.
    pub(super) after: Option<String>,
}

impl<L> Running<L> {
    /// None yet.
    pub(super) const fn new() -> Self {
        Self { runs: Vec::new(), next_number: 0, behind: VecDeque::new(), jobs: None }
    }

    /// How many there are.
    pub(super) const fn len(&self) -> usize {
        self.runs.len()
    }

    /// Whether a watcher has not caught up.
    pub(super) fn is_behind(&self) -> bool {
        !self.behind.is_empty()
    }

    /// Whether one is called so. There are few: a search through all of them is faster than a map.
    pub(super) fn has(&self, is_it: impl Fn(&L) -> bool) -> bool {
        self.runs.iter().any(|run| is_it(&run.label))
    }

    /// What the operation of a delivery is called; `None` if it has ended meanwhile.
    pub(super) fn label(&self, number: u64) -> Option<&L> {
        self.find(number).map(|at| &self.runs[at].label)
    }

    /// Starts an operation. Returns its label if it is a subscription, which is accepted now; a query or mutation comes back
    /// by [`poll`](Self::poll).
    ///
    /// # Errors
    /// The label, and the response that refuses the subscription.
    pub(super) async fn start(
        &mut self,
        app: &Arc<AppState>,
        start: Start,
        send_queue: Arc<SendQueue>,
        label: L,
    ) -> Result<Option<&mut L>, (L, Box<Response>)> {
        let Start { prepared, viewer, after } = start;
        let number = self.next_number;
        if prepared.kind != OperationType::Subscription {
            let app = app.clone();
            let job = async move { (number, Box::new(app.engine.execute(prepared, viewer).await)) };
            let job = self.jobs.get_or_insert_with(JoinSet::new).spawn(job);
            self.add(label, Work::Job(job));
            return Ok(None);
        }
        match app.engine.watch(prepared, viewer, send_queue, number, after.as_deref()).await {
            Ok(Watched::Live(watching)) => Ok(Some(self.add(label, Work::Watching(watching)))),
            Ok(Watched::Behind(replay)) => {
                self.behind.push_back(Turn::new(replay));
                Ok(Some(self.add(label, Work::Behind)))
            }
            Err(refusal) => Err((label, refusal)),
        }
    }

    fn add(&mut self, label: L, work: Work) -> &mut L {
        // Most connections have one operation all their life.
        self.runs.reserve_exact(usize::from(self.runs.is_empty()));
        let number = self.next_number;
        self.next_number += 1;
        self.runs.push(Run { number, label, work });
        &mut self.runs.last_mut().expect("it was pushed").label
    }

    /// Ends those that are called so.
    pub(super) fn stop(&mut self, is_it: impl Fn(&L) -> bool) {
        self.runs.retain(|run| !is_it(&run.label));
        let runs = &self.runs;
        self.behind.retain(|turn| find(runs, turn.number).is_some());
    }

    /// What the next of them has come to. Replays go on only if they may: at the pace of the client, when what they brought
    /// before is written.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, may_replay: bool) -> Poll<Progress<L>> {
        // First, since each of them ends, while a replay may be long.
        if let Poll::Ready((label, response)) = self.poll_jobs(cx) {
            let is_refused = is_refusal(&response);
            let end = if is_refused { Progress::Refused } else { Progress::Finished };
            return Poll::Ready(end(label, response));
        }
        while let Some(turn) = self.behind.front_mut().filter(|_| may_replay) {
            let (replay, step) = ready!(turn.step.as_mut().poll(cx));
            self.behind.pop_front();
            let missed = self.stepped(replay, *step);
            if !missed.is_empty() {
                return Poll::Ready(Progress::Missed(missed));
            }
        }
        Poll::Pending
    }

    fn poll_jobs(&mut self, cx: &mut Context<'_>) -> Poll<(L, Box<Response>)> {
        while let Some(jobs) = &mut self.jobs {
            match ready!(jobs.poll_join_next(cx)) {
                Some(Ok((number, response))) => {
                    if let Some(at) = self.find(number) {
                        return Poll::Ready((self.runs.remove(at).label, response));
                    }
                }
                // A job that was aborted is nobody's any more.
                Some(Err(_aborted)) => {}
                None => self.jobs = None,
            }
        }
        Poll::Pending
    }

    fn stepped(&mut self, replay: Box<Replay>, step: Step) -> Vec<Delivery> {
        match step {
            Step::Deliveries(missed) => {
                self.behind.push_back(Turn::new(replay));
                missed
            }
            Step::Live(watching, notice) => {
                if let Some(at) = self.find(replay.watcher()) {
                    self.runs[at].work = Work::Watching(watching);
                }
                notice.into_iter().collect()
            }
        }
    }

    fn find(&self, number: u64) -> Option<usize> {
        find(&self.runs, number)
    }
}

fn find<L>(runs: &[Run<L>], number: u64) -> Option<usize> {
    runs.binary_search_by_key(&number, |run| run.number).ok()
}

/// What one operation of a transport costs, in bytes.
#[cfg(test)]
pub(super) const fn size<L>() -> usize {
    std::mem::size_of::<Run<L>>()
}
