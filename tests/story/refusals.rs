//! Refusals that a developer can act upon: each one says what to do instead.
//!
//! A refusal must never send people to look in the wrong place, and nothing may fail in silence.

use reqwest::{Method, redirect};
use serde_json::{Value, json};

use crate::support::{Client, Dialect, End, Relay, Setup, Socket, post, request};

/// `Accept` of a browser that opens an address.
const BROWSER: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,image/webp,*/*;q=0.8";

/// Opens a WebSocket with this payload of `connection_init`. Returns the first answer.
async fn init(pod: &Relay, payload: Value) -> Result<Value, End> {
    let mut socket = Socket::open(pod.port(), Some(Dialect::Transport.subprotocol())).await;
    socket.send(json!({ "type": "connection_init", "payload": payload })).await;
    socket.receive().await
}

#[tokio::test]
async fn hash_of_document_is_refused_by_apollos_code() {
    let pod = Setup::new("pod").start().await;
    let persisted = json!({ "persistedQuery": { "version": 1, "sha256Hash": "0" } });
    for (accept, status) in [("application/json", 200), ("application/graphql-response+json", 400)] {
        let by_url = request(&pod, Method::GET, "ZOLO").query(&[("extensions", persisted.to_string())]);
        let by_body = request(&pod, Method::POST, "ZOLO").header("content-type", "application/json");
        let by_body = by_body.body(json!({ "extensions": persisted }).to_string());
        for request in [by_url, by_body] {
            let answer = request.header("accept", accept).send().await.unwrap();
            assert_eq!(answer.status(), status, "{accept}");
            let body: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
            let error = &body["errors"][0];
            assert_eq!(error["message"], "PersistedQueryNotSupported", "{body}");
            assert_eq!(error["extensions"]["code"], "PERSISTED_QUERY_NOT_SUPPORTED", "{body}");
        }
    }
    let both = json!({ "query": "{ locations { id } }", "extensions": persisted }).to_string();
    let answer = request(&pod, Method::POST, "ZOLO").header("content-type", "application/json").body(both);
    assert!(answer.send().await.unwrap().text().await.unwrap().contains("locations"), "the document runs");

    let mut client = Client::connect(pod.port(), Dialect::Transport, "ZOLO").await;
    let payload = json!({ "extensions": persisted });
    client.socket.send(json!({ "id": "1", "type": "subscribe", "payload": payload })).await;
    let error = client.socket.receive().await.unwrap();
    assert_eq!((&error["type"], &error["id"]), (&json!("error"), &json!("1")), "{error}");
    assert_eq!(error["payload"][0]["extensions"]["code"], "PERSISTED_QUERY_NOT_SUPPORTED", "{error}");
}

#[tokio::test]
async fn browser_is_sent_to_page_that_exists() {
    let client = reqwest::Client::builder().redirect(redirect::Policy::none()).build().unwrap();
    for (page, accept, status) in [
        ("on", BROWSER, 303),
        ("on", "text/html", 303),
        ("on", "application/json, text/html;q=0.9", 401),
        ("on", "*/*", 401),
        ("off", BROWSER, 401),
    ] {
        let pod = Setup::new("pod").set("RELAY_PAGE", page).start().await;
        let url = format!("http://127.0.0.1:{}/graphql", pod.port());
        let answer = client.get(url).header("accept", accept).send().await.unwrap();
        assert_eq!(answer.status(), status, "{page} {accept}");
        if status == 303 {
            assert_eq!(answer.headers()["location"], "/");
        }
    }
}

#[tokio::test]
async fn unknown_path_gets_one_line() {
    let pod = Setup::new("pod").start().await;
    let answer = pod.http.get("/graphq").await;
    assert_eq!(answer.status, 404);
    assert_eq!(answer.text, "nothing is here; GraphQL is at /graphql\n");
}

#[tokio::test]
async fn missing_token_is_told_its_place_and_names() {
    let pod = Setup::new("pod").start().await;
    let answer = pod.http.graphql_with(None, "{ locations { id } }", Value::Null).await;
    let text = answer.json()["errors"][0]["message"].as_str().unwrap().to_owned();
    assert!(text.contains("`Authorization: Bearer <token>`"), "{text}");
    assert!(text.ends_with("; demo: ZELO, ZEWI, ZOLO, ZOWI"), "{text}");
    let end = init(&pod, json!({ "accessToken": "ZOLO" })).await.unwrap_err();
    assert_eq!(end.code, 4403);
    assert!(end.reason.contains("`token` or `Authorization`"), "{end:?}");
    assert!(end.reason.ends_with("; demo: ZELO, ZEWI, ZOLO, ZOWI"), "{end:?}");
    let end = init(&pod, json!({ "token": "ANN" })).await.unwrap_err();
    assert_eq!(end.reason, "Forbidden: the token's user is unknown; demo: ZELO, ZEWI, ZOLO, ZOWI");

    let secret = "x".repeat(32);
    let pod = Setup::new("pod").set("RELAY_AUTH", "jwt").set("RELAY_JWT_SECRET", secret).start().await;
    let answer = pod.http.graphql_with(None, "{ locations { id } }", Value::Null).await;
    assert!(!answer.text.contains("ZOLO") && answer.text.contains("Bearer <token>"), "{answer:?}");
}

#[tokio::test]
async fn token_of_init_payload_has_many_names() {
    let pod = Setup::new("pod").start().await;
    for payload in [
        json!({ "Token": "ZOLO" }),
        json!({ "AUTHORIZATION": "Bearer ZOLO" }),
        json!({ "headers": { "Authorization": "Bearer ZOLO" } }),
        json!({ "Headers": { "authorization": "Bearer ZOLO" } }),
    ] {
        let answer = init(&pod, payload.clone()).await;
        assert_eq!(answer.unwrap()["type"], "connection_ack", "{payload}");
    }
}

#[tokio::test]
async fn empty_cursor_is_none() {
    let pod = Setup::new("pod").start().await;
    pod.add_template("ZOWI", "old", Some(&["3"])).await;
    let mut client = Client::connect(pod.port(), Dialect::Transport, "ZOLO").await;
    client.start("watch", r#"subscription { templateAdded(after: "") { name } }"#).await;
    pod.until_metric("relay_watchers", 1.0).await;
    pod.add_template("ZOWI", "new", Some(&["3"])).await;
    assert_eq!(client.next().await, "new");
}

#[tokio::test]
async fn subscription_without_field_is_refused() {
    let pod = Setup::new("pod").start().await;
    let query = "subscription { templateAdded @skip(if: true) { name } }";
    let mut client = Client::connect(pod.port(), Dialect::Transport, "ZOLO").await;
    client.start("1", query).await;
    let error = client.socket.receive().await.unwrap();
    assert_eq!(error["type"], "error", "{error}");
    assert!(error.to_string().contains("without its only field"), "{error}");
    let answer = post(&pod, "ZOLO", query).header("accept", "text/event-stream").send().await.unwrap();
    assert!(answer.text().await.unwrap().contains("without its only field"));
}
