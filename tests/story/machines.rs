//! What machines see of a pod: probes, and metrics that tell what happened.

use crate::support::{Dialect, Http, Setup, Topic, free_ports, watchers_on};

/// Every metric that operators may rely on, with what one mutation to two watchers makes of it.
const AFTER_ONE_MUTATION: [(&str, f64); 11] = [
    ("relay_connections", 2.0),
    ("relay_watchers", 2.0),
    ("relay_events_received_total", 1.0),
    ("relay_events_deduplicated_total", 0.0),
    ("relay_events_rejected_total", 0.0),
    ("relay_events_matched_total", 2.0),
    ("relay_deliveries_total", 2.0),
    ("relay_publishes_total", 1.0),
    ("relay_publish_duration_seconds_count", 1.0),
    ("relay_delivery_latency_seconds_count", 2.0),
    ("relay_connection_ends_total", 0.0),
];

#[tokio::test(flavor = "multi_thread")]
async fn metrics_count_what_happened() {
    let Some(topic) = Topic::fresh().await else { return };
    let pod = Setup::new("pod").topic(&topic).start().await;
    let mut clients = watchers_on(&pod, Dialect::Transport, &["ZOLO", "ZEWI"]).await;
    pod.add_template("ZOWI", "one", Some(&["3"])).await;
    for client in &mut clients {
        client.next().await;
    }
    for (name, value) in AFTER_ONE_MUTATION {
        pod.until_metric(name, value).await;
    }
    let published = pod.metric_of("relay_publishes_total", "outcome=\"acknowledged\"").await;
    assert!((published - 1.0).abs() < 0.5, "{}", pod.http.get("/metrics").await.text);
    let latency = pod.metric("relay_delivery_latency_seconds_sum").await;
    assert!((0.0..20.0).contains(&latency), "{latency}");

    clients.pop().unwrap().socket.close().await;
    pod.until_metric("relay_connections", 1.0).await;
    let ends = pod.metric_of("relay_connection_ends_total", "reason=\"left\"").await;
    assert!((ends - 1.0).abs() < 0.5, "{ends}");
}

#[tokio::test]
async fn an_address_for_machines_is_closed_to_clients_and_the_other_way_round() {
    let admin = free_ports(1);
    let setup = Setup::new("pod").set("RELAY_ADMIN_LISTEN", format!("127.0.0.1:{admin}"));
    let pod = setup.launch();
    let machines = Http::new(admin);
    crate::support::eventually("it is ready", crate::support::PATIENCE, async || {
        machines.try_get("/readyz").await.filter(|answer| answer.status == 200)
    })
    .await;
    for path in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(machines.get(path).await.status, 200, "{path}");
        assert_eq!(pod.http.get(path).await.status, 404, "{path}");
    }
    assert_eq!(machines.get("/graphql").await.status, 404);
    assert_eq!(pod.http.graphql_get("ZOWI", "{ locations { id } }").await.status, 200);
}
