//! Log of a pod: one line for each connection, and nothing secret.
//!
//! Logs are kept longer and read more widely than the data. They must never hold payloads,
//! tokens or addresses.

use std::time::Duration;

use reqwest::{Method, RequestBuilder};
use serde_json::Value;
use tokio::{net::TcpStream, time::sleep};

use crate::support::{
    Dialect, EVENTS, PATIENCE, Relay, Setup, Streamed, Topic, USERS, eventually, post, request, watchers_on,
};

/// Text from a client that no log line may contain.
const NAME: &str = "a template name that no log may hold";
/// Token of no user, which no log line may contain.
const TOKEN: &str = "a-token-of-no-user";
/// Client address in the headers of a balancer, which no log line may contain.
const ADDRESS: &str = "203.0.113.7";

/// Watches by SSE, and sends valid and invalid mutations over HTTP and SSE. Returns the number of
/// streams that the pod logs.
async fn without_a_websocket(pod: &Relay) -> usize {
    let from = |request: RequestBuilder| {
        request.header("x-forwarded-for", ADDRESS).header("forwarded", format!("for={ADDRESS}"))
    };
    let mutation = |field: &str| {
        format!(
            r#"mutation {{ {field}(templateInput: {{ name: "{NAME}", shareLocationIds: ["3"] }}) {{ success }} }}"#
        )
    };
    let right = mutation("addTemplate");
    let watch = "subscription { templateAdded { name } }";
    let mut watching = Streamed::open(EVENTS, from(post(pod, "ZOLO", watch))).await;
    pod.until_metric("relay_watchers", 1.0).await;
    let mut by_sse = Streamed::open(EVENTS, from(post(pod, "ZOWI", &right))).await;
    assert_eq!(by_sse.event().await.unwrap().2["data"]["addTemplate"]["success"], true);
    for (user, query, status) in
        [("ZOWI", &*right, 200), (TOKEN, &right, 401), ("ZOWI", &mutation(TOKEN), 200), ("ZOWI", NAME, 200)]
    {
        let answer = from(post(pod, user, query)).send().await.unwrap();
        assert_eq!(answer.status(), status, "{user} {query}");
    }
    let refused = Streamed::open(EVENTS, from(post(pod, TOKEN, watch))).await;
    assert_eq!(refused.response.status(), 401);
    let no_json = request(pod, Method::POST, "ZOWI").header("content-type", "application/json").body(NAME);
    assert_eq!(from(no_json).send().await.unwrap().status(), 400);
    for _ in 0..2 {
        assert_eq!(watching.event().await.unwrap().2["data"]["templateAdded"]["name"], NAME);
    }
    1
}

#[tokio::test(flavor = "multi_thread")]
async fn log_has_no_payload_token_or_client_address() {
    let Some(topic) = Topic::fresh().await else { return };
    for format in ["json", "text"] {
        let pod = Setup::new("pod").topic(&topic).set("RELAY_LOG", "info,pubsub_relay=debug");
        let pod = pod.set("RELAY_LOG_FORMAT", format).start().await;
        let mut clients = watchers_on(&pod, Dialect::Transport, &USERS).await;
        pod.add_template("ZOWI", NAME, Some(&["3"])).await;
        for client in &mut clients[1..3] {
            client.next().await;
        }
        assert_eq!(pod.http.graphql(TOKEN, "{ locations { id } }", Value::Null).await.status, 401);
        pod.http.graphql("ZOWI", &format!("{{ {TOKEN} }}"), Value::Null).await;
        clients[0].socket.send_text(NAME.to_owned()).await;
        drop(clients);
        let streams = without_a_websocket(&pod).await;
        pod.until_metric("relay_connections", 0.0).await;
        let log = eventually("the end of each connection is logged", PATIENCE, async || {
            let log = pod.output();
            (log.matches("connection ended").count() == USERS.len() + streams).then_some(log)
        })
        .await;

        assert!(log.matches("event dispatched").count() >= 3, "the log has too few lines: {log}");
        for line in log.lines().filter(|line| !line.contains("pod started")) {
            for secret in [NAME, TOKEN, "Bearer", "ZOWI", "ZOLO", "127.0.0.1", ADDRESS] {
                assert!(!line.contains(secret), "{secret}: {line}");
            }
        }
        if format == "json" {
            let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
            let ends: Vec<_> = lines.filter(|line| line["message"] == "connection ended").collect();
            assert!(ends.iter().all(|line| line["severity"] == "INFO"), "{ends:?}");
            let of = |transport| ends.iter().filter(move |line| line["transport"] == transport);
            assert_eq!([of("ws").count(), of("sse").count()], [USERS.len(), streams], "{ends:?}");
            let deliveries = |line: &Value| line["deliveries"].as_u64().unwrap();
            assert_eq!(of("ws").map(deliveries).sum::<u64>(), 2);
            assert!(ends.iter().any(|line| line["reason"] == "bad_message"), "{ends:?}");
            assert!(ends.iter().all(|line| line["seconds"].is_f64()), "{ends:?}");
        }
    }
}

/// Returns the sum of this field over the lines that count what began, and the number of lines.
fn began(log: &str, field: &str) -> (u64, usize) {
    let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let lines: Vec<_> = lines.filter(|line| line["message"] == "connections and mutations began").collect();
    (lines.iter().map(|line| line[field].as_u64().unwrap()).sum(), lines.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn log_counts_each_second_what_began() {
    let pod = Setup::new("pod").set("RELAY_LOG_FORMAT", "json").start().await;
    let _clients = watchers_on(&pod, Dialect::Transport, &USERS).await;
    for _ in 0..20 {
        pod.add_template("ZOWI", "one of many", None).await;
    }
    let log = eventually("all that began is counted", PATIENCE, async || {
        let log = pod.output();
        (began(&log, "connections").0 == 4 && began(&log, "mutations").0 == 20).then_some(log)
    })
    .await;
    let (_, lines) = began(&log, "mutations");
    assert!(lines <= 8, "{lines} lines: {log}");
    sleep(Duration::from_millis(2_500)).await;
    assert_eq!(began(&pod.output(), "mutations").1, lines, "a quiet second has no line");
    for line in ["connection began", "mutation began", "event published"] {
        assert!(!log.contains(line), "{line}: {log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn debug_log_has_each_beginning() {
    let pod = Setup::new("pod").set("RELAY_LOG", "debug").set("RELAY_LOG_FORMAT", "json").start().await;
    let _clients = watchers_on(&pod, Dialect::Transport, &USERS).await;
    for _ in 0..3 {
        pod.add_template("ZOWI", "one of many", None).await;
    }
    eventually("each beginning is logged", PATIENCE, async || {
        let log = pod.output();
        let of = |text: &str| log.matches(&format!("\"message\":\"{text}\"")).count();
        (of("connection began") == 4 && of("mutation began") == 3 && of("event published") == 3).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unread_log_stops_nothing() {
    let setup = Setup::new("pod").set("RELAY_LOG", "trace").set("RELAY_DRAIN_DELAY", "0s");
    let (mut pod, unread) = setup.set("RELAY_DRAIN_SPREAD", "0s").start_with_unread_log().await;
    let mut watching = watchers_on(&pod, Dialect::Transport, &["ZOLO"]).await;
    // Far beyond what the pipe and the waiting lines hold together
    eventually("lines are dropped", 2 * PATIENCE, async || {
        // Two lines each
        for _ in 0..2_000 {
            drop(TcpStream::connect(("127.0.0.1", pod.port())).await.unwrap());
        }
        (pod.metric("relay_log_dropped_total").await > 100.0).then_some(())
    })
    .await;
    pod.add_template("ZOWI", "undisturbed", Some(&["3"])).await;
    assert_eq!(watching[0].next().await, "undisturbed");
    pod.signal("TERM");
    assert_eq!(pod.ended().await.code(), Some(0));
    drop(unread);
}
