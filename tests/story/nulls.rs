//! GraphQL's null rule, as clients of each transport see it.
//!
//! A failed nullable field is null in `data`. No transport may leave it out.

use serde_json::{Value, json};

use crate::support::{Client, Dialect, EVENTS, Setup, Streamed, post};

/// Mutation with two failing fields around one that succeeds.
const MUTATION: &str = r#"mutation {
    a: addTemplate(templateInput: { name: "" }) { success }
    ok: addTemplate(templateInput: { name: "ok" }) { success }
    ... on Mutation { c: editTemplate(templateInput: { id: "none" }) { success } }
}"#;

/// Mutation whose only field fails.
const ONE: &str = r#"mutation { a: addTemplate(templateInput: { name: "" }) { success } }"#;

fn check(result: &Value) {
    assert_eq!(result["data"], json!({ "a": null, "ok": { "success": true }, "c": null }), "{result}");
    let paths: Vec<_> =
        result["errors"].as_array().unwrap().iter().map(|error| error["path"].clone()).collect();
    assert_eq!(paths, [json!(["a"]), json!(["c"])], "{result}");
}

#[tokio::test]
async fn failed_mutation_is_null_on_every_transport() {
    let pod = Setup::new("pod").start().await;
    let answer = pod.http.graphql("ZOWI", MUTATION, Value::Null).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    check(&answer.json());
    assert!(answer.text.starts_with(r#"{"data":{"a":null,"ok":{"success":true},"c":null}"#), "{answer:?}");
    let answer = pod.http.graphql("ZOWI", ONE, Value::Null).await;
    assert_eq!((answer.status, &answer.json()["data"]), (200, &json!({ "a": null })), "{answer:?}");

    for dialect in [Dialect::Transport, Dialect::Legacy] {
        let mut client = Client::connect(pod.port(), dialect, "ZOWI").await;
        client.start("1", MUTATION).await;
        check(&client.socket.receive().await.unwrap()["payload"]);
    }
    let mut events = Streamed::open(EVENTS, post(&pod, "ZOWI", MUTATION)).await;
    check(&events.event().await.unwrap().2);
    // Without JSON in `Accept`, so that even a mutation is answered in parts.
    let accept = r#"multipart/mixed;subscriptionSpec="1.0""#;
    let mut parts = Streamed::open(accept, post(&pod, "ZOWI", MUTATION)).await;
    check(&parts.part().await.unwrap()["payload"]);
}
