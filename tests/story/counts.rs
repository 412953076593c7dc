//! Counts of the viewers who listen to a key, over several pods, after a crash and in a rollout.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::support::{Client, Dialect, PATIENCE, Relay, Setup, Topic, eventually};

/// Heartbeat interval of the pods, and two of them with the time of a busy machine.
const INTERVAL: Duration = Duration::from_secs(4);
const TWO_INTERVALS: Duration = Duration::from_millis(8_500);

const SCHEMA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/story/counted-rooms.graphql");

/// Returns the demo token of a user in the room `tea`.
fn token(user: usize) -> String {
    format!(r#"{{"sub":"user-{user}","rooms":["tea"]}}"#)
}

async fn start(topic: &Topic, name: &str) -> Relay {
    start_with(Setup::new(name).topic(topic)).await
}

async fn start_with(setup: Setup) -> Relay {
    let setup = setup.set("RELAY_SCHEMA", SCHEMA);
    let setup = setup.set("RELAY_HEARTBEAT_INTERVAL", format!("{}s", INTERVAL.as_secs()));
    setup.set("RELAY_DRAIN_DELAY", "0s").set("RELAY_DRAIN_SPREAD", "1s").start().await
}

/// Pod with the clients of these users.
struct Pod {
    relay: Relay,
    users: Vec<usize>,
    clients: Vec<Client>,
}

impl Pod {
    async fn start(topic: &Topic, name: &str) -> Self {
        Self { relay: start(topic, name).await, users: Vec::new(), clients: Vec::new() }
    }

    async fn listen(&mut self, users: &[usize]) {
        for user in users {
            let mut client = Client::connect(self.relay.port(), Dialect::Transport, &token(*user)).await;
            client.start("posted", "subscription { posted { room } }").await;
            self.users.push(*user);
            self.clients.push(client);
        }
    }
}

/// Asks this pod for the count.
async fn count(pod: &Relay) -> Value {
    let query = "query($room: ID!) { viewers(room: $room) }";
    let answer = pod.http.graphql(&token(0), query, json!({ "room": "tea" })).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json()["data"]["viewers"].clone()
}

async fn counts(pods: &[Pod]) -> Vec<Value> {
    join_all(pods.iter().map(|pod| count(&pod.relay))).await
}

/// Asserts that every pod gives this count from two intervals after `since`, for half an interval.
async fn expect_count(pods: &[Pod], expected: usize, since: Instant) {
    let right = since + TWO_INTERVALS;
    // Clients keep asking meanwhile.
    while Instant::now() < right + INTERVAL / 2 {
        let began = Instant::now();
        let counts = counts(pods).await;
        let is_right = counts.iter().all(|count| *count == expected);
        assert!(is_right || began < right, "not {expected} after {:?}: {counts:?}", since.elapsed());
        sleep(INTERVAL / 10).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_are_right_after_crash_and_rollout() {
    let Some(topic) = Topic::fresh().await else { return };
    let mut pods = join_all(["one", "two", "three"].map(|name| Pod::start(&topic, name))).await;
    // Users 3 and 6 are connected to two pods.
    for (pod, users) in pods.iter_mut().zip([[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8, 9]]) {
        pod.listen(&users).await;
    }
    eventually("all viewers are counted", PATIENCE, async || {
        counts(&pods).await.iter().all(|count| *count == 10).then_some(())
    })
    .await;
    let mut counting = Client::connect(pods[0].relay.port(), Dialect::Transport, &token(0)).await;
    counting.start("count", "subscription { viewers(room: \"tea\") }").await;
    let first = counting.socket.receive().await.unwrap();
    assert_eq!(first["payload"]["data"], json!({ "viewers": 10 }), "{first}");

    // A crash: half of its clients come back to another pod.
    let crashed = Instant::now();
    pods.pop().unwrap().relay.kill();
    pods[1].listen(&[6, 7]).await;
    let next = eventually("the subscription has the new count", TWO_INTERVALS, async || {
        let next = counting.socket.receive().await.unwrap();
        (next["payload"]["data"]["viewers"] == 8).then_some(next)
    });
    let ((), next) = tokio::join!(expect_count(&pods, 8, crashed), next);
    assert_eq!(next["id"], "count", "{next}");

    // A rolling restart: each pod is replaced in turn, and its clients come back to the newest one.
    for name in ["four", "five"] {
        pods.push(Pod::start(&topic, name).await);
        let mut old = pods.remove(0);
        old.relay.signal("TERM");
        old.relay.ended().await;
        let replaced = Instant::now();
        pods[1].listen(&old.users).await;
        expect_count(&pods, 8, replaced).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_count_is_in_metric_of_refusals() {
    // As many keys as a user may ask for.
    const MOST: usize = 16;
    let pod = start_with(Setup::new("pod")).await;
    let rooms: Vec<String> = (0..=MOST).map(|n| format!("r{n}")).collect();
    let token = json!({ "sub": "ann", "rooms": rooms }).to_string();
    let query = |room: &str| format!("{{ viewers(room: \"{room}\") }}");
    let refused = async || pod.metric_of("relay_refusals_total", r#"limit="counts""#).await.round();
    for room in &rooms[..MOST] {
        let answer = pod.http.graphql(&token, &query(room), Value::Null).await;
        assert_eq!((answer.status, &answer.json()["errors"]), (200, &Value::Null), "{}", answer.text);
    }
    let answer = pod.http.graphql(&token, &query(&rooms[MOST]), Value::Null).await;
    assert_eq!((&*answer.code(), refused().await), ("LIMIT_REACHED", 1.0), "{}", answer.text);
    let mut client = Client::connect(pod.port(), Dialect::Transport, &token).await;
    client.start("count", &format!("subscription {}", query(&rooms[MOST]))).await;
    let error = client.socket.receive().await.unwrap();
    assert_eq!(error["payload"][0]["extensions"]["code"], "LIMIT_REACHED", "{error}");
    assert_eq!(refused().await, 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn viewer_cannot_count_others_room() {
    let Some(topic) = Topic::fresh().await else { return };
    let pod = start(&topic, "one").await;
    let query = "{ viewers(room: \"gin\") }";
    let answer = pod.http.graphql(&token(0), query, json!({})).await;
    assert_eq!(answer.code(), "FORBIDDEN", "{}", answer.text);
    let mut client = Client::connect(pod.port(), Dialect::Transport, &token(0)).await;
    client.start("count", &format!("subscription {query}")).await;
    let refused = client.socket.receive().await.unwrap();
    assert_eq!(refused["type"], "error", "{refused}");
    assert_eq!(refused["payload"][0]["extensions"]["code"], "FORBIDDEN", "{refused}");
}
