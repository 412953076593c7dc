//! Revocations at full size: a user with 40 connections on six pods under load, again and again,
//! while pods come and go.
//!
//! A token of before must never work again, on any pod, whatever others put on the topic.

use std::time::Duration;

use futures_util::future::join_all;
use jsonwebtoken::get_current_timestamp;
use serde_json::json;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::{
    revoke::{LIMIT, fresh_token, metric, query, revoke, start, token},
    support::{Client, Dialect, Http, Message, PATIENCE, Relay, Topic, eventually},
};

const PODS: usize = 6;

/// Connections of the revoked user.
const CONNECTIONS: usize = 40;

/// Connections of another user on each pod.
const OTHERS: usize = 20;

/// Time between two events.
const PACE: Duration = Duration::from_millis(50);

/// Revocations, one after the other.
const TRIES: usize = 20;

/// Type of the events with records.
const RECORDS: &str = "relay.revocations.v1";

type Pod = (Relay, Http);

/// Starts other users' clients on each pod, and an author whose templates all clients receive.
async fn load(pods: &[Pod]) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let (other, author) = (token("2", &json!({})), token("3", &json!({})));
    for (pod, _) in pods {
        for _ in 0..OTHERS {
            let mut client = Client::connect(pod.port(), Dialect::Transport, &other).await;
            client.watch().await;
            tasks.spawn(async move { while client.socket.receive().await.is_ok() {} });
        }
    }
    let pods: Vec<Http> = pods.iter().map(|(pod, _)| pod.http.clone()).collect();
    tasks.spawn(async move {
        for pod in pods.iter().cycle() {
            pod.add_template(&author, "of the load", Some(&["3"])).await;
            sleep(PACE).await;
        }
    });
    tasks
}

/// Connects the user's clients to all pods, and revokes the user's tokens at one. Returns how long
/// the last connection lived after that.
async fn revoke_once(pods: &[Pod], at: usize, token: &str) -> Duration {
    let clients = join_all((0..CONNECTIONS).map(async |number| {
        let dialect = [Dialect::Transport, Dialect::Legacy][number % 2];
        let mut client = Client::connect(pods[number % PODS].0.port(), dialect, token).await;
        client.watch().await;
        client
    }));
    let mut clients = clients.await;
    let began = Instant::now();
    let ends = clients.iter_mut().map(async |client| {
        let (_, end) = client.socket.receive_to_end().await;
        assert_eq!((end.code, &*end.reason), (4403, "TOKEN_REVOKED"));
        began.elapsed()
    });
    let (_, ends) = tokio::join!(revoke(&pods[at].1, json!({ "user": "4" })), join_all(ends));
    ends.into_iter().max().unwrap()
}

/// Puts recorded and forged records on the topic, and waits until each pod has refused the forged
/// ones.
async fn attack(topic: &Topic, pods: &[Pod], recorded: Vec<Message>) {
    let before = get_current_timestamp() * 1_000 + 30_000;
    let records = json!([{ "user": "4", "before": before }, { "user": "2", "before": before }]);
    let unsigned = Message::template("x", &[]).with("ce-type", RECORDS).with("ce-source", "/pods/pod-1");
    let (sent, hmac) = (before - 30_000, "0".repeat(64));
    let data = format!(r#"{{"records":{records},"sent":{sent},"hmac":"{hmac}"}}"#);
    let forged = unsigned.clone().with("ce-id", "forged").with_data(data);
    let unsigned = unsigned.with_data(json!({ "records": records }).to_string());
    topic.publish(recorded.into_iter().chain([unsigned, forged])).await;
    for (_, admin) in pods {
        eventually("the forged record is counted", PATIENCE, async || {
            let forged = metric(admin, "relay_control_unproven_total{reason=\"forged\"").await;
            (forged >= 1.0).then_some(())
        })
        .await;
        let records = metric(admin, "relay_revocations ").await;
        assert!((records - 1.0).abs() < 0.5, "{records} records");
    }
}

/// Asserts that each pod refuses the old tokens and serves the fresh one.
async fn assert_refused(pods: &[Pod], old: &[&str], fresh: &str) {
    for (pod, _) in pods {
        for token in old {
            assert_eq!(query(pod, token).await, (401, "TOKEN_REVOKED".to_owned()), "{}", pod.name());
        }
        assert_eq!(query(pod, fresh).await.0, 200, "{}", pod.name());
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long"]
async fn forty_connections_end_within_second_each_time() {
    let Some(topic) = Topic::on_pubsub().await else { return };
    let mut pods: Vec<Pod> = Vec::new();
    for number in 1..=PODS {
        pods.push(start(&format!("pod-{number}"), Some(&topic)).await);
    }
    topic.record().await;
    let load = load(&pods).await;
    let (first, mut last, mut lives) = (token("4", &json!({})), String::new(), Vec::new());
    for number in 0..TRIES {
        last = fresh_token("4", &json!({})).await;
        lives.push(revoke_once(&pods, number % PODS, &last).await);
    }
    lives.sort_unstable();
    println!(
        "{CONNECTIONS} connections ended in {TRIES} tries: median {:?}, most {:?}",
        lives[TRIES / 2],
        lives[TRIES - 1]
    );
    assert!(lives[TRIES - 1] < LIMIT, "{lives:?}");

    let fresh = fresh_token("4", &json!({})).await;
    let mut client = Client::connect(pods[0].0.port(), Dialect::Transport, &fresh).await;
    drop(load);
    let recorded = topic.recorded(RECORDS).await;
    println!("{} records come again", recorded.len());
    attack(&topic, &pods, recorded).await;
    client.start("still", "{ __typename }").await;
    assert_eq!(client.socket.receive().await.unwrap()["id"], "still", "nothing has ended it");
    assert_refused(&pods, &[&first, &last], &fresh).await;

    pods.push(start("afterwards", Some(&topic)).await);
    assert_refused(&pods[PODS..], &[&first, &last], &fresh).await;
    for number in 1..=pods.len() {
        let (mut old, _) = pods.remove(0);
        old.signal("TERM");
        assert_eq!(old.ended().await.code(), Some(0), "{}", old.output());
        pods.push(start(&format!("new-{number}"), Some(&topic)).await);
    }
    assert_refused(&pods, &[&first, &last], &fresh).await;
    assert_eq!(query(&pods[0].0, &token("2", &json!({}))).await, (200, String::new()));
}
