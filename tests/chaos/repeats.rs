//! Repeats and long absences: a repeated event arrives once, and a client that was away too long
//! gets a gap notice.
//!
//! Pub/Sub delivers at least once and in any order across authors. A repeat must never reach a
//! client twice on one connection.

use std::time::Duration;

use tokio::time::sleep;

use crate::{
    deployment::Deployment,
    oracle::{Ledger, Traffic},
    resuming::{Behaviour, Crowd, NARROW},
    shared_turn,
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
            // half-way, some clients resume on another pod
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
    let _turn = shared_turn().await;
    twice(40, 400).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long"]
async fn crowd_of_400_receives_shuffled_repeats_once() {
    let _turn = shared_turn().await;
    twice(400, 4_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn client_away_beyond_window_gets_one_gap() {
    let _turn = shared_turn().await;
    let Some(topic) = Topic::fresh().await else { return };
    let deployment = Deployment::start(&topic, 2, &[("RELAY_REPLAY_WINDOW", "10s")]).await;
    let absent = Crowd::gather(&deployment.ports, &USERS, 8, NARROW).await;
    let others = Crowd::gather(&deployment.ports, &USERS, 8, NARROW).await;
    let ledger = Ledger::default();
    let traffic = Traffic::start(&ledger, &deployment.ports, 8);
    sleep(Duration::from_secs(1)).await;
    absent.set(Behaviour::Away);
    sleep(Duration::from_secs(16)).await;
    absent.set(Behaviour::Reading);
    sleep(Duration::from_secs(2)).await;
    traffic.stop().await;
    ledger.revive(&topic, &[&absent]).await;

    let awake = ledger.settle(&topic, &[&others]).await;
    awake.assert_flawless();
    let verdict = ledger.settle(&topic, &[&absent]).await;
    println!("asleep for longer than the window: {}", verdict.summary());
    verdict.assert_truthful();
    assert!(!verdict.missing.is_empty(), "nothing was missed");
    assert!(verdict.gaps.iter().all(|gaps| *gaps == 1), "gap notices: {:?}", verdict.gaps);
}
