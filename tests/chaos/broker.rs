//! Faults of the broker: cut connections, refusals, delays, a black hole, an empty restart, a late
//! start.
//!
//! A pod cannot prevent such a fault, but it must keep its promises. No event that the topic
//! acknowledged may ever be lost without a gap notice.

use std::time::Duration;

use tokio::time::sleep;

use crate::{
    deployment::Deployment,
    oracle::{Ledger, Traffic},
    proxy::{Fault, Proxy},
    resuming::{Crowd, NARROW},
    shared_turn,
    support::{EVERYWHERE, Topic, USERS, eventually},
};

/// Clients of each scenario.
const CLIENTS: usize = 20;
/// Mutations per second, over all authors.
const EVENTS_PER_SECOND: u32 = 8;

/// Time in which all must work again after a fault. Google's client waits up to 28 s before it
/// reconnects.
const RECOVERY: Duration = Duration::from_secs(60);

/// Two pods behind a connection to the broker that can break, their clients, and load.
pub(crate) struct Scene {
    topic: Topic,
    proxy: Proxy,
    pub(crate) deployment: Deployment,
    crowd: Crowd,
    ledger: Ledger,
    traffic: Traffic,
}

impl Scene {
    pub(crate) async fn open(topic: Topic) -> Self {
        let proxy = Proxy::start(topic.host()).await;
        let deployment = Deployment::start(&topic.seen_at(&proxy.host()), 2, &[]).await;
        Self::with_clients(topic, proxy, deployment).await
    }

    async fn with_clients(topic: Topic, proxy: Proxy, deployment: Deployment) -> Self {
        let crowd = Crowd::gather(&deployment.ports, &USERS, CLIENTS, NARROW).await;
        let ledger = Ledger::default();
        let traffic = Traffic::start(&ledger, &deployment.ports, EVENTS_PER_SECOND);
        sleep(Duration::from_secs(1)).await;
        Self { topic, proxy, deployment, crowd, ledger, traffic }
    }

    /// Publishes for `during` as a foreign program, past the proxy and its fault.
    async fn others_publish(&self, during: Duration) {
        for _ in 0..during.as_secs() * 2 {
            self.ledger.publish(&self.topic, 1, &EVERYWHERE, |message| message).await;
            sleep(Duration::from_millis(500)).await;
        }
    }

    pub(crate) async fn until_a_pod_is_unready(&self) {
        eventually("a pod without connection to the topic is unready", RECOVERY, async || {
            let answer = self.deployment.pods[0].http.get("/readyz").await;
            (answer.status == 503).then_some(())
        })
        .await;
    }

    /// Waits until all works again and asserts that nothing was lost: every pod is ready, every
    /// author can publish on every pod, every client has every event. Returns how many mutations
    /// were refused during the fault, each with the right error and in time.
    pub(crate) async fn close(mut self, what: &str) -> usize {
        self.deployment.until_ready(RECOVERY).await;
        self.ledger.revive(&self.topic, &[&self.crowd]).await;
        self.traffic.stop().await;
        let refused = self.ledger.assert_refused_in_time();
        self.ledger.each_adds_on_each(&self.deployment.pods, &self.deployment.ports).await;
        let verdict = self.ledger.settle(&self.topic, &[&self.crowd]).await;
        println!("{what}: {}, {refused} mutations refused", verdict.summary());
        verdict.assert_flawless();
        refused
    }
}

async fn fault(fault: Fault, during: Duration, is_seen: bool) {
    let Some(topic) = Topic::fresh().await else { return };
    let scene = Scene::open(topic).await;
    scene.proxy.set(fault);
    if is_seen {
        tokio::join!(scene.others_publish(during), scene.until_a_pod_is_unready());
    } else {
        scene.others_publish(during).await;
    }
    scene.proxy.set(Fault::None);
    let refused = scene.close(&format!("{fault:?} for {during:?}")).await;
    assert!(!is_seen || refused > 0, "a mutation was acknowledged but could not be published");
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_connections_to_broker_lose_nothing() {
    let _turn = shared_turn().await;
    let Some(topic) = Topic::fresh().await else { return };
    let scene = Scene::open(topic).await;
    for _ in 0..3 {
        scene.proxy.cut();
        scene.others_publish(Duration::from_secs(1)).await;
    }
    scene.close("cut three times").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refusing_broker_loses_nothing_that_it_took() {
    let _turn = shared_turn().await;
    fault(Fault::Refuse, Duration::from_secs(8), true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn late_broker_loses_nothing() {
    let _turn = shared_turn().await;
    fault(Fault::Delay(Duration::from_secs(2)), Duration::from_secs(8), false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn black_hole_is_noticed_and_loses_nothing() {
    let _turn = shared_turn().await;
    fault(Fault::BlackHole, Duration::from_secs(8), true).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long"]
async fn minute_of_black_hole_loses_nothing() {
    let _turn = shared_turn().await;
    fault(Fault::BlackHole, Duration::from_secs(60), true).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long"]
async fn minute_of_refusal_loses_nothing() {
    let _turn = shared_turn().await;
    fault(Fault::Refuse, Duration::from_secs(60), true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_feeds_lose_nothing() {
    let _turn = shared_turn().await;
    let Some(topic) = Topic::fresh().await else { return };
    let scene = Scene::open(topic).await;
    for _ in 0..2 {
        for pod in &scene.deployment.pods {
            for feed in scene.topic.feeds_of(pod.name()).await {
                scene.topic.delete(&feed).await;
            }
        }
        scene.others_publish(Duration::from_secs(2)).await;
    }
    scene.close("every feed deleted, twice").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_get_gap_after_broker_restarts_empty() {
    let _turn = shared_turn().await;
    let Some(topic) = Topic::fresh().await else { return };
    let (topic, emulator) = topic.anew().await;
    let mut scene = Scene::open(topic).await;
    emulator.stop().await;
    sleep(Duration::from_secs(2)).await;
    let (empty, _emulator) = scene.topic.anew().await;
    scene.proxy.lead_to(empty.host());
    scene.topic = empty;
    for pod in &scene.deployment.pods {
        eventually("the pod has a feed again", RECOVERY, async || {
            (!scene.topic.feeds_of(pod.name()).await.is_empty()).then_some(())
        })
        .await;
    }
    scene.deployment.until_ready(RECOVERY).await;
    scene.ledger.revive(&scene.topic, &[&scene.crowd]).await;
    scene.traffic.stop().await;
    let verdict = scene.ledger.settle(&scene.topic, &[&scene.crowd]).await;
    println!("broker restarted empty: {}, {} missing", verdict.summary(), verdict.missing.len());
    verdict.assert_truthful();
    let is_reported = verdict.gaps.iter().enumerate().all(|(client, gaps)| {
        let misses = verdict
            .missing
            .iter()
            .any(|missing| missing.split([' ', ':']).nth(1) == Some(&*client.to_string()));
        *gaps == 1 || (!misses && *gaps == 0)
    });
    assert!(is_reported, "missing: {:?}, gap notices: {:?}", verdict.missing, verdict.gaps);
}

#[tokio::test(flavor = "multi_thread")]
async fn pod_becomes_ready_after_broker_and_topic_appear() {
    let _turn = shared_turn().await;
    let Some(topic) = Topic::fresh().await else { return };
    let proxy = Proxy::start(topic.host()).await;
    proxy.set(Fault::Refuse);
    let mut deployment = Deployment::launch(&topic.seen_at(&proxy.host()), 2);
    for pod in &deployment.pods {
        let answer = eventually("the pod is up", RECOVERY, async || pod.http.try_get("/livez").await).await;
        assert_eq!(answer.status, 200);
        assert_eq!(pod.http.get("/readyz").await.status, 503);
    }
    sleep(Duration::from_secs(1)).await;
    proxy.set(Fault::None);
    deployment.until_ready(RECOVERY).await;
    let scene = Scene::with_clients(topic, proxy, deployment).await;
    scene.close("broker later than its pods").await;
}
