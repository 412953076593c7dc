//! The loop: feed → seen? → what it means → state → hub.
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
use tokio::time::Instant;

use crate::{
    broker::{Feed, Received},
    contract::{Domain, Unreadable},
    event::Event,
    hub::Hub,
};

/// How many event ids are remembered at most: at 1,000 events a second the whole of a 10-minute window, in about 60 MiB.
const MAX_SEEN: usize = 600_000;

/// Relays the events of one pod's feed to its hub.
pub struct Relay {
    domain: Arc<dyn Domain>,
    hub: Hub,
    seen: Seen,
    /// What was published before this pod began is state, not news: none of its watchers was there.
    began: SystemTime,
    counters: Counters,
}

impl Relay {
    /// A relay that remembers event ids for `window`, the longest time after which the broker repeats one.
    pub fn new(domain: Arc<dyn Domain>, hub: Hub, window: Duration, meter: &Meter) -> Self {
        Self {
            domain,
            hub,
            seen: Seen::new(window),
            began: SystemTime::now(),
            counters: Counters::new(meter),
        }
    }

    /// Runs until the feed is closed. Cancel-safe between events: one that was not relayed is not acknowledged.
    pub async fn run(&mut self, feed: &mut dyn Feed) {
        while let Some(Received { event, ack }) = feed.next().await {
            match event {
                Ok(event) => self.relay(&event).await,
                Err(undecodable) => self.counters.reject(undecodable.reason()),
            }
            ack.ack();
        }
    }

    async fn relay(&mut self, event: &Event) {
        self.counters.received.add(1, &[]);
        if !self.seen.insert(&event.id, Instant::now()) {
            self.counters.deduplicated.add(1, &[]);
            return;
        }
        let fact = match self.domain.read(event) {
            Ok(fact) => fact,
            Err(Unreadable::UnknownType) => return self.counters.reject("unknown_type"),
            Err(error @ Unreadable::Malformed(_)) => {
                tracing::warn!(event = %event.id, kind = %event.kind, %error, "event rejected");
                return self.counters.reject("malformed_data");
            }
        };
        self.domain.apply(event, &fact);
        let is_news = event.published.is_none_or(|published| published >= self.began);
        if let Some(field) = fact.field.filter(|_| is_news) {
            let matched = self.hub.dispatch(event, field, &fact.audience, &fact.payload).await;
            self.counters.matched.add(matched as u64, &[]);
            tracing::debug!(event = %event.id, kind = %event.kind, matched, "event dispatched");
        }
    }
}

struct Counters {
    received: Counter<u64>,
    deduplicated: Counter<u64>,
    rejected: Counter<u64>,
    matched: Counter<u64>,
}

impl Counters {
    fn new(meter: &Meter) -> Self {
        let counter = |name, description| meter.u64_counter(name).with_description(description).build();
        Self {
            received: counter(
                "relay.events.received",
                "Events that came through the feed, repeats included.",
            ),
            deduplicated: counter(
                "relay.events.deduplicated",
                "Events dropped because their id was seen before.",
            ),
            rejected: counter(
                "relay.events.rejected",
                "Messages without an event that the domain reads, by reason.",
            ),
            matched: counter("relay.events.matched", "Watchers that events were dispatched to."),
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
