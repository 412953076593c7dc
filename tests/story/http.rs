//! GraphQL over plain HTTP: authentication, methods, limits, and reads after writes.
//!
//! Any HTTP client can use it. A request must never get a result without a valid token.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, timeout},
};

use crate::support::{
    Dialect, EVENTS, PATIENCE, Relay, Setup, Topic, eventually, four_pods, free_ports, post, request,
    watchers_on,
};

/// Key of a WebSocket's handshake.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

#[tokio::test]
async fn request_without_good_token_gets_401() {
    let pod = Setup::new("pod").start().await;
    for authorization in [None, Some("Bearer NO_USER"), Some("Basic Wk9XSQ=="), Some("Bearer ")] {
        let answer = pod.http.graphql_with(authorization, "{ templates { id } }", Value::Null).await;
        assert_eq!(answer.status, 401, "{authorization:?}: {answer:?}");
        assert!(answer.header("www-authenticate").starts_with("Bearer"), "{answer:?}");
        assert_eq!(answer.code(), "UNAUTHENTICATED", "{answer:?}");
        assert_eq!(answer.json().get("data").unwrap_or(&Value::Null), &Value::Null);
    }
}

#[tokio::test]
async fn query_may_use_get_but_mutation_may_not() {
    let pod = Setup::new("pod").start().await;
    let answer = pod.http.graphql_get("ZOWI", "{ locations { id name orgId } }").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.json()["data"]["locations"].as_array().unwrap().len(), 4, "{answer:?}");

    let mutation = r#"mutation { addTemplate(templateInput: { name: "by get" }) { success } }"#;
    let answer = pod.http.graphql_get("ZOWI", mutation).await;
    assert_eq!(answer.status, 405, "{answer:?}");
    assert!(answer.header("allow").contains("POST"), "{answer:?}");
    assert!(pod.template_names().await.is_empty());
}

#[tokio::test]
async fn plain_subscription_request_gets_error() {
    let pod = Setup::new("pod").start().await;
    let answer = pod.http.graphql("ZOWI", "subscription { templateAdded { id } }", Value::Null).await;
    assert!((400..500).contains(&answer.status), "{answer:?}");
    let message = answer.json()["errors"][0]["message"].as_str().unwrap().to_lowercase();
    assert!(message.contains("subscription"), "{answer:?}");
}

#[tokio::test]
async fn pod_refuses_excessive_documents_and_serves_on() {
    let pod = Setup::new("pod").start().await;
    let nested = format!(
        "{{ __schema {{ types {{ fields {{ type {{ {} name {} }} }} }} }} }}",
        "ofType { ".repeat(40),
        "} ".repeat(40)
    );
    let aliases: String = (0..200).map(|n| format!("a{n}: locations {{ id }} ")).collect();
    for (what, query) in [
        ("depth", nested),
        ("aliases", format!("{{ {aliases} }}")),
        ("nesting", "{ a ".repeat(10_000)),
        ("empty", String::new()),
        ("incomplete", "{ locations".to_owned()),
    ] {
        let answer = pod.http.graphql("ZOWI", &query, Value::Null).await;
        assert!(!answer.code().is_empty(), "{what}: {answer:?}");
        assert!(answer.json()["data"].is_null(), "{what}: {answer:?}");
    }
    assert!(pod.template_names().await.is_empty());
}

#[tokio::test]
async fn pod_refuses_oversize_body() {
    let pod = Setup::new("pod").start().await;
    let answer = pod.http.graphql("ZOWI", &" ".repeat(1 << 20), Value::Null).await;
    assert_eq!(answer.status, 413, "{answer:?}");
    assert!(pod.template_names().await.is_empty());
}

#[tokio::test]
async fn bad_input_gets_error_and_stores_nothing() {
    let pod = Setup::new("pod").start().await;
    let many: Vec<String> = (0..1_001).map(|n| n.to_string()).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let long = "x".repeat(201);
    for (name, locations) in [("", None), ("  \t ", None), (&*long, None), ("many", Some(&*many))] {
        let answer = pod.http.add_template("ZOWI", name, locations).await;
        assert_eq!(answer.code(), "BAD_USER_INPUT", "{answer:?}");
    }
    let unknown = r#"mutation { editTemplate(templateInput: { id: "none", name: "x" }) { success } }"#;
    let answer = pod.http.graphql("ZOWI", unknown, Value::Null).await;
    assert!(!answer.code().is_empty() || answer.json()["data"]["editTemplate"]["success"] == json!(false));
    assert!(pod.template_names().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn write_is_visible_at_once_here_soon_everywhere() {
    let Some(topic) = Topic::fresh().await else { return };
    let pods = four_pods(&topic).await;
    let id = pods[0].add_template("ZOWI", "first name", Some(&["3", "3", "99"])).await;
    assert_eq!(pods[0].template_names().await, ["first name"]);
    read_everywhere(&pods, "first name").await;

    let edit = "mutation($input: EditTemplateInput!) { editTemplate(templateInput: $input) { success template { name } } }";
    let input = json!({ "input": { "id": id, "name": "second name" } });
    let answer = pods[2].http.graphql("ZEWI", edit, input).await;
    assert_eq!(answer.json()["data"]["editTemplate"]["success"], json!(true), "{answer:?}");
    assert_eq!(pods[2].template_names().await, ["second name"]);
    read_everywhere(&pods, "second name").await;

    let by_id = "query($id: ID!) { templateById(id: $id) { name shareLocationIds } }";
    for pod in &pods {
        let answer = pod.http.graphql("ZELO", by_id, json!({ "id": id })).await;
        let expected = json!({ "name": "second name", "shareLocationIds": ["3", "3", "99"] });
        assert_eq!(answer.json()["data"]["templateById"], expected, "{answer:?}");
    }
}

async fn read_everywhere(pods: &[Relay], name: &str) {
    for pod in pods {
        eventually("every pod returns the same templates", PATIENCE, async || {
            (pod.template_names().await == [name]).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn edit_does_not_notify_watchers_of_additions() {
    let pod = Setup::new("pod").start().await;
    let id = pod.add_template("ZOWI", "old", Some(&["3"])).await;
    let mut clients = watchers_on(&pod, Dialect::Transport, &["ZOLO"]).await;
    let edit = "mutation($input: EditTemplateInput!) { editTemplate(templateInput: $input) { success } }";
    let input = json!({ "input": { "id": id, "name": "new" } });
    let answer = pod.http.graphql("ZOWI", edit, input).await;
    assert_eq!(answer.json()["data"]["editTemplate"]["success"], json!(true), "{answer:?}");
    pod.add_template("ZOWI", "last", Some(&["3"])).await;
    assert_eq!(clients[0].next().await, "last");
}

#[tokio::test]
async fn pod_refuses_compressed_body() {
    let pod = Setup::new("pod").start().await;
    let request = post(&pod, "ZOWI", "{ locations { id } }").header("content-encoding", "gzip");
    assert_eq!(request.send().await.unwrap().status(), 415);
    let request = post(&pod, "ZOWI", "{ locations { id } }").header("content-encoding", "identity");
    assert_eq!(request.send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn pod_compresses_only_large_plain_answers() {
    let pod = Setup::new("pod").start().await;
    let encoding = async |query: &str, accept: &str| {
        let request = post(&pod, "ZOWI", query).header("accept-encoding", "gzip").header("accept", accept);
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        response.headers().get("content-encoding").map(|value| value.to_str().unwrap().to_owned())
    };
    let large = "{ __schema { types { name description fields { name description } } } }";
    assert_eq!(encoding(large, "application/json").await.as_deref(), Some("gzip"));
    assert_eq!(encoding("{ locations { id } }", "application/json").await, None);
    assert_eq!(encoding("subscription { templateAdded { id } }", EVENTS).await, None);
    assert_eq!(encoding(large, EVENTS).await, None);
}

#[tokio::test]
async fn client_gets_503_while_keys_are_missing() {
    let closed_port = free_ports(1);
    let setup = Setup::new("pod").set("RELAY_AUTH", "jwt");
    let pod = setup.set("RELAY_JWT_JWKS", format!("http://127.0.0.1:{closed_port}/keys")).launch();
    let answered =
        async || pod.http.try_get("/livez").await.filter(|answer| answer.status == 200).map(|_| ());
    eventually("the pod is alive", PATIENCE, answered).await;
    // A well-formed token: only the keys could show whether it is valid
    let token = "eyJhbGciOiJSUzI1NiIsImtpZCI6ImEifQ.eyJzdWIiOiI0IiwiZXhwIjo5OTk5OTk5OTk5fQ.AAAA";
    let answer = pod.http.graphql(token, "{ locations { id } }", Value::Null).await;
    assert_eq!((answer.status, &*answer.code()), (503, "UNAUTHENTICATED"), "{answer:?}");
    assert!(!answer.header("retry-after").is_empty(), "{answer:?}");
}

#[tokio::test]
async fn foreign_origin_gets_no_answer_over_http() {
    let pod = Setup::new("pod").set("RELAY_ALLOWED_ORIGINS", "https://shop.example").start().await;
    for (origin, status) in [("https://evil.example", 403), ("null", 403), ("https://shop.example", 200)] {
        for method in [Method::GET, Method::POST] {
            let request = match method {
                Method::GET => request(&pod, method, "ZOWI").query(&[("query", "{ locations { id } }")]),
                _ => post(&pod, "ZOWI", "{ locations { id } }"),
            };
            assert_eq!(request.header("origin", origin).send().await.unwrap().status(), status, "{origin}");
        }
    }
}

#[tokio::test]
async fn head_of_64_kib_is_too_large() {
    let pod = Setup::new("pod").start().await;
    let mut socket = TcpStream::connect(("127.0.0.1", pod.port())).await.unwrap();
    let mut head = b"GET /graphql HTTP/1.1\r\nhost: a\r\nx: ".to_vec();
    // Exactly the limit: with unread bytes the pod's close would reset the connection
    head.resize(64 << 10, b'x');
    socket.write_all(&head).await.unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, socket.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
}

#[tokio::test]
async fn silent_sockets_make_room_for_next_one() {
    const MAX_PENDING: usize = 1_024;
    crate::crowd::allow_open_files();
    let pod = Setup::new("pod").start().await;
    let mut watching = watchers_on(&pod, Dialect::Transport, &["ZOLO"]).await;
    let mut pending = Vec::new();
    let port = pod.port();
    let head = b"POST /graphql HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer ZOWI\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{";
    while pending.len() < MAX_PENDING + 100 {
        let mut socket = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        if pending.len() % 2 == 0 {
            socket.write_all(head).await.unwrap();
        }
        pending.push(socket);
    }
    for path in ["/livez", "/graphql?query=%7B__typename%7D"] {
        let began = Instant::now();
        let answer = pod.http.get_with("Bearer ZOLO", path).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(began.elapsed() < Duration::from_secs(2), "{path} took {:?}", began.elapsed());
    }
    pod.add_template("ZOWI", "undisturbed", Some(&["3"])).await;
    assert_eq!(watching[0].next().await, "undisturbed");
}

/// Sends a query with these lines in its head, and returns the status of the answer.
async fn status_with(pod: &Relay, lines: &str) -> u16 {
    let mut socket = TcpStream::connect(("127.0.0.1", pod.port())).await.unwrap();
    let request = format!(
        "GET /graphql?query=%7B__typename%7D HTTP/1.1\r\n{lines}Authorization: Bearer ZOWI\r\nConnection: close\r\n\r\n"
    );
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("{answer}"))
}

#[tokio::test]
async fn repeated_or_missing_host_is_refused() {
    let pod = Setup::new("pod").start().await;
    for lines in ["", "Host: localhost\r\nHost: localhost\r\n"] {
        assert_eq!(status_with(&pod, lines).await, 400, "{lines}");
    }
    let twice = "Host: localhost\r\nAuthorization: Bearer ZOLO\r\n";
    assert_eq!(status_with(&pod, twice).await, 400);
    assert_eq!(status_with(&pod, "Host: localhost\r\n").await, 200);
}

#[tokio::test]
async fn demo_pod_refuses_rebound_host() {
    let pod = Setup::new("pod").start().await;
    let rebound = format!("Host: rebound.example:{0}\r\nOrigin: http://rebound.example:{0}\r\n", pod.port());
    assert_eq!(status_with(&pod, &rebound).await, 403);
    assert_eq!(status_with(&pod, &format!("Host: rebound.example:{}\r\n", pod.port())).await, 403);
    assert_eq!(status_with(&pod, "Host: pod.svc\r\n").await, 200, "no page reaches the pod's port by it");
    let counted = pod.metric_of("relay_refusals_total", r#"limit="host""#).await;
    assert!((counted - 2.0).abs() < 0.5, "{counted}");
    let allowed = Setup::new("pod").set("RELAY_ALLOWED_ORIGINS", "https://app.example").start().await;
    assert_eq!(status_with(&allowed, &format!("Host: app.example:{}\r\n", allowed.port())).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn half_closed_client_gets_its_answer() {
    let Some(topic) = Topic::fresh().await else { return };
    let pod = Setup::new("pod").topic(&topic).start().await;
    let mutation = r#"{"query":"mutation { addTemplate(templateInput: { name: \"half\" }) { success } }"}"#;
    for body in [r#"{"query":"{ __typename }"}"#, mutation] {
        let mut socket = TcpStream::connect(("127.0.0.1", pod.port())).await.unwrap();
        let request = format!(
            "POST /graphql HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer ZOWI\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        socket.write_all(request.as_bytes()).await.unwrap();
        socket.shutdown().await.unwrap();
        let mut answer = String::new();
        timeout(PATIENCE, socket.read_to_string(&mut answer)).await.expect("an end in time").unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{body}: {answer}");
    }
}

#[tokio::test]
async fn handshake_without_upgrade_names_proxy() {
    let pod = Setup::new("pod").start().await;
    for token in [None, Some("ZOLO")] {
        let mut handshake = request(&pod, Method::GET, token.unwrap_or_default());
        if token.is_none() {
            handshake = reqwest::Client::new().get(format!("http://127.0.0.1:{}/graphql", pod.port()));
        }
        let handshake = handshake.header("sec-websocket-version", "13").header("sec-websocket-key", KEY);
        let answer = handshake.send().await.unwrap();
        assert_eq!(answer.status(), 426);
        assert_eq!(answer.headers()["upgrade"], "websocket");
        let text = answer.text().await.unwrap();
        assert!(text.contains("a proxy on the way has removed it"), "{text}");
    }
}
