//! Drain of a pod that receives a signal.
//!
//! Every rollout drains every pod. A drain must never send `complete` for a subscription.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::Instant,
};

use crate::{
    sse::add_large,
    support::{Client, Dialect, PATIENCE, Setup, Topic, USERS, eventually, four_pods, watchers_on},
};

#[tokio::test(flavor = "multi_thread")]
async fn stopped_pod_closes_watchers_and_leaves_nothing() {
    let Some(topic) = Topic::fresh().await else { return };
    let mut pods = four_pods(&topic).await;
    let mut pod = pods.pop().unwrap();
    let mut clients = watchers_on(&pod, Dialect::Transport, &USERS).await;
    clients.extend(watchers_on(&pod, Dialect::Legacy, &USERS).await);
    assert_eq!(topic.feeds_of("pod4").await.len(), 1);

    pod.signal("TERM");
    for client in clients {
        let (messages, end) = { client }.socket.receive_to_end().await;
        assert_eq!(end.code, 1012);
        // A client that receives `complete` does not reconnect
        assert!(messages.iter().all(|message| message["type"] != "complete"), "{messages:?}");
    }
    let status = pod.ended().await;
    assert_eq!(status.code(), Some(0), "{status}");
    assert!(topic.feeds_of("pod4").await.is_empty());

    for pod in &mut pods {
        pod.until_ready(Duration::from_secs(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn draining_pod_accepts_connections_and_spreads_their_ends() {
    const CONNECTIONS: usize = 200;
    const SECONDS: usize = 5;
    let setup = Setup::new("pod").set("RELAY_DRAIN_DELAY", "3s");
    let mut pod = setup.set("RELAY_DRAIN_SPREAD", format!("{SECONDS}s")).start().await;
    let mut clients = watchers_on(&pod, Dialect::Transport, &["ZOLO"; CONNECTIONS - 1]).await;

    pod.signal("TERM");
    let http = pod.http.clone();
    let answer = eventually("the pod is not ready", PATIENCE, async || {
        http.try_get("/readyz").await.filter(|answer| answer.status == 503)
    })
    .await;
    assert_eq!(answer.json()["reasons"][0], "draining");
    clients.push(Client::connect(pod.port(), Dialect::Transport, "ZOLO").await);

    let began = Instant::now();
    let ends = join_all(clients.into_iter().map(async |mut client| {
        let (messages, end) = client.socket.receive_to_end().await;
        assert!(messages.iter().all(|message| message["type"] != "complete"), "{messages:?}");
        assert_eq!(end.code, 1012);
        began.elapsed().as_secs()
    }))
    .await;
    let even = CONNECTIONS / SECONDS;
    for second in 0..=*ends.iter().max().unwrap() {
        let count = ends.iter().filter(|end| **end == second).count();
        assert!(count <= 3 * even, "{count} of {CONNECTIONS} in second {second}");
    }
    assert_eq!(pod.ended().await.code(), Some(0));
    assert!(pod.output().contains("pod drained"), "{}", pod.output());
}

#[tokio::test]
async fn second_signal_ends_drain_at_once() {
    let setup = Setup::new("pod").set("RELAY_DRAIN_DELAY", "10m").set("RELAY_DRAIN_DEADLINE", "1h");
    let mut pod = setup.start().await;
    pod.signal("TERM");
    eventually("the pod drains", PATIENCE, async || pod.output().contains("draining").then_some(())).await;
    pod.signal("INT");
    assert_eq!(pod.ended().await.code(), Some(1));
    assert!(pod.output().contains("drain given up"), "{}", pod.output());
}

#[tokio::test]
async fn deadline_ends_longer_drain_and_is_logged() {
    let mut pod =
        Setup::new("pod").set("RELAY_DRAIN_DEADLINE", "1s").set("RELAY_DRAIN_SPREAD", "30s").start().await;
    // Twenty ends are spread over thirty seconds, so they cannot all be in the first second.
    let _clients = watchers_on(&pod, Dialect::Transport, &["ZOLO"; 20]).await;
    pod.signal("TERM");
    assert_eq!(pod.ended().await.code(), Some(1));
    for line in ["the drain's deadline cuts connections off", "drain cut off"] {
        assert!(pod.output().contains(line), "{}", pod.output());
    }
}

#[tokio::test]
async fn drain_ends_despite_unfinished_request() {
    let mut pod = Setup::new("pod").start().await;
    let mut socket = TcpStream::connect(("127.0.0.1", pod.port())).await.unwrap();
    let head = "POST /graphql HTTP/1.1\r\nhost: a\r\nauthorization: Bearer ZOLO\r\n\
                content-type: application/json\r\ncontent-length: 100\r\nexpect: 100-continue\r\n\r\n";
    socket.write_all(head.as_bytes()).await.unwrap();
    // the interim answer proves that the pod handles the request
    let mut answer = [0; 64];
    let length = socket.read(&mut answer).await.unwrap();
    assert!(answer[..length].starts_with(b"HTTP/1.1 100 "), "{}", String::from_utf8_lossy(&answer));

    pod.signal("TERM");
    assert_eq!(pod.ended().await.code(), Some(0), "{}", pod.output());
    assert!(pod.output().contains("pod drained"), "{}", pod.output());
}

#[tokio::test]
async fn pod_without_clients_stops_at_once() {
    let mut pod = Setup::new("pod").set("RELAY_DRAIN_SPREAD", "30s").start().await;
    pod.signal("INT");
    assert_eq!(pod.ended().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn drain_ends_despite_stuck_client() {
    let setup = Setup::new("pod").set("RELAY_QUEUE_BYTES", "64MiB").set("RELAY_DRAIN_SPREAD", "1s");
    let mut pod = setup.set("RELAY_DRAIN_DEADLINE", "15s").start().await;
    let _stuck = Client::watch_narrowly(&pod, "ZOLO").await;
    // 12 MB at most, more than the kernel buffers
    for sent in 1.. {
        add_large(&pod, 10).await;
        if pod.metric("relay_queue_size_bytes").await > 0.0 {
            break;
        }
        assert!(sent < 20, "the client is not stuck");
    }
    pod.signal("TERM");
    assert_eq!(pod.ended().await.code(), Some(0), "{}", pod.output());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_signal_of_end_drains() {
    for signal in ["HUP", "QUIT"] {
        let mut pod = Setup::new("p").start().await;
        pod.signal(signal);
        assert_eq!(pod.ended().await.code(), Some(0), "{signal}: {}", pod.output());
        assert!(pod.output().contains("pod drained"), "{}", pod.output());
    }
}
