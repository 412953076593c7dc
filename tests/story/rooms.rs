//! A chat in one GraphQL file, on two pods: what a member posts, other members read and hear, on
//! every transport. Other users neither read nor post.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;

use crate::support::{Client, Dialect, Relay, Setup, Topic, post};

const CHAT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/chat/schema.graphql");
const ANN: &str = r#"{"sub":"ann","rooms":["tea","gin"]}"#;
const BOB: &str = r#"{"sub":"bob","rooms":["tea"]}"#;
const EVE: &str = r#"{"sub":"eve","rooms":["gin"]}"#;
const POST: &str = "mutation($text: String!) { postMessage(room: \"tea\", text: $text) { id author text } }";
const LIST: &str = "{ messages(room: \"tea\") { author text } }";

async fn pods(topic: &Topic) -> [Relay; 2] {
    let pod = |name: &str| Setup::new(name).topic(topic).set("RELAY_SCHEMA", CHAT).start();
    [pod("a").await, pod("b").await]
}

#[tokio::test(flavor = "multi_thread")]
async fn members_read_and_hear_on_every_pod() {
    let Some(topic) = Topic::fresh().await else { return };
    let [a, b] = pods(&topic).await;
    let watch = "subscription { messagePosted { room author text } }";
    let (mut bob, mut eve) = (
        Client::connect(b.port(), Dialect::Transport, BOB).await,
        Client::connect(b.port(), Dialect::Legacy, EVE).await,
    );
    bob.start("w", watch).await;
    eve.start("w", watch).await;
    b.until_metric("relay_watchers", 2.0).await;

    let posted = a.http.graphql(ANN, POST, json!({"text": "hi"})).await.json();
    assert_eq!(posted["data"]["postMessage"]["author"], "ann", "{posted}");
    let expected = json!({"room": "tea", "author": "ann", "text": "hi"});
    assert_eq!(result(&mut bob).await["messagePosted"], expected);
    // A message in the other room is the first that the other user hears.
    let other = "mutation { postMessage(room: \"gin\", text: \"last\") { id } }";
    a.http.graphql(ANN, other, Value::Null).await;
    assert_eq!(result(&mut eve).await["messagePosted"]["text"], "last");

    assert_eq!(list(&a, ANN).await, json!([{"author": "ann", "text": "hi"}]), "its author reads it at once");
    for _ in 0..100 {
        if list(&b, BOB).await != json!([]) {
            break;
        }
        sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(list(&b, BOB).await, json!([{"author": "ann", "text": "hi"}]));
}

#[tokio::test(flavor = "multi_thread")]
async fn other_users_are_refused_on_every_transport() {
    let pod = Setup::new("pod").set("RELAY_SCHEMA", CHAT).start().await;
    let post_x = POST.replace("($text: String!)", "").replace("$text", "\"x\"");
    for (query, field) in [(LIST, "messages"), (&*post_x, "postMessage")] {
        let answer = pod.http.graphql(EVE, query, Value::Null).await;
        assert_eq!((answer.status, &*answer.code()), (200, "FORBIDDEN"), "{answer:?}");
        assert_eq!(answer.json()["data"], json!({ field: null }));
        let text =
            post(&pod, EVE, query).header("accept", "text/event-stream").send().await.unwrap().text().await;
        assert!(text.unwrap().contains("FORBIDDEN"), "{query}");
        let mut client = Client::connect(pod.port(), Dialect::Transport, EVE).await;
        client.start("q", query).await;
        let next = client.socket.receive().await.unwrap();
        assert_eq!(next["payload"]["errors"][0]["extensions"]["code"], "FORBIDDEN", "{next}");
        assert_eq!(client.socket.receive().await.unwrap()["type"], "complete");
    }
    assert_eq!(list(&pod, BOB).await, json!([]), "nothing was published");
    let misfit = pod.http.graphql(BOB, POST, json!({"text": ""})).await;
    assert_eq!(misfit.json()["errors"][0]["extensions"], json!({"code": "BAD_USER_INPUT", "field": "text"}));
}

async fn list(pod: &Relay, user: &str) -> Value {
    pod.http.graphql(user, LIST, Value::Null).await.json()["data"]["messages"].take()
}

/// Returns the next result's data.
async fn result(client: &mut Client) -> Value {
    let message = client.socket.receive().await.unwrap();
    assert!(message["type"] == "next" || message["type"] == "data", "{message}");
    message["payload"]["data"].clone()
}
