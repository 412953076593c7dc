//! Tokens that are refused before they expire: the set of records that all pods share over the
//! topic.
//!
//! A record names a user or a token, and a moment: tokens that were issued until then are refused.
//! Pods merge records by maximum, so that repeats and replays change nothing. Each pod publishes
//! its whole set now and then, and when a pod joins. So a pod that starts later has the set before
//! it is ready. Only events that a pod with the control secret has signed may change the set.

mod record;
mod set;

use std::{
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use opentelemetry::metrics::Meter;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use self::{record::millis, set::Set};
pub use self::{
    record::{Credentials, Issued, MAX_NAME, Record, Refused, Subject},
    set::MAX_RECORDS,
};
use crate::{
    broker::{Publish, PublishError},
    event::{Event, PODS},
    membership::Membership,
};

/// Type of the events that carry records.
const KIND: &str = "relay.revocations.v1";

/// Beginning of the types of these events in all releases.
const KINDS: &str = "relay.revocations.";

/// Most bytes of records in one event. A control event may have 64 KiB.
const MAX_PIECE: usize = 48 << 10;

/// Most pieces of a set: [`MAX_RECORDS`] with the longest names.
const MAX_PIECES: u32 = 128;

/// How far a record's moment may be ahead of its publishing. One further ahead is ignored: it would
/// shut a user out for longer than any clock is wrong.
const MAX_AHEAD: Duration = Duration::from_secs(60);

/// Time in which one of all pods publishes its whole set, on average.
const PERIOD: Duration = Duration::from_secs(60);

/// Longest wait before a pod publishes its set for one that joins. Another pod may be first.
const WELCOME: Duration = Duration::from_millis(300);

/// Time for which a pod that starts waits for the first piece of the others' set.
const FIRST_PIECE: Duration = Duration::from_secs(1);

/// Longest time for which a pod that starts waits for all pieces.
const ALL_PIECES: Duration = Duration::from_secs(10);

/// Most sets of other pods that are awaited at a time.
const MAX_AWAITED: usize = 16;

/// Revocations as one pod knows them. Clones share them.
#[derive(Clone)]
pub struct Revocations(Arc<Shared>);

struct Shared {
    membership: Membership,
    publisher: Arc<dyn Publish>,
    /// Age from which a record is dropped.
    max_age: Duration,
    state: Mutex<State>,
    /// Whether there is no record, so that checks of tokens take no lock.
    is_empty: AtomicBool,
    /// Count of changes of the set.
    changes: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    set: Set,
    start: Start,
    /// Digest of the last whole set that came, and when.
    last_whole: Option<(u64, Instant)>,
}

/// State of a pod that starts.
#[derive(Default)]
enum Start {
    /// The feed has not caught up.
    #[default]
    CatchingUp,
    /// The feed has caught up at this time, and the pieces of these sets are missing.
    Waiting { since: Instant, awaited: Vec<Awaited> },
    /// The pod has the set, or there is none.
    Over,
}

/// Pieces of a whole set that have not come.
struct Awaited {
    id: u64,
    /// One bit for each piece.
    missing: u128,
}

/// Data of an event with records.
#[derive(Serialize, Deserialize)]
struct Piece {
    records: Vec<Record>,
    /// Present if the event is a piece of a whole set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    whole: Option<Whole>,
}

/// Whole set that a piece belongs to.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Whole {
    /// Random number of this publication.
    id: u64,
    /// Number of this piece, from 0.
    piece: u32,
    /// Number of all its pieces, 1 to 128.
    pieces: u32,
    /// Digest of the set.
    digest: u64,
}

/// Why nothing was revoked.
#[derive(Debug, Error)]
pub enum NotRevoked {
    /// Pods would not believe the record.
    #[error("revocation needs a secret that all pods share: set RELAY_CONTROL_SECRET_FILE")]
    Off,
    /// The name cannot be that of a user or a token.
    #[error("the name must have 1 to {MAX_NAME} bytes and no control characters")]
    BadName,
    /// There are as many records as may be.
    #[error("there are {MAX_RECORDS} records, as many as may be; the oldest ends after RELAY_JWT_MAX_LIFE")]
    Full,
    /// The topic has not acknowledged the record. It may come into force all the same.
    #[error("the topic did not take the record, so try again: {0}")]
    Unpublished(#[from] PublishError),
}

impl Revocations {
    /// Creates an empty set. A record is dropped `max_age` after its moment: all tokens that it
    /// refuses must have expired by then.
    #[must_use]
    pub fn new(
        membership: Membership,
        publisher: Arc<dyn Publish>,
        max_age: Duration,
        meter: &Meter,
    ) -> Self {
        let revocations = Self(Arc::new(Shared {
            membership,
            publisher,
            max_age,
            state: Mutex::default(),
            is_empty: AtomicBool::new(true),
            changes: watch::Sender::new(0),
        }));
        let observed = revocations.clone();
        meter
            .u64_observable_gauge("relay.revocations")
            .with_description("Records of revoked users and tokens that stand.")
            .with_callback(move |gauge| gauge.observe(observed.state().set.len() as u64, &[]))
            .build();
        revocations
    }

    /// Returns why the token is refused; `None` if it is not.
    #[must_use]
    pub fn refusal(&self, credentials: &Credentials) -> Option<Refused> {
        if self.0.is_empty.load(Ordering::Acquire) {
            return None;
        }
        self.state().set.refusal(credentials)
    }

    /// Returns the topic's present time.
    #[must_use]
    pub fn now(&self) -> SystemTime {
        self.0.membership.clock().now()
    }

    /// Returns a receiver of changes of the set.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// Revokes what was issued to the subject until now, on every pod. Returns the record once the
    /// topic has acknowledged it.
    ///
    /// # Errors
    /// [`NotRevoked`] if nothing was revoked, or possibly nothing.
    pub async fn revoke(&self, subject: Subject, retry: bool) -> Result<Record, NotRevoked> {
        if !self.0.membership.has_secrets() {
            return Err(NotRevoked::Off);
        }
        if subject.name().is_none() {
            return Err(NotRevoked::BadName);
        }
        let record = Record { subject, before: millis(self.now()), retry };
        self.expire();
        if self.state().set.len() >= MAX_RECORDS {
            return Err(NotRevoked::Full);
        }
        self.publish(Piece { records: vec![record.clone()], whole: None }).await?;
        self.merge(std::slice::from_ref(&record));
        Ok(record)
    }

    /// Takes the records of an event, if it carries any. Returns `false` if the event is of another
    /// type.
    pub fn hear(&self, event: &Event) -> bool {
        if !event.kind.starts_with(KINDS) {
            return false;
        }
        let Some(published) = event.published.filter(|_| *event.kind == *KIND) else { return true };
        if !self.0.membership.prove_control(event) {
            return true;
        }
        let Ok(Piece { mut records, whole }) = serde_json::from_slice::<Piece>(&event.data) else {
            tracing::warn!(event = &*event.id, "revocations cannot be read: is a pod of another release?");
            return true;
        };
        let latest = millis(published + MAX_AHEAD);
        records.retain(|record| record.before <= latest);
        self.merge(&records);
        if let Some(whole) = whole {
            self.state().hear_piece(whole);
        }
        true
    }

    /// Notes that the feed has caught up: the other pods hear of this pod now.
    pub fn caught_up(&self) {
        let mut state = self.state();
        if matches!(state.start, Start::CatchingUp) {
            state.start = Start::Waiting { since: Instant::now(), awaited: Vec::new() };
        }
    }

    /// Returns what the pod that starts still waits for, in words for `/readyz`; `None` if it has
    /// the set.
    #[must_use]
    pub fn lack(&self) -> Option<String> {
        if !self.0.membership.has_secrets() {
            return None;
        }
        let mut state = self.state();
        let is_over = match &state.start {
            Start::CatchingUp => false,
            Start::Over => return None,
            Start::Waiting { since, awaited } => {
                let limit = if awaited.is_empty() { FIRST_PIECE } else { ALL_PIECES };
                since.elapsed() >= limit
            }
        };
        if is_over {
            state.start = Start::Over;
            return None;
        }
        Some("waiting for those of other pods".to_owned())
    }

    /// Publishes the whole set now and then, and for pods that join. Runs until it is dropped.
    pub async fn run(&self) {
        if self.0.membership.has_secrets() {
            tokio::join!(self.publish_by_chance(), self.welcome());
        }
    }

    async fn publish_by_chance(&self) {
        loop {
            sleep(PERIOD.mul_f64(rand::random_range(0.5..1.5))).await;
            self.expire();
            let pods = self.0.membership.size().pods.max(1);
            if rand::random_range(0..pods) == 0 {
                self.publish_all().await;
            }
        }
    }

    async fn welcome(&self) {
        let mut joins = self.0.membership.joins();
        while joins.changed().await.is_ok() {
            let heard = Instant::now();
            sleep(WELCOME.mul_f64(rand::random_range(0.0..1.0))).await;
            let is_done = {
                let state = self.state();
                let is_own = |(digest, at): (u64, Instant)| at >= heard && digest == state.set.digest();
                state.last_whole.is_some_and(is_own)
            };
            if !is_done {
                self.publish_all().await;
            }
        }
    }

    /// Publishes the whole set, in pieces. A failure is logged: the next time comes soon. A pod
    /// that may not have all records publishes none, since others would take its set for whole.
    async fn publish_all(&self) {
        if self.lack().is_some() {
            return;
        }
        let (records, digest) = {
            let state = self.state();
            (state.set.records().collect::<Vec<_>>(), state.set.digest())
        };
        let pieces = pieces(records);
        let (id, count) = (rand::random(), u32::try_from(pieces.len()).unwrap_or(u32::MAX));
        for (piece, records) in (0..).zip(pieces) {
            let whole = Some(Whole { id, piece, pieces: count, digest });
            if let Err(error) = self.publish(Piece { records, whole }).await {
                return tracing::warn!(%error, "revocations not published");
            }
        }
    }

    async fn publish(&self, piece: Piece) -> Result<(), PublishError> {
        let data = serde_json::to_vec(&piece).map_err(|error| PublishError::Invalid(error.to_string()))?;
        let source = format!("{PODS}{}", self.0.membership.pod());
        let mut event = Event::new(source.into(), KIND, None, data.into());
        if !self.0.membership.sign(&mut event) {
            return Ok(());
        }
        self.0.publisher.publish(&event).await
    }

    /// Adds these records, and tells of a change.
    fn merge(&self, records: &[Record]) {
        let oldest = self.oldest();
        let mut state = self.state();
        let mut changed = 0;
        for record in records.iter().filter(|record| record.before >= oldest) {
            changed += u64::from(state.set.merge(record));
        }
        let dropped = state.set.cut();
        self.0.is_empty.store(state.set.len() == 0, Ordering::Release);
        drop(state);
        if dropped > 0 {
            tracing::error!(dropped, "too many revocations: the oldest are not in force any more");
        }
        if changed > 0 {
            tracing::info!(records = changed, "tokens revoked");
            self.0.changes.send_modify(|count| *count += 1);
        }
    }

    fn expire(&self) {
        let oldest = self.oldest();
        let mut state = self.state();
        state.set.expire(oldest);
        self.0.is_empty.store(state.set.len() == 0, Ordering::Release);
    }

    /// Returns the moment of the oldest record that may stand.
    fn oldest(&self) -> u64 {
        let age = u64::try_from(self.0.max_age.as_millis()).unwrap_or(u64::MAX);
        millis(self.now()).saturating_sub(age)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        crate::lock::lock(&self.0.state)
    }
}

impl State {
    /// Notes a piece of a whole set. A pod that starts has the set when all its pieces have come.
    fn hear_piece(&mut self, Whole { id, piece, pieces, digest }: Whole) {
        if pieces == 0 || pieces > MAX_PIECES || piece >= pieces {
            return;
        }
        self.last_whole = Some((digest, Instant::now()));
        let Start::Waiting { awaited, .. } = &mut self.start else { return };
        if awaited.iter().all(|set| set.id != id) && awaited.len() < MAX_AWAITED {
            awaited.push(Awaited { id, missing: u128::MAX >> (MAX_PIECES - pieces) });
        }
        let Some(set) = awaited.iter_mut().find(|set| set.id == id) else { return };
        set.missing &= !(1 << piece);
        if set.missing == 0 {
            self.start = Start::Over;
        }
    }
}

/// Divides the records into the pieces of a set, one at least.
fn pieces(records: Vec<Record>) -> Vec<Vec<Record>> {
    let (mut pieces, mut bytes) = (vec![Vec::new()], 0);
    for record in records {
        // An upper bound: quotes and backslashes double, and the numbers have 60 bytes.
        let size = 2 * record.subject.name().map_or(0, |name| name.len()) + 60;
        if bytes + size > MAX_PIECE {
            pieces.push(Vec::new());
            bytes = 0;
        }
        bytes += size;
        pieces.last_mut().expect("there is one").push(record);
    }
    pieces
}

#[cfg(test)]
mod tests;
