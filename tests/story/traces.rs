//! Telemetry that a collector receives: one trace from a mutation on one pod to the feeds of all,
//! and metrics.
//!
//! Operators follow an event across pods by its trace. A collector must never slow a pod down.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::{net::TcpListener, time::Instant};

use crate::support::{Client, Collector, Dialect, PATIENCE, Relay, Setup, Topic, eventually, watchers_on};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CLIENT: &str = "b7ad6b7169203331";

fn named<'a>(spans: &'a [Value], name: &str) -> Vec<&'a Value> {
    spans.iter().filter(|span| span["name"] == name).collect()
}

/// Returns the text of a span's attribute, or an empty text.
fn attribute<'a>(span: &'a Value, key: &str) -> &'a str {
    let attributes = span["attributes"].as_array().unwrap();
    let found = attributes.iter().find(|attribute| attribute["key"] == key);
    found.and_then(|found| found["value"]["stringValue"].as_str()).unwrap_or_default()
}

/// Returns a setup of a pod on this topic that sends spans and metrics to the collector.
fn traced(pod: &str, topic: &Topic, collector: &Collector) -> Setup {
    let setup = Setup::new(pod).topic(topic).set("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint());
    setup.set("OTEL_BSP_SCHEDULE_DELAY", "200").set("OTEL_METRIC_EXPORT_INTERVAL", "500")
}

/// Adds a template for ZOLO and ZEWI as a client does that has started the trace.
async fn add_in_trace(pod: &Relay, name: &str) {
    let mutation = format!(
        "mutation {{ addTemplate(templateInput: {{name: \"{name}\", shareLocationIds: [3]}}) {{ success }} }}"
    );
    let answer = pod.http.graphql_in_trace("ZOWI", &mutation, &format!("00-{TRACE}-{CLIENT}-01")).await;
    assert_eq!(answer.json()["data"]["addTemplate"]["success"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_mutation_is_one_trace_over_four_pods() {
    let (Some(topic), Some(collector)) = (Topic::on_pubsub().await, Collector::start().await) else { return };
    let pods = join_all((1..=4).map(|n| traced(&format!("pod{n}"), &topic, &collector).start())).await;
    let mut clients = watchers_on(&pods[1], Dialect::Transport, &["ZOLO"]).await;
    add_in_trace(&pods[0], "traced").await;

    let spans = eventually("every pod has processed it", PATIENCE, async || {
        let spans = collector.spans(TRACE);
        let counts = ["mutation", "publish", "process", "deliver"].map(|name| named(&spans, name).len());
        (counts == [1, 1, 4, 1]).then_some(spans)
    })
    .await;
    let [mutation, publish, deliver] = ["mutation", "publish", "deliver"].map(|name| named(&spans, name)[0]);
    assert_eq!(mutation["parentSpanId"], CLIENT);
    assert_eq!(publish["parentSpanId"], mutation["spanId"]);
    let mut pods_of_process = Vec::new();
    for process in named(&spans, "process") {
        let pod = attribute(process, "relay.pod");
        assert_eq!(process["spanId"] == deliver["parentSpanId"], pod == "pod2");
        assert_eq!(process["links"].as_array().unwrap().len(), 1);
        let link = &process["links"][0];
        assert_eq!((&link["traceId"], &link["spanId"]), (&json!(TRACE), &publish["spanId"]));
        assert_conventions(publish, process);
        pods_of_process.push(pod);
    }
    pods_of_process.sort_unstable();
    assert_eq!(pods_of_process, ["pod1", "pod2", "pod3", "pod4"]);
    assert_eq!(
        [mutation, publish, deliver].map(|span| attribute(span, "relay.pod")),
        ["pod1", "pod1", "pod2"]
    );
    assert_eq!(clients[0].next().await, "traced");
    eventually("metrics are pushed", PATIENCE, async || {
        collector.has_metric("relay.publishes").then_some(())
    })
    .await;
}

/// Asserts the semantic conventions:
/// <https://opentelemetry.io/docs/specs/semconv/messaging/gcp-pubsub/>
fn assert_conventions(publish: &Value, process: &Value) {
    let operation =
        |span| ["messaging.operation.name", "messaging.operation.type"].map(|key| attribute(span, key));
    assert_eq!([publish, process].map(operation), [["publish", "send"], ["process", "process"]]);
    for shared in ["messaging.system", "messaging.destination.name", "messaging.message.id"] {
        assert_eq!(attribute(process, shared), attribute(publish, shared), "{shared}");
    }
    assert_eq!(attribute(publish, "messaging.system"), "gcp_pubsub");
    assert!(attribute(publish, "messaging.destination.name").ends_with("/topics/templates"), "{publish}");
    assert!(!attribute(publish, "messaging.message.id").is_empty(), "{publish}");
    let lane = attribute(publish, "messaging.gcp_pubsub.message.ordering_key");
    assert!(lane.starts_with("lane-"), "{publish}");
    let feed = attribute(process, "messaging.destination.subscription.name");
    assert!(feed.contains(&format!("templates.{}.", attribute(process, "relay.pod"))), "{process}");
}

#[tokio::test(flavor = "multi_thread")]
async fn mutation_over_websocket_joins_clients_trace() {
    let Some(collector) = Collector::start().await else { return };
    let setup = Setup::new("pod").set("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint());
    let pod = setup.set("OTEL_BSP_SCHEDULE_DELAY", "200").start().await;
    let mut client = Client::connect(pod.port(), Dialect::Transport, "ZOWI").await;
    let payload = json!({
        "query": "mutation { addTemplate(templateInput: {name: \"traced\"}) { success } }",
        "operationName": "",
        "extensions": { "traceparent": format!("00-{TRACE}-{CLIENT}-01") },
    });
    client.socket.send(json!({ "id": "m", "type": "subscribe", "payload": payload })).await;
    let result = client.socket.receive().await.unwrap();
    assert_eq!(result["payload"]["data"]["addTemplate"]["success"], true, "{result}");

    let mutation = eventually("the span is sent", PATIENCE, async || {
        let spans = collector.spans(TRACE);
        named(&spans, "mutation").first().copied().cloned()
    })
    .await;
    assert_eq!(mutation["parentSpanId"], CLIENT);
}

#[tokio::test(flavor = "multi_thread")]
async fn pod_without_collector_keeps_trace_whole() {
    let (Some(topic), Some(collector)) = (Topic::on_pubsub().await, Collector::start().await) else { return };
    let (author, other) =
        tokio::join!(Setup::new("pod1").topic(&topic).start(), traced("pod2", &topic, &collector).start());
    add_in_trace(&author, "traced by others").await;
    let process = eventually("the other pod has processed it", PATIENCE, async || {
        named(&collector.spans(TRACE), "process").first().map(|&process| process.clone())
    })
    .await;
    assert_eq!(attribute(&process, "relay.pod"), other.name());
    assert_eq!((&process["parentSpanId"], &process["links"][0]["spanId"]), (&json!(CLIENT), &json!(CLIENT)));
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_go_by_grpc_too() {
    let Some(collector) = Collector::start_grpc().await else { return };
    let pod = Setup::new("pod1")
        .set("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint())
        .set("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
        .set("OTEL_BSP_SCHEDULE_DELAY", "200")
        .start()
        .await;
    add_in_trace(&pod, "traced by gRPC").await;
    eventually("the collector prints the mutation", PATIENCE, async || {
        let output = collector.output();
        [TRACE, CLIENT, "mutation"].iter().all(|part| output.contains(part)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn silent_collector_does_not_delay_exit() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut pod = Setup::new("pod1")
        .set("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{}", silent.local_addr().unwrap()))
        .start()
        .await;
    pod.add_template("ZOWI", "untold", None).await;
    pod.signal("TERM");
    let began = Instant::now();
    assert_eq!(pod.ended().await.code(), Some(0), "{}", pod.output());
    assert!(
        began.elapsed() < Duration::from_secs(8),
        "flush of metrics and spans together: {:?}",
        began.elapsed()
    );
    assert!(pod.output().contains("telemetry not flushed"), "{}", pod.output());
}

#[tokio::test(flavor = "multi_thread")]
async fn absent_collector_costs_only_spans() {
    let endpoint = format!("http://127.0.0.1:{}", crate::support::free_ports(1));
    let pod = Setup::new("pod1")
        .set("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        .set("OTEL_BSP_SCHEDULE_DELAY", "100")
        .start()
        .await;
    for n in 0..20 {
        pod.add_template("ZOWI", &format!("template {n}"), None).await;
    }
    pod.until_metric(r#"relay_telemetry_spans_total{outcome="failed"}"#, 60.0).await;
}
