//! Server-sent events: graphql-sse's two modes, and what an `EventSource` does by itself.
//!
//! An `EventSource` reconnects with the id of its last event. A stream that is cut must never end
//! with `complete`.

use std::{pin::pin, time::Duration};

use reqwest::Method;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpSocket, TcpStream},
    select,
    time::{sleep, timeout},
};

use crate::support::{
    BodyEnd, EVENTS, EVERYWHERE, Relay, Setup, Streamed, Topic, USERS, WATCH, eventually, four_pods, post,
    request,
};

const TOKEN: &str = "x-graphql-event-stream-token";

fn name(data: &Value) -> &str {
    data["data"]["templateAdded"]["name"].as_str().unwrap_or_else(|| panic!("{data}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn tutorial_story_continues_on_another_pod() {
    let Some(topic) = Topic::fresh().await else { return };
    let pods = four_pods(&topic).await;
    let mut streams = Vec::new();
    for (pod, user) in pods.iter().zip(USERS) {
        streams.push(Streamed::watch(EVENTS, pod, user).await);
    }
    pods[0].add_template("ZOWI", "for location 3", Some(&["3"])).await;
    let mut last = String::new();
    for stream in &mut streams[1..3] {
        let (event, id, data) = stream.event().await.unwrap();
        assert_eq!((&*event, name(&data)), ("next", "for location 3"));
        assert_eq!(data["extensions"]["cursor"], id, "an EventSource reconnects with the cursor");
        last = id;
    }
    pods[1].add_template("ZOLO", "for everybody", Some(&EVERYWHERE)).await;
    for at in [0, 3] {
        assert_eq!(name(&streams[at].event().await.unwrap().2), "for everybody", "{}", USERS[at]);
    }

    // ZEWI comes back to ZOWI's pod
    let request = post(&pods[0], "ZEWI", WATCH).header("last-event-id", &last);
    let mut back = Streamed::open(EVENTS, request).await;
    let mut names = Vec::new();
    while names.last().is_none_or(|name| name != "for everybody") {
        names.push(name(&back.event().await.unwrap().2).to_owned());
    }
    // Events within the margin are repeated
    assert!(names == ["for everybody"] || names == ["for location 3", "for everybody"], "{names:?}");
}

#[tokio::test]
async fn head_comes_at_once_with_cursor() {
    let pod = Setup::new("pod").start().await;
    pod.add_template("ZOLO", "before", None).await;
    let mut stream = Streamed::open(EVENTS, post(&pod, "ZOLO", WATCH)).await;
    let header = |name| stream.response.headers()[name].to_str().unwrap();
    assert_eq!(stream.response.status(), 200);
    assert!(header("content-type").starts_with("text/event-stream"));
    assert_eq!((header("cache-control"), header("x-accel-buffering")), ("no-store", "no"));
    assert_eq!(stream.block().await.unwrap(), ":");
    let block = stream.block().await.unwrap();
    let cursor = block.strip_prefix("id: ").unwrap();

    // A client that is cut off before its first result misses nothing either
    drop(stream);
    pod.add_template("ZOWI", "missed", Some(&["3"])).await;
    let mut stream = Streamed::open(EVENTS, post(&pod, "ZOLO", WATCH).header("last-event-id", cursor)).await;
    assert_eq!(name(&stream.event().await.unwrap().2), "missed");
}

#[tokio::test]
async fn idle_stream_carries_keep_alive_comments() {
    let pod = Setup::new("pod").start().await;
    let mut stream = Streamed::watch(EVENTS, &pod, "ZOLO").await;
    assert_eq!(stream.block().await.unwrap(), ":");
    assert!(stream.block().await.unwrap().starts_with("id: "));
    assert_eq!(stream.block().await.unwrap(), ":");
}

#[tokio::test]
async fn page_gets_heartbeats_that_it_asked_for() {
    let pod = Setup::new("pod").start().await;
    let get = |heartbeat: &str| {
        request(&pod, Method::GET, "ZOLO").query(&[("query", WATCH), ("heartbeat", heartbeat)])
    };
    let mut stream = Streamed::open(EVENTS, get("1s")).await;
    let (event, cursor, _) = stream.event().await.unwrap();
    assert_eq!(event, "heartbeat", "at once");
    assert!(!cursor.is_empty(), "some clients see no id without an event");
    assert_eq!(stream.event().await.unwrap().0, "heartbeat");

    for wrong in ["0s", "61s", "15"] {
        let refused = get(wrong).header("accept", EVENTS).send().await.unwrap();
        assert_eq!(refused.status(), 400, "{wrong}");
        let text = refused.text().await.unwrap();
        assert!(text.contains("`heartbeat` must be 1s to 60s"), "{text}");
    }
    let token = reserve(&pod, "ZOLO").await;
    let read = request(&pod, Method::GET, "ZOLO").header(TOKEN, &token).query(&[("heartbeat", "1s")]);
    let mut stream = Streamed::open(EVENTS, read).await;
    for _ in 0..2 {
        assert_eq!(stream.event().await.unwrap().0, "heartbeat");
    }
}

#[tokio::test]
async fn single_result_is_stream_too() {
    let pod = Setup::new("pod").start().await;
    let mutation = r#"mutation { addTemplate(templateInput: { name: "by sse" }) { success } }"#;
    for (query, pointer) in [
        ("{ locations { id } }", "/data/locations/3/id"),
        (mutation, "/data/addTemplate/success"),
        ("{ nothing }", "/errors/0/message"),
        ("subscription { nothing }", "/errors/0/message"),
        (r#"subscription { templateAdded(after: "nonsense") { name } }"#, "/errors/0/extensions/code"),
    ] {
        let mut stream = Streamed::open(EVENTS, post(&pod, "ZOWI", query)).await;
        let (event, _, data) = stream.event().await.unwrap();
        assert_eq!(event, "next", "{query}");
        assert!(data.pointer(pointer).is_some(), "{query}: {data}");
        assert_eq!(stream.event().await.unwrap().0, "complete", "{query}");
        assert_eq!(stream.event().await.unwrap_err(), BodyEnd::Whole);
    }
    let by_get = request(&pod, Method::GET, "ZOWI").query(&[("query", "{ locations { id } }")]);
    let mut stream = Streamed::open(EVENTS, by_get).await;
    assert_eq!(stream.event().await.unwrap().0, "next");
    assert_eq!(pod.template_names().await, ["by sse"]);
}

#[tokio::test]
async fn pod_refuses_invalid_operation_by_status() {
    let pod = Setup::new("pod").set("RELAY_MAX_CONNECTIONS", "1").start().await;
    for (user, query, status) in [("NO_USER", WATCH, 401), ("ZOLO", "subscription {", 400), ("ZOLO", "", 400)]
    {
        let stream = Streamed::open(EVENTS, post(&pod, user, query)).await;
        assert_eq!(stream.response.status(), status, "{query}");
        let body: Value = serde_json::from_str(&stream.response.text().await.unwrap()).unwrap();
        assert!(body["errors"][0]["extensions"]["code"].is_string(), "{body}");
    }
    let _watching = Streamed::watch(EVENTS, &pod, "ZOLO").await;
    let full = Streamed::open(EVENTS, post(&pod, "ZEWI", WATCH)).await.response;
    assert_eq!(full.status(), 503);
    assert!(full.headers().contains_key("retry-after"));
}

#[tokio::test]
async fn leaving_client_frees_its_watcher() {
    let pod = Setup::new("pod").start().await;
    let stream = Streamed::watch(EVENTS, &pod, "ZOLO").await;
    drop(stream);
    pod.until_metric("relay_watchers", 0.0).await;
    pod.until_metric("relay_connections", 0.0).await;
}

#[tokio::test]
async fn draining_pod_cuts_stream_without_complete() {
    let mut pod = Setup::new("pod").start().await;
    let mut stream = Streamed::watch(EVENTS, &pod, "ZOLO").await;
    pod.add_template("ZOWI", "last words", Some(&["3"])).await;
    assert_eq!(name(&stream.event().await.unwrap().2), "last words");
    pod.signal("TERM");
    assert_eq!(stream.event().await.unwrap_err(), BodyEnd::Cut);
    assert_eq!(pod.ended().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_client_is_cut_and_costs_others_nothing() {
    // More than the socket buffers can hold: 300 events of about 70 KB
    const EVENTS_SENT: usize = 300;
    let pod = Setup::new("pod").set("RELAY_QUEUE_BYTES", "1MiB").start().await;
    let query = "subscription { templateAdded { name shareLocationIds } }";
    let slow = Streamed::open(EVENTS, post(&pod, "ZOLO", query)).await;
    let mut fast = Streamed::watch(EVENTS, &pod, "ZEWI").await;
    pod.until_metric("relay_watchers", 2.0).await;
    let mut locations: Vec<String> = (0..999).map(|n| format!("{n:-<60}")).collect();
    locations.push("3".to_owned());
    let locations: Vec<&str> = locations.iter().map(String::as_str).collect();
    for n in 0..EVENTS_SENT {
        let sent = format!("event-{n}");
        pod.add_template("ZOWI", &sent, Some(&locations)).await;
        assert_eq!(name(&fast.event().await.unwrap().2), sent);
    }
    pod.until_metric("relay_watchers", 1.0).await;
    pod.until_metric("relay_connections", 1.0).await;
    let ends = pod.metric_of("relay_connection_ends_total", "reason=\"slow\"").await;
    assert!((ends - 1.0).abs() < 0.5, "{ends}");
    let mut slow = slow;
    let mut received = 0;
    let end = loop {
        match slow.event().await {
            Ok((_, _, data)) => assert_eq!(name(&data), format!("event-{received}")),
            Err(end) => break end,
        }
        received += 1;
    };
    assert_eq!(end, BodyEnd::Cut);
    assert!(received < EVENTS_SENT);
}

#[tokio::test]
async fn client_away_too_long_gets_gap() {
    let pod = Setup::new("pod").set("RELAY_REPLAY_BYTES", "1MiB").start().await;
    let mut stream = Streamed::watch(EVENTS, &pod, "ZOLO").await;
    pod.add_template("ZOWI", "first", Some(&["3"])).await;
    let (_, cursor, _) = stream.event().await.unwrap();
    let long = "x".repeat(60);
    let locations: Vec<String> = (0..1_000).map(|n| format!("{n}{long}")).collect();
    let locations: Vec<&str> = locations.iter().map(String::as_str).collect();
    for _ in 0..20 {
        pod.add_template("ZOWI", "fills the window", Some(&locations)).await;
    }
    let request = post(&pod, "ZOLO", WATCH).header("last-event-id", cursor);
    let mut back = Streamed::open(EVENTS, request).await;
    let (event, id, data) = back.event().await.unwrap();
    assert_eq!((&*event, &data["data"]["templateAdded"]), ("next", &Value::Null));
    assert_eq!(data["extensions"]["gap"]["reason"], "WINDOW_EXCEEDED", "{data}");
    assert_eq!(data["extensions"]["cursor"], id);
    pod.add_template("ZOWI", "live again", Some(&["3"])).await;
    assert_eq!(name(&back.event().await.unwrap().2), "live again");
}

/// Reserves a stream and returns its token.
async fn reserve(pod: &Relay, user: &str) -> String {
    let response = request(pod, Method::PUT, user).send().await.unwrap();
    assert_eq!(response.status(), 201);
    assert!(response.headers()["content-type"].to_str().unwrap().starts_with("text/plain"));
    response.text().await.unwrap()
}

/// Submits an operation to the stream and returns the status.
async fn submit(pod: &Relay, user: &str, token: &str, id: Option<&str>, query: &str) -> u16 {
    let body = json!({ "query": query, "extensions": { "operationId": id } }).to_string();
    let request = request(pod, Method::POST, user).header("content-type", "application/json");
    request.header(TOKEN, token).body(body).send().await.unwrap().status().as_u16()
}

async fn stop(pod: &Relay, user: &str, token: &str, query: &[(&str, &str)]) -> u16 {
    let request = request(pod, Method::DELETE, user).header(TOKEN, token).query(query);
    request.send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn one_stream_carries_many_operations() {
    let pod = Setup::new("pod").set("RELAY_MAX_WATCHERS", "2").start().await;
    let token = reserve(&pod, "ZOLO").await;
    assert_eq!(submit(&pod, "ZOLO", &token, Some("early"), WATCH).await, 202, "before it is read");
    let open = || request(&pod, Method::GET, "ZOLO").header(TOKEN, &token);
    let mut stream = Streamed::open(EVENTS, open()).await;
    assert_eq!(stream.response.status(), 200);
    assert_eq!(Streamed::open(EVENTS, open()).await.response.status(), 409, "one reader");

    assert_eq!(submit(&pod, "ZOLO", &token, Some("early"), WATCH).await, 409, "in use");
    assert_eq!(submit(&pod, "ZOLO", &token, None, WATCH).await, 400, "no id");
    assert_eq!(submit(&pod, "ZOLO", &token, Some("bad"), "{ nothing }").await, 400);
    assert_eq!(submit(&pod, "ZOLO", &token, Some("bad"), "subscription { nothing }").await, 400);
    assert_eq!(submit(&pod, "ZOLO", "unknown", Some("x"), WATCH).await, 404);
    assert_eq!(submit(&pod, "ZEWI", &token, Some("x"), WATCH).await, 404, "another viewer's");
    assert_eq!(submit(&pod, "NO_USER", &token, Some("x"), WATCH).await, 401);
    assert_eq!(submit(&pod, "ZOLO", &token, Some("query"), "{ locations { id } }").await, 202);
    let (event, _, data) = stream.event().await.unwrap();
    assert_eq!((&*event, &data["id"]), ("next", &json!("query")));
    assert_eq!(data["payload"]["data"]["locations"][0]["id"], "1", "{data}");
    let (event, _, data) = stream.event().await.unwrap();
    assert_eq!((&*event, data), ("complete", json!({ "id": "query" })));

    assert_eq!(submit(&pod, "ZOLO", &token, Some("second"), WATCH).await, 202);
    assert_eq!(submit(&pod, "ZOLO", &token, Some("third"), WATCH).await, 429, "too many");
    assert_eq!(stop(&pod, "ZOLO", &token, &[]).await, 400, "no id");
    assert_eq!(stop(&pod, "ZEWI", &token, &[("operationId", "early")]).await, 404);
    assert_eq!(stop(&pod, "ZOLO", &token, &[("operationId", "early")]).await, 200);
    pod.until_metric("relay_watchers", 1.0).await;
    pod.add_template("ZOWI", "for one", Some(&["3"])).await;
    let (_, id, data) = stream.event().await.unwrap();
    assert_eq!((&data["id"], name(&data["payload"])), (&json!("second"), "for one"));
    assert_eq!(data["payload"]["extensions"]["cursor"], id);

    drop(stream);
    pod.until_metric("relay_connections", 0.0).await;
    pod.until_metric("relay_watchers", 0.0).await;
    assert_eq!(submit(&pod, "ZOLO", &token, Some("late"), WATCH).await, 404);
}

#[tokio::test]
async fn event_source_reads_reservation_by_url() {
    let pod = Setup::new("pod").start().await;
    let token = reserve(&pod, "ZOLO").await;
    let url = format!("http://127.0.0.1:{}/graphql?token={token}", pod.port());
    let mut stream = Streamed::open(EVENTS, reqwest::Client::new().get(&url)).await;
    assert_eq!(stream.response.status(), 200);
    assert_eq!(submit(&pod, "ZOLO", &token, Some("a"), WATCH).await, 202);
    pod.add_template("ZOWI", "by url", Some(&["3"])).await;
    assert_eq!(name(&stream.event().await.unwrap().2["payload"]), "by url");
    assert_eq!(Streamed::open(EVENTS, reqwest::Client::new().get(&url)).await.response.status(), 409);
}

#[tokio::test(flavor = "multi_thread")]
async fn results_wait_until_client_reads() {
    let pod = Setup::new("pod").set("RELAY_MAX_WATCHERS", "2").set("RELAY_QUEUE_BYTES", "1KiB").start().await;
    add_large(&pod, 1).await;
    let token = reserve(&pod, "ZOLO").await;
    let ask = |id| submit(&pod, "ZOLO", &token, Some(id), "{ templates { shareLocationIds } }");
    assert_eq!(ask("1").await, 202);
    let mut waiting = pin!(async { tokio::join!(ask("2"), ask("3")) });
    let full = async {
        sleep(Duration::from_secs(3)).await;
        ask("4").await
    };
    select! {
        statuses = &mut waiting => panic!("the queue had room: {statuses:?}"),
        status = full => assert_eq!(status, 429),
    }
    let mut stream = Streamed::open(EVENTS, request(&pod, Method::GET, "ZOLO").header(TOKEN, &token)).await;
    let read = async {
        let mut completed = 0;
        while completed < 3 {
            completed += usize::from(stream.event().await.unwrap().0 == "complete");
        }
    };
    assert_eq!(tokio::join!(waiting, read).0, (202, 202));
}

#[tokio::test]
async fn unread_reservation_is_no_connection_and_ends_soon() {
    let pod = Setup::new("pod").set("RELAY_MAX_CONNECTIONS", "1").start().await;
    let put = async |user| request(&pod, Method::PUT, user).send().await.unwrap().status().as_u16();
    let open = |token: &str| request(&pod, Method::GET, "ZOLO").header(TOKEN, token);
    let tokens = [reserve(&pod, "ZOLO").await, reserve(&pod, "ZOLO").await];
    assert_eq!((put("ZOLO").await, put("ZOLO").await), (201, 201));
    assert_eq!(put("ZOLO").await, 503, "the fifth");
    assert_eq!(put("ZEWI").await, 201, "another user's first");
    assert!(pod.metric("relay_connections").await < 0.5);
    assert!(pod.metric_of("relay_refusals_total", "limit=\"reservations\"").await > 0.5);

    let read = Streamed::open(EVENTS, open(&tokens[0])).await;
    assert_eq!(read.response.status(), 200);
    assert_eq!(put("ZOLO").await, 201, "one is read");
    pod.until_metric("relay_connections", 1.0).await;
    let full = Streamed::open(EVENTS, open(&tokens[1])).await;
    assert_eq!(full.response.status(), 503, "the pod has one connection");
    drop(read);
    pod.until_metric("relay_connections", 0.0).await;
    assert_eq!(Streamed::open(EVENTS, open(&tokens[1])).await.response.status(), 200);
    let all = Duration::from_secs(15);
    eventually("unread ones end", all, async || (put("ZOLO").await == 201).then_some(())).await;
}

/// Returns whether the pod still holds the socket of this client.
fn holds_socket_of(pod: &Relay, client: u16) -> bool {
    let ends = format!(":{:04X} 0100007F:{client:04X} ", pod.port());
    std::fs::read_to_string("/proc/net/tcp").unwrap().lines().any(|line| line.contains(&ends))
}

/// Opens a stream on a socket with a small receive buffer.
async fn narrow(pod: &Relay, headers: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let mut socket = socket.connect(([127, 0, 0, 1], pod.port()).into()).await.unwrap();
    let body = json!({ "query": "subscription { templateAdded { shareLocationIds } }" }).to_string();
    let head = format!(
        "POST /graphql HTTP/1.1\r\nhost: a\r\naccept: {EVENTS}\r\nauthorization: Bearer ZOLO\r\n\
         content-type: application/json\r\n{headers}content-length: {}\r\n\r\n{body}",
        body.len()
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    socket
}

/// Adds templates; each result has 60 KB.
pub(crate) async fn add_large(pod: &Relay, count: usize) {
    let mut locations: Vec<String> = (0..999).map(|n| format!("{n:-<60}")).collect();
    locations.push("3".to_owned());
    let locations: Vec<&str> = locations.iter().map(String::as_str).collect();
    for _ in 0..count {
        pod.add_template("ZOWI", "large", Some(&locations)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replay_continues_as_soon_as_client_reads() {
    const EVENTS: usize = 40;
    let pod = Setup::new("pod").start().await;
    let cursor = pod.http.graphql("ZOLO", "{ __typename }", json!({})).await.json();
    let cursor = cursor["extensions"]["cursor"].as_str().unwrap().to_owned();
    add_large(&pod, EVENTS).await;
    let mut socket = narrow(&pod, &format!("last-event-id: {cursor}\r\n")).await;
    let mut lines = BufReader::new(&mut socket).lines();
    let mut results = 0;
    // Far less than a keep-alive interval for each portion
    let all = timeout(Duration::from_secs(20), async {
        while results < EVENTS {
            results += usize::from(lines.next_line().await.unwrap().unwrap() == "event: next");
        }
    });
    let is_all = all.await.is_ok();
    assert!(is_all, "{results} of {EVENTS}");
}

#[tokio::test(flavor = "multi_thread")]
async fn stuck_client_releases_its_socket() {
    // Longer than the 24 s without progress that end a client, checked at the next keep-alive
    const LIMIT: Duration = Duration::from_secs(90);
    let pod = Setup::new("pod").set("RELAY_QUEUE_BYTES", "64MiB").start().await;
    let stuck = narrow(&pod, "").await;
    pod.until_metric("relay_watchers", 1.0).await;
    let port = stuck.local_addr().unwrap().port();
    assert!(holds_socket_of(&pod, port));
    // More than the kernel buffers, and less than the queue
    add_large(&pod, 60).await;
    eventually("nothing of the client is left", LIMIT, async || {
        let left = pod.metric("relay_connections").await + pod.metric("relay_watchers").await;
        (left == 0.0 && !holds_socket_of(&pod, port)).then_some(())
    })
    .await;
}
