//! The relay's loop, on a feed that the test controls; time is paused.

use std::sync::{Mutex, OnceLock};

use async_trait::async_trait;
use bytes::Bytes;
use opentelemetry::metrics::{MeterProvider as _, noop::NoopMeterProvider};
use tokio::{sync::mpsc, task::JoinSet, time::sleep};

use super::*;
use crate::{
    audience::{Audience, Interests, Viewer},
    broker::{Ack, Reopen},
    cursor::{Source, Written},
    domain::{Fact, Identity},
    event::foreign::Envelope,
    hub::{Relayed, Render, SendQueue, Step, Watch, window::Bounds},
    membership::{self, Heartbeat},
    telemetry::traces::Messaging,
};

const WINDOW: Duration = Duration::from_secs(600);
const SECOND: Duration = Duration::from_secs(1);

/// Domain in which every event is for the key `a`. It panics at the data `poison`.
struct Anything;

impl Domain for Anything {
    fn viewer(&self, _: Identity<'_>) -> Option<Viewer> {
        None
    }

    fn envelope(&self, message: &Foreign) -> Option<Result<Envelope, Unmapped>> {
        let kind = message.attributes["kind"].clone();
        assert_ne!(kind, "poison");
        Some(Ok(Envelope { kind, source: "/test".to_owned(), ..Envelope::default() }))
    }

    fn read(&self, _: &Event) -> Result<Fact, Unreadable> {
        let audience = Audience::new(["a".into()], None);
        Ok(Fact { fields: vec!["f".into()], audience, payload: Arc::new(()) })
    }

    fn apply(&self, event: &Event, _: &Fact) {
        assert_ne!(&*event.data, b"poison");
    }
}

/// Renderer that returns the data of an event as text.
struct Echo;

#[async_trait]
impl Render for Echo {
    async fn render(&self, relayed: &Relayed) -> Option<Arc<str>> {
        Some(String::from_utf8_lossy(&relayed.event.data).into())
    }

    async fn render_again(&self, relayed: &Relayed) -> Option<Arc<str>> {
        self.render(relayed).await
    }

    fn gap(&self, reason: &str, _cursor: &str) -> Arc<str> {
        format!("gap: {reason}").into()
    }
}

/// Domain and operation that look whether the event that they process counts as applied.
#[derive(Default)]
struct Onlooker {
    applied: OnceLock<Applied>,
    seen: Mutex<Vec<(&'static str, bool)>>,
}

impl Onlooker {
    fn look(&self, at: &'static str, event: &Event) {
        let applied = self.applied.get().unwrap();
        let written = Written {
            time: event.published.unwrap(),
            source: (*event.source).into(),
            id: (*event.id).into(),
        };
        self.seen.lock().unwrap().push((at, applied.shows(&written)));
    }
}

impl Domain for Onlooker {
    fn viewer(&self, identity: Identity<'_>) -> Option<Viewer> {
        Anything.viewer(identity)
    }

    fn read(&self, event: &Event) -> Result<Fact, Unreadable> {
        Anything.read(event)
    }

    fn apply(&self, event: &Event, _: &Fact) {
        self.look("apply", event);
    }
}

#[async_trait]
impl Render for Onlooker {
    async fn render(&self, relayed: &Relayed) -> Option<Arc<str>> {
        self.look("render", &relayed.event);
        Echo.render(relayed).await
    }

    async fn render_again(&self, relayed: &Relayed) -> Option<Arc<str>> {
        Echo.render_again(relayed).await
    }

    fn gap(&self, reason: &str, cursor: &str) -> Arc<str> {
        Echo.gap(reason, cursor)
    }
}

/// Feed that brings what the test sends.
struct TestFeed {
    events: mpsc::Receiver<Result<Event, Undecodable>>,
    state: watch::Receiver<FeedState>,
    reaches_back: bool,
}

#[async_trait]
impl Feed for TestFeed {
    async fn next(&mut self) -> Option<Received> {
        let event = self.events.recv().await?;
        Some(Received { event, message_id: String::new(), ack: Ack::none() })
    }

    fn state(&self) -> watch::Receiver<FeedState> {
        self.state.clone()
    }

    fn reopen(&self) -> Reopen {
        Reopen::default()
    }

    fn reaches_back(&self) -> bool {
        self.reaches_back
    }

    async fn close(&mut self) {}
}

/// Relay and hub of one pod, and the sending ends of its feed.
struct Pod {
    hub: Hub,
    applied: Applied,
    events: mpsc::Sender<Result<Event, Undecodable>>,
    state: watch::Sender<FeedState>,
    _relay: JoinSet<()>,
}

impl Pod {
    fn new(began: SystemTime, reaches_back: bool) -> Self {
        Self::of(Arc::new(Anything), began, reaches_back)
    }

    fn of(domain: Arc<dyn Domain>, began: SystemTime, reaches_back: bool) -> Self {
        let meter = NoopMeterProvider::new().meter("test");
        let hub = Hub::new("t", Bounds { span: WINDOW, bytes: 1 << 20 }, began);
        let (interval, orphan_after) = (SECOND * 10, SECOND * 180);
        let membership = Membership::new(
            membership::Settings {
                pod: "pod".into(),
                interval,
                settle: Duration::from_millis(200),
                orphan_after,
                secrets: None,
            },
            &meter,
        );
        let messaging = Messaging { pod: "pod".into(), system: "memory", topic: "t".into() };
        let retention = Retention { began, window: WINDOW, may_come_late: false, least: SECOND * 600 };
        let mut relay = Relay::new(domain, hub.clone(), membership, retention, messaging, &meter);
        let applied = relay.applied().clone();
        let (events, received) = mpsc::channel(16);
        let state = watch::Sender::new(FeedState::Opening(None));
        let mut feed = TestFeed { events: received, state: state.subscribe(), reaches_back };
        let mut task = JoinSet::new();
        task.spawn(async move { relay.run(&mut feed).await });
        Self { hub, applied, events, state, _relay: task }
    }

    async fn set_open(&self, generation: &str) {
        self.state.send_replace(FeedState::Open(generation.into()));
        sleep(SECOND).await;
    }

    async fn event(&self, data: &'static str, published: SystemTime) {
        let mut event = Event::new("/test".into(), "k", None, data.into());
        (event.id, event.published) = (data.into(), Some(published));
        self.events.send(Ok(event)).await.unwrap();
        sleep(SECOND).await;
    }

    /// Sends a message without CloudEvents. The domain takes its type from an attribute.
    async fn foreign(&self, kind: &str, data: Bytes, published: SystemTime) {
        let attributes = [("kind".to_owned(), kind.to_owned())].into();
        let message = Foreign { attributes, data, published: Some(published), message_id: "1".to_owned() };
        self.events.send(Err(Undecodable::Foreign(Box::new(message)))).await.unwrap();
        sleep(SECOND).await;
    }

    async fn heartbeat(&self, generation: &str, published: SystemTime) -> Event {
        let mut event = Heartbeat::new("pod".into(), generation.into(), 0, SECOND * 10).event();
        event.published = Some(published);
        self.events.send(Ok(event.clone())).await.unwrap();
        sleep(SECOND).await;
        event
    }

    fn watch(&self, send_queue: &Arc<SendQueue>) -> Watch {
        let viewer = Viewer::new("1", Interests::new(["a".into()]));
        let (operation, send_queue) = (Arc::new(Echo), send_queue.clone());
        Watch { id: 1, field: "f".into(), viewer: viewer.into(), operation, send_queue }
    }

    /// Returns the payloads that a client gets when it resumes from this cursor.
    async fn resume(&self, cursor: &str) -> Vec<String> {
        let after = self.hub.read_cursor(cursor).unwrap();
        let mut replay = self.hub.resume(self.watch(&SendQueue::new(1 << 16)), after);
        let mut got = Vec::new();
        loop {
            match replay.step().await {
                Step::Deliveries(deliveries) => {
                    got.extend(deliveries.iter().map(|delivery| delivery.result.payload.to_string()));
                }
                Step::Live(_, notice) => {
                    got.extend(notice.map(|notice| notice.result.payload.to_string()));
                    return got;
                }
            }
        }
    }
}

/// Takes all deliveries and returns their payloads.
fn payloads(send_queue: &SendQueue) -> Vec<String> {
    send_queue.take().iter().map(|delivery| delivery.result.payload.to_string()).collect()
}

#[tokio::test(start_paused = true)]
async fn first_cursor_resumes_on_younger_topic() {
    let began = SystemTime::now();
    let pod = Pod::new(began, true);
    let cursor = pod.hub.cursor(Source::Result);
    pod.set_open("one").await;
    pod.event("early", began + SECOND / 10).await;
    assert_eq!(pod.hub.cursor(Source::Result), cursor, "the cursor stands still");
    pod.heartbeat("one", began + SECOND / 5).await;
    assert_ne!(pod.hub.cursor(Source::Result), cursor);
    assert_eq!(pod.resume(&cursor).await, ["early"]);
}

#[tokio::test(start_paused = true)]
async fn first_cursor_is_gap_without_retention() {
    let began = SystemTime::now();
    let pod = Pod::new(began, false);
    let cursor = pod.hub.cursor(Source::Result);
    pod.set_open("one").await;
    pod.heartbeat("one", began + SECOND).await;
    assert_eq!(pod.resume(&cursor).await, ["gap: WINDOW_EXCEEDED"]);
}

#[tokio::test(start_paused = true)]
async fn earlier_pods_cursor_is_gap_without_history() {
    let began = SystemTime::now();
    let pods = [began, began - SECOND / 2, began - SECOND * 2].map(|began| Pod::new(began, true));
    let [pod, together, earlier] = &pods;
    pod.set_open("one").await;
    pod.heartbeat("one", began + SECOND / 5).await;
    assert!(pod.resume(&together.hub.cursor(Source::Result)).await.is_empty());
    assert_eq!(pod.resume(&earlier.hub.cursor(Source::Result)).await, ["gap: WINDOW_EXCEEDED"]);
}

#[tokio::test(start_paused = true)]
async fn event_from_before_start_is_no_news() {
    let topic = SystemTime::now();
    // The pod's clock is right, fast, or slow.
    for began in [topic, topic + SECOND * 3_600, topic - SECOND * 3_600] {
        let (pod, send_queue) = (Pod::new(began, true), SendQueue::new(1 << 16));
        let _watching = pod.hub.watch(pod.watch(&send_queue));
        pod.set_open("one").await;
        pod.heartbeat("one", topic + SECOND).await;
        pod.event("backlog", topic - SECOND * 60).await;
        pod.event("news", topic + SECOND * 2).await;
        assert_eq!(payloads(&send_queue), ["news"]);
    }
}

#[tokio::test(start_paused = true)]
async fn new_generation_delivers_missed_events_only() {
    let topic = SystemTime::now();
    let (pod, send_queue) = (Pod::new(topic, true), SendQueue::new(1 << 16));
    let _watching = pod.hub.watch(pod.watch(&send_queue));
    pod.set_open("one").await;
    pod.heartbeat("one", topic).await;
    pod.event("old", topic + SECOND).await;
    // Longer than ids are remembered.
    sleep(SECOND * 3_600).await;
    let last = pod.heartbeat("one", topic + SECOND * 3_600).await;
    assert_eq!(payloads(&send_queue), ["old"]);

    pod.state.send_replace(FeedState::Opening(None));
    // Longer than the window reaches, but the topic still has all events.
    sleep(SECOND * 900).await;
    pod.set_open("two").await;
    pod.event("forgets", topic + SECOND * 4_500).await;
    pod.event("old", topic + SECOND).await;
    pod.event("missed", topic + SECOND * 3_601).await;
    pod.events.send(Ok(last)).await.unwrap();
    pod.heartbeat("two", topic + SECOND * 4_502).await;
    assert_eq!(payloads(&send_queue), ["forgets", "missed"]);
}

#[tokio::test(start_paused = true)]
async fn domain_panic_skips_one_event() {
    let pod = Pod::new(SystemTime::now(), true);
    pod.set_open("first").await;
    let send_queue = SendQueue::new(1 << 16);
    let _watching = pod.hub.watch(pod.watch(&send_queue));
    for data in ["poison", "good"] {
        pod.event(data, SystemTime::now()).await;
    }
    let delivered: Vec<_> =
        send_queue.take().iter().map(|delivery| delivery.result.payload.to_string()).collect();
    assert_eq!(delivered, ["good"]);
}

#[tokio::test(start_paused = true)]
async fn message_without_cloudevent_steers_nothing() {
    let topic = SystemTime::now();
    let (pod, send_queue) = (Pod::new(topic, true), SendQueue::new(1 << 16));
    pod.set_open("one").await;
    let _watching = pod.hub.watch(pod.watch(&send_queue));
    let heartbeat = Heartbeat::new("pod".into(), "one".into(), 0, SECOND * 10).event();
    pod.foreign(&heartbeat.kind, heartbeat.data, topic).await;
    let old = Written { time: topic - SECOND * 900, source: "/test".into(), id: "old".into() };
    assert!(!pod.applied.shows(&old), "no heartbeat came, so the feed has not caught up");
    pod.foreign("poison", "poison".into(), topic).await;
    pod.foreign("k", "good".into(), topic + SECOND).await;
    assert_eq!(payloads(&send_queue), ["good"]);
}

#[tokio::test(start_paused = true)]
async fn write_is_shown_once_it_is_applied() {
    let topic = SystemTime::now();
    let pod = Pod::new(topic, true);
    let shows = |id: &str, time| pod.applied.shows(&Written { time, source: "/test".into(), id: id.into() });
    pod.set_open("one").await;
    pod.event("early", topic - SECOND * 60).await;
    assert!(shows("early", topic - SECOND * 60));
    assert!(!shows("old", topic - SECOND * 900), "its history may still come");
    pod.heartbeat("one", topic + SECOND).await;
    assert!(shows("old", topic - SECOND * 900));
    assert!(!shows("late", topic + SECOND * 2));
    pod.event("late", topic + SECOND * 2).await;
    assert!(shows("late", topic + SECOND * 2));
    // A topic that lost events never brings them.
    pod.set_open("two").await;
    pod.heartbeat("two", topic + SECOND * 9).await;
    sleep(SECOND * 30).await;
    assert!(shows("lost", topic + SECOND * 8));
    assert!(!shows("next", topic + SECOND * 10));
}

#[tokio::test(start_paused = true)]
async fn event_counts_as_applied_after_its_dispatch() {
    let (topic, onlooker) = (SystemTime::now(), Arc::new(Onlooker::default()));
    let (pod, send_queue) = (Pod::of(onlooker.clone(), topic, true), SendQueue::new(1 << 16));
    onlooker.applied.set(pod.applied.clone()).unwrap();
    let _watching = pod.hub.watch(Watch { operation: onlooker.clone(), ..pod.watch(&send_queue) });
    pod.set_open("one").await;
    pod.heartbeat("one", topic).await;
    pod.event("a", topic + SECOND).await;
    assert_eq!(*onlooker.seen.lock().unwrap(), [("apply", false), ("render", false)]);
    assert_eq!(payloads(&send_queue), ["a"]);
    assert!(pod.applied.shows(&Written { time: topic + SECOND, source: "/test".into(), id: "a".into() }));
}
