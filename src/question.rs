//! [`Questions`]: asks all pods over the topic why a user did or did not receive an event.
//!
//! The asked pod publishes a question, every pod answers on the topic, and the asked pod joins the
//! answers. So pods need neither addresses nor a store. Questions and answers carry the HMAC of the
//! control secret; without the secret there are none. They must never reach a client or a domain,
//! nor delay an event.

mod bucket;
mod verdict;
mod wire;

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    pin::pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use opentelemetry::{
    KeyValue,
    metrics::{Counter, Meter},
};
use thiserror::Error;
use tokio::{
    select,
    sync::mpsc,
    time::{Instant, sleep},
};

use self::{bucket::Bucket, wire::Answered};
pub use self::{
    verdict::{Verdict, verdicts},
    wire::{Gap, PodAnswer, Question, Stay},
};
use crate::{broker::Publish, event::Event, lock::lock, membership::Membership, telemetry};

/// Longest time for the answers of all pods, its publishing included. A pod that has not answered
/// by then is named as silent. So the operator has everything within 2 s.
pub const PATIENCE: Duration = Duration::from_millis(1_500);

/// Questions that a pod asks: 4 a second, 10 at once. Further ones are refused with the time to
/// wait.
const ASKED: (f64, f64) = (4.0, 10.0);

/// Questions that a pod answers: 20 a second, 40 at once. Further ones stay without an answer.
const ANSWERED: (f64, f64) = (20.0, 40.0);

/// Most questions that wait for this pod's answer. Further ones stay without one.
const MAX_WAITING: usize = 32;

/// Most answers that wait to be joined. Further ones count as absent.
const MAX_ANSWERS: usize = 1_024;

/// Most ids of answered questions that are remembered, since a topic may repeat a question.
const MAX_REMEMBERED: usize = 256;

/// Outcomes, as labels of metrics.
const ASKED_LABEL: &str = "asked";
const ANSWERED_LABEL: &str = "answered";
const REFUSED: &str = "refused";
const FAILED: &str = "failed";

/// Questions of one pod, to others and from others. Clones share them.
#[derive(Clone)]
pub struct Questions(Arc<Shared>);

struct Shared {
    membership: Membership,
    publisher: Arc<dyn Publish>,
    inbox: mpsc::Sender<Waiting>,
    open: Mutex<HashMap<Arc<str>, mpsc::Sender<PodAnswer>>>,
    answered: Mutex<VecDeque<Arc<str>>>,
    asks: Bucket,
    answers: Bucket,
    outcomes: Counter<u64>,
}

/// Question of another pod that waits for this pod's answer.
struct Waiting {
    id: Arc<str>,
    question: Question,
    since: Instant,
}

/// Questions that wait for this pod's answers.
pub struct Inbox(mpsc::Receiver<Waiting>);

/// Answers of the other pods.
#[derive(Debug, Default)]
pub struct Gathered {
    /// Answers in the order of their arrival.
    pub answers: Vec<PodAnswer>,
    /// Names of the living pods that did not answer in time.
    pub silent: Vec<Arc<str>>,
}

/// Why the other pods were not asked.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum NotAsked {
    /// There is no control secret, so no pod could prove a question.
    #[error(
        "this pod answers for itself only: give all pods the same RELAY_CONTROL_SECRET to ask all of them"
    )]
    NoSecret,
    /// This pod asks too often. Holds the time after which it may ask again.
    #[error("this pod asks too many questions; try again in {} s", .0.as_secs() + 1)]
    TooMany(Duration),
    /// The topic did not take the question.
    #[error("the topic did not take the question: {0}")]
    Unpublished(String),
}

impl NotAsked {
    /// Returns the code of the reason, as answers over HTTP contain it.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NoSecret => "NO_CONTROL_SECRET",
            Self::TooMany(_) => "RATE_LIMITED",
            Self::Unpublished(_) => "PUBLISH_FAILED",
        }
    }
}

/// Entry of a question in the map of open ones. Dropping it removes the question.
struct Open<'a> {
    questions: &'a Questions,
    id: Arc<str>,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        lock(&self.questions.0.open).remove(&self.id);
    }
}

impl Questions {
    /// Creates the questions of a pod, and the inbox for [`run`](Self::run).
    #[must_use]
    pub fn new(membership: Membership, publisher: Arc<dyn Publish>, meter: &Meter) -> (Self, Inbox) {
        let (inbox, waiting) = mpsc::channel(MAX_WAITING);
        let outcomes = telemetry::counter_by(
            meter,
            "relay.questions",
            "Questions between pods, by what this pod did: asked, answered, refused, failed.",
            "outcome",
            [ASKED_LABEL, ANSWERED_LABEL, REFUSED, FAILED],
        );
        let questions = Self(Arc::new(Shared {
            membership,
            publisher,
            inbox,
            open: Mutex::default(),
            answered: Mutex::default(),
            asks: Bucket::new(ASKED),
            answers: Bucket::new(ANSWERED),
            outcomes,
        }));
        (questions, Inbox(waiting))
    }

    /// Takes a question or an answer that the feed has brought. Returns `false` for any other
    /// event. Never waits.
    pub fn hear(&self, event: &Event) -> bool {
        let shared = &self.0;
        if event.kind.starts_with(wire::QUESTIONS) {
            if let Some(question) = Question::read(event)
                && *question.pod != *shared.membership.pod()
                && self.is_recent(event)
                && shared.membership.prove_control(event)
                && self.is_new(&event.id)
            {
                let (id, since) = (event.id.clone(), Instant::now());
                if shared.inbox.try_send(Waiting { id, question, since }).is_err() {
                    self.count(REFUSED);
                }
            }
            return true;
        }
        if !event.kind.starts_with(wire::ANSWERS) {
            return false;
        }
        if let Some(Answered { question, answer }) = Answered::read(event)
            && let Some(open) = lock(&shared.open).get(&question)
            && shared.membership.prove_control(event)
        {
            // If there is no room, the pod counts as silent.
            let _ = open.try_send(answer);
        }
        true
    }

    /// Returns whether the event is not of the history that a new feed brings.
    fn is_recent(&self, event: &Event) -> bool {
        let clock = self.0.membership.clock();
        event.published.is_some_and(|published| clock.age(published) < 2 * PATIENCE)
    }

    /// Remembers the question. Returns `false` if it is remembered already.
    fn is_new(&self, id: &Arc<str>) -> bool {
        let mut answered = lock(&self.0.answered);
        if answered.contains(id) {
            return false;
        }
        if answered.len() == MAX_REMEMBERED {
            answered.pop_front();
        }
        answered.push_back(id.clone());
        true
    }

    /// Asks all other pods, and waits until each living one has answered, for [`PATIENCE`] at most.
    ///
    /// # Errors
    /// [`NotAsked`], if the question is not on the topic.
    pub async fn ask(&self, event: &str, user: &str) -> Result<Gathered, NotAsked> {
        let shared = &self.0;
        let pod: Arc<str> = shared.membership.pod().into();
        let question = Question { pod: pod.clone(), event: event.into(), user: user.into() };
        let mut message = question.event();
        if !shared.membership.sign(&mut message) {
            return Err(NotAsked::NoSecret);
        }
        if let Err(wait) = shared.asks.take() {
            self.count(REFUSED);
            return Err(NotAsked::TooMany(wait));
        }
        let mut deadline = pin!(sleep(PATIENCE));
        let (sender, mut arrived) = mpsc::channel(MAX_ANSWERS);
        lock(&shared.open).insert(message.id.clone(), sender);
        let _open = Open { questions: self, id: message.id.clone() };
        let mut publish = pin!(shared.publisher.publish(&message));
        let mut is_published = false;
        let mut awaited: BTreeSet<Arc<str>> = shared.membership.names().into_iter().collect();
        awaited.remove(&pod);
        let mut answers: Vec<PodAnswer> = Vec::new();
        while !(is_published && awaited.is_empty()) {
            select! {
                published = &mut publish, if !is_published => match published {
                    Ok(()) => is_published = true,
                    Err(error) => return Err(self.fail(&error.to_string())),
                },
                Some(answer) = arrived.recv() => {
                    // It may come before the acknowledgement, and shows as much.
                    is_published = true;
                    awaited.remove(&answer.pod);
                    if answers.iter().all(|known| known.pod != answer.pod) {
                        answers.push(answer);
                    }
                }
                () = &mut deadline => break,
            }
        }
        if !is_published {
            return Err(self.fail("it did not acknowledge in time"));
        }
        self.count(ASKED_LABEL);
        Ok(Gathered { answers, silent: awaited.into_iter().collect() })
    }

    fn fail(&self, why: &str) -> NotAsked {
        self.count(FAILED);
        NotAsked::Unpublished(why.to_owned())
    }

    /// Answers the questions of other pods, one after the other. Runs until it is dropped.
    /// Cancel-safe.
    pub async fn run(&self, Inbox(mut inbox): Inbox, answer: impl Fn(&Question) -> PodAnswer) {
        let shared = &self.0;
        while let Some(Waiting { id, question, since }) = inbox.recv().await {
            // The asked pod does not wait for it any more.
            if since.elapsed() > PATIENCE {
                continue;
            }
            if shared.answers.take().is_err() {
                self.count(REFUSED);
                continue;
            }
            let mut message = Answered { question: id, answer: answer(&question) }.event();
            if !shared.membership.sign(&mut message) {
                continue;
            }
            match shared.publisher.publish(&message).await {
                Ok(()) => self.count(ANSWERED_LABEL),
                Err(error) => {
                    self.count(FAILED);
                    tracing::debug!(%error, "answer not published");
                }
            }
        }
    }

    fn count(&self, outcome: &'static str) {
        self.0.outcomes.add(1, &[KeyValue::new("outcome", outcome)]);
    }
}

#[cfg(test)]
mod tests;
