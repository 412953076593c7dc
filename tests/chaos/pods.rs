//! Pods that are replaced, killed and multiplied under load.

use std::time::Duration;

use tokio::time::sleep;

use crate::{
    deployment::Deployment,
    oracle::{Ledger, Traffic},
    resuming::{Crowd, NARROW},
    support::{Topic, USERS},
};

/// How large a scenario is.
struct Size {
    clients: usize,
    events_per_second: u32,
}

const SHORT: Size = Size { clients: 80, events_per_second: 20 };
const LONG: Size = Size { clients: 400, events_per_second: 50 };

/// Between one change of the deployment and the next.
const PAUSE: Duration = Duration::from_secs(2);

async fn crash(size: Size) {
    let Some(topic) = Topic::fresh().await else { return };
    let mut deployment = Deployment::start(&topic, 4, &[]).await;
    let crowd = Crowd::gather(&deployment.ports, &USERS, size.clients, NARROW).await;
    let ledger = Ledger::default();
    let traffic = Traffic::start(&ledger, &deployment.ports, size.events_per_second);
    for _ in 0..4 {
        sleep(PAUSE).await;
        let mut pod = deployment.retire();
        pod.kill();
        deployment.add(Some(pod.port())).await;
    }
    sleep(PAUSE).await;
    traffic.stop().await;
    let verdict = ledger.settle(&topic, &[&crowd]).await;
    println!("crash: {}", verdict.summary());
    verdict.assert_flawless();
    verdict.assert_ordered();
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_are_killed_and_nobody_misses_an_event() {
    crash(SHORT).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: minutes"]
async fn pods_are_killed_and_nobody_of_400_misses_an_event() {
    crash(LONG).await;
}
