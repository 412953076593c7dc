//! [`Publisher`]: writes events to the topic's table, in the order of the calls.
//!
//! One task has one connection. It writes together what waits, so that the price of a commit is
//! shared. No call may wait longer than the port allows.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    task::JoinSet,
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_postgres::error::SqlState;
use tokio_util::task::TaskTracker;

use super::{
    cause::Cause,
    row::{Columns, insert},
    session::{Access, Session},
    settings::LIMITS,
};
use crate::{
    broker::{PUBLISH_TIMEOUT, Publish, PublishError},
    event::Event,
};

/// Most events that may wait for their acknowledgement at once. Beyond it a call waits for a place,
/// until its deadline.
const MAX_IN_FLIGHT: usize = 1_000;

/// Most events that are written together, and most bytes of their data. More would only make the
/// first of them wait.
const BATCH: (usize, usize) = (256, 1 << 20);

/// Longest wait for the server's answer: a little longer than its own limit for a statement.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(4_400);

/// Pause after a connection that failed.
const PAUSE: Duration = Duration::from_millis(100);

/// Publisher of one pod to PostgreSQL.
pub struct Publisher {
    jobs: mpsc::Sender<Job>,
    in_flight: Arc<Semaphore>,
    _writer: JoinSet<()>,
}

/// Event that waits to be written, and its call.
struct Job {
    event: Event,
    deadline: Instant,
    answer: oneshot::Sender<Result<(), PublishError>>,
    _place: OwnedSemaphorePermit,
}

impl Publisher {
    /// Starts the task, which ends with the publisher.
    pub(super) fn start(access: Access) -> Self {
        let (jobs, waiting) = mpsc::channel(MAX_IN_FLIGHT);
        let mut writer = JoinSet::new();
        let statement = insert(&access.topic.name);
        let sessions = TaskTracker::new();
        writer.spawn(Writer { access, statement, waiting, session: None, sessions }.run());
        Self { jobs, in_flight: Semaphore::new(MAX_IN_FLIGHT).into(), _writer: writer }
    }
}

#[async_trait]
impl Publish for Publisher {
    async fn publish(&self, event: &Event) -> Result<(), PublishError> {
        LIMITS.check(event)?;
        let deadline = Instant::now() + PUBLISH_TIMEOUT;
        let place = timeout_at(deadline, self.in_flight.clone().acquire_owned()).await;
        let place = place.ok().and_then(Result::ok).ok_or(PublishError::Overloaded)?;
        let (answer, answered) = oneshot::channel();
        let gone = || PublishError::Unavailable("the publisher has ended".into());
        let job = Job { event: event.clone(), deadline, answer, _place: place };
        // There are as many places as the channel has, so it is never full.
        self.jobs.try_send(job).map_err(|_| gone())?;
        match timeout_at(deadline, answered).await {
            Ok(answer) => answer.unwrap_or_else(|_| Err(gone())),
            Err(_) => Err(PublishError::TimedOut),
        }
    }

    async fn flush(&self) {
        let all = u32::try_from(MAX_IN_FLIGHT).unwrap_or(u32::MAX);
        // All places are free once nothing is in flight.
        drop(self.in_flight.acquire_many(all).await);
    }
}

/// Task that writes.
struct Writer {
    access: Access,
    /// Text of [`insert`].
    statement: String,
    waiting: mpsc::Receiver<Job>,
    session: Option<Session>,
    sessions: TaskTracker,
}

/// Why a batch was not acknowledged.
#[derive(Clone)]
enum Failure {
    /// The server refuses the content.
    Invalid(String),
    /// The effect is unknown.
    TimedOut,
    Unavailable(Cause),
}

impl Writer {
    async fn run(mut self) {
        while let Some(first) = self.waiting.recv().await {
            let mut bytes = first.event.data.len();
            let mut jobs = vec![first];
            while jobs.len() < BATCH.0
                && bytes < BATCH.1
                && let Ok(job) = self.waiting.try_recv()
            {
                bytes += job.event.data.len();
                jobs.push(job);
            }
            // The callers of these have given up.
            jobs.retain(|job| job.deadline > Instant::now());
            self.write(jobs).await;
        }
    }

    /// Writes the events in one transaction, and answers their calls.
    async fn write(&mut self, mut jobs: Vec<Job>) {
        while !jobs.is_empty() {
            let outcome = self.insert(&jobs).await;
            let rest = match outcome {
                // One event may spoil the others: then each has a transaction of its own.
                Err(Failure::Invalid(_)) if jobs.len() > 1 => jobs.split_off(1),
                _ => {
                    answer(jobs, &outcome);
                    return;
                }
            };
            let outcome = self.insert(&jobs).await;
            answer(std::mem::replace(&mut jobs, rest), &outcome);
        }
    }

    async fn insert(&mut self, jobs: &[Job]) -> Result<(), Failure> {
        if self.session.as_ref().is_none_or(|session| session.client.is_closed()) {
            self.session = None;
            match Session::open(&self.access, &self.sessions).await {
                Ok(session) => self.session = Some(session),
                Err(cause) => {
                    sleep(PAUSE).await;
                    return Err(Failure::Unavailable(cause));
                }
            }
        }
        let Some(session) = &self.session else {
            return Err(Failure::Unavailable(Cause::silent("connect")));
        };
        let columns = Columns::of(jobs.iter().map(|job| &job.event));
        let parameters = columns.parameters();
        let written = session.client.execute_typed(&self.statement, &parameters);
        let failure = match timeout(ANSWER_TIMEOUT, written).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) => failure(&error),
            Err(_) => Failure::TimedOut,
        };
        if !matches!(failure, Failure::Invalid(_)) {
            // It may be cut off and look alive, or belong to a server that is no primary any more.
            self.session = None;
        }
        Err(failure)
    }
}

/// Answers the calls of these events.
fn answer(jobs: Vec<Job>, outcome: &Result<(), Failure>) {
    for job in jobs {
        // A caller that is gone needs no answer.
        let _ = job.answer.send(outcome.clone().map_err(PublishError::from));
    }
}

/// Returns why a statement failed.
fn failure(error: &tokio_postgres::Error) -> Failure {
    let cause = Cause::of(error);
    match error.code() {
        Some(&SqlState::QUERY_CANCELED) => Failure::TimedOut,
        // Classes 22 and 23: data, and constraints.
        Some(code) if code.code().starts_with("22") || code.code().starts_with("23") => {
            Failure::Invalid(cause.what)
        }
        _ => Failure::Unavailable(cause),
    }
}

impl From<Failure> for PublishError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Invalid(what) => Self::Invalid(what),
            Failure::TimedOut => Self::TimedOut,
            Failure::Unavailable(cause) => Self::Unavailable(cause.into()),
        }
    }
}
