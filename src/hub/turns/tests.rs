//! Tests of turns: which users wait, in which order they receive, and when they are ended.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::SystemTime,
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::{task::yield_now, time::sleep};

use super::*;
use crate::{
    audience::{Audience, Interests, Viewer},
    budget::{Budget, Settings},
    domain::Fact,
    event::Event,
    hub::{Hub, Render, SendQueue, Watch, Watching, window::Bounds},
};

/// Operation that takes this long.
#[derive(Default)]
struct Work(Duration, AtomicUsize);

#[async_trait]
impl Render for Work {
    async fn render(&self, relayed: &Relayed) -> Option<Arc<str>> {
        self.1.fetch_add(1, Ordering::Relaxed);
        if !self.0.is_zero() {
            sleep(self.0).await;
        }
        Some(relayed.event.kind.clone())
    }

    async fn render_again(&self, relayed: &Relayed) -> Option<Arc<str>> {
        self.render(relayed).await
    }

    fn gap(&self, reason: &str, _cursor: &str) -> Arc<str> {
        reason.into()
    }
}

fn hub() -> Hub {
    Hub::new("t", Bounds { span: Duration::from_secs(600), bytes: 1 << 20 }, SystemTime::now())
}

fn works(count: usize, time: Duration) -> Vec<Arc<Work>> {
    (0..count).map(|_| Arc::new(Work(time, AtomicUsize::default()))).collect()
}

/// Watches a field with each operation, on one connection of the user.
fn watch(hub: &Hub, user: &str, field: &str, works: &[Arc<Work>], queue: &Arc<SendQueue>) -> Vec<Watching> {
    let viewer = Arc::new(Viewer::new(user, Interests::new(["k".into()])));
    let watch = |(id, operation): (usize, &Arc<Work>)| {
        let (field, viewer, send_queue) = (field.into(), viewer.clone(), queue.clone());
        hub.watch(Watch { id: id as u64, field, viewer, operation: operation.clone(), send_queue })
    };
    works.iter().enumerate().map(watch).collect()
}

async fn dispatch(hub: &Hub, kind: &str, field: &str) -> usize {
    let audience = Audience::new(["k".into()], None);
    let event = Event::new("/test".into(), kind, None, Bytes::new());
    hub.dispatch(event, Fact { fields: vec![field.into()], audience, payload: Arc::new(()) }, true).await
}

fn kinds(queue: &SendQueue) -> Vec<Arc<str>> {
    let kinds = queue.take().iter().map(|delivery| delivery.result.payload.clone()).collect();
    queue.written();
    kinds
}

#[tokio::test]
async fn busy_user_waits_and_keeps_order() {
    let (hub, busy, other) = (hub(), SendQueue::new(1 << 20), SendQueue::new(1 << 20));
    let works = works(1_000, Duration::ZERO);
    let mut watching = watch(&hub, "busy", "f", &works, &busy);
    watching.extend(watch(&hub, "busy", "g", &works[..1], &busy));
    watching.extend(watch(&hub, "other", "f", &works[..1], &other));
    for (kind, field) in [("1", "f"), ("2", "f"), ("3", "g")] {
        dispatch(&hub, kind, field).await;
    }
    assert_eq!(kinds(&other), ["1".into(), "2".into()]);
    assert!(kinds(&busy).is_empty(), "the relay loop makes nothing for the busy user");
    let mut received = Vec::new();
    while received.len() < 2_001 {
        busy.changed().await;
        received.extend(kinds(&busy));
        yield_now().await;
    }
    let expected = [vec!["1".into(); 1_000], vec!["2".into(); 1_000], vec!["3".into()]].concat();
    assert_eq!(received, expected);
    assert_eq!(hub.0.queues.used(), 0);
    assert!(hub.0.turns.state().by_user.is_empty());
    dispatch(&hub, "4", "g").await;
    assert_eq!(kinds(&busy), ["4".into()], "nothing waits any more");
}

#[tokio::test]
async fn shared_operations_stay_in_relay_loop() {
    let hub = hub();
    let works = works(20, Duration::ZERO);
    let users: Vec<_> = (0..20).map(|n| (n.to_string(), SendQueue::new(1 << 20))).collect();
    let _watching: Vec<_> = users.iter().map(|(user, queue)| watch(&hub, user, "f", &works, queue)).collect();
    dispatch(&hub, "1", "f").await;
    assert!(users.iter().all(|(_, queue)| queue.take().len() == 20));
    assert!(works.iter().all(|work| work.1.load(Ordering::Relaxed) == 1), "each is executed once");
}

#[tokio::test(start_paused = true)]
async fn user_far_behind_is_ended() {
    let (hub, busy, other) = (hub(), SendQueue::new(1 << 20), SendQueue::new(1 << 20));
    let works = works(100, Duration::from_millis(90));
    let _watching = [watch(&hub, "busy", "f", &works, &busy), watch(&hub, "other", "f", &works[..1], &other)];
    let began = Instant::now();
    dispatch(&hub, "1", "f").await;
    assert_eq!(kinds(&other).len(), 1);
    assert_eq!(busy.overflow().await, Overflow::Behind);
    let after = began.elapsed();
    assert!((PATIENCE..PATIENCE + Duration::from_secs(1)).contains(&after), "{after:?}");
    assert!(other.overflowed().is_none());
    assert_eq!(hub.0.queues.used(), 0);
}

#[tokio::test]
async fn turns_are_bounded_in_bytes() {
    let budget = Budget::new(Settings { memory: 1 << 20, ..Settings::default() }, 1_024);
    let hub = hub().with_budget(&budget);
    let (busy, other) = (SendQueue::new(1 << 20), SendQueue::new(1 << 20));
    let works = works(100, Duration::ZERO);
    let _watching = [watch(&hub, "busy", "f", &works, &busy), watch(&hub, "other", "f", &works[..1], &other)];
    for _ in 0..200 {
        dispatch(&hub, "1", "f").await;
        assert!(budget.queues.used() <= 256 << 10);
    }
    assert_eq!(busy.overflowed(), Some(Overflow::Behind));
    assert_eq!(kinds(&other).len(), 200);
}

#[tokio::test(start_paused = true)]
async fn shared_result_is_charged_once() {
    let budget = Budget::new(Settings { memory: 1 << 20, ..Settings::default() }, 64 << 10);
    let (hub, works) = (hub().with_budget(&budget), works(1, Duration::ZERO));
    let users: Vec<_> = (0..100).map(|n| (n.to_string(), SendQueue::new(64 << 10))).collect();
    let _watching: Vec<_> = users.iter().map(|(user, queue)| watch(&hub, user, "f", &works, queue)).collect();
    let (readers, others) = users.split_at(50);
    let text = "x".repeat(3_000);
    for n in 1..=140 {
        dispatch(&hub, &text, "f").await;
        assert!(readers.iter().all(|(_, queue)| kinds(queue).len() == 1), "those who read go on");
        let used = budget.queues.used();
        assert!(used <= 256 << 10, "{used}");
        assert!(n > 70 || (n * 3_000..n * 3_500).contains(&used), "{used} for {n} results");
    }
    assert!(others.iter().all(|(_, queue)| queue.overflowed() == Some(Overflow::NoRoom)));
    assert_eq!(budget.queues.used(), 0);
}
