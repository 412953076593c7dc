//! Pods and their heartbeats, on the memory broker and on a feed that goes silent; time is paused.

use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use opentelemetry::metrics::{MeterProvider as _, noop::NoopMeterProvider};
use tokio::{
    select,
    sync::mpsc,
    task::JoinSet,
    time::{sleep, sleep_until, timeout},
};

use super::*;
use crate::{
    broker::{Feed, Publish, PublishError, Received, Reopen, memory::Topic},
    event::HEARTBEAT,
};

const TEN: Duration = Duration::from_secs(10);

fn membership(pod: &str) -> Membership {
    membership_with(pod, None)
}

fn membership_with(pod: &str, secrets: Option<&str>) -> Membership {
    let settings = Settings {
        pod: pod.into(),
        interval: TEN,
        settle: Duration::from_millis(200),
        orphan_after: Duration::from_secs(180),
        secrets: secrets.map(|text| Secrets::parse(text).unwrap()),
    };
    Membership::new(settings, &NoopMeterProvider::new().meter("test"))
}

/// Runs the part of the relay that concerns the membership.
async fn relay(membership: Membership, mut feed: Box<dyn Feed>) {
    let mut state = feed.state();
    membership.follow(&state.borrow_and_update(), Order::Lanes);
    loop {
        let due = membership.due();
        select! {
            biased;
            Ok(()) = state.changed() => { membership.follow(&state.borrow_and_update(), Order::Lanes); }
            received = feed.next() => {
                let Some(Received { event: Ok(event), .. }) = received else { return };
                membership.hear(&event);
            }
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => { membership.settle(); }
        }
    }
}

/// Starts a pod with this many connections.
fn pod(tasks: &mut JoinSet<()>, name: &str, topic: &Topic, connections: usize) -> Membership {
    start(tasks, membership(name), topic, connections)
}

fn start(tasks: &mut JoinSet<()>, membership: Membership, topic: &Topic, connections: usize) -> Membership {
    let feed = Box::new(topic.open_feed());
    let (reopen, publisher, running) = (feed.reopen(), topic.clone(), membership.clone());
    tasks.spawn(relay(membership.clone(), feed));
    tasks.spawn(async move { running.run(&publisher, &reopen, || connections).await });
    membership
}

#[tokio::test(start_paused = true)]
async fn news_of_pod_come_at_once() {
    let topic = Topic::new(TEN * 60, 1 << 20);
    let mut tasks = JoinSet::new();
    let (one, two) = (pod(&mut tasks, "one", &topic, 3), pod(&mut tasks, "two", &topic, 4));
    let is_draining = Arc::new(AtomicBool::new(false));
    let draining = is_draining.clone();
    one.report(move || {
        let draining = draining.load(Ordering::Relaxed);
        Some(PodStatus { draining, ..PodStatus::default() })
    });
    sleep(TEN).await;
    let seen = || two.list(1)[0].status.as_ref().is_some_and(|status| status.draining);
    is_draining.store(true, Ordering::Relaxed);
    assert!(!seen());
    one.tell();
    sleep(Duration::from_millis(100)).await;
    assert!(seen(), "before the next heartbeat is due");
}

#[tokio::test(start_paused = true)]
async fn pods_discover_each_other() {
    let topic = Topic::new(TEN * 60, 1 << 20);
    let mut tasks = JoinSet::new();
    let one = pod(&mut tasks, "one", &topic, 3);
    assert!(one.awaits().is_some(), "its heartbeat is not back yet");
    let two = pod(&mut tasks, "two", &topic, 4);
    sleep(Duration::from_secs(1)).await;
    assert_eq!((one.awaits(), two.awaits()), (None, None));
    for membership in [&one, &two] {
        assert_eq!(membership.size(), Size { pods: 2, connections: 7 });
        assert!(membership.lag().is_some_and(|lag| lag < Duration::from_secs(1)));
    }
    assert!(!one.is_orphan("three", SystemTime::UNIX_EPOCH), "it has not listened for long enough");
    sleep(TEN * 18).await;
    assert!(one.is_orphan("three", SystemTime::UNIX_EPOCH));
    assert!(!one.is_orphan("two", SystemTime::UNIX_EPOCH));
}

#[tokio::test(start_paused = true)]
async fn invalid_heartbeat_counts_as_garbage() {
    let membership = membership("pod");
    let mut event = Event::new("/elsewhere".into(), HEARTBEAT, None, "{}".into());
    event.published = Some(SystemTime::now());
    assert_eq!(membership.hear(&event), Heard::Garbage);
    event.kind = "template.added.v1".into();
    assert_eq!(membership.hear(&event), Heard::Event);
    assert_eq!(membership.size(), Size::default());
}

const OLD: &str = "an-old-secret-of-thirty-two-bytes";
const NEW: &str = "a-new-secret-of-thirty-two-bytes!";

/// Returns a heartbeat with one connection of a pod with these secrets, signed and published at
/// these times.
fn signed(pod: &str, secrets: &str, sent: SystemTime, published: SystemTime) -> Event {
    let heartbeat = Heartbeat::new(pod.into(), format!("{pod}.1").into(), 1, TEN);
    let mut event = heartbeat.event();
    Secrets::parse(secrets).unwrap().sign(&mut event, sent);
    event.published = Some(published);
    event
}

/// Returns a membership with the new secret that has listened for long enough to judge orphans.
async fn listening() -> (Membership, SystemTime) {
    let (membership, start) = (membership_with("pod", Some(NEW)), SystemTime::now());
    membership.follow(&FeedState::Open("pod.1".into()), Order::Lanes);
    membership.hear(&signed("pod", NEW, start, start));
    sleep(TEN).await;
    assert!(membership.settle().is_some());
    sleep(TEN * 18).await;
    (membership, start)
}

/// Advances the topic's clock of the membership.
fn tick(membership: &Membership, now: SystemTime) {
    membership.hear(&signed("pod", NEW, now, now));
}

#[tokio::test(start_paused = true)]
async fn pods_of_each_rotation_step_see_neighbours() {
    let topic = Topic::new(TEN * 60, 1 << 20);
    let steps = [OLD.to_owned(), format!("{OLD},{NEW}"), format!("{NEW},{OLD}"), NEW.to_owned()];
    for pair in steps.windows(2) {
        let mut tasks = JoinSet::new();
        let pods: Vec<_> = (1..)
            .zip(pair)
            .map(|(n, secrets)| {
                start(&mut tasks, membership_with(&format!("pod-{n}"), Some(secrets)), &topic, n)
            })
            .collect();
        sleep(Duration::from_secs(1)).await;
        for pod in pods {
            assert_eq!((pod.awaits(), pod.size()), (None, Size { pods: 2, connections: 3 }), "{pair:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn pods_without_secret_only_spare_their_feeds() {
    let topic = Topic::new(TEN * 60, 1 << 20);
    let mut tasks = JoinSet::new();
    let with = start(&mut tasks, membership_with("with", Some(NEW)), &topic, 1);
    let without = pod(&mut tasks, "without", &topic, 2);
    start(&mut tasks, membership_with("other", Some(OLD)), &topic, 4);
    sleep(TEN * 19).await;
    assert_eq!((with.awaits(), with.size()), (None, Size { pods: 1, connections: 1 }));
    assert_eq!((without.awaits(), without.size()), (None, Size { pods: 3, connections: 7 }));
    for (membership, pod) in [(&with, "without"), (&with, "other"), (&without, "with")] {
        assert!(!membership.is_orphan(pod, SystemTime::UNIX_EPOCH), "{pod}");
    }
    assert!(with.is_orphan("dead", SystemTime::UNIX_EPOCH));
}

#[tokio::test(start_paused = true)]
async fn unproven_heartbeat_spares_feed_until_silence() {
    let (membership, start) = listening().await;
    let plain = |pod: &str| Event {
        published: Some(start + TEN * 20),
        ..Heartbeat::new(pod.into(), "f".into(), 9, TEN).event()
    };
    let later = Event { kind: "relay.heartbeat.v2".into(), ..plain("later") };
    let malformed = Event { data: "{".into(), ..plain("malformed") };
    let tampered = Event {
        data: String::from_utf8_lossy(&signed("tampered", NEW, start, start).data)
            .replace("\"connections\":1", "\"connections\":2")
            .into(),
        ..plain("tampered")
    };
    let recorded = signed("recorded", NEW, start, start + TEN * 20);
    for (event, heard) in [
        (plain("unsigned"), Heard::Unproven),
        (signed("forged", OLD, start + TEN * 20, start + TEN * 20), Heard::Unproven),
        (tampered, Heard::Unproven),
        (recorded, Heard::Unproven),
        (later, Heard::Garbage),
        (malformed, Heard::Garbage),
    ] {
        assert_eq!(membership.hear(&event), heard, "{event:?}");
    }
    tick(&membership, start + TEN * 37);
    assert_eq!(membership.size(), Size { pods: 1, connections: 1 });
    let pods = ["unsigned", "forged", "tampered", "recorded", "later", "malformed"];
    for pod in pods {
        assert!(!membership.is_orphan(pod, start), "{pod}");
    }
    tick(&membership, start + TEN * 38);
    for pod in pods {
        assert!(membership.is_orphan(pod, start), "{pod} is silent");
    }
    let probe =
        Event { published: Some(start + TEN * 38), ..Heartbeat::probe("doctor".into(), "f".into()).event() };
    membership.hear(&probe);
    assert!(membership.is_orphan("doctor", start), "no pod sends probes");
}

#[tokio::test(start_paused = true)]
async fn recorded_heartbeat_changes_no_member() {
    let (membership, start) = listening().await;
    let at = |second| start + Duration::from_secs(second);
    let (first, next) = (signed("a", NEW, at(200), at(200)), signed("a", NEW, at(210), at(210)));
    membership.hear(&first);
    assert_eq!(membership.size().connections, 1, "the pod itself is silent");
    let mut grown = Heartbeat::new("a".into(), "a.1".into(), 5, TEN).event();
    Secrets::parse(NEW).unwrap().sign(&mut grown, at(211));
    membership.hear(&Event { published: Some(at(211)), ..grown });
    assert_eq!(membership.size().connections, 5);
    for (second, size) in [(215, Size { pods: 1, connections: 5 }), (245, Size::default())] {
        for recorded in [&first, &next] {
            membership.hear(&Event { published: Some(at(second)), ..recorded.clone() });
            assert_eq!(membership.size(), size, "a living pod keeps its numbers, a dead one stays dead");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn recorded_heartbeat_is_no_proof_of_loss() {
    let (membership, start) = listening().await;
    let last = signed("a", NEW, start + TEN, start + TEN);
    membership.hear(&last);
    // A copy outside of the heartbeats' order may come behind this pod's own next one.
    membership.hear(&Event { published: Some(start + TEN * 2), ..last.clone() });
    membership.hear(&signed("b", OLD, start + TEN * 3, start + TEN * 3));
    membership.follow(&FeedState::Open("pod.2".into()), Order::Lanes);
    membership.hear(&last);
    let mut own = Heartbeat::new("pod".into(), "pod.2".into(), 1, TEN).event();
    Secrets::parse(NEW).unwrap().sign(&mut own, start + TEN * 4);
    own.published = Some(start + TEN * 4);
    membership.hear(&own);
    sleep(TEN * 2).await;
    assert_eq!(membership.settle(), Some(History::Whole));
}

#[tokio::test(start_paused = true)]
async fn pod_with_wrong_clock_catches_up() {
    let topic = Topic::new(TEN * 60, 1 << 20);
    let (membership, mut feed) = (membership_with("pod", Some(NEW)), topic.open_feed());
    membership.follow(&FeedState::Open("pod.1".into()), Order::Lanes);
    // The topic's clock is an hour ahead of this pod's.
    let (running, asked) = (membership.clone(), Reopen::default());
    let mut tasks = JoinSet::new();
    let publisher = topic.clone();
    tasks.spawn(async move { running.run(&publisher, &asked, || 1).await });
    for _ in 0..3 {
        let mut event = feed.next().await.unwrap().event.unwrap();
        event.published = event.published.map(|published| published + TEN * 360);
        assert_eq!(membership.hear(&event), Heard::Heartbeat);
    }
    sleep(TEN).await;
    assert!(membership.settle().is_some());
    let others = membership_with("other", Some(NEW));
    let mut event = feed.next().await.unwrap().event.unwrap();
    event.published = event.published.map(|published| published + TEN * 360);
    assert_eq!(others.hear(&event), Heard::Heartbeat, "signed by the topic's clock once it is known");
}

/// Topic that refuses every event.
struct Refusing;

#[async_trait]
impl Publish for Refusing {
    async fn publish(&self, _event: &Event) -> Result<(), PublishError> {
        Err(PublishError::Unavailable("no such topic".into()))
    }

    async fn flush(&self) {}
}

#[tokio::test(start_paused = true)]
async fn refused_heartbeat_adds_no_lag() {
    let membership = membership("pod");
    membership.follow(&FeedState::Open("first".into()), Order::Lanes);
    timeout(TEN, membership.run(&Refusing, &Reopen::default(), || 0)).await.unwrap_err();
    assert_eq!(membership.lag(), None);
    assert!(
        membership.awaits().is_some_and(|what| what.contains("no such topic")),
        "{:?}",
        membership.awaits()
    );
}

/// Feed with generations that the test controls.
struct ScriptedFeed {
    events: mpsc::Receiver<Event>,
    state: watch::Sender<FeedState>,
    reopen: Reopen,
}

#[async_trait]
impl Feed for ScriptedFeed {
    async fn next(&mut self) -> Option<Received> {
        let event = self.events.recv().await?;
        Some(Received { event: Ok(event), message_id: String::new(), ack: crate::broker::Ack::none() })
    }

    fn state(&self) -> watch::Receiver<FeedState> {
        self.state.subscribe()
    }

    fn reopen(&self) -> Reopen {
        self.reopen.clone()
    }

    fn reaches_back(&self) -> bool {
        true
    }

    async fn close(&mut self) {}
}

/// Topic that brings back what was published, as long as it is not cut.
struct Loopback {
    events: mpsc::Sender<Event>,
    is_cut: Arc<AtomicBool>,
}

#[async_trait]
impl Publish for Loopback {
    async fn publish(&self, event: &Event) -> Result<(), PublishError> {
        let mut event = event.clone();
        event.published = Some(SystemTime::now());
        if !self.is_cut.load(Ordering::Relaxed) {
            self.events.send(event).await.expect("the test reads");
        }
        Ok(())
    }

    async fn flush(&self) {}
}

#[tokio::test(start_paused = true)]
async fn feed_with_backlog_is_not_silent() {
    let (membership, reopen, mut tasks) = (membership("pod"), Reopen::default(), JoinSet::new());
    let (events, mut taken) = mpsc::channel(16);
    let topic = Loopback { events, is_cut: Arc::default() };
    let (running, asked) = (membership.clone(), reopen.clone());
    membership.follow(&FeedState::Open("first".into()), Order::Lanes);
    tasks.spawn(async move { running.run(&topic, &asked, || 0).await });
    // The pod's heartbeats wait behind minutes of old events.
    let backlog = async {
        for _ in 0..120 {
            let mut old = Event::new("/test".into(), "k", None, "{}".into());
            old.published = Some(SystemTime::now() - TEN * 60);
            membership.hear(&old);
            sleep(Duration::from_secs(1)).await;
            while taken.try_recv().is_ok() {}
        }
    };
    select! {
        () = reopen.asked("first") => panic!("the feed was given up"),
        () = backlog => {}
    }
    // Behind new events they are missing.
    let mut new = Event::new("/test".into(), "k", None, "{}".into());
    new.published = Some(SystemTime::now() + TEN * 60);
    let fresh = async {
        loop {
            membership.hear(&new);
            sleep(Duration::from_secs(1)).await;
        }
    };
    select! {
        () = reopen.asked("first") => {}
        () = fresh => {}
        () = sleep(TEN * 4) => panic!("the feed was not given up"),
    }
}

#[tokio::test(start_paused = true)]
async fn silent_feed_is_replaced_after_three_intervals() {
    let (events, received) = mpsc::channel(16);
    let (state, reopen, is_cut) =
        (watch::Sender::new(FeedState::Opening(None)), Reopen::default(), Arc::default());
    let feed = ScriptedFeed { events: received, state: state.clone(), reopen: reopen.clone() };
    let topic = Loopback { events, is_cut: Arc::clone(&is_cut) };
    let (membership, mut tasks) = (membership("pod"), JoinSet::new());
    tasks.spawn(relay(membership.clone(), Box::new(feed)));
    let (running, asked) = (membership.clone(), reopen.clone());
    tasks.spawn(async move { running.run(&topic, &asked, || 0).await });

    state.send_replace(FeedState::Open("first".into()));
    assert!(timeout(TEN * 10, reopen.asked("first")).await.is_err(), "a feed that brings heartbeats is kept");
    assert_eq!(membership.awaits(), None);

    is_cut.store(true, Ordering::Relaxed);
    let cut = Instant::now();
    reopen.asked("first").await;
    assert!(cut.elapsed() <= TEN * 3, "{:?}", cut.elapsed());
    state.send_replace(FeedState::Opening(Some("silent".to_owned())));
    state.send_replace(FeedState::Open("second".into()));
    sleep(TEN).await;
    assert!(membership.awaits().is_some(), "the second feed brings nothing either");
    assert!(membership.lag().is_some_and(|lag| lag >= TEN / 2), "{:?}", membership.lag());
    reopen.asked("second").await;

    is_cut.store(false, Ordering::Relaxed);
    state.send_replace(FeedState::Open("third".into()));
    sleep(TEN * 2).await;
    assert_eq!(membership.awaits(), None);
}
