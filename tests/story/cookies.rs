//! Tokens in a cookie, by opt-in, and what pages of other origins may send.
//!
//! A browser adds cookies to requests of any page. So a page that no setting lists must never run
//! anything by a cookie, over any transport.

use futures_util::{SinkExt as _, StreamExt as _};
use reqwest::{Client, Method, RequestBuilder};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    client_async,
    tungstenite::{Message, client::IntoClientRequest as _, http::HeaderValue},
};

use crate::support::{Relay, Setup};

const PAGE: &str = "https://app.example";

async fn pod(origins: &str) -> Relay {
    Setup::new("pod").set("RELAY_COOKIE", "session").set("RELAY_ALLOWED_ORIGINS", origins).start().await
}

/// Returns a query by the cookie of ZOLO.
fn query(pod: &Relay, origin: Option<&str>) -> RequestBuilder {
    let url = format!("http://127.0.0.1:{}/graphql", pod.port());
    let request = Client::new().post(url).header("content-type", "application/json");
    let request =
        request.header("cookie", "theme=dark; session=ZOLO").body(r#"{"query":"{ locations { id } }"}"#);
    match origin {
        Some(origin) => request.header("origin", origin),
        None => request,
    }
}

fn own(pod: &Relay) -> String {
    format!("http://127.0.0.1:{}", pod.port())
}

#[tokio::test]
async fn cookie_counts_from_listed_origins_only() {
    let pod = pod(&format!("{PAGE},null,file://")).await;
    for (origin, status, credentials) in [
        (Some(PAGE), 200, "true"),
        (Some(&*own(&pod)), 200, ""),
        (Some("null"), 401, ""),
        (Some("file://"), 401, ""),
        (Some("https://evil.example"), 403, ""),
        (None, 401, ""),
    ] {
        let answer = query(&pod, origin).send().await.unwrap();
        assert_eq!(answer.status(), status, "{origin:?}");
        let header = answer.headers().get("access-control-allow-credentials");
        assert_eq!(header.map_or("", |value| value.to_str().unwrap()), credentials, "{origin:?}");
    }
    let same_origin = query(&pod, None).header("sec-fetch-site", "same-origin");
    assert_eq!(same_origin.send().await.unwrap().status(), 200);
    let both = query(&pod, Some(PAGE)).header("authorization", "Bearer NO_USER");
    assert_eq!(both.send().await.unwrap().status(), 401, "the header wins");
    let text = query(&pod, None).send().await.unwrap().text().await.unwrap();
    assert!(text.contains("from a listed origin in the cookie `session`"), "{text}");
}

#[tokio::test]
async fn credentials_need_opt_in_and_list() {
    let off = Setup::new("pod").set("RELAY_ALLOWED_ORIGINS", PAGE).start().await;
    assert_eq!(query(&off, Some(PAGE)).send().await.unwrap().status(), 401);
    let (any, listed) = (pod("*").await, pod(&format!("{PAGE},null")).await);
    assert_eq!(query(&any, Some(PAGE)).send().await.unwrap().status(), 401);
    for (pod, origin, expected) in [
        (&off, PAGE, ""),
        (&any, PAGE, ""),
        (&any, "null", ""),
        (&listed, PAGE, "true"),
        (&listed, "null", ""),
    ] {
        let answer = pod.http.preflight(origin).await;
        assert_eq!(answer.header("access-control-allow-credentials"), expected, "{origin} {answer:?}");
        assert_ne!(answer.header("access-control-allow-origin"), "*");
    }
}

/// Opens a WebSocket with the cookie of ZOLO and no other token. Returns the first message.
async fn init(pod: &Relay, origin: Option<&str>) -> Message {
    let mut request = format!("ws://127.0.0.1:{}/graphql", pod.port()).into_client_request().unwrap();
    let mut set = |name: &'static str, value: &str| {
        request.headers_mut().insert(name, HeaderValue::from_str(value).unwrap());
    };
    set("sec-websocket-protocol", "graphql-transport-ws");
    set("cookie", "session=ZOLO");
    if let Some(origin) = origin {
        set("origin", origin);
    }
    let tcp = TcpStream::connect(("127.0.0.1", pod.port())).await.unwrap();
    let (mut socket, _) = client_async(request, tcp).await.unwrap();
    socket.send(Message::text(json!({ "type": "connection_init" }).to_string())).await.unwrap();
    socket.next().await.unwrap().unwrap()
}

#[tokio::test]
async fn cookie_of_handshake_counts_from_listed_origins() {
    let pod = pod(&format!("{PAGE},null")).await;
    for (origin, is_accepted) in [(Some(PAGE), true), (Some("null"), false), (None, false)] {
        match init(&pod, origin).await {
            Message::Text(text) => {
                let frame: Value = serde_json::from_str(&text).unwrap();
                assert_eq!((&frame["type"], is_accepted), (&json!("connection_ack"), true), "{origin:?}");
            }
            Message::Close(frame) => {
                assert_eq!((u16::from(frame.unwrap().code), is_accepted), (4403, false), "{origin:?}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn pages_may_send_headers_that_setting_names() {
    let pod = Setup::new("pod").set("RELAY_ALLOWED_HEADERS", "X-Tenant, x-request-id").start().await;
    let url = format!("{}/graphql", own(&pod));
    let preflight = Client::new().request(Method::OPTIONS, url).header("origin", "http://localhost:5173");
    let preflight = preflight.header("access-control-request-method", "POST");
    let answer = preflight.header("access-control-request-headers", "x-tenant").send().await.unwrap();
    let allowed = answer.headers()["access-control-allow-headers"].to_str().unwrap();
    for name in ["x-tenant", "x-request-id", "authorization", "baggage"] {
        assert!(allowed.split(',').any(|other| other == name), "{name}: {allowed}");
    }
}
