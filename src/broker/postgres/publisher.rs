//! Publisher that writes events to the topic's table, in the order of the calls.
//!
//! One task has one connection. It writes together what waits, so that the price of a commit is
//! shared.

use std::time::Duration;

use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};
use tokio_postgres::error::SqlState;
use tokio_util::task::TaskTracker;

use super::{
    cause::Cause,
    row::{Columns, insert},
    session::{Access, Session},
    settings::LIMITS,
};
use crate::broker::{
    PublishError,
    task_publisher::{Job, TaskPublisher},
};

/// Most events that are written together, and most bytes of their data. More would only make the
/// first of them wait.
const BATCH: (usize, usize) = (256, 1 << 20);

/// Longest wait for the server's answer: a little longer than its own limit for a statement.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(4_400);

/// Pause after a connection that failed.
const PAUSE: Duration = Duration::from_millis(100);

/// Starts the publisher of one pod.
pub(super) fn start(access: Access) -> TaskPublisher {
    let statement = insert(&access.topic.name);
    let sessions = TaskTracker::new();
    TaskPublisher::start(LIMITS, |waiting| {
        Writer { access, statement, waiting, session: None, sessions }.run()
    })
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
