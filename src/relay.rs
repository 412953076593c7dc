//! The relay loop: takes each message of the feed to the membership or to the hub.
//!
//! A heartbeat goes to the membership. An event that was seen before is dropped. Any other event is
//! read by the domain, applied to its state, and dispatched by the hub. Each pod has one task for
//! this, one event at a time, because the order of the feed must hold. It must never wait for a
//! client, and no message may stop it.

use std::{
    fmt::Display,
    panic::{self, AssertUnwindSafe},
    sync::Arc,
    time::{Duration, SystemTime},
};

use opentelemetry::{
    KeyValue,
    metrics::{Counter, Meter},
};
use tokio::{
    select,
    sync::watch,
    time::{Instant, sleep_until},
};
use tracing::Instrument as _;

use crate::{
    applied::Applied,
    broker::{Feed, FeedState, Order, Received},
    budget::Rates,
    domain::{self, Domain, Fact, Unreadable},
    event::{Event, Foreign, PODS, cloudevent::Undecodable, foreign::Unmapped},
    hub::{HEAD_START, Hub, window::KEY_OVERHEAD},
    membership::{HISTORY, Heard, History, Membership},
    presence,
    question::Questions,
    revocations::Revocations,
    telemetry::{self, traces::Messaging},
};

/// Age up to which an event of another pod counts for its author's rate.
const RATE_PERIOD: Duration = Duration::from_secs(10);

/// Largest disorder of the times that a topic gives: each of its servers has a clock of its own.
const CLOCK_MARGIN: Duration = Duration::from_secs(30);

/// Reasons of rejected events in metrics. A message that cannot be decoded has reasons of its own.
const UNKNOWN_TYPE: &str = "unknown_type";
const MALFORMED: &str = "malformed";
const MALFORMED_HEARTBEAT: &str = "malformed_heartbeat";

/// Relay of the events of one pod's feed to its hub.
pub struct Relay {
    domain: Arc<dyn Domain>,
    hub: Hub,
    membership: Membership,
    messaging: Messaging,
    /// Name of the feed's present generation.
    feed: Option<Arc<str>>,
    applied: Applied,
    retention: Retention,
    started: Instant,
    /// Events published before this time are no news. Either no watcher of this pod existed then,
    /// or the event may have arrived before and its id be forgotten. The time is by the pod's clock
    /// until the pod's first heartbeat has come back, and then by the topic's. The two clocks may
    /// differ.
    news_since: SystemTime,
    /// Whether the start of the pod by the topic's clock is known.
    is_timed: bool,
    /// Begin of the history that has come so far, and the time until which more may come.
    history: Option<(SystemTime, Instant)>,
    /// Time of publishing of the newest heartbeat; `None` while the feed catches up.
    newest: Option<SystemTime>,
    /// Source of the events that this pod publishes.
    own: String,
    rates: Arc<Rates>,
    revocations: Option<Revocations>,
    questions: Option<Questions>,
    counters: Counters,
}

/// Start of a pod, and how far back its feed reaches.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// Start of the pod by its own clock. The hub has the same.
    pub began: SystemTime,
    /// Time back to which clients can resume. The feed was opened with the same.
    pub window: Duration,
    /// Whether the history of a new feed may come seconds late.
    pub may_come_late: bool,
    /// Shortest time for which the broker retains messages, whatever the window.
    pub least: Duration,
}

impl Relay {
    /// Creates the relay of a pod that starts now. It remembers event ids for as long as a new
    /// generation of the feed may repeat them.
    pub fn new(
        domain: Arc<dyn Domain>,
        hub: Hub,
        membership: Membership,
        retention: Retention,
        messaging: Messaging,
        meter: &Meter,
    ) -> Self {
        let own = format!("{PODS}{}", messaging.pod);
        Self {
            domain,
            hub,
            membership,
            messaging,
            feed: None,
            applied: Applied::new(retention.window.max(retention.least)),
            retention,
            started: Instant::now(),
            news_since: retention.began,
            is_timed: false,
            history: None,
            newest: None,
            own,
            rates: Arc::default(),
            revocations: None,
            questions: None,
            counters: Counters::new(meter),
        }
    }

    /// Drains the rates of authors by what other pods publish for them.
    #[must_use]
    pub fn with_rates(mut self, rates: Arc<Rates>) -> Self {
        self.rates = rates;
        self
    }

    /// Passes revocations on.
    #[must_use]
    pub fn with_revocations(mut self, revocations: Revocations) -> Self {
        self.revocations = Some(revocations);
        self
    }

    /// Returns the events that the relay has applied, for requests that wait for one.
    #[must_use]
    pub const fn applied(&self) -> &Applied {
        &self.applied
    }

    /// Passes questions and answers of pods on.
    #[must_use]
    pub fn with_questions(mut self, questions: Questions) -> Self {
        self.questions = Some(questions);
        self
    }

    /// Takes an event that another pod has published from its author's rate.
    ///
    /// What this pod publishes was taken before. A late event is of a time that does not count any
    /// more.
    fn drain_rate(&self, event: &Event) {
        if let Some(author) = self.counted_author(event)
            && *event.source != *self.own
        {
            self.rates.drain(author, event.data.len());
        }
    }

    /// Takes the keys of an event from its author's rate, whichever pod has published it. The
    /// window has room for the keys of what an author may publish.
    fn drain_keys(&self, event: &Event, fact: &Fact) {
        if let Some(author) = self.counted_author(event) {
            self.rates.drain_bytes(author, KEY_OVERHEAD * fact.audience.size().0);
        }
    }

    /// Returns the author of an event that counts for a rate.
    fn counted_author<'e>(&self, event: &'e Event) -> Option<&'e Arc<str>> {
        let age = event.published.map(|published| self.membership.clock().age(published)).unwrap_or_default();
        event.author.as_ref().filter(|_| event.source.starts_with(PODS) && age < RATE_PERIOD)
    }

    /// Runs until the feed is closed. Cancel-safe between events: an event that was not relayed is
    /// not acknowledged.
    pub async fn run(&mut self, feed: &mut dyn Feed) {
        let mut state = feed.state();
        self.follow(&mut state, feed.order());
        loop {
            let due = self.membership.due();
            select! {
                // A message that waits in the feed must be processed before it counts as absent.
                biased;
                Ok(()) = state.changed() => self.follow(&mut state, feed.order()),
                received = feed.next() => {
                    let Some(Received { event, message_id, ack }) = received else { return };
                    match event {
                        Ok(event) => self.receive(event, &message_id).await,
                        Err(Undecodable::Foreign(message)) => self.receive_foreign(&message, &message_id).await,
                        Err(undecodable) => self.refuse(&message_id, &undecodable.into()),
                    }
                    ack.ack();
                }
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    self.settle(feed.reaches_back());
                }
            }
        }
    }

    fn follow(&mut self, state: &mut watch::Receiver<FeedState>, order: Order) {
        let state = state.borrow_and_update();
        if let FeedState::Open(name) = &*state {
            self.feed = Some(name.clone());
        }
        if self.membership.follow(&state, order) {
            // The next generation may repeat events with forgotten ids, which are no news. The ids
            // of later events are remembered, so a later event with an unknown id never arrived.
            let forgotten = self.newest.take().and_then(|newest| newest.checked_sub(self.applied.window()));
            self.news_since = self.news_since.max(forgotten.unwrap_or(SystemTime::UNIX_EPOCH));
            self.hub.set_caught_up(false);
            self.applied.set_caught_up(false);
        }
    }

    /// Checks whether the feed has caught up, and acts on what that proves.
    fn settle(&mut self, reaches_back: bool) {
        let Some(history) = self.membership.settle() else { return };
        match history {
            History::Whole => {}
            History::First { since, own, came } => {
                // The pod has given out cursors since its start. A feed that reaches back so far
                // misses nothing since then, even if the topic is younger. Any other feed proves
                // less: a first cursor may be ahead of what its client received.
                let reach = self.retention.window.min(self.retention.least);
                let is_whole = reaches_back && self.started.elapsed() < reach;
                // The pod's start by the topic's clock, or a moment before.
                let began = own.checked_sub(came.duration_since(self.started)).unwrap_or(own);
                let start = if is_whole { since.min(began) } else { since + HEAD_START };
                self.hub.start_at(start);
                self.applied.begin_at(if is_whole { start } else { since });
                if reaches_back && self.retention.may_come_late {
                    let until = self.started + HISTORY;
                    self.hub.expect_history(until);
                    self.applied.expect_history(until);
                    self.history = Some((start, until));
                }
                // This estimates the pod's start by the topic's clock. The pod started before its
                // heartbeat was published, by no more than the time until the heartbeat came back.
                let before = came.duration_since(self.started) + CLOCK_MARGIN;
                self.news_since = own.checked_sub(before).unwrap_or(SystemTime::UNIX_EPOCH);
            }
            History::Lost(first) => {
                tracing::error!("the topic has lost events, every watcher is told of a gap");
                self.counters.losses.add(1, &[]);
                self.hub.lose(&first);
                first.published.into_iter().for_each(|published| self.applied.begin_at(published));
            }
        }
        self.newest = Some(self.news_since);
        self.revocations.iter().for_each(Revocations::caught_up);
        self.hub.set_caught_up(true);
        self.applied.set_caught_up(true);
        tracing::info!("feed caught up");
    }

    /// Corrects the start of the pod by the topic's clock, once that is known. Until then this
    /// pod's clock counted, which may be wrong.
    fn start(&mut self) {
        let elapsed = self.started.elapsed();
        let now = self.membership.clock().now();
        let before = |span| now.checked_sub(span).unwrap_or(SystemTime::UNIX_EPOCH);
        self.hub.hold_at(before(elapsed));
        self.news_since = before(elapsed + CLOCK_MARGIN);
    }

    async fn receive(&mut self, event: Event, message_id: &str) {
        match self.membership.hear(&event) {
            Heard::Heartbeat => {
                if !self.is_timed && self.membership.knows_time() {
                    self.is_timed = true;
                    self.start();
                }
                self.newest = self.newest.map(|newest| event.published.map_or(newest, |at| newest.max(at)));
                event.published.into_iter().for_each(|published| self.domain.hear(published));
                self.hub.advance(&event);
            }
            Heard::Garbage => {
                self.reject(message_id, MALFORMED_HEARTBEAT, None, &"it holds no heartbeat");
            }
            // It is counted and logged by the membership.
            Heard::Unproven => {}
            Heard::Event if self.revocations.as_ref().is_some_and(|them| them.hear(&event)) => {}
            Heard::Event if self.questions.as_ref().is_some_and(|them| them.hear(&event)) => {}
            Heard::Event if presence::is_announcement(&event) => {}
            Heard::Event => self.relay(event, message_id).await,
        }
    }

    /// Relays a message without CloudEvents, if the domain has an envelope for it. No such message
    /// is ever shown to what reads control events.
    async fn receive_foreign(&mut self, message: &Foreign, message_id: &str) {
        let read = AssertUnwindSafe(|| domain::read_foreign(&*self.domain, message));
        let event = panic::catch_unwind(read).unwrap_or_else(|_| {
            Err(Unmapped { reason: MALFORMED, text: "the domain panicked at it".to_owned() })
        });
        match event {
            Ok(event) => self.relay(event, message_id).await,
            Err(unmapped) => self.refuse(message_id, &unmapped),
        }
    }

    /// Rejects a message that holds no event.
    fn refuse(&self, message_id: &str, why: &Unmapped) {
        let text = format!("{why}; docs/PUBLISH.md has what a message needs");
        self.reject(message_id, why.reason, None, &text);
    }

    /// Counts and logs a message that is of no use.
    fn reject(&self, message_id: &str, reason: &'static str, place: Option<Place<'_>>, error: &dyn Display) {
        self.counters.reject(reason, place);
        tracing::warn!(message_id, reason, %error, "message rejected");
    }

    /// Notes an event of the time before the pod's start that comes after the feed has caught up.
    fn note_history(&mut self, event: &Event) {
        if let (Some((start, until)), Some(published)) = (&mut self.history, event.published)
            && published < *start
            && Instant::now() < *until
        {
            *start = published;
            self.hub.reach_back(published);
            self.applied.begin_at(published);
        }
    }

    async fn relay(&mut self, event: Event, message_id: &str) {
        self.note_history(&event);
        self.counters.received.add(1, &[]);
        let (key, published) = (self.applied.key(&event.source, &event.id), event.published);
        if self.applied.has(key) {
            self.counters.deduplicated.add(1, &[]);
            self.hub.repeat(&event.identity());
            return;
        }
        self.apply(event, message_id).await;
        // Not before: a request that waits for the event reads what it changed.
        self.applied.insert(key, published);
    }

    /// Applies an event to the domain's state, and dispatches it.
    async fn apply(&mut self, event: Event, message_id: &str) {
        self.drain_rate(&event);
        // Any program can publish to the topic. An event at which the domain panics must not stop
        // the feed of every pod.
        let read = AssertUnwindSafe(|| {
            let fact = self.domain.read(&event)?;
            self.domain.apply(&event, &fact);
            Ok(fact)
        });
        let panicked = |_| Err(Unreadable::Malformed("the domain panicked at it".to_owned()));
        let fact = match panic::catch_unwind(read).unwrap_or_else(panicked) {
            Ok(fact) => fact,
            Err(Unreadable::UnknownType) => return self.counters.reject(UNKNOWN_TYPE, None),
            Err(error) => {
                let place = match &error {
                    Unreadable::Misfit { path, .. } => Some(Place { kind: &event.kind, path }),
                    _ => None,
                };
                let text = format_args!("{} {}: {error}", event.kind, event.id);
                return self.reject(message_id, MALFORMED, place, &text);
            }
        };
        self.drain_keys(&event, &fact);
        let is_news = event.published.is_none_or(|published| published >= self.news_since);
        let (id, kind) = (event.id.clone(), event.kind.clone());
        let span = self.messaging.process(self.feed.as_deref(), &id, &kind, event.trace.as_deref());
        let matched = self.hub.dispatch(event, fact, is_news).instrument(span.clone()).await;
        span.record("relay.watchers", i64::try_from(matched).unwrap_or(i64::MAX));
        self.counters.matched.add(matched as u64, &[]);
        tracing::debug!(event = %id, %kind, matched, "event dispatched");
    }
}

/// Place of a breach in an event that the domain knows.
struct Place<'a> {
    kind: &'a Arc<str>,
    path: &'a str,
}

/// Returns the labels of a rejected message. Without a place two of them are empty.
fn labels(reason: &'static str, place: Option<Place<'_>>) -> [KeyValue; 3] {
    let (kind, path) =
        place.map_or_else(Default::default, |place| (place.kind.clone(), place.path.to_owned()));
    [KeyValue::new("reason", reason), KeyValue::new("type", kind), KeyValue::new("path", path)]
}

struct Counters {
    received: Counter<u64>,
    deduplicated: Counter<u64>,
    rejected: Counter<u64>,
    matched: Counter<u64>,
    losses: Counter<u64>,
}

impl Counters {
    fn new(meter: &Meter) -> Self {
        let counter = |name, description| telemetry::counter(meter, name, description);
        Self {
            received: counter(
                "relay.events.received",
                "Events that came through the feed, repeats included.",
            ),
            deduplicated: counter(
                "relay.events.deduplicated",
                "Events dropped because their id was seen before.",
            ),
            rejected: {
                let rejected = meter.u64_counter("relay.events.rejected");
                let text = "Messages without an event that the domain reads, by reason.";
                let rejected = rejected.with_description(text).build();
                for reason in ["not_cloudevent", UNKNOWN_TYPE, MALFORMED, MALFORMED_HEARTBEAT] {
                    rejected.add(0, &labels(reason, None));
                }
                rejected
            },
            matched: counter("relay.events.matched", "Watchers that events were dispatched to."),
            losses: counter(
                "relay.feed.losses",
                "Times that the topic had lost events while the feed was away.",
            ),
        }
    }

    fn reject(&self, reason: &'static str, place: Option<Place<'_>>) {
        self.rejected.add(1, &labels(reason, place));
    }
}

#[cfg(test)]
mod tests;
