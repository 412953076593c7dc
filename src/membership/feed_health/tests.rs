//! A feed that brings its heartbeats in time, late, or not at all.

use super::*;
use crate::{broker::Order, membership::Heartbeat};

const TEN: Duration = Duration::from_secs(10);

/// Feed of one pod whose heartbeats the test takes to the topic and back.
struct Pod {
    start: Instant,
    /// Time of the topic at the start. The pod's clock is an hour ahead.
    topic: SystemTime,
    feed: FeedHealth,
}

impl Pod {
    fn new() -> Self {
        let feed = FeedHealth::new(TEN, Duration::from_millis(200));
        Self { start: Instant::now(), topic: SystemTime::now(), feed }
    }

    fn at(&self, second: u64) -> Instant {
        self.start + Duration::from_secs(second)
    }

    fn open(&mut self, generation: &str, second: u64) {
        let now = self.at(second);
        self.feed.follow(None, Order::Lanes, now);
        self.feed.follow(Some(&generation.into()), Order::Lanes, now);
    }

    /// Sends a heartbeat, which the topic takes at once.
    fn send(&mut self, generation: &str, second: u64) -> Event {
        let mut event = Heartbeat::new("pod".into(), generation.into(), 0, TEN).event();
        let (now, topic) = (self.at(second), self.topic + Duration::from_secs(second));
        self.feed.send(event.id.clone(), now, topic + Duration::from_secs(3_600));
        self.feed.sent(&event.id, &Ok(()), now);
        event.published = Some(topic);
        event
    }

    fn hear(&mut self, event: &Event, generation: &str, second: u64) -> Option<Skew> {
        let now = self.at(second);
        let skew = self.feed.hear(event, Some(generation), now);
        self.feed.settle(now + Duration::from_millis(200));
        skew
    }

    fn late(&self, second: u64) -> Option<String> {
        self.feed.late(TEN, self.at(second))
    }

    /// Opens a feed that catches up at once. Returns its first heartbeat, too.
    fn caught_up() -> (Self, Event) {
        let mut pod = Self::new();
        pod.open("one", 0);
        let heartbeat = pod.send("one", 0);
        pod.hear(&heartbeat, "one", 0);
        assert_eq!((pod.feed.awaits(), pod.late(0)), (None, None));
        (pod, heartbeat)
    }
}

#[test]
fn late_heartbeat_makes_feed_late() {
    let (mut pod, _) = Pod::caught_up();
    let heartbeat = pod.send("one", 10);
    assert_eq!(pod.late(30), None, "one may be missed by accident");
    let expected = Some("what comes through it is 21 s late".to_owned());
    assert_eq!(pod.late(31), expected);
    pod.hear(&heartbeat, "one", 31);
    assert_eq!(pod.late(31), expected);
    let heartbeat = pod.send("one", 40);
    pod.hear(&heartbeat, "one", 41);
    assert_eq!(pod.late(41), None);
}

#[test]
fn feed_reopened_for_silence_is_late_until_deaf() {
    let (mut pod, first) = Pod::caught_up();
    let heartbeats: Vec<Event> = [10, 20].map(|second| pod.send("one", second)).into();
    pod.feed.give_up(TEN, pod.at(30));
    pod.open("two", 30);
    let own = pod.send("two", 30);
    pod.hear(&first, "one", 31);
    assert!(pod.late(59).is_some(), "silence may be lateness");
    assert_eq!(pod.late(60), None, "nothing came for six intervals");
    pod.hear(&heartbeats[0], "one", 70);
    pod.hear(&heartbeats[1], "one", 80);
    assert!(pod.late(139).is_some(), "new heartbeats come, a minute late");
    pod.hear(&heartbeats[1], "one", 139);
    assert_eq!(pod.late(140), None, "a repeat proves nothing");
    let skew = pod.hear(&own, "two", 150).unwrap();
    assert_eq!(pod.feed.awaits(), None);
    assert!((skew.seconds - 3_600.0).abs() < 0.01 && skew.error < 0.01, "{skew:?}");
    assert_eq!(skew.now, pod.topic + Duration::from_secs(150));
}

#[test]
fn missing_own_heartbeats_are_no_lateness() {
    let (mut pod, _) = Pod::caught_up();
    pod.send("one", 10);
    let mut other = Heartbeat::new("other".into(), "other".into(), 0, TEN).event();
    other.published = Some(pod.topic + Duration::from_secs(39));
    pod.hear(&other, "other", 39);
    pod.feed.give_up(TEN, pod.at(40));
    pod.open("two", 40);
    assert_eq!(pod.late(41), None, "others' heartbeats come in time");
}

#[test]
fn broken_feed_is_not_late() {
    let (mut pod, _) = Pod::caught_up();
    pod.open("two", 1);
    assert_eq!(pod.late(1), None, "it ended for another reason than silence");
    let mut pod = Pod::new();
    pod.open("one", 0);
    pod.feed.give_up(TEN, pod.at(30));
    pod.open("two", 30);
    assert_eq!(pod.late(31), None, "it has never caught up");
}
