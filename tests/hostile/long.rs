//! The long form: honest users are measured while each attack lasts, and while all last at once.
//!
//! `docs/SECURITY-TESTS.md` has the command, and the table that it printed last. `HOSTILE_SECONDS`
//! is the time of each attack, `HOSTILE_MEMORY_MIB` and `HOSTILE_DELAY_MS` what it may cost. An
//! attack that fails does not keep the others from being measured.

use std::{collections::HashMap, panic::AssertUnwindSafe, time::Duration};

use futures_util::FutureExt as _;
use serde_json::Value;
use tokio::{
    task::JoinSet,
    time::{Instant, interval, sleep, timeout},
};

use crate::{
    attacks::{ATTACKS, Attack},
    support::{Client, Dialect, Http, Relay, Setup, environment},
};

/// Time between two events of the honest author, and two queries of an honest user.
const PERIOD: Duration = Duration::from_millis(100);

/// Longest time for one event to reach the honest watcher.
const LONGEST: Duration = Duration::from_secs(30);

fn setting(name: &str, default: u64) -> u64 {
    environment(name).and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// What honest users noticed, in milliseconds at the 99th percentile.
struct Noticed {
    delivery: u128,
    query: u128,
}

fn p99(mut times: Vec<Duration>) -> u128 {
    times.sort();
    times[times.len() * 99 / 100].as_millis()
}

/// Publishes, watches and queries for this time as honest users do. Fails if an event is missed, a
/// gap is reported, or anything is refused.
async fn measure(pod: &Relay, watcher: &mut Client, round: &str, time: Duration) -> Noticed {
    let (mut deliveries, mut queries) = (Vec::new(), Vec::new());
    let (mut sent, mut period) = (HashMap::new(), interval(PERIOD));
    let (http, until) = (Http::new(pod.port()), Instant::now() + time);
    for n in 0.. {
        period.tick().await;
        if Instant::now() >= until {
            break;
        }
        let name = format!("{round} {n}");
        sent.insert(name.clone(), Instant::now());
        let published = http.add_template("ZELO", &name, Some(&["3"])).await;
        assert_eq!(published.json()["data"]["addTemplate"]["success"], true, "{published:?}");
        // Events of attackers reach the watcher as well.
        let received = loop {
            let next = timeout(LONGEST, watcher.socket.receive()).await.unwrap().unwrap();
            assert!(next["payload"]["extensions"]["gap"].is_null(), "{next}");
            let received = next["payload"]["data"]["templateAdded"]["name"].as_str().unwrap();
            if sent.contains_key(received) {
                break received.to_owned();
            }
        };
        assert_eq!(received, name, "no event is missed");
        deliveries.push(sent[&name].elapsed());
        let began = Instant::now();
        let answer = http.graphql("ZEWI", "{templateById(id: \"none\") {name}}", Value::Null).await;
        assert_eq!((answer.status, answer.code()), (200, String::new()), "{answer:?}");
        queries.push(began.elapsed());
    }
    Noticed { delivery: p99(deliveries), query: p99(queries) }
}

/// Watches as an honest user. The attackers of the last round may still be counted, so nothing is
/// counted.
async fn honest_watcher(pod: &Relay) -> Client {
    let mut watcher = Client::connect(pod.port(), Dialect::Transport, "ZEWI").await;
    watcher.watch().await;
    sleep(Duration::from_secs(1)).await;
    watcher
}

/// Runs the attacks while honest users are measured. Returns a row of the table, and whether the
/// attacks cost too much.
async fn round(pod: &Relay, attacks: &[(&str, Attack)], alone: &Noticed, time: Duration) -> (String, bool) {
    let name = if let [(name, _)] = attacks { name } else { "all at once" };
    let mut watcher = honest_watcher(pod).await;
    let mut running = JoinSet::new();
    for (_, attack) in attacks {
        running.spawn(repeat(*attack, pod.port()));
    }
    sleep(Duration::from_secs(2)).await;
    let during = AssertUnwindSafe(measure(pod, &mut watcher, name, time)).catch_unwind().await;
    let memory = pod.memory() >> 20;
    running.shutdown().await;
    let Ok(Noticed { delivery, query }) = during else {
        return (
            format!("| {name} | an honest user was refused or missed an event | | {memory} MiB |"),
            true,
        );
    };
    let most = u128::from(setting("HOSTILE_DELAY_MS", 100));
    let is_too_much = memory > setting("HOSTILE_MEMORY_MIB", 464)
        || delivery >= alone.delivery + most
        || query >= alone.query + most;
    (format!("| {name} | {delivery} ms | {query} ms | {memory} MiB |"), is_too_much)
}

/// Runs an attack again when the pod has ended it: the test's own clients expect to be served.
async fn repeat(attack: Attack, port: u16) {
    while AssertUnwindSafe(attack(port)).catch_unwind().await.is_err() {
        sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "takes minutes: docs/SECURITY-TESTS.md"]
async fn honest_users_notice_no_attack() {
    let time = Duration::from_secs(setting("HOSTILE_SECONDS", 20));
    let setup = Setup::new("pod").set("RELAY_USER_EVENT_RATE", "").set("RELAY_USER_EVENT_BYTES", "");
    let setup = setup.set("RELAY_MEMORY", "256MiB").set("RELAY_MAX_CONNECTIONS", "1000");
    let pod = setup.start().await;
    let mut watcher = honest_watcher(&pod).await;
    let alone = measure(&pod, &mut watcher, "alone", time).await;
    drop(watcher);
    println!("| attack | p99 of a delivery | p99 of a query | memory |\n|---|---|---|---|");
    println!("| none | {} ms | {} ms | {} MiB |", alone.delivery, alone.query, pod.memory() >> 20);
    let mut failed = Vec::new();
    for attacks in ATTACKS.iter().map(std::slice::from_ref).chain([&ATTACKS[..]]) {
        let (row, is_too_much) = round(&pod, attacks, &alone, time).await;
        println!("{row}");
        failed.extend(is_too_much.then_some(row));
    }
    assert!(failed.is_empty(), "{failed:#?}");
}
