//! Memory broker: the topic of a single process, as a log in memory with a position for each feed.
//!
//! It lets the relay run with nothing beside it, and replaces Pub/Sub in tests; it refuses what
//! Pub/Sub refuses. It must never lose an event silently: when it is full of events that a feed has
//! not taken yet, publishers wait and then get an error.

use std::{
    collections::{HashMap, VecDeque},
    mem,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use tokio::{
    sync::{Notify, Semaphore, watch},
    time::{Instant, timeout},
};

use crate::{
    broker::{
        Ack, Broker, ConnectError, Connected, Feed, FeedState, Limits, Order, PUBLISH_TIMEOUT, Publish,
        PublishError, Received, Reopen,
    },
    event::Event,
};

/// Limits of the memory topic: those of Pub/Sub, so that no event passes here that Pub/Sub would
/// refuse.
pub const LIMITS: Limits =
    Limits { payload_bytes: 9_000_000, least_retention: Duration::from_secs(600), fetched_bytes: 0 };

/// Topic in memory. Clones share the same topic, which exists as long as one of them or one of its
/// feeds.
#[derive(Clone)]
pub struct Topic(Arc<Shared>);

struct Shared {
    retention: Duration,
    max_bytes: usize,
    log: Mutex<Log>,
    /// Publishers pass one by one in the order of their calls. Else a small event would overtake a
    /// large one that waits for room.
    turn: Semaphore,
    /// Wakes every feed when the log has grown.
    grown: Notify,
    /// Wakes the publisher in turn, the only one that waits here, when a feed has moved on or
    /// ended.
    moved: Notify,
}

#[derive(Default)]
struct Log {
    events: VecDeque<Entry>,
    /// Position of the first of `events`, counted from the topic's beginning.
    first: u64,
    /// Bytes that `events` take together.
    bytes: usize,
    /// Position that each open feed takes next, by the feed's number.
    feeds: HashMap<u64, u64>,
    feeds_opened: u64,
    last_published: Option<SystemTime>,
}

struct Entry {
    event: Event,
    bytes: usize,
    since: Instant,
}

impl Topic {
    /// Creates an empty topic that keeps events for `retention` and up to `max_bytes` bytes of
    /// them. Beyond either bound it drops the oldest events, but none that an open feed has not
    /// taken yet.
    #[must_use]
    pub fn new(retention: Duration, max_bytes: usize) -> Self {
        Self(Arc::new(Shared {
            retention,
            max_bytes,
            log: Mutex::default(),
            turn: Semaphore::new(1),
            grown: Notify::new(),
            moved: Notify::new(),
        }))
    }

    /// Opens a feed. It is open at once, and begins with the oldest event kept, like a sought feed
    /// on Pub/Sub. Until the feed is closed or dropped, the topic keeps the events that the feed
    /// has not taken.
    #[must_use]
    pub fn open_feed(&self) -> MemoryFeed {
        let mut log = self.0.log();
        log.trim(self.0.retention, self.0.max_bytes);
        let number = log.feeds_opened;
        log.feeds_opened += 1;
        let first = log.first;
        log.feeds.insert(number, first);
        drop(log);
        let generation = format!("memory.{number}").into();
        MemoryFeed {
            topic: Arc::clone(&self.0),
            number,
            state: watch::Sender::new(FeedState::Open(generation)),
        }
    }
}

#[async_trait]
impl Broker for Topic {
    fn topic(&self) -> String {
        "memory:".to_owned()
    }

    fn system(&self) -> &'static str {
        "memory"
    }

    fn limits(&self) -> Limits {
        LIMITS
    }

    async fn connect(&self, _pod: &str, _window: Duration) -> Result<Connected, ConnectError> {
        let feed = Box::new(self.open_feed());
        Ok(Connected { publisher: Arc::new(self.clone()), feed, upkeep: None })
    }
}

#[async_trait]
impl Publish for Topic {
    async fn publish(&self, event: &Event) -> Result<(), PublishError> {
        self.limits().check(event)?;
        let room = timeout(PUBLISH_TIMEOUT, async {
            let turn = self.0.turn.acquire().await.expect("the semaphore is never closed");
            while !self.0.append(event) {
                self.0.moved.notified().await;
            }
            drop(turn);
        });
        room.await.map_err(|_elapsed| PublishError::Overloaded)
    }

    async fn flush(&self) {
        // Turns are taken in order, so all earlier publishers are done when this turn comes.
        drop(self.0.turn.acquire().await);
    }
}

impl Shared {
    fn log(&self) -> MutexGuard<'_, Log> {
        crate::lock::lock(&self.log)
    }

    /// Appends the event if there is room. Returns whether there was.
    fn append(&self, event: &Event) -> bool {
        let bytes = weight(event);
        let mut log = self.log();
        log.trim(self.retention, self.max_bytes.saturating_sub(bytes));
        // A single event always fits, however small the topic.
        if !log.events.is_empty() && log.bytes + bytes > self.max_bytes {
            return false;
        }
        let mut event = event.clone();
        event.published = Some(log.stamp());
        log.bytes += bytes;
        log.events.push_back(Entry { event, bytes, since: Instant::now() });
        drop(log);
        self.grown.notify_waiters();
        true
    }

    fn end(&self, feed: u64) {
        self.log().feeds.remove(&feed);
        self.moved.notify_one();
    }
}

impl Log {
    /// Drops the oldest events that exceed a bound, but none that a feed has not taken yet.
    fn trim(&mut self, retention: Duration, max_bytes: usize) {
        let taken_by_all = self.feeds.values().copied().min().unwrap_or(u64::MAX);
        while let Some(oldest) = self.events.front()
            && self.first < taken_by_all
            && (self.bytes > max_bytes || oldest.since.elapsed() > retention)
        {
            self.bytes -= oldest.bytes;
            self.first += 1;
            self.events.pop_front();
        }
    }

    /// Returns a time of publishing later than every earlier one, so that the order by time is
    /// total.
    fn stamp(&mut self) -> SystemTime {
        let now = SystemTime::now();
        let published = match self.last_published {
            Some(last) if last >= now => last + Duration::from_nanos(1),
            _ => now,
        };
        self.last_published = Some(published);
        published
    }

    /// Takes the next event of the feed, if there is one yet. The feed must be open.
    fn take(&mut self, feed: u64) -> Option<Event> {
        let position = self.feeds.get_mut(&feed)?;
        let index = usize::try_from(*position - self.first).ok()?;
        let entry = self.events.get(index)?;
        *position += 1;
        Some(entry.event.clone())
    }
}

/// Returns the bytes that the event counts against the topic's bound.
fn weight(event: &Event) -> usize {
    let texts = [
        Some(&event.id),
        Some(&event.source),
        Some(&event.kind),
        event.author.as_ref(),
        event.trace.as_ref(),
    ];
    mem::size_of::<Entry>()
        + event.data.len()
        + texts.into_iter().flatten().map(|text| text.len()).sum::<usize>()
}

/// Feed of a [`Topic`]: takes every event once, in the order of publishing.
///
/// Its events need no acknowledgement, since an event cannot be lost within the process. Dropping
/// the feed closes it.
pub struct MemoryFeed {
    topic: Arc<Shared>,
    number: u64,
    state: watch::Sender<FeedState>,
}

#[async_trait]
impl Feed for MemoryFeed {
    async fn next(&mut self) -> Option<Received> {
        loop {
            // Before the look at the log, or a publish between the two would not wake this feed.
            let grown = self.topic.grown.notified();
            if *self.state.borrow() == FeedState::Closed {
                return None;
            }
            let taken = self.topic.log().take(self.number);
            if let Some(event) = taken {
                self.topic.moved.notify_one();
                return Some(Received { event: Ok(event), message_id: String::new(), ack: Ack::none() });
            }
            grown.await;
        }
    }

    fn state(&self) -> watch::Receiver<FeedState> {
        self.state.subscribe()
    }

    fn reopen(&self) -> Reopen {
        // No task waits for a request to reopen: a log in the same process cannot fall silent.
        Reopen::default()
    }

    fn order(&self) -> Order {
        Order::Total
    }

    fn reaches_back(&self) -> bool {
        true
    }

    async fn close(&mut self) {
        self.topic.end(self.number);
        self.state.send_replace(FeedState::Closed);
    }
}

impl Drop for MemoryFeed {
    fn drop(&mut self) {
        self.topic.end(self.number);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::FutureExt;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    fn event(data: &'static str) -> Event {
        Event::new("/pods/test".into(), "test.v1", None, Bytes::from_static(data.as_bytes()))
    }

    /// Creates a topic with room for this many of [`event`], each with one byte of data.
    fn topic_of(events: usize) -> Topic {
        Topic::new(HOUR, events * weight(&event("x")))
    }

    fn next(feed: &mut MemoryFeed) -> Option<Event> {
        feed.next().now_or_never().map(|received| received.unwrap().event.unwrap())
    }

    fn data(feed: &mut MemoryFeed) -> Vec<Bytes> {
        std::iter::from_fn(|| next(feed)).map(|event| event.data).collect()
    }

    #[tokio::test]
    async fn publish_times_strictly_increase() {
        let topic = topic_of(200);
        let mut feed = topic.open_feed();
        for _ in 0..100 {
            topic.publish(&event("x")).await.unwrap();
        }
        let times: Vec<_> =
            std::iter::from_fn(|| next(&mut feed)).map(|event| event.published.unwrap()).collect();
        assert_eq!(times.len(), 100);
        assert!(times.is_sorted_by(|a, b| a < b));
    }

    #[tokio::test(start_paused = true)]
    async fn topic_drops_old_events_that_feeds_took() {
        let topic = topic_of(100);
        let mut slow = topic.open_feed();
        topic.publish(&event("a")).await.unwrap();
        tokio::time::advance(HOUR + Duration::from_secs(1)).await;
        topic.publish(&event("b")).await.unwrap();
        assert_eq!(data(&mut slow), ["a", "b"]);
        assert_eq!(data(&mut topic.open_feed()), ["b"]);
    }

    #[tokio::test]
    async fn full_topic_drops_oldest_events() {
        let topic = topic_of(2);
        for data in ["a", "b", "c"] {
            topic.publish(&event(data)).await.unwrap();
        }
        assert_eq!(data(&mut topic.open_feed()), ["b", "c"]);
    }

    #[tokio::test(start_paused = true)]
    async fn full_topic_delays_then_refuses_publishers() {
        let topic = topic_of(1);
        let mut feed = topic.open_feed();
        topic.publish(&event("a")).await.unwrap();
        let start = Instant::now();
        let refused = topic.publish(&event("b")).await;
        assert!(matches!(refused, Err(PublishError::Overloaded)));
        assert_eq!(start.elapsed(), PUBLISH_TIMEOUT);

        let c = event("c");
        let (accepted, first) = tokio::join!(topic.publish(&c), feed.next());
        accepted.unwrap();
        assert_eq!(first.unwrap().event.unwrap().data, "a");
        assert_eq!(data(&mut feed), ["c"]);
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_publishers_keep_their_order() {
        let topic = topic_of(3);
        let mut feed = topic.open_feed();
        topic.publish(&event("x")).await.unwrap();
        topic.publish(&event("x")).await.unwrap();
        let large = event("large, and so it has to wait for the other two, unlike the one after it");
        let small = event("x");
        let (large, small, ()) = tokio::join!(topic.publish(&large), topic.publish(&small), async {
            for length in [1, 1, 71, 1] {
                assert_eq!(feed.next().await.unwrap().event.unwrap().data.len(), length);
            }
        });
        large.unwrap();
        small.unwrap();
    }

    #[tokio::test]
    async fn closed_or_dropped_feed_releases_the_log() {
        let topic = topic_of(1);
        let (mut closed, dropped) = (topic.open_feed(), topic.open_feed());
        topic.publish(&event("a")).await.unwrap();
        assert!(topic.publish(&event("b")).now_or_never().is_none());
        closed.close().await;
        assert!(topic.publish(&event("b")).now_or_never().is_none());
        drop(dropped);
        topic.publish(&event("b")).await.unwrap();
        assert!(closed.next().await.is_none());
        assert_eq!(*closed.state().borrow(), FeedState::Closed);
    }

    #[tokio::test]
    async fn event_larger_than_topic_still_passes() {
        let topic = Topic::new(HOUR, 0);
        let mut feed = topic.open_feed();
        topic.publish(&event("a")).await.unwrap();
        assert_eq!(data(&mut feed), ["a"]);
        topic.publish(&event("b")).await.unwrap();
        assert_eq!(data(&mut feed), ["b"]);
    }
}
