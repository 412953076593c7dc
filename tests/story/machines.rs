//! What machines see of a pod: probes, and metrics that tell what happened.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::support::{Dialect, Http, Setup, Topic, free_ports, watchers_on};

/// What is known of a metric.
#[derive(Debug, PartialEq, Eq)]
struct Metric {
    kind: String,
    labels: BTreeSet<String>,
}

/// The tables of `docs/TELEMETRY.md`: by Prometheus' name. The other name is checked on the way.
fn documented() -> BTreeMap<String, Metric> {
    let document = include_str!("../../docs/TELEMETRY.md");
    let (_, section) = document.split_once("## Metrics").unwrap();
    let (section, _) = section.split_once("### Limits").unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let metrics = rows.map(|row| {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let [_, name, other, kind, unit, labels, meaning, _, _] = cells[..] else { panic!("{row}") };
        assert!(!meaning.is_empty(), "{row}");
        let name = name.trim_matches('`');
        let suffix = match unit {
            "1" => "",
            "s" => "_seconds",
            "By" => "_bytes",
            _ => panic!("{row}"),
        };
        let total = if kind == "counter" { "_total" } else { "" };
        let expected = format!("{}{suffix}{total}", other.trim_matches('`').replace('.', "_"));
        assert_eq!(name, expected, "{row}");
        let labels = labels.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        (name.to_owned(), Metric { kind: kind.to_owned(), labels })
    });
    metrics.collect()
}

/// The same of a scrape.
fn scraped(text: &str) -> BTreeMap<String, Metric> {
    let mut metrics = BTreeMap::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            metrics.insert(name.to_owned(), Metric { kind: kind.to_owned(), labels: BTreeSet::new() });
        } else if let Some((name, rest)) = line.split_once('{') {
            let name =
                ["_bucket", "_sum", "_count"].iter().find_map(|part| name.strip_suffix(part)).unwrap_or(name);
            let labels = rest.split("=\"").filter_map(|part| part.rsplit(['{', ',', '"']).next());
            // the last part has the last value, and what is left of the line
            let mut labels: Vec<_> = labels.map(str::to_owned).collect();
            labels.pop();
            let labels = labels.into_iter().filter(|label| label != "le");
            metrics.get_mut(name).unwrap_or_else(|| panic!("{line}")).labels.extend(labels);
        }
    }
    metrics
}

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

#[tokio::test(flavor = "multi_thread")]
async fn the_document_lists_exactly_the_metrics_that_a_pod_shows() {
    let Some(topic) = Topic::fresh().await else { return };
    let pod = Setup::new("pod").topic(&topic).start().await;
    let mut clients = watchers_on(&pod, Dialect::Transport, &["ZOLO"]).await;
    pod.add_template("ZOWI", "one", Some(&["3"])).await;
    clients[0].next().await;
    assert_eq!(pod.http.graphql("nobody", "{ locations { id } }", Value::Null).await.status, 401);
    let long = format!("{{ {} }}", "locations { id } ".repeat(400));
    assert_eq!(pod.http.graphql("ZOWI", &long, Value::Null).await.code(), "GRAPHQL_VALIDATION_FAILED");

    pod.until_metric("relay_deliveries_total", 1.0).await;
    pod.until_metric("relay_feed_orphans_deleted_total", 0.0).await;
    assert_eq!(scraped(&pod.http.get("/metrics").await.text), documented());
    let states = ["ready", "opening", "catching_up", "closed"].map(|state| format!("state=\"{state}\""));
    for (state, value) in states.iter().zip([1.0, 0.0, 0.0, 0.0]) {
        let is_in = pod.metric_of("relay_feed_state", state).await;
        assert!((is_in - value).abs() < 0.5, "{state}: {is_in}");
    }
    let bytes = pod.metric("relay_delivered_bytes_total").await;
    assert!((100.0..1_000.0).contains(&bytes), "{bytes}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_limit_that_is_hit_is_counted_by_its_name() {
    let pod =
        Setup::new("pod").set("RELAY_MAX_WATCHERS", "1").set("RELAY_MAX_CONNECTIONS", "1").start().await;
    let nested = (0..30).fold("name".to_owned(), |inner, _| format!("ofType {{ {inner} }}"));
    let bomb: String =
        (1..32).map(|n| format!("fragment f{n} on Query {{ ...f{} ...f{} }} ", n + 1, n + 1)).collect();
    let documents = [
        ("bytes", format!("{{ locations {{ id }} }} #{}", "x".repeat(32 << 10))),
        ("selections", format!("{{ ...f1 }} {bomb} fragment f32 on Query {{ locations {{ id }} }}")),
        ("tokens", format!("{{ {} }}", "locations { id } ".repeat(400))),
        ("aliases", format!("{{ {} }}", (0..40).map(|n| format!("a{n}: __typename ")).collect::<String>())),
        ("depth", format!("{{ __schema {{ types {{ {nested} }} }} }}")),
        ("directives", format!("{{ locations {{ id {} }} }}", "@skip(if: false) ".repeat(30))),
    ];
    let refused = async |limit: &str| {
        let count = pod.metric_of("relay_refusals_total", &format!("limit=\"{limit}\"")).await;
        assert!((count - 1.0).abs() < 0.5, "{limit}: {count}");
    };
    for (limit, document) in documents {
        let answer = pod.http.graphql("ZOWI", &document, Value::Null).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        refused(limit).await;
    }
    let large = " ".repeat(1 << 20);
    // the pod closes that socket: it is not to be the one that is used again
    let answer = Http::new(pod.port()).graphql("ZOWI", &large, Value::Null).await;
    assert_eq!(answer.status, 413);
    refused("body").await;
    let mut client = watchers_on(&pod, Dialect::Transport, &["ZOLO"]).await.pop().unwrap();
    // told so by a close
    assert_eq!(pod.http.upgrade(None).await.status, 101);
    refused("connections").await;
    client.start("second", "subscription { templateAdded { id } }").await;
    assert_eq!(client.socket.hear().await.unwrap()["type"], "error");
    refused("watchers").await;
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
