//! Events of a feed, in all orders that matter.

use super::*;
use crate::membership::Heartbeat;

const GRACE: Duration = Duration::from_secs(10);

const SETTLE: Duration = Duration::from_millis(200);

struct Topic {
    start: Instant,
    second: u64,
}

impl Topic {
    fn new() -> Self {
        Self { start: Instant::now(), second: 0 }
    }

    fn heartbeat(&mut self, feed: &str) -> Event {
        let heartbeat = Heartbeat::new("pod".into(), feed.into(), 0, GRACE);
        self.take(heartbeat.event())
    }

    fn event(&mut self) -> Event {
        self.take(Event::new("/test".into(), "k", None, "{}".into()))
    }

    fn take(&mut self, mut event: Event) -> Event {
        self.second += 1;
        event.published = Some(SystemTime::UNIX_EPOCH + Duration::from_secs(self.second));
        event
    }

    fn after(&self, millis: u64) -> Instant {
        self.start + Duration::from_millis(millis)
    }
}

#[test]
fn feed_catches_up_at_its_own_first_heartbeat() {
    let mut topic = Topic::new();
    let mut catch_up = CatchUp::new(GRACE, SETTLE);
    catch_up.begin("new".into(), Order::Lanes, topic.start);
    let (others, old) = (topic.heartbeat("other"), topic.event());
    catch_up.hear(&others, Some("other"), topic.after(10));
    assert_eq!(catch_up.due(), None, "another pod's heartbeat proves nothing about this feed");
    let own = topic.heartbeat("new");
    catch_up.hear(&own, Some("new"), topic.after(20));
    assert_eq!(catch_up.due(), Some(topic.after(220)));
    catch_up.hear(&old, None, topic.after(200));
    assert_eq!(catch_up.settle(topic.after(220)), None, "another ordering key is still catching up");
    catch_up.hear(&topic.event(), None, topic.after(300));
    let (since, own) = (others.published.unwrap(), own.published.unwrap());
    let history = History::First { since, own, came: topic.after(20) };
    assert_eq!(catch_up.settle(topic.after(400)), Some(history));
    assert_eq!(catch_up.settle(topic.after(500)), None, "it returns the history once");
}

/// Returns a feed that has caught up, and the last heartbeat that it brought.
fn settled(topic: &mut Topic) -> (CatchUp, Event) {
    let mut catch_up = CatchUp::new(GRACE, SETTLE);
    catch_up.begin("old".into(), Order::Lanes, topic.start);
    let own = topic.heartbeat("old");
    catch_up.hear(&own, Some("old"), topic.start);
    assert!(catch_up.settle(topic.after(200)).is_some());
    (catch_up, own)
}

#[test]
fn repeated_last_heartbeat_proves_no_loss() {
    let mut topic = Topic::new();
    let (mut catch_up, last) = settled(&mut topic);
    catch_up.begin("new".into(), Order::Lanes, topic.after(1_000));
    assert_eq!(catch_up.caught_up(), None);
    catch_up.hear(&last, Some("old"), topic.after(1_000));
    catch_up.hear(&topic.heartbeat("new"), Some("new"), topic.after(1_100));
    assert_eq!(catch_up.settle(topic.after(1_300)), Some(History::Whole));
}

#[test]
fn missing_last_heartbeat_proves_a_loss() {
    let mut topic = Topic::new();
    let (mut catch_up, _) = settled(&mut topic);
    catch_up.begin("new".into(), Order::Lanes, topic.after(1_000));
    let own = topic.heartbeat("new");
    catch_up.hear(&own, Some("new"), topic.after(1_100));
    assert_eq!(catch_up.settle(topic.after(1_300)), None, "it may be late");
    assert_eq!(catch_up.settle(topic.after(11_100)), Some(History::Lost(own)));
}

#[test]
fn last_heartbeat_may_be_late() {
    let mut topic = Topic::new();
    let (mut catch_up, last) = settled(&mut topic);
    catch_up.begin("new".into(), Order::Lanes, topic.after(1_000));
    catch_up.hear(&topic.heartbeat("new"), Some("new"), topic.after(1_100));
    catch_up.hear(&last, Some("old"), topic.after(9_000));
    assert_eq!(catch_up.settle(topic.after(9_100)), None);
    assert_eq!(catch_up.settle(topic.after(9_200)), Some(History::Whole));
}

#[test]
fn interrupted_generation_still_proves_a_loss() {
    let mut topic = Topic::new();
    let mut catch_up = CatchUp::new(GRACE, SETTLE);
    catch_up.begin("first".into(), Order::Lanes, topic.start);
    catch_up.hear(&topic.heartbeat("other"), Some("other"), topic.start);
    catch_up.end();
    catch_up.begin("second".into(), Order::Lanes, topic.after(1_000));
    let own = topic.heartbeat("second");
    catch_up.hear(&own, Some("second"), topic.after(1_000));
    assert_eq!(catch_up.settle(topic.after(11_000)), Some(History::Lost(own)));
}

#[test]
fn lost_tail_behind_last_heartbeat_is_found() {
    let mut topic = Topic::new();
    let (mut catch_up, last) = settled(&mut topic);
    catch_up.hear(&topic.event(), None, topic.after(500));
    catch_up.begin("new".into(), Order::Total, topic.after(1_000));
    catch_up.hear(&last, Some("old"), topic.after(1_050));
    let own = topic.heartbeat("new");
    catch_up.hear(&own, Some("new"), topic.after(1_100));
    assert_eq!(catch_up.settle(topic.after(1_300)), Some(History::Lost(own)));
}

#[test]
fn repeated_tail_behind_last_heartbeat_proves_no_loss() {
    let mut topic = Topic::new();
    let (mut catch_up, last) = settled(&mut topic);
    let tail = topic.event();
    catch_up.hear(&tail, None, topic.after(500));
    catch_up.begin("new".into(), Order::Total, topic.after(1_000));
    catch_up.hear(&last, Some("old"), topic.after(1_050));
    catch_up.hear(&tail, None, topic.after(1_060));
    catch_up.hear(&topic.heartbeat("new"), Some("new"), topic.after(1_100));
    assert_eq!(catch_up.settle(topic.after(1_300)), Some(History::Whole));
}

#[test]
fn patient_feed_reports_no_loss_early() {
    let mut topic = Topic::new();
    let (mut catch_up, last) = settled(&mut topic);
    catch_up.be_patient(topic.after(30_000));
    catch_up.begin("new".into(), Order::Lanes, topic.after(1_000));
    catch_up.hear(&topic.heartbeat("new"), Some("new"), topic.after(1_100));
    assert_eq!(catch_up.settle(topic.after(29_900)), None, "the replay may be late");
    catch_up.hear(&last, Some("old"), topic.after(29_900));
    assert_eq!(catch_up.settle(topic.after(30_200)), Some(History::Whole));
}
