//! Connect and disconnect events, which another program reads with a subscription of its own.
//!
//! No client and no domain may see one.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::{
    Client, Dialect, EVENTS, Message, PATIENCE, Setup, Socket, Streamed, Topic, eventually, watchers_on,
};

/// Returns the connect and disconnect events among these messages: type without prefix, and data.
fn announced(messages: Vec<(Value, Value)>) -> Vec<(String, Value)> {
    let kind = |attributes: &Value| attributes["ce-type"].as_str().unwrap_or_default().to_owned();
    let messages = messages.into_iter().map(|(attributes, data)| (kind(&attributes), data));
    let is_announced = |kind: &str| ["relay.connected.v1", "relay.disconnected.v1"].contains(&kind);
    messages.filter(|(kind, _)| is_announced(kind)).collect()
}

/// Returns the ends among these events: user, pod, transport and reason, sorted.
fn ends(events: &[(String, Value)]) -> Vec<String> {
    let ends = events.iter().filter(|(kind, _)| kind == "relay.disconnected.v1");
    let fields = |(_, data): &(String, Value)| {
        assert!(data["duration"].as_f64().is_some_and(|duration| duration < 60.0), "{data}");
        ["user", "pod", "transport", "reason"].map(|name| data[name].as_str().unwrap_or_default()).join(" ")
    };
    let mut ends: Vec<_> = ends.map(fields).collect();
    ends.sort_unstable();
    ends
}

#[tokio::test(flavor = "multi_thread")]
async fn program_reads_connects_and_disconnects_of_pods() {
    let Some(topic) = Topic::on_pubsub().await else { return };
    topic.make(None).await;
    let reader = topic.subscribe().await;
    let pods = ["one", "two"].map(|name| {
        let setup = Setup::new(name).topic(&topic).set("RELAY_CONNECTION_EVENTS", "on");
        setup.set("RELAY_DRAIN_DELAY", "0s").set("RELAY_DRAIN_SPREAD", "1s").start()
    });
    let mut pods = join_all(pods).await;

    // Peers without a user, which no event may name.
    let mut refused = Socket::open(pods[0].port(), Some("graphql-transport-ws")).await;
    refused.send(json!({ "type": "connection_init", "payload": { "token": "Bearer NOBODY" } })).await;
    assert_eq!(refused.receive_to_end().await.1.code, 4403);
    let anonymous = Socket::open(pods[0].port(), Some("graphql-transport-ws")).await;

    let leaving = Client::connect(pods[0].port(), Dialect::Transport, "ZOWI").await;
    let stream = Streamed::watch(EVENTS, &pods[1], "ZOLO").await;
    let mut drained = watchers_on(&pods[1], Dialect::Transport, &["ZEWI"]).await;
    let mut witness = watchers_on(&pods[0], Dialect::Transport, &["ZOLO"]).await;
    leaving.socket.close().await;
    drop(stream);
    let mut events = Vec::new();
    eventually("two connections have left", PATIENCE, async || {
        events.extend(announced(topic.pull(&reader).await));
        (ends(&events).len() == 2).then_some(())
    })
    .await;

    // A watcher receives the next template, and neither pod has taken the events for its own.
    topic.publish([Message::template("after", &["3"])]).await;
    assert_eq!(witness[0].next().await, "after");
    assert_eq!(drained[0].next().await, "after");
    for pod in &pods {
        assert!(pod.metric("relay_events_rejected_total").await < 0.5, "{}", pod.name());
        assert!((pod.metric("relay_events_received_total").await - 1.0).abs() < 0.5, "{}", pod.name());
    }

    pods[1].signal("TERM");
    assert_eq!(drained[0].socket.receive_to_end().await.1.code, 1012);
    assert_eq!(pods[1].ended().await.code(), Some(0));
    eventually("the drain has told its ends", PATIENCE, async || {
        events.extend(announced(topic.pull(&reader).await));
        (ends(&events).len() == 3).then_some(())
    })
    .await;
    assert_eq!(ends(&events), ["2 two ws drained", "3 one ws left", "4 two sse left"]);
    let connections = |kind: &str| {
        let of_kind = events.iter().filter(|(other, _)| other == kind);
        of_kind.map(|(_, data)| data["connection"].to_string()).collect::<std::collections::BTreeSet<_>>()
    };
    let (began, ended) = (connections("relay.connected.v1"), connections("relay.disconnected.v1"));
    assert_eq!((began.len(), ended.len()), (4, 3), "{events:?}");
    assert!(ended.is_subset(&began), "each end names its beginning");
    anonymous.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_not_announced_by_default() {
    let Some(topic) = Topic::on_pubsub().await else { return };
    topic.make(None).await;
    let reader = topic.subscribe().await;
    let pod = Setup::new("one").topic(&topic).start().await;
    let client = Client::connect(pod.port(), Dialect::Transport, "ZOWI").await;
    client.socket.close().await;
    topic.publish([Message::template("last", &["3"])]).await;
    let mut messages = Vec::new();
    eventually("the last event has come", PATIENCE, async || {
        messages.extend(topic.pull(&reader).await);
        messages.iter().any(|(_, data)| data["name"] == "last").then_some(())
    })
    .await;
    assert!(announced(messages).is_empty());
}
