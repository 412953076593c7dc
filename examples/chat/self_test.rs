//! Self-test of the example: a message posted on one pod arrives on the other, for members of the
//! room only.
//!
//! CI runs it, so the example always works. It must never need anything but two free ports.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use futures_util::{SinkExt as _, StreamExt as _};
use pubsub_relay::{MemoryTopic, Pod};
use serde_json::{Value, json};
use tokio::{net::TcpStream, time::sleep};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Message, client::IntoClientRequest as _},
};

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Limit of the whole run, which takes less than a second: a message that never comes must not hang
/// it.
const TIMEOUT: Duration = Duration::from_secs(30);

pub(crate) async fn run(topic: &MemoryTopic) -> anyhow::Result<()> {
    tokio::time::timeout(TIMEOUT, converse(topic)).await.context("self-test took too long")?
}

async fn converse(topic: &MemoryTopic) -> anyhow::Result<()> {
    let [here, there] = [super::start("here", 0, topic).await?, super::start("there", 0, topic).await?];
    let (mut ann, mut bob, mut cat) =
        (watch(&there, "ann").await?, watch(&there, "bob").await?, watch(&there, "cat").await?);
    while there.hub().watchers() < 3 {
        sleep(Duration::from_millis(5)).await;
    }
    post(&here, "bob", "tea", "one").await?;
    post(&here, "cat", "code", "two").await?;
    // The first message of each watcher proves that no other message came before it.
    ensure!(receive(&mut ann).await? == json!({ "author": "bob", "text": "one" }), "ann is in the room");
    ensure!(receive(&mut bob).await? == json!({ "author": "cat", "text": "two" }), "bob knows what he said");
    let listed = run_as(&there, "ann", r#"{ messages(room: "tea") { text } }"#).await?;
    ensure!(listed["data"]["messages"] == json!([{ "text": "one" }]), "every pod has the state");
    post(&here, "bob", "code", "three").await?;
    ensure!(
        receive(&mut cat).await? == json!({ "author": "bob", "text": "three" }),
        "cat is not in the first room"
    );
    let refused = run_as(&here, "cat", r#"mutation { postMessage(room: "tea", text: "four") }"#).await?;
    ensure!(refused["errors"][0]["extensions"]["code"] == "FORBIDDEN", "cat may not speak there");
    tracing::info!("self-test passed");
    Ok(())
}

async fn post(pod: &Pod, user: &str, room: &str, text: &str) -> anyhow::Result<()> {
    let posted =
        run_as(pod, user, &format!(r#"mutation {{ postMessage(room: "{room}", text: "{text}") }}"#)).await?;
    ensure!(posted["data"] == json!({ "postMessage": true }), "{user} posts: {posted}");
    Ok(())
}

async fn run_as(pod: &Pod, user: &str, document: &str) -> anyhow::Result<Value> {
    let request = reqwest::Client::new()
        .post(format!("http://{}/graphql", pod.address()))
        .header("authorization", format!("Bearer {user}"))
        .header("content-type", "application/json")
        .body(json!({ "query": document }).to_string());
    Ok(serde_json::from_str(&request.send().await?.text().await?)?)
}

async fn watch(pod: &Pod, user: &str) -> anyhow::Result<Socket> {
    let mut request = format!("ws://{}/graphql", pod.address()).into_client_request()?;
    request.headers_mut().insert("sec-websocket-protocol", "graphql-transport-ws".parse()?);
    let (mut socket, _) = connect_async(request).await?;
    let init = json!({ "type": "connection_init", "payload": { "token": format!("Bearer {user}") } });
    let query = "subscription { messagePosted { author text } }";
    let subscribe = json!({ "type": "subscribe", "id": "1", "payload": { "query": query } });
    socket.send(Message::text(init.to_string())).await?;
    ensure!(next(&mut socket).await?["type"] == "connection_ack", "{user} is let in");
    socket.send(Message::text(subscribe.to_string())).await?;
    Ok(socket)
}

async fn receive(socket: &mut Socket) -> anyhow::Result<Value> {
    Ok(next(socket).await?["payload"]["data"]["messagePosted"].take())
}

async fn next(socket: &mut Socket) -> anyhow::Result<Value> {
    let frame = socket.next().await.context("the pod hung up")??;
    Ok(serde_json::from_str(frame.to_text()?)?)
}
