//! Stuck clients, and many clients that return at once: what they cost the other clients.
//!
//! The cost is the p99 latency of the others, compared with undisturbed rounds on the same machine.
//! A slow client must never delay another.

use std::{collections::HashSet, time::Duration};

use tokio::time::sleep;

use crate::{
    deployment::Deployment,
    exclusive_turn,
    oracle::{Ledger, Traffic},
    resuming::{Behaviour, Crowd, NARROW, WIDE},
    support::{Topic, eventually},
};

/// Rounds, each undisturbed first and disturbed then; the medians are compared. Other work of the
/// machine delays single rounds, but the cost of stuck clients appears in every round.
const ROUNDS: usize = 3;

/// Promised limit of the delay of others: a fifth, or this much.
const PROMISED: Duration = Duration::from_millis(20);

/// The same limit for an unoptimised pod that shares two cores with its clients and other tests. It
/// finds a pod that blocks, not one that is only busy.
const UNOPTIMISED: Duration = Duration::from_secs(2);

/// Time between two events of a measurement.
const PACE: Duration = Duration::from_millis(40);

const MIB: u64 = 1 << 20;
/// The pod's `RELAY_QUEUE_BYTES`.
const QUEUE_BYTES: u64 = 256 << 10;
/// The pod's `RELAY_REPLAY_BYTES`.
const REPLAY_BYTES: u64 = 96 * MIB;

/// Returns the p99 latency of the events from number `from` on: from the start of publishing to the
/// arrival at each client.
fn p99(ledger: &Ledger, crowd: &Crowd, from: usize) -> Duration {
    let mut latencies = Vec::new();
    for record in crowd.records() {
        let mut met = HashSet::new();
        let news =
            record.received.iter().filter(|received| received.number >= from && met.insert(received.number));
        latencies.extend(news.map(|received| received.at - ledger.began(received.number)));
    }
    latencies.sort_unstable();
    latencies[latencies.len() * 99 / 100]
}

/// Asserts that the disturbed p99 is within the tolerance of the undisturbed one. It compares
/// medians.
fn assert_near(mut undisturbed: Vec<Duration>, mut disturbed: Vec<Duration>, tolerance: Duration) {
    undisturbed.sort_unstable();
    disturbed.sort_unstable();
    let (before, after) = (undisturbed[ROUNDS / 2], disturbed[ROUNDS / 2]);
    println!("p99 of others: {undisturbed:?} undisturbed, {disturbed:?} disturbed");
    let limit = (before + tolerance).max(before.mul_f64(1.2));
    assert!(after <= limit, "undisturbed {before:?}, disturbed {after:?}");
}

/// Publishes events of 100 KB each to location 3, waits until the crowd has them, and returns its
/// p99.
async fn large_events(topic: &Topic, ledger: &Ledger, crowd: &Crowd, count: usize) -> Duration {
    let from = ledger.len();
    for _ in 0..count {
        ledger.publish(topic, 1, &["3"], |message| message.padded(100 << 10)).await;
        sleep(PACE).await;
    }
    until_received(ledger, crowd).await;
    p99(ledger, crowd, from)
}

/// Waits until every client of the crowd has the latest event, which must match all of them.
async fn until_received(ledger: &Ledger, crowd: &Crowd) {
    let last = ledger.len() - 1;
    eventually("all clients have the last event", Duration::from_secs(60), async || {
        crowd
            .records()
            .all(|record| record.received.iter().any(|received| received.number == last))
            .then_some(())
    })
    .await;
}

async fn stuck(others: usize, slow: usize, events: usize, tolerance: Duration) {
    let Some(topic) = Topic::fresh().await else { return };
    let settings = [("RELAY_QUEUE_BYTES", "256KiB"), ("RELAY_REPLAY_BYTES", "96MiB")];
    let deployment = Deployment::start(&topic, 1, &settings).await;
    let pod = &deployment.pods[0];
    let others = Crowd::gather(&deployment.ports, &["ZOLO", "ZEWI"], others, NARROW).await;
    let slow = Crowd::gather(&deployment.ports, &["ZOLO", "ZEWI"], slow, WIDE).await;
    let ledger = Ledger::default();
    let (mut undisturbed, mut disturbed) = (Vec::new(), Vec::new());
    let mut memory = (u64::MAX, 0);
    for _ in 0..ROUNDS {
        undisturbed.push(large_events(&topic, &ledger, &others, events).await);
        until_received(&ledger, &slow).await;
        memory.0 = memory.0.min(pod.memory());
        slow.set(Behaviour::Stuck);
        disturbed.push(large_events(&topic, &ledger, &others, events).await);
        memory.1 = memory.1.max(pod.memory());
        slow.set(Behaviour::Reading);
        until_received(&ledger, &slow).await;
    }
    let ended = pod.metric_of("relay_connection_ends_total", r#"reason="slow""#).await;
    let verdict = ledger.settle(&topic, &[&others, &slow]).await;
    let (before, after) = (memory.0 / MIB, memory.1 / MIB);
    println!("stuck: {before} MiB, with the stuck {after} MiB, {ended} ends; {}", verdict.summary());
    assert!(ended >= 1.0, "no client was slow");
    verdict.assert_flawless();
    // each stuck connection holds its queue, and as much again that is being written
    let stuck = u64::try_from(slow.records().count()).unwrap() * 2 * QUEUE_BYTES;
    assert!(memory.1 <= memory.0 + REPLAY_BYTES + stuck, "{before} MiB became {after} MiB");
    assert_near(undisturbed, disturbed, tolerance);
}

async fn return_at_once(others: usize, many: usize, tolerance: Duration) {
    let Some(topic) = Topic::fresh().await else { return };
    let deployment = Deployment::start(&topic, 1, &[]).await;
    let others = Crowd::gather(&deployment.ports, &["ZOLO", "ZEWI"], others, NARROW).await;
    let many = Crowd::gather(&deployment.ports, &["ZOLO", "ZEWI"], many, NARROW).await;
    let ledger = Ledger::default();
    let measured = async |during: Duration| {
        let from = ledger.len();
        let traffic = Traffic::start(&ledger, &deployment.ports, 25);
        sleep(during).await;
        traffic.stop().await;
        ledger.publish(&topic, 1, &["3"], |message| message).await;
        until_received(&ledger, &others).await;
        p99(&ledger, &others, from)
    };
    let (mut undisturbed, mut disturbed) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        undisturbed.push(measured(Duration::from_secs(3)).await);
        many.set(Behaviour::Away);
        measured(Duration::from_secs(3)).await;
        many.set(Behaviour::Reading);
        disturbed.push(measured(Duration::from_secs(3)).await);
        until_received(&ledger, &many).await;
    }
    let verdict = ledger.settle(&topic, &[&others, &many]).await;
    println!("return at once: {}", verdict.summary());
    verdict.assert_flawless();
    assert_near(undisturbed, disturbed, tolerance);
}

#[tokio::test(flavor = "multi_thread")]
async fn stuck_clients_resume_and_cost_others_nothing() {
    let _turn = exclusive_turn().await;
    stuck(45, 5, 100, UNOPTIMISED).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long"]
async fn fifty_stuck_of_500_cost_others_nothing() {
    let _turn = exclusive_turn().await;
    stuck(450, 50, 100, PROMISED).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn returning_clients_do_not_delay_others() {
    let _turn = exclusive_turn().await;
    return_at_once(20, 100, UNOPTIMISED).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long"]
async fn thousand_returning_clients_do_not_delay_others() {
    let _turn = exclusive_turn().await;
    return_at_once(100, 1_000, PROMISED).await;
}
