//! [`TaskPublisher`]: a publisher whose adapter has one task that sends, so that the order of the
//! calls is the order on the topic.
//!
//! It bounds what is in flight, and how long a call waits. A call must never wait longer than the
//! port allows, whatever the task does.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    task::JoinSet,
    time::{Instant, timeout_at},
};

use super::{Limits, PUBLISH_TIMEOUT, Publish, PublishError};
use crate::event::Event;

/// Most events that may wait for their acknowledgement at once. Beyond it a call waits for a place,
/// until its deadline.
const MAX_IN_FLIGHT: usize = 1_000;

/// How long before the deadline of a call its job ends, so that the call still gets an answer.
const ANSWER_TIME: Duration = Duration::from_millis(100);

/// Publisher of one pod.
pub struct TaskPublisher {
    limits: Limits,
    jobs: mpsc::Sender<Job>,
    in_flight: Arc<Semaphore>,
    /// Task behind the publisher. Dropped, it ends.
    _task: JoinSet<()>,
}

/// Event on its way to the topic.
pub(super) struct Job {
    pub(super) event: Event,
    /// Time after which the call may have given up.
    pub(super) deadline: Instant,
    pub(super) answer: oneshot::Sender<Result<(), PublishError>>,
    _place: OwnedSemaphorePermit,
}

impl TaskPublisher {
    /// Starts the task that `task` makes. It gets the jobs in the order of the calls, and ends with
    /// the publisher.
    pub(super) fn start<F>(limits: Limits, task: impl FnOnce(mpsc::Receiver<Job>) -> F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (jobs, waiting) = mpsc::channel(MAX_IN_FLIGHT);
        let mut set = JoinSet::new();
        set.spawn(task(waiting));
        Self { limits, jobs, in_flight: Semaphore::new(MAX_IN_FLIGHT).into(), _task: set }
    }
}

#[async_trait]
impl Publish for TaskPublisher {
    async fn publish(&self, event: &Event) -> Result<(), PublishError> {
        self.limits.check(event)?;
        let deadline = Instant::now() + PUBLISH_TIMEOUT;
        let place = timeout_at(deadline, self.in_flight.clone().acquire_owned()).await;
        let place = place.ok().and_then(Result::ok).ok_or(PublishError::Overloaded)?;
        let (answer, answered) = oneshot::channel();
        let ended = || PublishError::Unavailable("the connection ended before the acknowledgement".into());
        let job = Job { event: event.clone(), deadline: deadline - ANSWER_TIME, answer, _place: place };
        // There are as many places as the channel has, so it is never full.
        self.jobs.try_send(job).map_err(|_| ended())?;
        match timeout_at(deadline, answered).await {
            Ok(answer) => answer.unwrap_or_else(|_| Err(ended())),
            Err(_) => Err(PublishError::TimedOut),
        }
    }

    async fn flush(&self) {
        let all = u32::try_from(MAX_IN_FLIGHT).unwrap_or(u32::MAX);
        // All places are free once nothing is in flight.
        drop(self.in_flight.acquire_many(all).await);
    }
}
