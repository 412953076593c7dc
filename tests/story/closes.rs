//! Ends of a WebSocket after a fault of its client: each fault has a close code of its own.
//!
//! Clients decide by the code whether they retry. A fault on one connection must never end another.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Client, Dialect, End, Relay, Setup, Socket, eventually, watchers_on};

async fn open(pod: &Relay, dialect: Dialect) -> Socket {
    Socket::open(pod.port(), Some(dialect.subprotocol())).await
}

/// Sends these messages on a new connection and returns its end. Asserts that the pod answers
/// nothing else.
async fn end_after(pod: &Relay, messages: &[Value]) -> End {
    let mut socket = open(pod, Dialect::Transport).await;
    for message in messages {
        socket.send(message.clone()).await;
    }
    let (messages, end) = socket.receive_to_end().await;
    assert!(messages.is_empty(), "{messages:?}");
    end
}

fn init(token: &str) -> Value {
    json!({ "type": "connection_init", "payload": { "token": token } })
}

fn subscribe(id: &str) -> Value {
    let query = "subscription { templateAdded { id } }";
    json!({ "id": id, "type": "subscribe", "payload": { "query": query } })
}

#[tokio::test]
async fn invalid_message_ends_connection_with_4400() {
    let pod = Setup::new("pod").start().await;
    for text in ["", "nonsense", "[]", "{}", r#"{"type":"unheard_of"}"#, r#"{"type":"subscribe"}"#] {
        for is_admitted in [false, true] {
            let mut socket = open(&pod, Dialect::Transport).await;
            if is_admitted {
                socket.send(init("Bearer ZOLO")).await;
                assert_eq!(socket.receive().await.unwrap()["type"], "connection_ack");
            }
            socket.send_text(text.to_owned()).await;
            assert_eq!(socket.receive_to_end().await.1.code, 4400, "{text:?} {is_admitted}");
        }
    }
    let mut socket = open(&pod, Dialect::Transport).await;
    socket.send_binary(vec![0, 255]).await;
    assert_eq!(socket.receive_to_end().await.1.code, 4400);
}

#[tokio::test]
async fn subscribe_before_ack_ends_connection_with_4401() {
    let pod = Setup::new("pod").start().await;
    assert_eq!(end_after(&pod, &[subscribe("1")]).await.code, 4401);
}

#[tokio::test]
async fn bad_token_ends_connection_with_4403_before_ack() {
    let pod = Setup::new("pod").start().await;
    for message in
        [init("Bearer NO_USER"), init("Basic ZOLO"), init(""), json!({ "type": "connection_init" })]
    {
        let end = end_after(&pod, std::slice::from_ref(&message)).await;
        assert_eq!(end.code, 4403, "{message}");
    }
}

#[tokio::test]
async fn unknown_subprotocol_ends_connection_with_4406() {
    let pod = Setup::new("pod").start().await;
    for subprotocol in [None, Some("mqtt")] {
        let mut socket = Socket::open(pod.port(), subprotocol).await;
        assert_eq!(socket.subprotocol, None);
        assert_eq!(socket.receive_to_end().await.1.code, 4406, "{subprotocol:?}");
    }
    let both = "mqtt, graphql-transport-ws, graphql-ws";
    let socket = Socket::open(pod.port(), Some(both)).await;
    assert_eq!(socket.subprotocol.as_deref(), Some("graphql-transport-ws"));
}

#[tokio::test]
async fn silent_connection_ends_with_4408() {
    let pod = Setup::new("pod").start().await;
    assert_eq!(end_after(&pod, &[]).await.code, 4408);
}

#[tokio::test]
async fn id_in_use_ends_connection_with_4409() {
    let pod = Setup::new("pod").start().await;
    let mut client = Client::connect(pod.port(), Dialect::Transport, "ZOLO").await;
    client.socket.send(subscribe("same")).await;
    client.socket.send(subscribe("same")).await;
    assert_eq!(client.socket.receive_to_end().await.1.code, 4409);
}

#[tokio::test]
async fn free_id_can_be_used_again() {
    let pod = Setup::new("pod").start().await;
    let mut client = Client::connect(pod.port(), Dialect::Transport, "ZOLO").await;
    for _ in 0..3 {
        client.socket.send(subscribe("watch")).await;
        client.socket.send(json!({ "id": "watch", "type": "complete" })).await;
    }
    client.watch().await;
    // The pod handles messages in order: with this answer it has handled all earlier ones
    client.start("barrier", "subscription { nonsense }").await;
    assert_eq!(client.socket.receive().await.unwrap()["id"], "barrier");
    pod.until_metric("relay_watchers", 1.0).await;
    pod.add_template("ZOWI", "once", Some(&["3"])).await;
    assert_eq!(client.next().await, "once");
}

#[tokio::test]
async fn second_init_ends_connection_with_4429() {
    let pod = Setup::new("pod").start().await;
    let mut client = Client::connect(pod.port(), Dialect::Transport, "ZOLO").await;
    client.socket.send(init("Bearer ZOLO")).await;
    assert_eq!(client.socket.receive_to_end().await.1.code, 4429);
}

#[tokio::test]
async fn oversize_frame_ends_connection_with_1009() {
    let pod = Setup::new("pod").start().await;
    let mut client = Client::connect(pod.port(), Dialect::Transport, "ZOLO").await;
    client.socket.try_send_text("x".repeat(2 << 20)).await;
    assert_eq!(client.socket.receive_to_end().await.1.code, 1009);
}

#[tokio::test]
async fn first_message_has_smaller_size_limit() {
    let pod = Setup::new("pod").start().await;
    let padded = |bytes| json!({ "type": "connection_init", "payload": { "token": "Bearer ZOLO", "padding": "x".repeat(bytes) } });
    let mut socket = open(&pod, Dialect::Transport).await;
    socket.send(padded(15 << 10)).await;
    assert_eq!(socket.receive().await.unwrap()["type"], "connection_ack");
    assert_eq!(end_after(&pod, &[padded(17 << 10)]).await.code, 1009);
}

#[tokio::test]
async fn bad_token_sends_legacy_client_error_then_close() {
    let pod = Setup::new("pod").start().await;
    let mut socket = open(&pod, Dialect::Legacy).await;
    socket.send(init("Bearer NO_USER")).await;
    let (messages, end) = socket.receive_to_end().await;
    let types: Vec<_> = messages.iter().map(|message| &message["type"]).collect();
    assert_eq!(types, ["connection_error"], "{messages:?}");
    assert_ne!(end.code, 1006, "the connection ends with a close frame");
}

#[tokio::test]
async fn ending_connection_costs_others_nothing() {
    let pod = Setup::new("pod").start().await;
    let mut clients = watchers_on(&pod, Dialect::Transport, &["ZOLO", "ZEWI"]).await;
    clients[0].socket.send_text("nonsense".to_owned()).await;
    assert_eq!(clients[0].socket.receive_to_end().await.1.code, 4400);
    pod.until_metric("relay_watchers", 1.0).await;
    pod.add_template("ZOWI", "goes on", Some(&["3"])).await;
    assert_eq!(clients[1].next().await, "goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn client_without_pongs_counts_as_dead() {
    // Two pings, 25 s apart, and a reserve
    const LIMIT: Duration = Duration::from_secs(80);
    let pod = Setup::new("pod").start().await;
    // The test does not read from this socket, so no pong is sent
    let _stuck = watchers_on(&pod, Dialect::Transport, &["ZOLO"]).await;
    pod.until_metric("relay_watchers", 1.0).await;
    eventually("the connection counts as dead", LIMIT, async || {
        let dead = pod.metric_of("relay_connection_ends_total", r#"reason="dead""#).await;
        (dead == 1.0 && pod.metric("relay_connections").await == 0.0).then_some(())
    })
    .await;
}
