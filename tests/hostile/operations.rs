//! Distinct subscriptions of one user on many connections.

use serde_json::{Value, json};

use crate::support::{
    Client, Dialect, EVENTS, End, PATIENCE, Setup, Streamed, eventually, post, watchers_on,
};

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
    eventually("the ledger has only kept documents", PATIENCE, async || {
        let all = pod.metric("relay_budget_used_bytes").await;
        let operations = pod.metric_of("relay_budget_used_bytes", "pool=\"operations\"").await;
        (all - operations < 0.5 && operations < 100e3).then_some(())
    })
    .await;
    pod.until_metric("relay_watchers", 0.0).await;
    drop(watchers_on(&pod, Dialect::Transport, &["ZOLO"]).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn exhausted_pod_refuses_subscriptions_for_now() {
    let users = (0..20).map(|n| json!({ "id": n.to_string(), "type": format!("u{n}"), "orgId": "1" }));
    let tables = json!({ "locations": [{ "id": "1", "name": "one", "orgId": "1" }],
        "users": users.collect::<Value>() });
    let file = std::env::temp_dir().join(format!("relay-{}.json", uuid::Uuid::now_v7()));
    std::fs::write(&file, tables.to_string()).unwrap();
    let setup = Setup::new("pod").set("RELAY_DIRECTORY", file.to_str().unwrap());
    let pod = setup.set("RELAY_MEMORY", "16MiB").start().await;
    std::fs::remove_file(&file).unwrap();
    let fields = (0..28).map(|n| format!("a{n}: name ")).collect::<String>();
    let query = |n: usize| format!("subscription {{x{n}: templateAdded {{{fields}}}}}");
    let mut clients = Vec::new();
    for user in 0..16 {
        let mut client = Client::connect(pod.port(), Dialect::Transport, &format!("u{user}")).await;
        for number in 0..WATCHERS {
            client.start(&number.to_string(), &query(user * WATCHERS + number)).await;
        }
        clients.push(client);
    }
    // Each user takes its whole share, and the shares take the whole pool.
    eventually("all subscriptions are answered", PATIENCE, async || {
        let watchers = pod.metric("relay_watchers").await;
        let refused = pod.metric_of("relay_refusals_total", "limit=\"user_operations\"").await;
        (watchers + refused > 16.0 * 64.0 - 0.5 && refused > 15.5).then_some(())
    })
    .await;
    let mut streams = Vec::new();
    let refused = loop {
        let number = 100_000 + streams.len();
        let stream = Streamed::open(EVENTS, post(&pod, "u18", &query(number))).await;
        if stream.response.status() != 200 {
            break stream.response;
        }
        streams.push(stream);
    };
    assert_eq!((refused.status().as_u16(), refused.headers()["retry-after"].to_str().unwrap()), (503, "5"));
    assert_eq!(refused.json::<Value>().await.unwrap()["errors"][0]["extensions"]["code"], "OVERLOADED");
    let mut late = Client::connect(pod.port(), Dialect::Transport, "u19").await;
    late.start("1", &query(200_000)).await;
    let reason = "too many distinct subscriptions on this pod".to_owned();
    assert_eq!(late.socket.receive().await.unwrap_err(), End { code: 1013, reason });
    assert!(pod.metric_of("relay_refusals_total", "limit=\"operations\"").await > 1.5);
    pod.until_metric_is("relay_connection_ends_total", "reason=\"operations\"", |count| count > 0.5).await;
    drop(streams);
    drop(clients);
    pod.until_metric("relay_connections", 0.0).await;
    let mut back = Client::connect(pod.port(), Dialect::Transport, "u19").await;
    back.start("1", &query(200_000)).await;
    pod.until_metric("relay_watchers", 1.0).await;
}
