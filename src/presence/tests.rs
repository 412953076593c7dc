//! Tests of connect and disconnect events: which connections have them, their pace, and what is
//! counted instead. Time is paused.

use std::sync::Mutex;

use async_trait::async_trait;
use serde_json::Value;
use tokio::{
    task::JoinSet,
    time::{advance, sleep},
};

use super::*;
use crate::broker::PublishError;

/// Topic that keeps what is published, and refuses the first events.
#[derive(Default)]
struct Published {
    events: Mutex<Vec<Event>>,
    refused: AtomicU64,
}

#[async_trait]
impl Publish for Published {
    async fn publish(&self, event: &Event) -> Result<(), PublishError> {
        sleep(Duration::from_millis(5)).await;
        if self.refused.load(Ordering::Relaxed) > 0 {
            self.refused.fetch_sub(1, Ordering::Relaxed);
            return Err(PublishError::TimedOut);
        }
        self.events.lock().unwrap().push(event.clone());
        Ok(())
    }

    async fn flush(&self) {}
}

impl Published {
    fn len(&self) -> usize {
        self.events.lock().unwrap().len()
    }

    fn data(&self) -> Vec<(Arc<str>, Value)> {
        let events = self.events.lock().unwrap();
        events
            .iter()
            .map(|event| (event.kind.clone(), serde_json::from_slice(&event.data).unwrap()))
            .collect()
    }

    /// Returns the events that the published ones report as omitted.
    fn omitted(&self) -> u64 {
        self.data().iter().filter_map(|(_, data)| data["omitted"].as_u64()).sum()
    }
}

/// Pod with a task that publishes, among this many pods.
struct Pod {
    presence: Presence,
    topic: Arc<Published>,
    stop: CancellationToken,
    task: JoinSet<()>,
}

impl Pod {
    fn start(pods: u64) -> Self {
        let (presence, waiting) = Presence::new(&opentelemetry::global::meter("test"));
        let (topic, stop) = (Arc::new(Published::default()), CancellationToken::new());
        let (publisher, announcing, stopped) = (topic.clone(), presence.clone(), stop.clone());
        let mut task = JoinSet::new();
        task.spawn(async move {
            waiting.run(&announcing, "pod-1", &*publisher, || pods, &stopped).await;
        });
        Self { presence, topic, stop, task }
    }

    fn connect(&self, user: &str) -> Visit {
        let mut visit = self.presence.visit("ws");
        visit.count();
        visit.identify(&user.into());
        visit
    }

    async fn end(self) -> Arc<Published> {
        self.stop.cancel();
        self.task.join_all().await;
        self.topic
    }
}

#[tokio::test(start_paused = true)]
async fn connection_with_user_is_announced_twice() {
    let pod = Pod::start(1);
    let anonymous = {
        let mut visit = pod.presence.visit("ws");
        visit.count();
        visit
    };
    anonymous.end("init_timeout");
    let mut reserved = pod.presence.visit("sse");
    reserved.identify(&"ann".into());
    reserved.end("lost");
    let mut visit = pod.connect("ann");
    visit.identify(&"ann".into());
    advance(Duration::from_secs(90)).await;
    visit.end("left");
    let topic = pod.end().await;
    let events = topic.data();
    let kinds: Vec<_> = events.iter().map(|(kind, _)| &**kind).collect();
    assert_eq!(kinds, [CONNECTED, DISCONNECTED]);
    let (connected, disconnected) = (&events[0].1, &events[1].1);
    for data in [connected, disconnected] {
        assert_eq!((&data["user"], &data["pod"]), (&"ann".into(), &"pod-1".into()));
        assert_eq!((&data["transport"], &data["connection"]), (&"ws".into(), &connected["connection"]));
        assert_eq!(data.get("omitted"), None);
    }
    assert_eq!((connected.get("reason"), connected.get("duration")), (None, None));
    assert_eq!((&disconnected["reason"], &disconnected["duration"]), (&"left".into(), &90.0.into()));
    assert!(topic.events.lock().unwrap().iter().all(is_announcement));
}

#[tokio::test(start_paused = true)]
async fn storm_keeps_pace_and_counts_what_it_omits() {
    let pod = Pod::start(5);
    let visits: Vec<_> = (0..MAX_WAITING + 900).map(|_| pod.connect("ann")).collect();
    sleep(Duration::from_secs(10)).await;
    // A fifth of the rate, and the batch that comes first.
    let most = RATE as usize / 5 * 10 + BATCH;
    assert!((most - 2 * BATCH..=most).contains(&pod.topic.len()), "{}", pod.topic.len());
    assert_eq!(pod.topic.omitted(), 900);
    let topic = pod.end().await;
    assert_eq!(topic.len(), MAX_WAITING, "the end flushes what waits");
    drop(visits);
}

#[tokio::test(start_paused = true)]
async fn failed_events_are_counted_in_later_ones() {
    let pod = Pod::start(1);
    pod.topic.refused.store(3, Ordering::Relaxed);
    for _ in 0..3 {
        pod.connect("ann");
    }
    sleep(Duration::from_secs(1)).await;
    pod.connect("ann");
    let topic = pod.end().await;
    assert_eq!((topic.len(), topic.omitted()), (1, 3));
}

#[tokio::test(start_paused = true)]
async fn slow_topic_delays_no_end_for_long() {
    /// Topic that never answers.
    struct Stuck;
    #[async_trait]
    impl Publish for Stuck {
        async fn publish(&self, _: &Event) -> Result<(), PublishError> {
            std::future::pending().await
        }

        async fn flush(&self) {}
    }
    let (presence, waiting) = Presence::new(&opentelemetry::global::meter("test"));
    let mut visit = presence.visit("ws");
    visit.count();
    visit.identify(&"ann".into());
    let (stop, began) = (CancellationToken::new(), Instant::now());
    stop.cancel();
    waiting.run(&presence, "pod-1", &Stuck, || 1, &stop).await;
    assert_eq!(began.elapsed(), FLUSH);
}
