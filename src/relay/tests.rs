//! The loop, on a feed that a test makes; time is paused.

use async_trait::async_trait;
use opentelemetry::metrics::{MeterProvider as _, noop::NoopMeterProvider};
use tokio::{sync::mpsc, task::JoinSet, time::sleep};

use super::*;
use crate::{
    audience::{Audience, Interests, Viewer},
    broker::{Ack, Reopen},
    domain::{Fact, Identity},
    hub::{Relayed, Render, SendQueue, Step, Watch, window::Bounds},
    membership::{self, Heartbeat},
};

const WINDOW: Duration = Duration::from_secs(600);
const SECOND: Duration = Duration::from_secs(1);

/// All of whose events are for the key `a`; at one of them it panics.
struct Anything;

impl Domain for Anything {
    fn viewer(&self, _: Identity<'_>) -> Option<Viewer> {
        None
    }

    fn read(&self, _: &Event) -> Result<Fact, Unreadable> {
        let audience = Audience::new(["a".into()], None);
        Ok(Fact { field: Some("f"), audience, payload: Arc::new(()) })
    }

    fn apply(&self, event: &Event, _: &Fact) {
        assert_ne!(&*event.data, b"poison");
    }
}

/// Tells the data of events.
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

struct Fed {
    events: mpsc::Receiver<Event>,
    state: watch::Receiver<FeedState>,
    reaches_back: bool,
}

#[async_trait]
impl Feed for Fed {
    async fn next(&mut self) -> Option<Received> {
        let event = self.events.recv().await?;
        Some(Received { event: Ok(event), message_id: String::new(), ack: Ack::none() })
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

/// A pod's relay and hub, and the ends of its feed.
struct Pod {
    hub: Hub,
    events: mpsc::Sender<Event>,
    state: watch::Sender<FeedState>,
    _relay: JoinSet<()>,
}

impl Pod {
    fn new(began: SystemTime, reaches_back: bool) -> Self {
        let meter = NoopMeterProvider::new().meter("test");
        let hub = Hub::new("t", Bounds { span: WINDOW, bytes: 1 << 20 }, began);
        let (interval, orphan_after) = (SECOND * 10, SECOND * 180);
        let membership =
            Membership::new(membership::Settings { pod: "pod".into(), interval, orphan_after }, &meter);
        let memory = Memory { began, window: WINDOW };
        let mut relay = Relay::new(Arc::new(Anything), hub.clone(), membership, memory, &meter);
        let (events, received) = mpsc::channel(16);
        let state = watch::Sender::new(FeedState::Opening(None));
        let mut feed = Fed { events: received, state: state.subscribe(), reaches_back };
        let mut task = JoinSet::new();
        task.spawn(async move { relay.run(&mut feed).await });
        Self { hub, events, state, _relay: task }
    }

    async fn open(&self, generation: &str) {
        self.state.send_replace(FeedState::Open(generation.into()));
        sleep(SECOND).await;
    }

    async fn event(&self, data: &'static str, published: SystemTime) {
        let mut event = Event::new("/test".into(), "k", None, data.into());
        (event.id, event.published) = (data.into(), Some(published));
        self.events.send(event).await.unwrap();
        sleep(SECOND).await;
    }

    async fn heartbeat(&self, generation: &str, published: SystemTime) -> Event {
        let mut event = Heartbeat::new("pod".into(), generation.into(), 0, SECOND * 10).event();
        event.published = Some(published);
        self.events.send(event.clone()).await.unwrap();
        sleep(SECOND).await;
        event
    }

    fn watch(&self, send_queue: &Arc<SendQueue>) -> Watch {
        let viewer = Viewer { user: "1".into(), interests: Interests::new(["a".into()]) };
        let (operation, send_queue) = (Arc::new(Echo), send_queue.clone());
        Watch { id: 1, field: "f".into(), viewer: viewer.into(), operation, send_queue }
    }

    /// What a client gets that comes back with this cursor.
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

fn told(send_queue: &SendQueue) -> Vec<String> {
    send_queue.take().iter().map(|delivery| delivery.result.payload.to_string()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_cursor_of_the_first_moments_is_good_though_the_topic_is_younger() {
    let began = SystemTime::now();
    let pod = Pod::new(began, true);
    let cursor = pod.hub.cursor();
    pod.open("one").await;
    pod.event("early", began + SECOND / 10).await;
    assert_eq!(pod.hub.cursor(), cursor, "it stands still");
    pod.heartbeat("one", began + SECOND / 5).await;
    assert_ne!(pod.hub.cursor(), cursor);
    assert_eq!(pod.resume(&cursor).await, ["early"]);
}

#[tokio::test(start_paused = true)]
async fn a_cursor_of_the_first_moments_is_a_gap_if_the_topic_retains_nothing() {
    let began = SystemTime::now();
    let pod = Pod::new(began, false);
    let cursor = pod.hub.cursor();
    pod.open("one").await;
    pod.heartbeat("one", began + SECOND).await;
    assert_eq!(pod.resume(&cursor).await, ["gap: WINDOW_EXCEEDED"]);
}

#[tokio::test(start_paused = true)]
async fn a_cursor_of_a_pod_that_began_long_before_is_a_gap_if_nothing_so_old_has_come() {
    let began = SystemTime::now();
    let pods = [began, began - SECOND / 2, began - SECOND * 2].map(|began| Pod::new(began, true));
    let [pod, together, earlier] = &pods;
    pod.open("one").await;
    pod.heartbeat("one", began + SECOND / 5).await;
    assert!(pod.resume(&together.hub.cursor()).await.is_empty());
    assert_eq!(pod.resume(&earlier.hub.cursor()).await, ["gap: WINDOW_EXCEEDED"]);
}

#[tokio::test(start_paused = true)]
async fn what_was_published_before_the_pod_began_is_no_news_however_late_it_comes() {
    let topic = SystemTime::now();
    // The pod's clock is right, fast, or slow.
    for began in [topic, topic + SECOND * 3_600, topic - SECOND * 3_600] {
        let (pod, send_queue) = (Pod::new(began, true), SendQueue::new(1 << 16));
        let _watching = pod.hub.watch(pod.watch(&send_queue));
        pod.open("one").await;
        pod.heartbeat("one", topic + SECOND).await;
        pod.event("backlog", topic - SECOND * 60).await;
        pod.event("news", topic + SECOND * 2).await;
        assert_eq!(told(&send_queue), ["news"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_life_tells_nothing_twice_that_is_forgotten_and_all_that_never_came() {
    let topic = SystemTime::now();
    let (pod, send_queue) = (Pod::new(topic, true), SendQueue::new(1 << 16));
    let _watching = pod.hub.watch(pod.watch(&send_queue));
    pod.open("one").await;
    pod.heartbeat("one", topic).await;
    pod.event("old", topic + SECOND).await;
    // Longer than ids are remembered.
    sleep(SECOND * 3_600).await;
    let last = pod.heartbeat("one", topic + SECOND * 3_600).await;
    assert_eq!(told(&send_queue), ["old"]);

    pod.state.send_replace(FeedState::Opening(None));
    // As long as the window reaches, and longer: the topic has it all.
    sleep(SECOND * 900).await;
    pod.open("two").await;
    pod.event("forgets", topic + SECOND * 4_500).await;
    pod.event("old", topic + SECOND).await;
    pod.event("missed", topic + SECOND * 3_601).await;
    pod.events.send(last).await.unwrap();
    pod.heartbeat("two", topic + SECOND * 4_502).await;
    assert_eq!(told(&send_queue), ["forgets", "missed"]);
}

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

#[tokio::test(start_paused = true)]
async fn an_event_at_which_the_domain_panics_is_one_event_less() {
    let pod = Pod::new(SystemTime::now(), true);
    pod.open("first").await;
    let send_queue = SendQueue::new(1 << 16);
    let _watching = pod.hub.watch(pod.watch(&send_queue));
    for data in ["poison", "good"] {
        pod.event(data, SystemTime::now()).await;
    }
    let told: Vec<_> = send_queue.take().iter().map(|told| told.result.payload.to_string()).collect();
    assert_eq!(told, ["good"]);
}
