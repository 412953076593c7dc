//! Pods that are replaced, killed and multiplied under load.
//!
//! This is what a rollout, a crash and an autoscaler do. No client may ever miss an event because
//! of it.

use std::time::Duration;

use tokio::time::sleep;

use crate::{
    deployment::{Deployment, ORPHAN_AFTER},
    oracle::{Ledger, Traffic},
    resuming::{Crowd, Ended, NARROW},
    shared_turn,
    support::{Kind, Topic, USERS, eventually},
};

/// Size of a scenario.
struct Size {
    clients: usize,
    events_per_second: u32,
    /// `RELAY_DRAIN_SPREAD` of the pods, in seconds.
    drain_spread: u32,
}

const SHORT: Size = Size { clients: 120, events_per_second: 20, drain_spread: 4 };
const LONG: Size = Size { clients: 400, events_per_second: 50, drain_spread: 20 };

/// Time between two changes of the deployment.
const PAUSE: Duration = Duration::from_secs(1);

/// WebSocket close code of a drain.
const DRAINED: u16 = 1012;

/// Clients of all users under load, and the pods that serve them.
struct Scene {
    topic: Topic,
    deployment: Deployment,
    crowd: Crowd,
    ledger: Ledger,
    traffic: Traffic,
}

impl Scene {
    async fn open(topic: Option<Topic>, pods: usize, size: &Size) -> Option<Self> {
        let topic = topic?;
        let spread = format!("{}s", size.drain_spread);
        let settings = [("RELAY_DRAIN_DELAY", "1s"), ("RELAY_DRAIN_SPREAD", &*spread)];
        let deployment = Deployment::start(&topic, pods, &settings).await;
        let crowd = Crowd::gather(&deployment.ports, &USERS, size.clients, NARROW).await;
        let ledger = Ledger::default();
        let traffic = Traffic::start(&ledger, &deployment.ports, size.events_per_second);
        sleep(PAUSE).await;
        Some(Self { topic, deployment, crowd, ledger, traffic })
    }

    async fn close(self, what: &str) {
        sleep(PAUSE).await;
        self.traffic.stop().await;
        let verdict = self.ledger.settle(&self.topic, &[&self.crowd]).await;
        println!("{what}: {}", verdict.summary());
        verdict.assert_flawless();
        verdict.assert_ordered();
    }

    /// Stops the oldest pod as an orchestrator does. Returns its port and the ends of its
    /// connections.
    async fn drain_one(&mut self) -> (u16, Vec<Ended>) {
        let mut pod = self.deployment.retire();
        pod.signal("TERM");
        let status = pod.ended().await;
        assert_eq!(status.code(), Some(0), "{status}");
        let feeds = self.topic.feeds_of(pod.name()).await;
        assert!(feeds.is_empty(), "a drained pod leaves {feeds:?}");
        (pod.port(), self.crowd.ends_at(pod.port()))
    }
}

/// Asserts that no second has more than three times the even share of the ends.
fn assert_spread(ends: &[Ended], seconds: u32) {
    let first = ends.iter().map(|end| end.at).min().expect("the pod had connections");
    let mut counts = vec![0_u32; usize::try_from(seconds).unwrap() * 2];
    for end in ends {
        assert_eq!(end.code, DRAINED);
        let second = usize::try_from((end.at - first).as_secs()).unwrap();
        // the last slot holds all later ends
        let second = second.min(counts.len() - 1);
        counts[second] += 1;
    }
    let even = f64::from(u32::try_from(ends.len()).unwrap()) / f64::from(seconds);
    println!("ends in each second of a drain: {counts:?}, even share {even}");
    assert!(counts.iter().all(|count| f64::from(*count) <= even * 3.0), "{counts:?}, even share {even}");
}

async fn rolling(topic: Option<Topic>, pods: usize, size: Size) {
    let Some(mut scene) = Scene::open(topic, pods, &size).await else { return };
    for _ in 0..pods {
        let (port, ends) = scene.drain_one().await;
        assert_spread(&ends, size.drain_spread);
        scene.deployment.add(Some(port)).await;
    }
    scene.close("rolling restart").await;
}

async fn crash(size: Size) {
    let Some(mut scene) = Scene::open(Topic::fresh().await, 4, &size).await else { return };
    let mut gone = Vec::new();
    for _ in 0..4 {
        let mut pod = scene.deployment.retire();
        pod.kill();
        scene.deployment.add(Some(pod.port())).await;
        gone.push(pod.name().to_owned());
        sleep(PAUSE).await;
    }
    let topic = scene.topic.clone();
    eventually("no feed of a dead pod is left", ORPHAN_AFTER * 10, async || {
        for pod in &gone {
            if !topic.feeds_of(pod).await.is_empty() {
                return None;
            }
        }
        Some(())
    })
    .await;
    for pod in &scene.deployment.pods {
        assert_eq!(
            topic.feeds_of(pod.name()).await.len(),
            1,
            "the feed of a living pod was deleted: {}",
            pod.name()
        );
    }
    scene.close("crash").await;
}

async fn scale(size: Size) {
    let Some(mut scene) = Scene::open(Topic::fresh().await, 2, &size).await else { return };
    for _ in 0..4 {
        scene.deployment.add(None).await;
    }
    sleep(PAUSE).await;
    for _ in 0..4 {
        scene.drain_one().await;
    }
    scene.close("scale 2, 6, 2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rolling_restart_loses_no_event() {
    let _turn = shared_turn().await;
    rolling(Topic::fresh().await, 4, SHORT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rolling_restart_on_postgres_loses_no_event() {
    let _turn = shared_turn().await;
    let size = Size { clients: 40, events_per_second: 10, drain_spread: 2 };
    rolling(Topic::at(Kind::Postgres).await, 2, size).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long"]
async fn rolling_restart_under_400_clients_loses_no_event() {
    let _turn = shared_turn().await;
    rolling(Topic::fresh().await, 4, LONG).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_pods_lose_no_event() {
    let _turn = shared_turn().await;
    crash(SHORT).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long"]
async fn killed_pods_under_400_clients_lose_no_event() {
    let _turn = shared_turn().await;
    crash(LONG).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scaling_pods_loses_no_event() {
    let _turn = shared_turn().await;
    scale(Size { drain_spread: 1, ..SHORT }).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long"]
async fn scaling_pods_under_400_clients_loses_no_event() {
    let _turn = shared_turn().await;
    scale(LONG).await;
}
