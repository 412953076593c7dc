//! Pods and their heartbeats, on the memory broker and on a feed that goes silent; time is paused.

use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use opentelemetry::metrics::{MeterProvider as _, noop::NoopMeterProvider};
use tokio::{sync::mpsc, task::JoinSet, time::timeout};

use super::*;
use crate::broker::{Feed, PublishError, Received, memory::Topic};

const TEN: Duration = Duration::from_secs(10);

fn membership(pod: &str) -> Membership {
    let settings = Settings {
        pod: pod.into(),
        interval: TEN,
        settle: Duration::from_millis(200),
        order: Order::Lanes,
        orphan_after: Duration::from_secs(180),
    };
    Membership::new(settings, &NoopMeterProvider::new().meter("test"))
}

/// Runs the part of the relay that concerns the membership.
async fn relay(membership: Membership, mut feed: Box<dyn Feed>) {
    let mut state = feed.state();
    membership.follow(&state.borrow_and_update());
    loop {
        let due = membership.due();
        select! {
            biased;
            Ok(()) = state.changed() => { membership.follow(&state.borrow_and_update()); }
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
    let (membership, feed) = (membership(name), Box::new(topic.open_feed()));
    let (reopen, publisher, running) = (feed.reopen(), topic.clone(), membership.clone());
    tasks.spawn(relay(membership.clone(), feed));
    tasks.spawn(async move { running.run(&publisher, &reopen, || connections).await });
    membership
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
    membership.follow(&FeedState::Open("first".into()));
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
    membership.follow(&FeedState::Open("first".into()));
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
