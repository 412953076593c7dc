//! Results of events that one user asks for and does not read, and results that are too large.

use serde_json::{Value, json};

use crate::{
    rates::large_locations,
    support::{Client, Dialect, PATIENCE, Setup, eventually, watchers_on},
};

#[tokio::test(flavor = "multi_thread")]
async fn unread_results_use_up_only_their_user() {
    let pod = Setup::new("pod").set("RELAY_MEMORY", "64MiB").set("RELAY_QUEUE_BYTES", "256KiB").start().await;
    let mut honest = watchers_on(&pod, Dialect::Transport, &["ZEWI"]).await.pop().unwrap();
    let mut attackers = Vec::new();
    for connection in 0..32 {
        let mut attacker = Client::connect(pod.port(), Dialect::Transport, "ZOLO").await;
        for number in 0..4 {
            let query =
                format!("subscription {{x{connection}_{number}: templateAdded {{name shareLocationIds}}}}");
            attacker.start(&number.to_string(), &query).await;
        }
        attackers.push(attacker);
    }
    pod.until_metric("relay_watchers", 129.0).await;
    let locations = large_locations();
    let locations: Vec<&str> = locations.iter().map(String::as_str).collect();
    for n in 0..40 {
        let name = format!("event-{n}");
        pod.add_template("ZOWI", &name, Some(&locations)).await;
        assert_eq!(honest.next().await, name);
        let held = pod.metric_of("relay_budget_used_bytes", "pool=\"queues\"").await;
        assert!(held <= f64::from(8 * (256 << 10) + (1 << 20)), "{held}");
    }
    pod.until_metric_is("relay_connection_ends_total", "reason=\"no_room\"", |count| count > 0.5).await;
    drop((attackers, honest));
    eventually("the ledger is empty", PATIENCE, async || {
        (pod.metric_of("relay_budget_used_bytes", "pool=\"queues\"").await < 0.5).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn burst_ends_no_connection_of_user() {
    let pod = Setup::new("pod").start().await;
    let mut clients = watchers_on(&pod, Dialect::Transport, &["ZOLO"; 20]).await;
    let locations = large_locations();
    let locations: Vec<&str> = locations.iter().map(String::as_str).collect();
    let names: Vec<_> = (0..14).map(|n| format!("event-{n}")).collect();
    for name in &names {
        pod.add_template("ZOWI", name, Some(&locations)).await;
    }
    for client in &mut clients {
        for name in &names {
            assert_eq!(client.next().await, *name);
        }
    }
    let charged = pod.metric_of("relay_connection_ends_total", "reason=\"no_room\"").await;
    assert!(charged < 0.5, "{charged} connections of one user had no room");
}

#[tokio::test]
async fn result_above_its_bound_has_no_data() {
    let pod = Setup::new("pod").set("RELAY_QUEUE_BYTES", "64KiB").start().await;
    let mut client = watchers_on(&pod, Dialect::Transport, &["ZOLO"]).await.pop().unwrap();
    pod.add_template("ZOWI", "small", Some(&["3"])).await;
    let first = client.socket.receive().await.unwrap();
    let locations = large_locations();
    let locations: Vec<&str> = locations.iter().map(String::as_str).collect();
    pod.add_template("ZOWI", "large", Some(&locations)).await;
    let is_cut = |next: &Value| {
        let payload = &next["payload"];
        assert_eq!(payload["errors"][0]["extensions"]["code"], "RESULT_TOO_LARGE", "{next}");
        assert!(payload["data"].is_null() && payload["extensions"]["eventId"].is_string(), "{next}");
        payload["extensions"].clone()
    };
    let live = is_cut(&client.socket.receive().await.unwrap());
    pod.add_template("ZOWI", "later", Some(&["3"])).await;
    assert_eq!(client.next().await, "later", "the subscription goes on");
    let after = &first["payload"]["extensions"]["cursor"];
    let mut back = Client::connect(pod.port(), Dialect::Transport, "ZOLO").await;
    let query = format!("subscription {{templateAdded(after: {after}) {{name shareLocationIds}}}}");
    back.start("1", &query).await;
    let mut replayed = back.socket.receive().await.unwrap();
    if replayed["payload"]["data"]["templateAdded"]["name"] == "small" {
        replayed = back.socket.receive().await.unwrap();
    }
    let replayed = is_cut(&replayed);
    assert_eq!((&replayed["cursor"], &replayed["replayed"]), (&live["cursor"], &json!(true)));
}
