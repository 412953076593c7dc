//! The loop: feed → heartbeat? → seen? → what it means → state → hub.
//!
//! One task a pod, one event at a time, in the order of the feed. It never waits for a client, and no message stops it.

use std::{
    collections::{HashSet, VecDeque},
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
    broker::{Feed, FeedState, Received},
    domain::{Domain, Unreadable},
    event::Event,
    hub::{HEAD_START, Hub},
    membership::{Heard, History, Membership},
    telemetry::{self, traces::Messaging},
};

/// How many event ids are remembered at most: at 1,000 events a second the whole of a 10-minute window, in about 60 MiB.
const MAX_SEEN: usize = 600_000;

/// By how much the times that a topic gives may be out of order: its servers have a clock each.
const CLOCK_MARGIN: Duration = Duration::from_secs(30);

/// Why an event is of no use, as metrics say it; the other reasons are those of its message.
const UNKNOWN_TYPE: &str = "unknown_type";
const MALFORMED_DATA: &str = "malformed_data";
const MALFORMED_HEARTBEAT: &str = "malformed_heartbeat";

/// Relays the events of one pod's feed to its hub.
pub struct Relay {
    domain: Arc<dyn Domain>,
    hub: Hub,
    membership: Membership,
    messaging: Messaging,
    /// The name of the feed's present generation.
    feed: Option<Arc<str>>,
    seen: Seen,
    retention: Retention,
    started: Instant,
    /// What was published before this is no news: none of this pod's watchers was there, or it may have come before and be
    /// forgotten. By the pod's clock until the feed has caught up, and then by the topic's: the two may not agree.
    news_since: SystemTime,
    /// When the newest heartbeat was published, while everything before it has come.
    newest: Option<SystemTime>,
    counters: Counters,
}

/// When a pod began, and how far back its feed reaches.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// Start of the pod, by its own clock; the hub has the same.
    pub began: SystemTime,
    /// How far back clients can resume; the feed was opened with the same.
    pub window: Duration,
    /// How far back the broker reaches at the least, whatever the window.
    pub least: Duration,
}

impl Relay {
    /// A relay of a pod that begins now, and remembers event ids for as long as a new feed may repeat them.
    pub fn new(
        domain: Arc<dyn Domain>,
        hub: Hub,
        membership: Membership,
        retention: Retention,
        messaging: Messaging,
        meter: &Meter,
    ) -> Self {
        Self {
            domain,
            hub,
            membership,
            messaging,
            feed: None,
            seen: Seen::new(retention.window.max(retention.least)),
            retention,
            started: Instant::now(),
            news_since: retention.began,
            newest: None,
            counters: Counters::new(meter),
        }
    }

    /// Runs until the feed is closed. Cancel-safe between events: one that was not relayed is not acknowledged.
    pub async fn run(&mut self, feed: &mut dyn Feed) {
        let mut state = feed.state();
        self.follow(&mut state);
        loop {
            let due = self.membership.due();
            select! {
                // What waits in the feed is looked at before it counts as not having come.
                biased;
                Ok(()) = state.changed() => self.follow(&mut state),
                received = feed.next() => {
                    let Some(Received { event, message_id, ack }) = received else { return };
                    match event {
                        Ok(event) => self.hear(event, &message_id).await,
                        Err(undecodable) => self.reject(&message_id, undecodable.reason(), &undecodable),
                    }
                    ack.ack();
                }
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    self.settle(feed.reaches_back());
                }
            }
        }
    }

    fn follow(&mut self, state: &mut watch::Receiver<FeedState>) {
        let state = state.borrow_and_update();
        if let FeedState::Open(name) = &*state {
            self.feed = Some(name.clone());
        }
        if self.membership.follow(&state) {
            // The next life may repeat what is forgotten; but old events that were published later never came.
            let forgotten = self.newest.take().and_then(|newest| newest.checked_sub(self.seen.window));
            self.news_since = self.news_since.max(forgotten.unwrap_or(SystemTime::UNIX_EPOCH));
            self.hub.set_caught_up(false);
        }
    }

    /// Whether the feed has caught up, and what that says.
    fn settle(&mut self, reaches_back: bool) {
        let Some(history) = self.membership.settle() else { return };
        match history {
            History::Whole => {}
            History::First { since, own, came } => {
                // Cursors were given out from when the pod began. Though the topic may be younger, a feed that reaches back
                // so far misses nothing since then. Of one that does not they are no proof, being later than their clients.
                let reach = self.retention.window.min(self.retention.least);
                let is_whole = reaches_back && self.started.elapsed() < reach;
                self.hub.begin_at(if is_whole {
                    since.min(self.retention.began)
                } else {
                    since + HEAD_START
                });
                // By the topic's clock the pod began as long before its heartbeat was published as that took, which is no
                // longer than it took to come back.
                let before = came.duration_since(self.started) + CLOCK_MARGIN;
                self.news_since = own.checked_sub(before).unwrap_or(SystemTime::UNIX_EPOCH);
            }
            History::Lost(first) => {
                tracing::error!("the topic has lost events, every watcher is told of a gap");
                self.counters.losses.add(1, &[]);
                self.hub.lose(&first);
            }
        }
        self.newest = Some(self.news_since);
        self.hub.set_caught_up(true);
        tracing::info!("feed caught up");
    }

    async fn hear(&mut self, event: Event, message_id: &str) {
        match self.membership.hear(&event) {
            Heard::Heartbeat => {
                self.newest = self.newest.map(|newest| event.published.map_or(newest, |at| newest.max(at)));
                self.hub.advance(&event);
            }
            Heard::Garbage => self.reject(message_id, MALFORMED_HEARTBEAT, &"it holds no heartbeat"),
            Heard::Event => self.relay(event, message_id).await,
        }
    }

    /// Counts a message that is of no use, and says which one it was.
    fn reject(&self, message_id: &str, reason: &'static str, error: &dyn Display) {
        self.counters.reject(reason);
        tracing::warn!(message_id, reason, %error, "message rejected");
    }

    async fn relay(&mut self, event: Event, message_id: &str) {
        self.counters.received.add(1, &[]);
        if !self.seen.insert(&event.id, Instant::now()) {
            self.counters.deduplicated.add(1, &[]);
            self.hub.repeat(&event.id);
            return;
        }
        // Once for all that may publish anything: what the domain panics at must not make every pod deaf.
        let read = AssertUnwindSafe(|| {
            let fact = self.domain.read(&event)?;
            self.domain.apply(&event, &fact);
            Ok(fact)
        });
        let panicked = |_| Err(Unreadable::Malformed("the domain panicked at it".to_owned()));
        let fact = match panic::catch_unwind(read).unwrap_or_else(panicked) {
            Ok(fact) => fact,
            Err(Unreadable::UnknownType) => return self.counters.reject(UNKNOWN_TYPE),
            Err(error @ Unreadable::Malformed(_)) => {
                return self.reject(
                    message_id,
                    MALFORMED_DATA,
                    &format_args!("{} {}: {error}", event.kind, event.id),
                );
            }
        };
        let is_news = event.published.is_none_or(|published| published >= self.news_since);
        let (id, kind) = (event.id.clone(), event.kind.clone());
        let span = self.messaging.process(self.feed.as_deref(), &id, &kind, event.trace.as_deref());
        let matched = self.hub.dispatch(event, fact, is_news).instrument(span.clone()).await;
        span.record("relay.watchers", i64::try_from(matched).unwrap_or(i64::MAX));
        self.counters.matched.add(matched as u64, &[]);
        tracing::debug!(event = %id, %kind, matched, "event dispatched");
    }
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
            rejected: telemetry::counter_by(
                meter,
                "relay.events.rejected",
                "Messages without an event that the domain reads, by reason.",
                "reason",
                ["not_cloudevent", UNKNOWN_TYPE, MALFORMED_DATA, MALFORMED_HEARTBEAT],
            ),
            matched: counter("relay.events.matched", "Watchers that events were dispatched to."),
            losses: counter(
                "relay.feed.losses",
                "Times that the topic had lost events while the feed was away.",
            ),
        }
    }

    fn reject(&self, reason: &'static str) {
        self.rejected.add(1, &[KeyValue::new("reason", reason)]);
    }
}

/// The event ids of the last while.
struct Seen {
    window: Duration,
    ids: HashSet<Arc<str>>,
    order: VecDeque<(Instant, Arc<str>)>,
}

impl Seen {
    fn new(window: Duration) -> Self {
        Self { window, ids: HashSet::new(), order: VecDeque::new() }
    }

    /// Remembers the id; `false` if it is there already.
    fn insert(&mut self, id: &Arc<str>, now: Instant) -> bool {
        while let Some((since, oldest)) = self.order.front() {
            if now.duration_since(*since) < self.window && self.order.len() < MAX_SEEN {
                break;
            }
            self.ids.remove(oldest);
            self.order.pop_front();
        }
        let is_new = self.ids.insert(id.clone());
        if is_new {
            self.order.push_back((now, id.clone()));
        }
        is_new
    }
}

#[cfg(test)]
mod tests;
