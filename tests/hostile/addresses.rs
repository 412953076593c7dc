//! Addresses of clients behind a load balancer, and addresses that clients invent.

use serde_json::Value;

use crate::{
    raw::Raw,
    support::{EVENTS, PATIENCE, Relay, Setup, Streamed, post},
};

/// Subscription of each client.
const WATCH: &str = "subscription {templateAdded {name}}";

/// Opens a stream as a client with this `X-Forwarded-For`. Returns it with its status.
async fn open(pod: &Relay, forwarded: &str) -> (u16, Streamed) {
    let request = post(pod, "ZOLO", WATCH).header("x-forwarded-for", forwarded);
    let stream = Streamed::open(EVENTS, request).await;
    (stream.response.status().as_u16(), stream)
}

fn limited() -> Setup {
    Setup::new("pod").set("RELAY_MAX_CONNECTIONS_PER_ADDRESS", "1")
}

#[tokio::test]
async fn trusted_balancer_names_the_client() {
    let pod = limited().set("RELAY_TRUSTED_PROXIES", "127.0.0.0/8,198.51.100.1").start().await;
    let mut open_streams = Vec::new();
    for (forwarded, status) in [
        ("203.0.113.7", 200),
        ("203.0.113.7", 503),
        ("203.0.113.7, 198.51.100.1", 503),
        ("9.9.9.9, 203.0.113.7, 198.51.100.1", 503),
        ("203.0.113.8, 198.51.100.1", 200),
        ("2001:db8:0:1::1", 200),
        ("2001:db8:0:1::2", 503),
        ("2001:db8:0:2::1", 200),
    ] {
        let (given, stream) = open(&pod, forwarded).await;
        assert_eq!(given, status, "{forwarded}");
        open_streams.push(stream);
    }
}

#[tokio::test]
async fn foreign_peer_cannot_name_another_address() {
    for trusted in ["", "10.0.0.0/8"] {
        let pod = limited().set("RELAY_TRUSTED_PROXIES", trusted).start().await;
        let (status, _stream) = open(&pod, "203.0.113.7").await;
        assert_eq!(status, 200);
        assert_eq!(open(&pod, "203.0.113.8").await.0, 503);
    }
}

#[tokio::test]
async fn target_names_the_same_host() {
    let pod = Setup::new("pod").start().await;
    let port = pod.port();
    for (target, status) in [
        ("", 200),
        (&*format!("http://127.0.0.1:{port}"), 200),
        ("http://evil.example", 400),
        (&*format!("http://evil.example:{port}"), 400),
    ] {
        let request = format!(
            "GET {target}/graphql?query=%7B__typename%7D HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\
             Connection: close\r\nAuthorization: Bearer ZOLO\r\n\r\n"
        );
        let answer = Raw::send(port, request).await.answer(PATIENCE).await.unwrap();
        assert_eq!((answer.0, answer.2["data"] == Value::Null), (status, status == 400), "{target}");
    }
}
