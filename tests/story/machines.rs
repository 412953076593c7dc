//! Routes for machines: probes and metrics.
//!
//! Alerts and the autoscaler depend on the metrics. Code and `docs/TELEMETRY.md` must never differ.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::join_all;
use serde_json::Value;

use crate::support::{
    Client, Dialect, Http, PATIENCE, Setup, Topic, USERS, eventually, free_ports, watchers_on,
};

/// Kind and labels of a metric.
#[derive(Debug, PartialEq, Eq)]
struct Metric {
    kind: String,
    labels: BTreeSet<String>,
}

/// Returns the metrics of `docs/TELEMETRY.md`, by Prometheus' name. Checks that the other name
/// fits, and that each metric has a row and a list item with its meaning.
fn documented() -> BTreeMap<String, Metric> {
    let document = include_str!("../../docs/TELEMETRY.md");
    let (_, section) = document.split_once("## Metrics").unwrap();
    let (section, _) = section.split_once("### Limits").unwrap();
    let lines = section.lines().filter_map(|line| line.strip_prefix("- `")?.split_once("`: "));
    let mut meanings: BTreeMap<_, _> = lines.collect();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let metrics = rows.map(|row| {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let [_, name, other, kind, labels, _] = cells[..] else { panic!("{row}") };
        let (kind, unit) = kind.split_once(", ").unwrap_or_else(|| panic!("{row}"));
        let name = name.trim_matches('`');
        assert!(meanings.remove(name).is_some_and(|meaning| !meaning.is_empty()), "{row}");
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
    let metrics = metrics.collect();
    assert!(meanings.is_empty(), "metrics without a row: {meanings:?}");
    metrics
}

/// Returns the metrics of a scrape, by name.
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
            // the last part is the last label's value with the rest of the line
            let mut labels: Vec<_> = labels.map(str::to_owned).collect();
            labels.pop();
            let labels = labels.into_iter().filter(|label| label != "le");
            metrics.get_mut(name).unwrap_or_else(|| panic!("{line}")).labels.extend(labels);
        }
    }
    metrics
}

/// Prefixes of metrics that move with time alone: the process's own, and heartbeats.
const MOVED_BY_TIME: [&str; 2] = ["process_", "relay_heartbeats_total"];

/// Returns the counters of a scrape and the counts of its histograms, by series.
fn counters(text: &str) -> BTreeMap<String, f64> {
    let metrics = scraped(text);
    let series = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
        let (series, value) = line.rsplit_once(' ').unwrap();
        let name = series.split('{').next().unwrap();
        let is_counter = metrics.get(name).is_some_and(|metric| metric.kind == "counter")
            || name.strip_suffix("_count").is_some_and(|name| metrics.contains_key(name));
        let is_moved_by_time = MOVED_BY_TIME.iter().any(|moved| name.starts_with(moved));
        (is_counter && !is_moved_by_time).then(|| (series.to_owned(), value.parse().unwrap()))
    });
    series.collect()
}

/// Returns all differences between two scrapes.
fn moved(before: &BTreeMap<String, f64>, after: &BTreeMap<String, f64>) -> BTreeMap<String, f64> {
    let difference = |(series, value): (&String, &f64)| {
        (series.clone(), value - before.get(series).copied().unwrap_or_default())
    };
    after.iter().map(difference).filter(|(_, by)| *by != 0.0).collect()
}

/// Returns the sum of a metric over all series of all these pods.
async fn sum(pods: &[Http], name: &str) -> f64 {
    let mut sum = 0.0;
    for pod in pods {
        let text = pod.get("/metrics").await.text;
        let series = text.lines().filter(|line| line.split(['{', ' ']).next() == Some(name));
        sum += series.map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()).sum::<f64>();
    }
    sum
}

async fn until_sum(pods: &[Http], name: &str, value: f64) {
    eventually(&format!("{name} of all pods is {value}"), PATIENCE, async || {
        ((sum(pods, name).await - value).abs() < 0.5).then_some(())
    })
    .await;
}

async fn scrape(pods: &[Http]) -> Vec<BTreeMap<String, f64>> {
    join_all(pods.iter().map(async |pod| counters(&pod.get("/metrics").await.text))).await
}

/// Returns what the tutorial's story moves on a pod, depending on whether its user is the author or
/// receives the event.
fn moved_by_story(is_author: bool, receives: bool) -> BTreeMap<String, f64> {
    let everywhere = ["relay_events_received_total"];
    let authors =
        [r#"relay_publishes_total{outcome="acknowledged"}"#, "relay_publish_duration_seconds_count"];
    let receivers = [
        "relay_events_matched_total",
        r#"relay_deliveries_total{transport="ws"}"#,
        r#"relay_delivery_latency_seconds_count{transport="ws"}"#,
    ];
    let moved = everywhere
        .iter()
        .chain(authors.iter().filter(|_| is_author))
        .chain(receivers.iter().filter(|_| receives));
    moved.map(|&series| (series.to_owned(), 1.0)).collect()
}

/// Uses the in-memory broker, which repeats nothing, so that every count is exact.
#[tokio::test(flavor = "multi_thread")]
async fn tutorial_story_moves_exactly_expected_counters() {
    const BYTES: &str = r#"relay_delivered_bytes_total{transport="ws"}"#;
    let cluster = Setup::cluster().set("JAVA_HOME", "/nowhere").start().await;
    let pods: Vec<_> = (cluster.port()..cluster.port() + 4).map(Http::new).collect();
    until_sum(&pods, "relay_ready", 4.0).await;
    eventually("the log names the broker", PATIENCE, async || {
        cluster.output().contains("in-memory broker").then_some(())
    })
    .await;
    let mut clients = Vec::new();
    for (pod, user) in pods.iter().zip(USERS) {
        let mut client = Client::connect(pod.port(), Dialect::Transport, user).await;
        client.watch().await;
        clients.push(client);
    }
    until_sum(&pods, "relay_watchers", 4.0).await;

    let before = scrape(&pods).await;
    cluster.add_template("ZOWI", "story", Some(&["3"])).await;
    for client in &mut clients[1..3] {
        assert_eq!(client.next().await, "story", "{}", client.user);
    }
    until_sum(&pods, "relay_events_received_total", 4.0).await;
    until_sum(&pods, "relay_delivery_latency_seconds_count", 2.0).await;
    for ((user, before), after) in USERS.iter().zip(&before).zip(&scrape(&pods).await) {
        let (is_author, receives) = (*user == "ZOWI", ["ZOLO", "ZEWI"].contains(user));
        let mut moved = moved(before, after);
        let bytes = moved.remove(BYTES).unwrap_or_default();
        assert_eq!(bytes > 100.0, receives, "{user}: {bytes}");
        assert_eq!(moved, moved_by_story(is_author, receives), "{user}");
    }
    for (name, value) in
        [("relay_connections", 4.0), ("relay_events_matched_total", 2.0), ("relay_deliveries_total", 2.0)]
    {
        assert!((sum(&pods, name).await - value).abs() < 0.5, "{name}");
    }

    let before = scrape(&pods).await;
    clients.pop().unwrap().socket.close().await;
    until_sum(&pods, "relay_connections", 3.0).await;
    let after = scrape(&pods).await;
    let moved: Vec<_> = before.iter().zip(&after).map(|(before, after)| moved(before, after)).collect();
    let left = r#"relay_connection_ends_total{reason="left",transport="ws"}"#;
    assert_eq!(moved[3], BTreeMap::from([(left.to_owned(), 1.0)]));
    assert!(moved[..3].iter().all(BTreeMap::is_empty), "{moved:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn telemetry_document_lists_exactly_shown_metrics() {
    let Some(topic) = Topic::on_pubsub().await else { return };
    let pod = Setup::new("pod").topic(&topic).start().await;
    let mut clients = watchers_on(&pod, Dialect::Transport, &["ZOLO"]).await;
    pod.add_template("ZOWI", "one", Some(&["3"])).await;
    clients[0].next().await;
    assert_eq!(pod.http.graphql("unknown", "{ locations { id } }", Value::Null).await.status, 401);
    let long = format!("{{ {} }}", "locations { id } ".repeat(400));
    assert_eq!(pod.http.graphql("ZOWI", &long, Value::Null).await.code(), "GRAPHQL_VALIDATION_FAILED");

    pod.until_metric("relay_deliveries_total", 1.0).await;
    pod.until_metric("relay_feed_orphans_deleted_total", 0.0).await;
    let mut expected = documented();
    assert!(expected.remove("relay_log_trimmed_total").is_some(), "PostgreSQL alone has it");
    assert_eq!(scraped(&pod.http.get("/metrics").await.text), expected);
    let states = ["ready", "opening", "catching_up", "closed"].map(|state| format!("state=\"{state}\""));
    for (state, value) in states.iter().zip([1.0, 0.0, 0.0, 0.0]) {
        let is_in = pod.metric_of("relay_feed_state", state).await;
        assert!((is_in - value).abs() < 0.5, "{state}: {is_in}");
    }
    let bytes = pod.metric("relay_delivered_bytes_total").await;
    assert!((100.0..1_000.0).contains(&bytes), "{bytes}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_limit_counts_its_refusals_by_name() {
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
    // the pod closes that socket, so the client's own connection must not be used for it
    let answer = Http::new(pod.port()).graphql("ZOWI", &large, Value::Null).await;
    assert_eq!(answer.status, 413);
    refused("body").await;
    let mut client = watchers_on(&pod, Dialect::Transport, &["ZOLO"]).await.pop().unwrap();
    // the pod accepts the handshake and refuses with a close
    assert_eq!(pod.http.upgrade(None).await.status, 101);
    refused("connections").await;
    client.start("second", "subscription { templateAdded { id } }").await;
    assert_eq!(client.socket.receive().await.unwrap()["type"], "error");
    refused("watchers").await;
}

#[tokio::test]
async fn admin_and_client_addresses_share_no_route() {
    let admin = free_ports(1);
    let setup = Setup::new("pod").set("RELAY_ADMIN_LISTEN", format!("127.0.0.1:{admin}"));
    let pod = setup.launch();
    let machines = Http::new(admin);
    eventually("the pod is ready", PATIENCE, async || {
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
