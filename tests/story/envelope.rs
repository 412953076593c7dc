//! A topic whose publishers know no CloudEvents: `@envelope` maps their messages.
//!
//! Real events on the same topic keep working, and no mapped message may steer a pod.

use serde_json::{Value, json};

use crate::support::{Client, Dialect, EVERYWHERE, Message, Relay, Setup, Topic, watchers_on};

const TUTORIAL: &str = include_str!("../../src/domains/tutorial.graphql");
const DIRECTORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/domains/tutorial/directory.json");

const ATTRIBUTES: &str = r#"@envelope(type: "{eventType}", author: "{userId}", id: "{messageId}")"#;
const DATA: &str = r#"@envelope(type: "template.{$data.meta.what}.v1", author: "{$data.meta.by}")"#;

/// Starts a pod with the tutorial's file and this directive.
async fn start(name: &str, topic: &Topic, envelope: &str) -> Relay {
    let path = std::env::temp_dir().join(format!("relay-{}.graphql", uuid::Uuid::now_v7()));
    let file = TUTORIAL.replacen("extend schema", &format!("extend schema {envelope}"), 1);
    std::fs::write(&path, file).unwrap();
    let setup = Setup::new(name).topic(topic).set("RELAY_SCHEMA", path.to_str().unwrap());
    let pod = setup.set("RELAY_DIRECTORY", DIRECTORY).start().await;
    std::fs::remove_file(&path).unwrap();
    pod
}

/// Returns a message as a program with attributes of its own publishes it.
fn message(name: &str, locations: &[&str]) -> Message {
    let message = Message::template(name, locations).without_attributes();
    message.with("eventType", "template.added.v1").with("messageId", name)
}

/// Returns a message that says in its data what it is.
fn data(name: &str, locations: &[&str], meta: Value) -> Message {
    let message = Message::template(name, locations).without_attributes();
    let mut data: Value = serde_json::from_slice(&message.parts().1).unwrap();
    data["meta"] = meta;
    message.with_data(data.to_string())
}

async fn assert_rejected(pod: &Relay, reason: &str, count: f64, text: &str) {
    let counted = pod.metric_of("relay_events_rejected_total", &format!("reason=\"{reason}\"")).await;
    assert!((counted - count).abs() < 0.5, "{reason}: {counted}");
    pod.until_output(text).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_with_attributes_reach_exactly_their_audience() {
    let Some(topic) = Topic::of_messages().await else { return };
    let (first, second) = (start("a", &topic, ATTRIBUTES).await, start("b", &topic, ATTRIBUTES).await);
    let mut watchers = watchers_on(&first, Dialect::Transport, &["ZOLO", "ZELO"]).await;
    let cursor = Client::cursor_at_start(first.port(), "ZOLO").await;

    let messages = [
        message("mapped", &["3"]),
        message("of ZOLO", &EVERYWHERE).with("userId", "4"),
        message("once", &["3"]),
        message("twice", &["3"]).with("messageId", "once"),
        message("unknown", &EVERYWHERE).with("eventType", "invoice.paid.v1"),
        message("no type", &EVERYWHERE).with("eventType", ""),
        message("no id", &EVERYWHERE).with("messageId", ""),
        message("control", &EVERYWHERE).with("eventType", "relay.heartbeat.v1"),
        message("half an event", &EVERYWHERE).with("ce-type", "template.added.v1"),
        Message::template("real", &["3"]),
        message("last", &EVERYWHERE),
    ];
    topic.publish(messages).await;
    assert_eq!(watchers[0].before("last").await, ["mapped", "once", "real"]);
    assert_eq!(watchers[1].before("last").await, ["of ZOLO"]);
    assert_rejected(&first, "unknown_type", 1.0, "").await;
    assert_rejected(&first, "type", 2.0, "begins with `relay.`").await;
    assert_rejected(&first, "type", 2.0, "attribute eventType (@envelope type) is missing; docs/PUBLISH.md")
        .await;
    assert_rejected(&first, "id", 1.0, "attribute messageId (@envelope id) is missing; docs/PUBLISH.md")
        .await;
    assert_rejected(&first, "not_cloudevent", 1.0, "attribute specversion (ce-specversion) is missing").await;

    second.add_template("ZOWI", "of a mutation", Some(&["3"])).await;
    assert_eq!(watchers[0].next().await, "of a mutation");
    let mut back = Client::connect(second.port(), Dialect::Transport, "ZOLO").await;
    back.watch_after(&cursor).await;
    // A broker that does not stamp leaves the order of times to the publishers.
    let all = ["last", "mapped", "of a mutation", "once", "real"];
    let mut names = back.until_all(all.map(str::to_owned)).await;
    names.sort();
    assert_eq!(names, all);
    assert_eq!(first.http.get("/readyz").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_with_fields_reach_exactly_their_audience() {
    let Some(topic) = Topic::of_messages().await else { return };
    let pod = start("pod", &topic, DATA).await;
    let mut watchers = watchers_on(&pod, Dialect::Transport, &["ZOLO", "ZELO"]).await;

    let messages = [
        data("mapped", &["3"], json!({ "what": "added" })),
        data("of ZOLO", &EVERYWHERE, json!({ "what": "added", "by": 4 })),
        data("no type", &EVERYWHERE, json!({ "by": 4 })),
        Message::template("", &[]).without_attributes().with_data("{"),
        data("edited", &EVERYWHERE, json!({ "what": "edited" })),
        data("last", &EVERYWHERE, json!({ "what": "added" })),
    ];
    topic.publish(messages).await;
    assert_eq!(watchers[0].before("last").await, ["mapped"]);
    assert_eq!(watchers[1].before("last").await, ["of ZOLO"]);
    let missing = "field meta.what of the data (@envelope type) is missing; docs/PUBLISH.md";
    assert_rejected(&pod, "type", 2.0, missing).await;
    assert_rejected(&pod, "type", 2.0, "the data (@envelope type) is not JSON at line 1 column 1").await;
}
