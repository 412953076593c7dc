//! Signed tokens from outside: which tokens a pod accepts, and for how long.
//!
//! A connection lasts as long as its token. An expired token must never keep a connection open.

use std::time::Duration;

use jsonwebtoken::{EncodingKey, Header, encode, get_current_timestamp};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::{Client, Dialect, Relay, Setup, Socket};

const SECRET: &str = "thirty-two bytes are just enough";

/// Seconds by which clocks may differ: the pod accepts a token this long after its expiry.
const LEEWAY: u64 = 5;

async fn pod() -> Relay {
    Setup::new("pod").set("RELAY_AUTH", "jwt").set("RELAY_JWT_SECRET", SECRET).start().await
}

fn token(subject: &str, expires: u64, secret: &str) -> String {
    let claims = json!({ "sub": subject, "exp": expires });
    encode(&Header::default(), &claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap()
}

async fn status(pod: &Relay, token: &str) -> u16 {
    let authorization = format!("Bearer {token}");
    pod.http.graphql_with(Some(&authorization), "{ locations { id } }", Value::Null).await.status
}

#[tokio::test]
async fn pod_accepts_only_good_tokens() {
    let pod = pod().await;
    let now = get_current_timestamp();
    assert_eq!(status(&pod, &token("3", now + 60, SECRET)).await, 200);
    assert_eq!(status(&pod, &token("3", now - 1, SECRET)).await, 200, "clocks may differ");
    assert_eq!(status(&pod, &token("3", now - LEEWAY - 5, SECRET)).await, 401, "expired");
    assert_eq!(status(&pod, &token("3", now + 60, "some other secret of 32 bytes...")).await, 401, "foreign");
    assert_eq!(status(&pod, &token("99", now + 60, SECRET)).await, 401, "no such user");
    assert_eq!(status(&pod, "ZOWI").await, 401, "a demo token");
    assert!(!pod.output().contains(SECRET));
}

#[tokio::test]
async fn expiring_token_ends_connection_with_4403() {
    let pod = pod().await;
    for dialect in [Dialect::Transport, Dialect::Legacy] {
        // The token is valid for two to three seconds more, plus a tenth of that at most
        let token = token("4", get_current_timestamp() + 3, SECRET);
        let connected = Instant::now();
        let mut client = Client::connect(pod.port(), dialect, &token).await;
        client.watch().await;
        let (messages, end) = client.socket.receive_to_end().await;
        assert!(messages.iter().all(|message| message["type"] != "complete"), "{messages:?}");
        assert_eq!(end.code, 4403, "{dialect:?}");
        assert!(connected.elapsed() < Duration::from_secs(6), "{:?}", connected.elapsed());
    }
    pod.until_metric("relay_watchers", 0.0).await;
}

#[tokio::test]
async fn expired_token_gets_no_ack() {
    let pod = pod().await;
    let token = token("4", get_current_timestamp() - LEEWAY - 5, SECRET);
    let mut socket = Socket::open(pod.port(), Some(Dialect::Transport.subprotocol())).await;
    let payload = json!({ "Authorization": format!("Bearer {token}") });
    socket.send(json!({ "type": "connection_init", "payload": payload })).await;
    let (messages, end) = socket.receive_to_end().await;
    assert_eq!((messages, end.code), (vec![], 4403));
}
