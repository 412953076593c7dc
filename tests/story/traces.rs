//! What a collector is sent: one trace from a mutation on one pod to the feeds of all, and the metrics.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::{Client, Collector, Dialect, PATIENCE, Setup, Topic, eventually, watchers_on};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CLIENT: &str = "b7ad6b7169203331";

fn named<'a>(spans: &'a [Value], name: &str) -> Vec<&'a Value> {
    spans.iter().filter(|span| span["name"] == name).collect()
}

/// The value of a span's attribute.
fn attribute<'a>(span: &'a Value, key: &str) -> &'a Value {
    let attributes = span["attributes"].as_array().unwrap();
    attributes.iter().find(|attribute| attribute["key"] == key).map_or(&Value::Null, |found| &found["value"])
}

#[tokio::test(flavor = "multi_thread")]
async fn one_mutation_is_one_trace_over_four_pods() {
    let (Some(topic), Some(collector)) = (Topic::fresh().await, Collector::start().await) else { return };
    let pods = join_all((1..=4).map(|n| {
        let setup = Setup::new(&format!("pod{n}")).topic(&topic);
        setup
            .set("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint())
            .set("OTEL_BSP_SCHEDULE_DELAY", "200")
            .set("OTEL_METRIC_EXPORT_INTERVAL", "500")
            .start()
    }))
    .await;
    let mut clients = watchers_on(&pods[1], Dialect::Transport, &["ZOLO"]).await;

    let mutation =
        "mutation { addTemplate(templateInput: {name: \"traced\", shareLocationIds: [3]}) { success } }";
    let traceparent = format!("00-{TRACE}-{CLIENT}-01");
    let answer = pods[0].http.graphql_in_trace("ZOWI", mutation, &traceparent).await;
    assert_eq!(answer.json()["data"]["addTemplate"]["success"], true);

    let spans = eventually("every pod has processed it", PATIENCE, async || {
        let spans = collector.spans(TRACE);
        let counts = ["mutation", "process", "deliver"].map(|name| named(&spans, name).len());
        (counts == [1, 4, 1]).then_some(spans)
    })
    .await;
    let [mutation, publish] = ["mutation", "publish"].map(|name| named(&spans, name)[0]);
    assert_eq!(mutation["parentSpanId"], CLIENT);
    assert_eq!(publish["parentSpanId"], mutation["spanId"]);
    assert_eq!(attribute(publish, "messaging.system"), &json!({"stringValue": "gcp_pubsub"}));
    let mut pods_of_process = Vec::new();
    let deliver = named(&spans, "deliver")[0];
    for process in named(&spans, "process") {
        let is_zolos = attribute(process, "relay.pod")["stringValue"] == "pod2";
        assert_eq!(process["spanId"] == deliver["parentSpanId"], is_zolos);
        assert_eq!(process["links"][0]["spanId"], publish["spanId"]);
        assert_eq!(attribute(process, "relay.event.id"), attribute(publish, "relay.event.id"));
        pods_of_process.push(attribute(process, "relay.pod")["stringValue"].as_str().unwrap().to_owned());
    }
    pods_of_process.sort();
    assert_eq!(pods_of_process, ["pod1", "pod2", "pod3", "pod4"]);
    assert_eq!(clients[0].next().await, "traced");
    eventually("metrics are pushed", PATIENCE, async || {
        collector.has_metric("relay.publishes").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mutation_over_a_websocket_is_in_its_clients_trace() {
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
    let result = client.socket.hear().await.unwrap();
    assert_eq!(result["payload"]["data"]["addTemplate"]["success"], true, "{result}");

    let mutation = eventually("the span is sent", PATIENCE, async || {
        let spans = collector.spans(TRACE);
        named(&spans, "mutation").first().copied().cloned()
    })
    .await;
    assert_eq!(mutation["parentSpanId"], CLIENT);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_costs_nothing_but_spans() {
    let nobody = format!("http://127.0.0.1:{}", crate::support::free_ports(1));
    let pod = Setup::new("pod1")
        .set("OTEL_EXPORTER_OTLP_ENDPOINT", nobody)
        .set("OTEL_BSP_SCHEDULE_DELAY", "100")
        .start()
        .await;
    for n in 0..20 {
        pod.add_template("ZOWI", &format!("template {n}"), None).await;
    }
    pod.until_metric(r#"relay_telemetry_spans_total{outcome="failed"}"#, 60.0).await;
}
