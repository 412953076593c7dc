//! Addresses of clients behind a load balancer, and addresses that clients invent.

use crate::support::{EVENTS, Relay, Setup, Streamed, post};

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
