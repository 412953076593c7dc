//! Distinct subscriptions of one user on many connections.

use serde_json::Value;

use crate::support::{Client, Dialect, PATIENCE, Setup, eventually, watchers_on};

/// Watchers that one connection may have.
const WATCHERS: usize = 64;

#[tokio::test(flavor = "multi_thread")]
async fn distinct_subscriptions_use_up_only_their_user() {
    let pod = Setup::new("pod").start().await;
    let mut attackers = Vec::new();
    for connection in 0..18 {
        let mut attacker = Client::connect(pod.port(), Dialect::Transport, "ZOLO").await;
        for number in 0..WATCHERS {
            let query = format!("subscription {{x{connection}_{number}: templateAdded {{name}}}}");
            attacker.start(&number.to_string(), &query).await;
        }
        attackers.push(attacker);
    }
    let refused = 18.0 * 64.0 - 1_000.0;
    pod.until_metric_is("relay_refusals_total", "limit=\"user_operations\"", |count| count >= refused).await;
    pod.until_metric("relay_watchers", 1_000.0).await;
    let mut late = Client::connect(pod.port(), Dialect::Transport, "ZOLO").await;
    late.start("1", "subscription {late: templateAdded {name}}").await;
    let refusal = late.socket.receive().await.unwrap();
    assert_eq!(refusal["type"], "error", "{refusal}");
    assert_eq!(refusal["payload"][0]["extensions"]["code"], "LIMIT_REACHED", "{refusal}");

    let mut others = Client::connect(pod.port(), Dialect::Transport, "ZEWI").await;
    others.start("1", "subscription {own: templateAdded {name}}").await;
    pod.until_metric("relay_watchers", 1_001.0).await;
    pod.add_template("ZOWI", "for all", Some(&["3"])).await;
    let next = others.socket.receive().await.unwrap();
    assert_eq!(next["payload"]["data"]["own"]["name"], "for all", "{next}");
    assert_eq!(next["payload"]["errors"], Value::Null, "{next}");

    drop((attackers, late, others));
    eventually("the ledger is empty", PATIENCE, async || {
        (pod.metric("relay_budget_used_bytes").await < 0.5).then_some(())
    })
    .await;
    drop(watchers_on(&pod, Dialect::Transport, &["ZOLO"]).await);
}
