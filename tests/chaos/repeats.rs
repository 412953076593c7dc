//! What the topic says twice is heard once, and what is too long ago is told as a gap.

use std::time::Duration;

use tokio::time::sleep;

use crate::{
    at_a_time,
    deployment::Deployment,
    oracle::{Ledger, Traffic},
    resuming::{Crowd, Mood, NARROW},
    support::{Topic, USERS},
};

async fn twice(clients: usize, events: usize) {
    let Some(topic) = Topic::fresh().await else { return };
    let mut deployment = Deployment::start(&topic, 2, &[]).await;
    let crowd = Crowd::gather(&deployment.ports, &USERS, clients, NARROW).await;
    let ledger = Ledger::default();
    for round in 0..4 {
        ledger.publish_twice(&topic, events / 4).await;
        if round == 1 {
            // in the middle, some resume on another pod
            deployment.retire().kill();
        }
    }
    let verdict = ledger.settle(&topic, &[&crowd]).await;
    println!("twice and shuffled: {}", verdict.summary());
    verdict.assert_flawless();
    assert!(deployment.metric("relay_events_deduplicated_total").await >= 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn client_receives_shuffled_repeats_once() {
    let _turn = at_a_time().await;
    twice(40, 400).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long"]
async fn crowd_of_400_receives_shuffled_repeats_once() {
    let _turn = at_a_time().await;
    twice(400, 4_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn client_away_beyond_window_gets_one_gap() {
    let _turn = at_a_time().await;
    let Some(topic) = Topic::fresh().await else { return };
    let deployment = Deployment::start(&topic, 2, &[("RELAY_REPLAY_WINDOW", "10s")]).await;
    let sleepers = Crowd::gather(&deployment.ports, &USERS, 8, NARROW).await;
    let others = Crowd::gather(&deployment.ports, &USERS, 8, NARROW).await;
    let ledger = Ledger::default();
    let traffic = Traffic::start(&ledger, &deployment.ports, 8);
    sleep(Duration::from_secs(1)).await;
    sleepers.set(Mood::Asleep);
    sleep(Duration::from_secs(16)).await;
    sleepers.set(Mood::Awake);
    sleep(Duration::from_secs(2)).await;
    traffic.stop().await;
    ledger.revive(&topic, &[&sleepers]).await;

    let awake = ledger.settle(&topic, &[&others]).await;
    awake.assert_flawless();
    let verdict = ledger.settle(&topic, &[&sleepers]).await;
    println!("asleep for longer than the window: {}", verdict.summary());
    verdict.assert_truthful();
    assert!(!verdict.missing.is_empty(), "nothing was missed");
    assert!(verdict.gaps.iter().all(|gaps| *gaps == 1), "gap notices: {:?}", verdict.gaps);
}
