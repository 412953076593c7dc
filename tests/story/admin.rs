//! Actions of operators: which token may act, and where.
//!
//! The debug token must never act, and the address for clients must never have `/admin`.

use serde_json::{Value, json};

use crate::support::{Http, PATIENCE, Relay, Setup, eventually, free_ports};

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
