//! The loop: feed → pulse? → seen? → what it means → state → hub.
//!
//! One task a pod, one event at a time, in the order of the feed. It never waits for a client, and no message stops it.

use std::{
    collections::{HashSet, VecDeque},
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
    contract::{Domain, Unreadable},
    event::Event,
    fleet::{Fleet, Heard, History},
    hub::Hub,
    telemetry::traces,
};

/// How many event ids are remembered at most: at 1,000 events a second the whole of a 10-minute window, in about 60 MiB.
const MAX_SEEN: usize = 600_000;

/// Why an event is of no use, as metrics say it; the other reasons are those of its message.
const UNKNOWN_TYPE: &str = "unknown_type";
const MALFORMED_DATA: &str = "malformed_data";
const MALFORMED_PULSE: &str = "malformed_pulse";

/// Relays the events of one pod's feed to its hub.
pub struct Relay {
    domain: Arc<dyn Domain>,
    hub: Hub,
    fleet: Fleet,
    seen: Seen,
    /// What was published before this pod began is no news: none of its watchers was there. Pod and topic may not agree
    /// on the time, so this counts only until the feed has caught up.
    began: SystemTime,
    has_caught_up: bool,
    counters: Counters,
}

impl Relay {
    /// A relay that remembers event ids for `window`, the longest time after which the broker repeats one.
    pub fn new(domain: Arc<dyn Domain>, hub: Hub, fleet: Fleet, window: Duration, meter: &Meter) -> Self {
        Self {
            domain,
            hub,
            fleet,
            seen: Seen::new(window),
            began: SystemTime::now(),
            has_caught_up: false,
            counters: Counters::new(meter),
        }
    }

    /// Runs until the feed is closed. Cancel-safe between events: one that was not relayed is not acknowledged.
    pub async fn run(&mut self, feed: &mut dyn Feed) {
        let mut state = feed.state();
        self.follow(&mut state);
        loop {
            let due = self.fleet.due();
            select! {
                // What waits in the feed is looked at before it counts as not having come.
                biased;
                Ok(()) = state.changed() => self.follow(&mut state),
                received = feed.next() => {
                    let Some(Received { event, ack, .. }) = received else { return };
                    match event {
                        Ok(event) => self.hear(event).await,
                        Err(undecodable) => self.counters.reject(undecodable.reason()),
                    }
                    ack.ack();
                }
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => self.settle(),
            }
        }
    }

    fn follow(&self, state: &mut watch::Receiver<FeedState>) {
        if self.fleet.follow(&state.borrow_and_update()) {
            self.hub.catch_up(false);
        }
    }

    /// Whether the feed has caught up, and what that says.
    fn settle(&mut self) {
        let Some(history) = self.fleet.settle() else { return };
        match history {
            History::Whole => {}
            History::Since(published) => self.hub.begin_at(published),
            History::Lost(first) => {
                tracing::error!("the topic has lost events, every watcher is told of a gap");
                self.counters.losses.add(1, &[]);
                self.hub.lose(&first);
            }
        }
        self.hub.catch_up(true);
        self.has_caught_up = true;
        tracing::info!("feed caught up");
    }

    async fn hear(&mut self, event: Event) {
        match self.fleet.hear(&event) {
            Heard::Pulse => self.hub.advance(&event),
            Heard::Garbage => self.counters.reject(MALFORMED_PULSE),
            Heard::Event => self.relay(event).await,
        }
    }

    async fn relay(&mut self, event: Event) {
        self.counters.received.add(1, &[]);
        if !self.seen.insert(&event.id, Instant::now()) {
            self.counters.deduplicated.add(1, &[]);
            self.hub.repeat(&event.id);
            return;
        }
        let fact = match self.domain.read(&event) {
            Ok(fact) => fact,
            Err(Unreadable::UnknownType) => return self.counters.reject(UNKNOWN_TYPE),
            Err(error @ Unreadable::Malformed(_)) => {
                tracing::warn!(event = %event.id, kind = %event.kind, %error, "event rejected");
                return self.counters.reject(MALFORMED_DATA);
            }
        };
        self.domain.apply(&event, &fact);
        let is_news = self.has_caught_up || event.published.is_none_or(|published| published >= self.began);
        let (id, kind) = (event.id.clone(), event.kind.clone());
        let span = traces::process(self.fleet.pod(), &id, &kind, event.trace.as_deref());
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
        let counter = |name, description| {
            let counter = meter.u64_counter(name).with_description(description).build();
            // From the beginning, or the first increase would be no increase to whoever watches it.
            counter.add(0, &[]);
            counter
        };
        let rejected = meter.u64_counter("relay.events.rejected");
        let rejected =
            rejected.with_description("Messages without an event that the domain reads, by reason.").build();
        for reason in ["not_cloudevent", UNKNOWN_TYPE, MALFORMED_DATA, MALFORMED_PULSE] {
            rejected.add(0, &[KeyValue::new("reason", reason)]);
        }
        Self {
            received: counter(
                "relay.events.received",
                "Events that came through the feed, repeats included.",
            ),
            deduplicated: counter(
                "relay.events.deduplicated",
                "Events dropped because their id was seen before.",
            ),
            rejected,
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
mod tests {
    use super::*;

    #[test]
    fn a_repeat_is_known_for_the_window_and_no_longer() {
        let mut seen = Seen::new(Duration::from_secs(10));
        let (id, start) = (Arc::from("a"), Instant::now());
        assert!(seen.insert(&id, start));
        assert!(!seen.insert(&id, start + Duration::from_secs(9)));
        assert!(seen.insert(&id, start + Duration::from_secs(10)));
        assert_eq!((seen.ids.len(), seen.order.len()), (1, 1));
    }

    #[test]
    fn the_memory_of_ids_is_bounded() {
        let mut seen = Seen::new(Duration::from_secs(1_000));
        let now = Instant::now();
        for n in 0..=MAX_SEEN {
            seen.insert(&n.to_string().into(), now);
        }
        assert_eq!((seen.ids.len(), seen.order.len()), (MAX_SEEN, MAX_SEEN));
    }
}
