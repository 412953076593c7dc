//! Requests that a client begins and does not finish: heads, bodies, messages and tokens.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use crate::{
    raw::{Raw, handshake, post_head},
    support::{Client, Dialect, OpCode, PATIENCE, Relay, Setup, eventually},
};

const USED: &str = "relay_budget_used_bytes";
const POOL: &str = "pool=\"requests\"";

/// Starts a pod with a small pool of requests.
async fn small() -> Relay {
    Setup::new("pod").set("RELAY_MEMORY", "64MiB").start().await
}

/// Asserts that another user's request with a large body passes.
async fn assert_others_go_on(pod: &Relay) {
    let began = Instant::now();
    let locations: Vec<String> = (0..1_000).map(|n| format!("{n:0>100}")).collect();
    let locations: Vec<&str> = locations.iter().map(String::as_str).collect();
    pod.add_template("ZEWI", "honest", Some(&locations)).await;
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    let limit = pod.metric_of("relay_budget_limit_bytes", POOL).await;
    let used = pod.metric_of(USED, POOL).await;
    assert!(limit > 0.0 && used <= limit, "{used} of {limit}");
}

async fn assert_released(pod: &Relay) {
    eventually("the ledger is empty", 2 * PATIENCE, async || {
        (pod.metric_of(USED, POOL).await < 0.5).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unfinished_bodies_use_up_only_their_user() {
    let pod = small().await;
    let before = pod.memory();
    let mut bodies = Vec::new();
    for _ in 0..64 {
        bodies.push(Raw::begin_body(pod.port(), "ZOLO", 900_000).await);
    }
    pod.until_metric_is("relay_refusals_total", "limit=\"requests\"", |count| count > 40.0).await;
    assert_others_go_on(&pod).await;
    let grown = pod.memory().saturating_sub(before);
    assert!(grown < 24 << 20, "{} MiB", grown >> 20);
    // Which of them are refused depends on the order in which the pod reads them.
    let answers = bodies.iter_mut().map(|body| body.is_overloaded_within(Duration::from_secs(1)));
    let refused = join_all(answers).await.into_iter().filter(|refused| *refused).count();
    assert!(refused > 40, "{refused} of 64");
    drop(bodies);
    assert_released(&pod).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unfinished_messages_end_only_their_sockets() {
    let pod = small().await;
    let mut honest = Client::connect(pod.port(), Dialect::Transport, "ZEWI").await;
    let mut sockets = Vec::new();
    for _ in 0..32 {
        let mut client = Client::connect(pod.port(), Dialect::Transport, "ZOLO").await;
        client.socket.try_send_frame(OpCode::Data(crate::support::Data::Text), &[b' '; 900_000], false).await;
        sockets.push(client);
    }
    pod.until_metric_is("relay_connection_ends_total", "reason=\"overloaded\"", |count| count > 16.0).await;
    let ends = sockets.iter_mut().map(|client| timeout(Duration::from_secs(1), client.socket.receive()));
    let refused: Vec<_> = join_all(ends).await.into_iter().flatten().map(Result::unwrap_err).collect();
    assert!(refused.len() > 16, "{} of 32", refused.len());
    assert!(refused.iter().all(|end| (end.code, &*end.reason) == (1013, "overloaded")), "{refused:?}");
    assert_others_go_on(&pod).await;
    honest.start("1", "{templates {name}}").await;
    assert_eq!(honest.socket.receive().await.unwrap()["payload"]["data"]["templates"][0]["name"], "honest");
    drop(sockets);
    assert_released(&pod).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_before_init_use_up_only_their_address() {
    let pod = small().await;
    let mut sockets = Vec::new();
    for _ in 0..200 {
        sockets.push(Raw::send(pod.port(), handshake(&"x".repeat(60_000))).await);
    }
    pod.until_metric_is("relay_refusals_total", "limit=\"requests\"", |count| count > 50.0).await;
    let used = pod.metric_of(USED, POOL).await;
    assert!((1e6..8e6).contains(&used), "{used}");
    drop(sockets);
    assert_released(&pod).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unfinished_heads_use_up_only_their_address() {
    let pod = small().await;
    let head = format!("GET /graphql HTTP/1.1\r\nhost: a\r\nx: {}", "x".repeat(60_000));
    let mut sockets = Vec::new();
    for _ in 0..200 {
        sockets.push(Raw::send(pod.port(), &head).await);
    }
    // A refused head leaves room, into which a later one may fit.
    let mut refused = 0;
    for socket in &mut sockets[180..] {
        refused += usize::from(socket.is_overloaded_within(Duration::from_millis(100)).await);
    }
    assert!(refused >= 10, "{refused} of the last 20");
    let used = pod.metric_of(USED, POOL).await;
    assert!((1e6..8e6).contains(&used), "{used}");
    drop(sockets);
    assert_released(&pod).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_small_values_are_refused() {
    let pod = small().await;
    let before = pod.memory();
    let values = vec!["0"; 400_000].join(",");
    let body = format!(r#"{{"query":"{{templates {{name}}}}","variables":{{"a":[{values}]}}}}"#);
    for _ in 0..4 {
        let request = post_head("ZOLO", body.len()) + &body;
        let (status, _, answer) = Raw::send(pod.port(), request).await.answer(PATIENCE).await.unwrap();
        assert_eq!(status, 413, "{answer}");
    }
    let mut client = Client::connect(pod.port(), Dialect::Transport, "ZOLO").await;
    client.socket.try_send_text(format!(r#"{{"id":"1","type":"subscribe","payload":{body}}}"#)).await;
    assert_eq!(client.socket.receive().await.unwrap_err().code, 1009);
    let grown = pod.memory().saturating_sub(before);
    assert!(grown < 16 << 20, "{} MiB", grown >> 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_body_is_refused_with_408() {
    let pod = Setup::new("pod").start().await;
    let began = Instant::now();
    let Raw(socket) = Raw::begin_body(pod.port(), "ZOLO", 1).await;
    let (mut reads, mut writes) = socket.into_split();
    let mut drip = JoinSet::new();
    drip.spawn(async move {
        while writes.write_all(b" ").await.is_ok() {
            sleep(Duration::from_millis(500)).await;
        }
    });
    let mut answer = [0; 12];
    reads.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 408");
    assert!((9..15).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_message_ends_its_socket() {
    let pod = Setup::new("pod").start().await;
    let mut client = Client::connect(pod.port(), Dialect::Transport, "ZOLO").await;
    let began = Instant::now();
    client.socket.try_send_frame(OpCode::Data(crate::support::Data::Text), b"{", false).await;
    let end = loop {
        client.socket.try_send_frame(OpCode::Data(crate::support::Data::Continue), b" ", false).await;
        let wait = Duration::from_millis(500);
        if let Ok(end) = tokio::time::timeout(wait, client.socket.receive()).await {
            break end.unwrap_err();
        }
    };
    assert_eq!((end.code, &*end.reason), (1013, "message too slow"));
    assert!((9..15).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn steady_body_may_be_slow() {
    let pod = Setup::new("pod").start().await;
    let body = json!({ "query": "{templates {name}}" }).to_string() + &" ".repeat(40_000);
    let Raw(mut socket) = Raw::send(pod.port(), post_head("ZOLO", body.len())).await;
    for part in body.as_bytes().chunks(body.len() / 13) {
        socket.write_all(part).await.unwrap();
        sleep(Duration::from_secs(1)).await;
    }
    let (status, _, answer) = Raw(socket).answer(PATIENCE).await.unwrap();
    assert_eq!((status, &answer["data"]["templates"]), (200, &Value::Array(Vec::new())), "{answer}");
}
