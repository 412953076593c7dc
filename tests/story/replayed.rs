//! What a client that resumes gets from before it: never as new, and from the start of a connection
//! nothing.
//!
//! Old events must never look like news, and a missed event must never be left out.

use serde_json::{Value, json};

use crate::support::{Dialect, EVENTS, Relay, Setup, Socket, Streamed, WATCH, post, watchers_on};

/// Opens a WebSocket as ZOLO. Returns it with the cursor of its start.
async fn connect(pod: &Relay) -> (Socket, String) {
    let mut socket = Socket::open(pod.port(), Some(Dialect::Transport.subprotocol())).await;
    socket.send(json!({ "type": "connection_init", "payload": { "token": "ZOLO" } })).await;
    let ack = socket.receive().await.unwrap();
    (socket, ack["payload"]["cursor"].as_str().unwrap().to_owned())
}

async fn resume(socket: &mut Socket, cursor: &str) {
    let query = "subscription Watch($after: String) { templateAdded(after: $after) { name } }";
    let payload = json!({ "query": query, "variables": { "after": cursor } });
    socket.send(json!({ "id": "1", "type": "subscribe", "payload": payload })).await;
}

/// Returns name and mark of a result.
fn read(result: &Value) -> (&str, &Value) {
    let name = result["data"]["templateAdded"]["name"].as_str().unwrap_or_else(|| panic!("{result}"));
    (name, &result["extensions"]["replayed"])
}

async fn add(pod: &Relay, name: &str) {
    pod.add_template("ZOWI", name, Some(&["3"])).await;
}

/// Adds templates, and returns when the pod has dispatched them.
async fn add_old(pod: &Relay) {
    let mut other = watchers_on(pod, Dialect::Transport, &["ZEWI"]).await.pop().unwrap();
    for n in 0..7 {
        add(pod, &format!("old {n}")).await;
    }
    other.before("old 6").await;
}

#[tokio::test]
async fn connection_gets_nothing_from_before_its_start() {
    let pod = Setup::new("pod").start().await;
    add_old(&pod).await;
    let (lost, cursor) = connect(&pod).await;
    drop(lost);
    add(&pod, "missed").await;
    let (mut socket, _) = connect(&pod).await;
    resume(&mut socket, &cursor).await;
    let missed = socket.receive().await.unwrap();
    assert_eq!(read(&missed["payload"]), ("missed", &json!(true)));
    add(&pod, "live").await;
    let live = socket.receive().await.unwrap();
    assert_eq!(read(&live["payload"]), ("live", &Value::Null));
}

#[tokio::test]
async fn fresh_event_source_gets_nothing_old() {
    let pod = Setup::new("pod").start().await;
    add_old(&pod).await;
    let mut lost = Streamed::open(EVENTS, post(&pod, "ZOLO", WATCH)).await;
    assert_eq!(lost.block().await.unwrap(), ":");
    let block = lost.block().await.unwrap();
    let cursor = block.strip_prefix("id: ").unwrap();
    drop(lost);
    add(&pod, "missed").await;
    let back = post(&pod, "ZOLO", WATCH).header("last-event-id", cursor);
    let mut back = Streamed::open(EVENTS, back).await;
    assert_eq!(read(&back.event().await.unwrap().2), ("missed", &json!(true)));
    add(&pod, "live").await;
    assert_eq!(read(&back.event().await.unwrap().2), ("live", &Value::Null));
}

#[tokio::test]
async fn repeats_before_cursor_of_query_are_marked() {
    let pod = Setup::new("pod").start().await;
    add(&pod, "old").await;
    let answer = pod.http.graphql("ZOLO", "{ templates { name } }", Value::Null).await.json();
    let (mut socket, _) = connect(&pod).await;
    resume(&mut socket, answer["extensions"]["cursor"].as_str().unwrap()).await;
    let result = socket.receive().await.unwrap();
    assert_eq!(read(&result["payload"]), ("old", &json!(true)));
}
