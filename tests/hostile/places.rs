//! Requests of one user that take the places, the memory or the time of others.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::{
    attacks::schema_lists,
    raw::{Raw, post_head},
    support::{PATIENCE, Relay, Setup, eventually},
};

/// Returns a token of a write that the pod never hears of: it is of another cluster.
async fn unknown_write() -> Value {
    let elsewhere = Setup::new("elsewhere").start().await;
    let add = "mutation { addTemplate(templateInput: {name: \"elsewhere\"}) { success } }";
    let answer = elsewhere.http.graphql("ZOWI", add, Value::Null).await.json();
    assert!(answer["extensions"]["written"].is_string(), "{answer}");
    answer["extensions"]["written"].clone()
}

/// Returns a request of ZOLO that waits for two seconds.
fn waiting(query: &str, written: &Value) -> String {
    let body = json!({"query": query, "extensions": {"readAfter": written}}).to_string();
    post_head("ZOLO", body.len()) + &body
}

/// Asserts that a newcomer is answered soon.
async fn assert_newcomer_is_served(pod: &Relay) {
    let began = Instant::now();
    let body = json!({"query": "{templates {name}}"}).to_string();
    let answer = Raw::send(pod.port(), post_head("ZEWI", body.len()) + &body).await.answer(PATIENCE).await;
    assert_eq!(answer.unwrap().0, 200);
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_requests_shut_out_only_their_user() {
    let pod = Setup::new("pod").set("RELAY_MEMORY", "1GiB").start().await;
    let written = unknown_write().await;
    let request = waiting("{templates {name}}", &written);
    let mut attackers = JoinSet::new();
    for _ in 0..1_400 {
        let (request, port) = (request.clone(), pod.port());
        attackers.spawn(async move {
            loop {
                if Raw::send(port, &request).await.is_overloaded().await {
                    sleep(Duration::from_secs(3)).await;
                }
            }
        });
    }
    pod.until_metric_is("relay_refusals_total", "limit=\"requests\"", |count| count > 50.0).await;
    for _ in 0..5 {
        assert_newcomer_is_served(&pod).await;
        sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_that_wait_use_up_only_their_user() {
    let pod = Setup::new("pod").set("RELAY_MEMORY", "64MiB").start().await;
    let written = unknown_write().await;
    let before = pod.memory();
    let fields = "id ".repeat(980);
    let requests = (0..200).map(|n| waiting(&format!("query q{n} {{templates {{{fields}}}}}"), &written));
    let mut attackers = Vec::new();
    for request in requests {
        attackers.push(Raw::send(pod.port(), request).await);
    }
    pod.until_metric_is("relay_refusals_total", "limit=\"requests\"", |count| count > 50.0).await;
    assert_newcomer_is_served(&pod).await;
    let grown = pod.memory().saturating_sub(before);
    assert!(grown < 24 << 20, "{} MiB", grown >> 20);
    drop(attackers);
    eventually("the ledger is empty", PATIENCE, async || {
        let used = pod.metric_of("relay_budget_used_bytes", "pool=\"requests\"").await;
        (used < 0.5).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn schema_is_answered_in_bounded_depth() {
    let pod = Setup::new("pod").start().await;
    let ask = async |query: &str| pod.http.graphql("ZOLO", query, Value::Null).await.json();
    let allowed = ask(&schema_lists(2)).await;
    assert!(allowed["data"]["__schema"]["types"].is_array(), "{allowed}");
    for query in [
        schema_lists(3),
        format!(
            "{{ {} }}",
            (0..5).map(|n| format!("a{n}: __schema {{ types {{ name }} }} ")).collect::<String>()
        ),
    ] {
        let refused = ask(&query).await;
        assert_eq!(refused["errors"][0]["extensions"]["code"], "GRAPHQL_VALIDATION_FAILED", "{refused:.200}");
    }
    assert!(pod.metric_of("relay_refusals_total", "limit=\"schema\"").await > 1.5);
}
