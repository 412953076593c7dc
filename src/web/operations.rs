//! [`Running`]: the operations that run on one connection, whatever its transport.
//!
//! It decides for every transport how an operation starts: a subscription watches, anything else
//! runs as a job. It also decides how an operation ends: with a result, or refused.
//!
//! An operation ends when it is removed. Nothing of it may be written after that, which its number
//! shows: no number is used twice. What an idle connection does not need is boxed, and made when
//! there is something to do.

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
    budget::Charge,
    counts::Counting,
    graphql::{Answer, Prepared, Watched},
    hub::{Delivery, Replay, SendQueue, Step, Watching},
};

/// Operations of a connection that have not ended for the client. `L` is the transport's label of
/// an operation.
pub(super) struct Running<L> {
    /// In the order of their numbers.
    runs: Vec<Run<L>>,
    next_number: u64,
    /// Replays of the watchers that have not caught up, which take turns.
    behind: VecDeque<ReplayTurn>,
    /// Queries and mutations; `None` if there are none.
    jobs: Option<JoinSet<Finished>>,
}

struct Run<L> {
    number: u64,
    label: L,
    work: Work,
}

/// Work of one operation, which stops when this value is dropped.
enum Work {
    Watching(#[expect(dead_code, reason = "held for its drop")] Watching),
    Counting(#[expect(dead_code, reason = "held for its drop")] Counting),
    /// The watcher's replay is in [`Running::behind`].
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

/// Replay of one watcher, with its next step under way.
struct ReplayTurn {
    number: u64,
    step: BoxFuture<'static, (Box<Replay>, Box<Step>)>,
}

impl ReplayTurn {
    fn new(mut replay: Box<Replay>) -> Self {
        let number = replay.watcher();
        let step = async move {
            let step = Box::new(replay.step().await);
            (replay, step)
        };
        Self { number, step: Box::pin(step) }
    }
}

/// Number of a query or mutation that has ended, with its answer.
type Finished = (u64, Box<Answer>);

/// Progress of an operation.
pub(super) enum Progress<L> {
    /// Deliveries that a watcher missed, or a notice of a gap. They are written before what waits
    /// in the send queue.
    Missed(Vec<Delivery>),
    /// A query or mutation has ended with this result.
    Finished(L, Box<Answer>),
    /// A query or mutation was refused with this response: it has no result.
    Refused(L, Box<Response>),
}

/// An operation to start.
pub(super) struct Start {
    /// What to run.
    pub(super) prepared: Prepared,
    /// The viewer that it runs for.
    pub(super) viewer: Arc<Viewer>,
    /// The cursor to resume from; `None`: the cursor of the document, if it has one.
    pub(super) after: Option<String>,
    /// Charge of the request, held until a query or mutation has run.
    pub(super) held: Option<Charge>,
}

impl<L> Running<L> {
    /// Creates an empty set.
    pub(super) const fn new() -> Self {
        Self { runs: Vec::new(), next_number: 0, behind: VecDeque::new(), jobs: None }
    }

    /// Returns the number of operations.
    pub(super) const fn len(&self) -> usize {
        self.runs.len()
    }

    /// Reports whether a watcher has not caught up.
    pub(super) fn is_behind(&self) -> bool {
        !self.behind.is_empty()
    }

    /// Reports whether an operation has a matching label. There are few operations, so a search
    /// through all is faster than a map.
    pub(super) fn has(&self, is_match: impl Fn(&L) -> bool) -> bool {
        self.runs.iter().any(|run| is_match(&run.label))
    }

    /// Returns the label of a delivery's operation; `None` if the operation has ended meanwhile.
    pub(super) fn label(&self, number: u64) -> Option<&L> {
        self.find(number).map(|at| &self.runs[at].label)
    }

    /// Starts an operation. Returns the label of a subscription, which is accepted now. The result
    /// of a query or mutation comes from [`poll`](Self::poll).
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
        let Start { prepared, viewer, after, held } = start;
        let number = self.next_number;
        if prepared.kind != OperationType::Subscription {
            let app = app.clone();
            let job = async move {
                let answer = Box::new(app.engine.answer(prepared, viewer).await);
                drop(held);
                (number, answer)
            };
            let job = self.jobs.get_or_insert_with(JoinSet::new).spawn(job);
            self.add(label, Work::Job(job));
            return Ok(None);
        }
        match app.engine.watch(prepared, viewer, send_queue, number, after.as_deref()).await {
            Ok(Watched::Live(watching)) => Ok(Some(self.add(label, Work::Watching(watching)))),
            Ok(Watched::Counting(counting)) => Ok(Some(self.add(label, Work::Counting(counting)))),
            Ok(Watched::Behind(replay)) => {
                self.behind.push_back(ReplayTurn::new(replay));
                Ok(Some(self.add(label, Work::Behind)))
            }
            Err(refusal) => Err((label, refusal)),
        }
    }

    fn add(&mut self, label: L, work: Work) -> &mut L {
        // Most connections have a single operation from beginning to end.
        self.runs.reserve_exact(usize::from(self.runs.is_empty()));
        let number = self.next_number;
        self.next_number += 1;
        self.runs.push(Run { number, label, work });
        &mut self.runs.last_mut().expect("it was pushed").label
    }

    /// Ends the operations with a matching label.
    pub(super) fn stop(&mut self, is_match: impl Fn(&L) -> bool) {
        self.runs.retain(|run| !is_match(&run.label));
        let runs = &self.runs;
        self.behind.retain(|turn| find(runs, turn.number).is_some());
    }

    /// Returns the next progress of an operation. `may_replay` lets replays go on: at the pace of
    /// the client, when their earlier deliveries are written.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, may_replay: bool) -> Poll<Progress<L>> {
        // Jobs come first: each of them ends, while a replay may be long.
        if let Poll::Ready((label, answer)) = self.poll_jobs(cx) {
            return Poll::Ready(match answer.refusal {
                Some(_) => Progress::Refused(label, answer.response),
                None => Progress::Finished(label, answer),
            });
        }
        while let Some(turn) = self.behind.front_mut().filter(|_| may_replay) {
            let (replay, step) = ready!(turn.step.as_mut().poll(cx));
            self.behind.pop_front();
            let missed = self.on_step(replay, *step);
            if !missed.is_empty() {
                return Poll::Ready(Progress::Missed(missed));
            }
        }
        Poll::Pending
    }

    fn poll_jobs(&mut self, cx: &mut Context<'_>) -> Poll<(L, Box<Answer>)> {
        while let Some(jobs) = &mut self.jobs {
            match ready!(jobs.poll_join_next(cx)) {
                Some(Ok((number, answer))) => {
                    if let Some(at) = self.find(number) {
                        return Poll::Ready((self.runs.remove(at).label, answer));
                    }
                }
                // An aborted job belongs to no operation any more.
                Some(Err(_aborted)) => {}
                None => self.jobs = None,
            }
        }
        Poll::Pending
    }

    fn on_step(&mut self, replay: Box<Replay>, step: Step) -> Vec<Delivery> {
        match step {
            Step::Deliveries(missed) => {
                self.behind.push_back(ReplayTurn::new(replay));
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

/// Returns the size of one operation, in bytes.
#[cfg(test)]
pub(super) const fn size<L>() -> usize {
    std::mem::size_of::<Run<L>>()
}
