//! Actions of operators: which token may act, and where.
//!
//! The debug token must never act, and the address for clients must never have `/admin`.

use serde_json::{Value, json};

use crate::support::{Answer, Client, Dialect, Http, PATIENCE, Relay, Setup, eventually, free_ports};

/// Tokens of the pod's operators.
const DEBUG: &str = "a debug token, which has more than 32 bytes";
const ADMIN: &str = "an admin token, which has more than 32 bytes";

/// Starts a pod with these variables and an admin address. Returns it with a client of that
/// address.
async fn pod(variables: &[(&str, &str)]) -> (Relay, Http) {
    let admin = free_ports(1);
    let mut setup = Setup::new("pod").set("RELAY_ADMIN_LISTEN", format!("127.0.0.1:{admin}"));
    for (name, value) in variables {
        setup = setup.set(name, *value);
    }
    let (pod, machines) = (setup.launch(), Http::new(admin));
    eventually("the pod is alive", PATIENCE, async || machines.try_get("/livez").await).await;
    (pod, machines)
}

/// Asks for this action with the admin token.
async fn ask(machines: &Http, action: &str, body: &Value) -> Answer {
    machines.post_with(&format!("Bearer {ADMIN}"), &format!("/admin/{action}"), body).await
}

/// Returns status and code of a refused action.
fn refusal(answer: &Answer) -> (u16, String) {
    (answer.status, answer.json()["error"]["code"].as_str().unwrap_or_default().to_owned())
}

/// Returns status and code of the answer to an action with this authorization.
async fn act(machines: &Http, authorization: &str) -> (u16, Value) {
    let answer = machines.post_with(authorization, "/admin/nothing", &json!({})).await;
    let code = serde_json::from_str::<Value>(&answer.text).unwrap_or_default()["error"]["code"].clone();
    (answer.status, code)
}

#[tokio::test(flavor = "multi_thread")]
async fn only_admin_token_may_act() {
    let (pod, machines) = pod(&[("RELAY_DEBUG_TOKEN", DEBUG), ("RELAY_ADMIN_TOKEN", ADMIN)]).await;
    for (authorization, refusal) in [
        ("", (401, "UNAUTHENTICATED".into())),
        (&format!("Bearer {ADMIN}x"), (401, "UNAUTHENTICATED".into())),
        (&format!("Basic {ADMIN}"), (401, "UNAUTHENTICATED".into())),
        (&format!("Bearer {DEBUG}"), (403, "READ_ONLY_TOKEN".into())),
        (&format!("Bearer {ADMIN}"), (404, Value::Null)),
    ] {
        assert_eq!(act(&machines, authorization).await, refusal, "{authorization}");
    }
    for token in [DEBUG, ADMIN] {
        let read = machines.get_with(&format!("Bearer {token}"), "/debug/connections").await;
        assert_eq!(read.status, 200, "{read:?}");
    }
    let elsewhere = pod.http.post_with(&format!("Bearer {ADMIN}"), "/admin/nothing", &json!({})).await;
    assert_eq!(elsewhere.status, 404, "not on the address of clients");
    assert!(elsewhere.text.contains("/graphql"), "{elsewhere:?}");
    assert!(!pod.output().contains(ADMIN));
}

#[tokio::test(flavor = "multi_thread")]
async fn pod_without_admin_token_refuses_actions() {
    let (_pod, machines) = pod(&[("RELAY_DEBUG_TOKEN", DEBUG)]).await;
    assert_eq!(act(&machines, &format!("Bearer {DEBUG}")).await, (403, "ADMIN_OFF".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn test_event_obeys_the_schema_file() {
    let tokens = [("RELAY_DEBUG_TOKEN", DEBUG), ("RELAY_ADMIN_TOKEN", ADMIN)];
    let (pod, machines) =
        pod(&[&tokens[..], &[("RELAY_SCHEMA", "examples/orders/schema.graphql")]].concat()).await;
    let mut ann = Client::connect(pod.port(), Dialect::Transport, r#"{"sub":"ann"}"#).await;
    ann.start("w", "subscription { orderUpdated { id total } }").await;
    ann.start("q", "{ __typename }").await;
    for kind in ["next", "complete"] {
        assert_eq!(ann.socket.receive().await.unwrap()["type"], kind, "the watcher is there");
    }
    let order = |total: Value| {
        let data = json!({ "id": "o-1", "customer": { "id": "ann" }, "status": "PAID", "total": total, "items": [] });
        json!({ "type": "order.placed.v1", "data": data })
    };
    for (authorization, expected) in [
        ("", (401, "UNAUTHENTICATED")),
        ("Bearer wrong", (401, "UNAUTHENTICATED")),
        (&format!("Bearer {DEBUG}"), (403, "READ_ONLY_TOKEN")),
    ] {
        let answer = machines.post_with(authorization, "/admin/publish", &order(json!(9))).await;
        assert_eq!(refusal(&answer), (expected.0, expected.1.to_owned()), "{authorization}");
    }
    let large = json!({ "type": "order.placed.v1", "data": "x".repeat(65 << 10) });
    for (body, expected, word) in [
        (order(json!("nine")), (400, "BAD_USER_INPUT"), "total"),
        (json!({ "type": "order.gone.v1", "data": {} }), (404, "NOT_FOUND"), "order.gone.v1"),
        (json!({ "type": "relay.heartbeat.v1", "data": {} }), (404, "NOT_FOUND"), "relay.heartbeat.v1"),
        (json!({ "type": "order.placed.v1" }), (400, "BAD_REQUEST"), "data"),
        (large, (413, "TOO_LARGE"), "65536"),
    ] {
        let answer = ask(&machines, "publish", &body).await;
        assert_eq!(refusal(&answer), (expected.0, expected.1.to_owned()), "{answer:?}");
        assert!(answer.text.contains(word), "{answer:?}");
    }

    let answer = ask(&machines, "publish", &order(json!(9.5))).await;
    assert_eq!(
        (answer.status, &answer.json()["published"]["type"]),
        (200, &"order.placed.v1".into()),
        "{answer:?}"
    );
    let received = ann.socket.receive().await.unwrap();
    assert_eq!(
        received["payload"]["data"]["orderUpdated"],
        json!({ "id": "o-1", "total": 9.5 }),
        "{received}"
    );
    assert_eq!(received["payload"]["extensions"]["eventId"], answer.json()["published"]["event"]);
    let asked = pod.until_output("an operator asks").await;
    let line = asked.lines().find(|line| line.contains("an operator asks")).unwrap_or_default();
    assert!(line.contains("/publish") && line.contains("127.0.0.1") && !line.contains(ADMIN), "{asked}");
}

#[tokio::test(flavor = "multi_thread")]
async fn test_events_are_limited_by_rate() {
    let (_pod, machines) = pod(&[("RELAY_ADMIN_TOKEN", ADMIN)]).await;
    let body =
        json!({ "type": "template.added.v1", "data": { "id": "1", "name": "a", "shareLocationIds": [] } });
    let mut refused = Vec::new();
    for _ in 0..30 {
        let answer = ask(&machines, "publish", &body).await;
        refused.extend((answer.status != 200).then(|| refusal(&answer)));
    }
    assert!(refused.len() >= 10, "of 30 at once 8 are enough, and 2 a second: {refused:?}");
    assert!(refused.iter().all(|refusal| *refusal == (429, "RATE_LIMITED".to_owned())), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn named_pod_drains_and_its_process_ends() {
    let tokens = [("RELAY_DEBUG_TOKEN", DEBUG), ("RELAY_ADMIN_TOKEN", ADMIN), ("RELAY_DRAIN_DELAY", "3s")];
    let (mut pod, machines) = pod(&tokens).await;
    let until = async |status| {
        eventually("the pod's readiness", PATIENCE, async || {
            (machines.get("/readyz").await.status == status).then_some(())
        })
        .await;
    };
    until(200).await;
    let mut client = Client::connect(pod.port(), Dialect::Transport, "ZOLO").await;
    client.watch().await;
    let wrong =
        machines.post_with(&format!("Bearer {DEBUG}"), "/admin/drain", &json!({ "pod": "pod" })).await;
    assert_eq!(refusal(&wrong), (403, "READ_ONLY_TOKEN".to_owned()));
    let none = machines.post_with("", "/admin/drain", &json!({ "pod": "pod" })).await;
    assert_eq!(refusal(&none), (401, "UNAUTHENTICATED".to_owned()));
    for (body, expected) in [
        (json!({}), (400, "BAD_REQUEST".to_owned())),
        (json!({ "pod": "pod", "now": true }), (400, "BAD_REQUEST".to_owned())),
        (json!({ "pod": "pod-2" }), (409, "OTHER_POD".to_owned())),
    ] {
        assert_eq!(refusal(&ask(&machines, "drain", &body).await), expected, "{body}");
    }
    assert_eq!(machines.get("/readyz").await.status, 200, "nothing drains so far");

    for already in [false, true] {
        let answer = ask(&machines, "drain", &json!({ "pod": "pod" })).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        assert_eq!(answer.json(), json!({ "draining": { "pod": "pod" }, "already": already }));
    }
    until(503).await;
    pod.signal("TERM");
    let (messages, end) = client.socket.receive_to_end().await;
    assert_eq!(end.code, 1012);
    assert!(messages.iter().all(|message| message["type"] != "complete"), "{messages:?}");
    assert_eq!(pod.ended().await.code(), Some(0), "{}", pod.output());
    let log = pod.output();
    for part in ["an operator asks", "as an operator asks", "127.0.0.1", "pod drained"] {
        assert!(log.contains(part), "{part}: {log}");
    }
}
