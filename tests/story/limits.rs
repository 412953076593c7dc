//! Limits of one connection and of a pod.
//!
//! Limits keep one client from harming others. A limit that is hit must never end another
//! connection.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use crate::support::{Client, Dialect, End, PATIENCE, Relay, Setup, Socket, watchers_on};

#[tokio::test(flavor = "multi_thread")]
async fn slow_client_ends_without_loss_for_others() {
    // Events of about 70 KB are published until the pod has ended the slow client: they fill the
    // socket buffers (5 MB) and the queue, which then stays full for a second, and the pod takes
    // some seconds more to give the socket up.
    const LIMIT: Duration = Duration::from_secs(60);
    const SLOW: &str = "reason=\"slow\"";
    let pod = Setup::new("pod").set("RELAY_QUEUE_BYTES", "1MiB").start().await;
    let mut slow = Client::watch_narrowly(&pod, "ZOLO").await;
    let mut fast = watchers_on(&pod, Dialect::Transport, &["ZEWI"]).await.pop().unwrap();
    let mut locations: Vec<String> = (0..999).map(|n| format!("{n:-<60}")).collect();
    locations.push("3".to_owned());
    let locations: Vec<&str> = locations.iter().map(String::as_str).collect();

    let (mut names, began) = (Vec::new(), Instant::now());
    while pod.metric_of("relay_connection_ends_total", SLOW).await < 0.5 {
        assert!(began.elapsed() < LIMIT, "the client that does not read is not slow");
        let name = format!("event-{}", names.len());
        pod.add_template("ZOWI", &name, Some(&locations)).await;
        // One by one, so that even on a busy machine only the client that does not read is slow
        assert_eq!(fast.next().await, name);
        names.push(name);
    }

    pod.until_metric("relay_watchers", 1.0).await;
    pod.until_metric("relay_connections", 1.0).await;
    let ends = pod.metric_of("relay_connection_ends_total", SLOW).await;
    assert!((ends - 1.0).abs() < 0.5, "{ends}");
    // What it received is complete and in order. It gets the close code only if it reads again in
    // time
    let (received, end) = slow.socket.receive_to_end().await;
    let received: Vec<_> =
        received.iter().map(|message| &message["payload"]["data"]["templateAdded"]["name"]).collect();
    assert_eq!(received, names[..received.len()].iter().collect::<Vec<_>>());
    assert!(received.len() < names.len());
    assert!([1013, 1006].contains(&end.code), "{end:?}");
}

#[tokio::test]
async fn excess_watcher_is_refused_and_others_stay() {
    let pod = Setup::new("pod").set("RELAY_MAX_WATCHERS", "2").start().await;
    let mut client = Client::connect(pod.port(), Dialect::Transport, "ZOLO").await;
    client.watch().await;
    client.start("second", "subscription { templateAdded { id } }").await;
    client.start("third", "subscription { templateAdded { id } }").await;
    let refusal = client.socket.receive().await.unwrap();
    assert_eq!((&refusal["type"], &refusal["id"]), (&json!("error"), &json!("third")), "{refusal}");
    assert_eq!(refusal["payload"][0]["extensions"]["code"], "LIMIT_REACHED", "{refusal}");

    client.socket.send(json!({ "id": "second", "type": "complete" })).await;
    pod.until_metric("relay_watchers", 1.0).await;
    pod.add_template("ZOWI", "goes on", Some(&["3"])).await;
    assert_eq!(client.next().await, "goes on");
}

#[tokio::test]
async fn full_pod_refuses_until_connection_leaves() {
    let pod = Setup::new("pod").set("RELAY_MAX_CONNECTIONS", "1").start().await;
    let client = Client::connect(pod.port(), Dialect::Transport, "ZOLO").await;
    assert_turned_away(&pod, "too many connections").await;

    client.socket.close().await;
    pod.until_metric("relay_connections", 0.0).await;
    Client::connect(pod.port(), Dialect::Transport, "ZOLO").await;
}

/// Asserts that a pod accepts the handshake and closes with 1013. A page can read nothing but a
/// close, and stock clients reconnect after this code.
async fn assert_turned_away(pod: &Relay, reason: &str) {
    for dialect in [Dialect::Transport, Dialect::Legacy] {
        let mut socket = Socket::open(pod.port(), Some(dialect.subprotocol())).await;
        assert_eq!(socket.subprotocol.as_deref(), Some(dialect.subprotocol()));
        let (received, end) = socket.receive_to_end().await;
        assert_eq!((received, end), (vec![], End { code: 1013, reason: reason.to_owned() }));
    }
}

#[tokio::test]
async fn foreign_origin_gets_no_socket_and_no_preflight() {
    let pod = Setup::new("pod").set("RELAY_ALLOWED_ORIGINS", "https://shop.example").start().await;
    for (origin, status) in [("https://evil.example", 403), ("null", 403), ("https://shop.example", 101)] {
        assert_eq!(pod.http.upgrade(Some(origin)).await.status, status, "{origin}");
        let allowed = pod.http.preflight(origin).await;
        let expected = if status == 101 { origin } else { "" };
        assert_eq!(allowed.header("access-control-allow-origin"), expected, "{allowed:?}");
    }
    // Programs other than browsers send no origin
    Socket::open(pod.port(), Some("graphql-transport-ws")).await;
}

#[tokio::test]
async fn pages_may_send_headers_of_stock_clients() {
    let pod = Setup::new("pod").set("RELAY_ALLOWED_ORIGINS", "https://shop.example").start().await;
    let answer = pod.http.preflight("https://shop.example").await;
    let allowed: Vec<_> = answer.header("access-control-allow-headers").split(',').map(str::trim).collect();
    for name in [
        "apollographql-client-name",
        "apollographql-client-version",
        "apollo-require-preflight",
        "x-relay-read-after",
        "authorization",
        "baggage",
        "cache-control",
        "content-type",
        "last-event-id",
        "sentry-trace",
        "traceparent",
        "tracestate",
        "x-requested-with",
    ] {
        assert!(allowed.contains(&name), "{name}: {allowed:?}");
    }
    let foreign = pod.http.preflight("https://evil.example").await;
    assert_eq!(foreign.header("access-control-allow-origin"), "");
}

#[tokio::test]
async fn queries_and_mutations_run_over_socket_too() {
    let pod = Setup::new("pod").start().await;
    for (dialect, next) in [(Dialect::Transport, "next"), (Dialect::Legacy, "data")] {
        let mut client = Client::connect(pod.port(), dialect, "ZOWI").await;
        let mutation = r#"mutation { addTemplate(templateInput: { name: "by socket" }) { success } }"#;
        client.start("m", mutation).await;
        let mut result = client.socket.receive().await.unwrap();
        assert!(result["payload"]["extensions"]["cursor"].is_string(), "{result}");
        result["payload"].as_object_mut().unwrap().remove("extensions");
        let payload = json!({ "data": { "addTemplate": { "success": true } } });
        assert_eq!(result, json!({ "type": next, "id": "m", "payload": payload }));
        assert_eq!(client.socket.receive().await.unwrap(), json!({ "type": "complete", "id": "m" }));

        client.start("bad", "{ nothing }").await;
        let refusal: Value = client.socket.receive().await.unwrap();
        assert_eq!((&refusal["type"], &refusal["id"]), (&json!("error"), &json!("bad")), "{refusal}");
    }
}

#[tokio::test]
async fn large_operation_has_same_fate_on_every_transport() {
    let pod = Setup::new("pod").start().await;
    // More than a template may have: the answer is an error of the field.
    let ids: Vec<String> = (0..1_001).map(|n| format!("{n:0>800}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let answer = pod.http.add_template("ZOWI", "large", Some(&ids)).await;
    assert_eq!(answer.code(), "BAD_USER_INPUT");
    for (dialect, start, next) in
        [(Dialect::Transport, "subscribe", "next"), (Dialect::Legacy, "start", "data")]
    {
        let mut client = Client::connect(pod.port(), dialect, "ZOWI").await;
        let query = "mutation($i: AddTemplateInput!) { addTemplate(templateInput: $i) { success } }";
        let variables = json!({ "i": { "name": "large", "shareLocationIds": ids } });
        let payload = json!({ "query": query, "variables": variables });
        client.socket.send(json!({ "type": start, "id": "m", "payload": payload })).await;
        let result = client.socket.receive().await.unwrap();
        assert_eq!((&result["type"], &result["id"]), (&json!(next), &json!("m")), "{dialect:?}");
        let error = &result["payload"]["errors"][0];
        assert_eq!(error["extensions"]["code"], "BAD_USER_INPUT", "{result}");
    }
}

#[tokio::test]
async fn one_address_cannot_take_all_places() {
    let pod = Setup::new("pod").set("RELAY_MAX_CONNECTIONS_PER_ADDRESS", "1").start().await;
    let client = Client::connect(pod.port(), Dialect::Transport, "ZOLO").await;
    assert_turned_away(&pod, "too many connections from this address").await;
    assert!(pod.template_names().await.is_empty(), "a query is no connection");

    client.socket.close().await;
    pod.until_metric("relay_connections", 0.0).await;
    Client::connect(pod.port(), Dialect::Transport, "ZOLO").await;
}

#[tokio::test]
async fn introspection_can_be_switched_off() {
    let pod = Setup::new("pod").set("RELAY_INTROSPECTION", "off").start().await;
    let answer = pod.http.graphql("ZOWI", "{ __schema { types { name } } }", Value::Null).await;
    assert_eq!(answer.code(), "GRAPHQL_VALIDATION_FAILED", "{answer:?}");
    let answer = pod.http.graphql("ZOWI", "{ __typename }", Value::Null).await;
    assert_eq!(answer.json()["data"], json!({ "__typename": "Query" }), "{answer:?}");
}

#[tokio::test]
async fn pod_cuts_endless_head_and_refuses_large_one() {
    let pod = Setup::new("pod").start().await;
    let mut slow = TcpStream::connect(("127.0.0.1", pod.port())).await.unwrap();
    slow.write_all(b"GET /graphql HTTP/1.1\r\nhost: a\r\nx: ").await.unwrap();
    let mut large = TcpStream::connect(("127.0.0.1", pod.port())).await.unwrap();
    let head = format!("GET /graphql HTTP/1.1\r\nhost: a\r\nx: {}", "x".repeat(70_000));
    // The pod may refuse the head and close the socket before all of it is written.
    large.write_all(head.as_bytes()).await.ok();
    let mut answer = Vec::new();
    large.read_to_end(&mut answer).await.ok();
    assert!(
        answer.is_empty() || answer.starts_with(b"HTTP/1.1 431 "),
        "{}",
        String::from_utf8_lossy(&answer)
    );
    let mut answer = Vec::new();
    timeout(PATIENCE, slow.read_to_end(&mut answer)).await.expect("the pod cuts the head off").ok();
    assert!(pod.template_names().await.is_empty());
}

#[tokio::test]
async fn small_window_replays_what_it_still_covers() {
    let setup = Setup::new("pod").set("RELAY_REPLAY_WINDOW", "3s").set("RELAY_REPLAY_BYTES", "4KiB");
    let pod = setup.set("RELAY_QUEUE_BYTES", "1KiB").set("RELAY_HEARTBEAT_INTERVAL", "500ms").start().await;
    // Longer than the window: from then on the start of the pod does not matter.
    sleep(Duration::from_secs(4)).await;
    let mut client = watchers_on(&pod, Dialect::Transport, &["ZOLO"]).await.pop().unwrap();
    pod.add_template("ZOWI", "seen", Some(&["3"])).await;
    let received = client.socket.receive().await.unwrap();
    let document = format!(
        "subscription {{ templateAdded(after: {}) {{ name }} }}",
        received["payload"]["extensions"]["cursor"]
    );
    client.socket.close().await;
    pod.add_template("ZOWI", "missed", Some(&["3"])).await;

    let mut client = Client::connect(pod.port(), Dialect::Transport, "ZOLO").await;
    client.start("watch", &document).await;
    client.until_all(["missed".to_owned()]).await;
    sleep(Duration::from_secs(4)).await;
    pod.add_template("ZOWI", "later", Some(&["3"])).await;
    client.until_all(["later".to_owned()]).await;
    let mut client = Client::connect(pod.port(), Dialect::Transport, "ZOLO").await;
    client.start("watch", &document).await;
    let received = client.socket.receive().await.unwrap();
    assert_eq!(received["payload"]["extensions"]["gap"]["reason"], "WINDOW_EXCEEDED", "{received}");
}
