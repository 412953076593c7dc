//! Revocations: an operator ends a user's connections on every pod, and no old token works again.
//!
//! A record that no pod has signed must never change anything.

use std::time::Duration;

use jsonwebtoken::{EncodingKey, Header, encode, get_current_timestamp};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use crate::support::{
    Client, Dialect, EVENTS, Http, Message, PARTS, PATIENCE, Relay, Setup, Streamed, Topic, WATCH,
    eventually, free_ports, post,
};

/// Secret of the users' tokens.
const SECRET: &str = "thirty-two bytes are just enough";
/// Secret that the pods share.
const CONTROL: &str = "a control secret of more than 32 bytes";
/// Token of the operator.
const ADMIN: &str = "an admin token, which has more than 32 bytes";

/// Longest time until all connections of a revoked user have ended.
pub(crate) const LIMIT: Duration = Duration::from_secs(1);

/// Returns a token of this user that was issued now, with these further claims.
pub(crate) fn token(user: &str, claims: &Value) -> String {
    let now = get_current_timestamp();
    let mut all = json!({ "sub": user, "iat": now, "exp": now + 600 });
    all.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
    encode(&Header::default(), &all, &EncodingKey::from_secret(SECRET.as_bytes())).unwrap()
}

/// Returns a token that no revocation of before refuses: it is issued in a later second.
pub(crate) async fn fresh_token(user: &str, claims: &Value) -> String {
    sleep(Duration::from_millis(1_100)).await;
    token(user, claims)
}

/// Returns the setup of a pod with both secrets, and a client of its admin address.
fn setup(name: &str) -> (Setup, Http) {
    let admin = free_ports(1);
    let setup = Setup::new(name)
        .set("RELAY_ADMIN_LISTEN", format!("127.0.0.1:{admin}"))
        .set("RELAY_ADMIN_TOKEN", ADMIN)
        .set("RELAY_CONTROL_SECRET", CONTROL)
        .set("RELAY_AUTH", "jwt")
        .set("RELAY_JWT_SECRET", SECRET);
    (setup, Http::new(admin))
}

/// Starts a pod and waits until it is ready.
pub(crate) async fn start(name: &str, topic: Option<&Topic>) -> (Relay, Http) {
    let (setup, admin) = setup(name);
    let pod = match topic {
        Some(topic) => setup.topic(topic).launch(),
        None => setup.launch(),
    };
    eventually("the pod is ready", PATIENCE, async || {
        admin.try_get("/readyz").await.filter(|answer| answer.status == 200)
    })
    .await;
    (pod, admin)
}

pub(crate) async fn revoke(admin: &Http, body: Value) -> Value {
    let answer = admin.post_with(&format!("Bearer {ADMIN}"), "/admin/revoke", &body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

/// Returns status and code of a query with this token.
pub(crate) async fn query(pod: &Relay, token: &str) -> (u16, String) {
    let answer = pod.http.graphql_with(Some(&format!("Bearer {token}")), "{ __typename }", Value::Null).await;
    (answer.status, answer.code())
}

/// Returns a metric of a pod with an admin address.
pub(crate) async fn metric(admin: &Http, beginning: &str) -> f64 {
    let text = admin.get("/metrics").await.text;
    let values = text.lines().filter(|line| line.starts_with(beginning));
    values.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn revoked_user_is_out_on_every_pod() {
    let Some(topic) = Topic::fresh().await else { return };
    let mut pods = Vec::new();
    for name in ["a", "b", "c"] {
        pods.push(start(name, Some(&topic)).await);
    }
    let (old, other) = (token("4", &json!({})), token("2", &json!({})));
    let (mut of_user, mut of_other) = (Vec::new(), Vec::new());
    for (pod, _) in &pods {
        for dialect in [Dialect::Transport, Dialect::Legacy, Dialect::Transport] {
            let mut client = Client::connect(pod.port(), dialect, &old).await;
            client.watch().await;
            of_user.push(client);
        }
        let mut client = Client::connect(pod.port(), Dialect::Transport, &other).await;
        client.watch().await;
        of_other.push(client);
    }
    let mut events = Streamed::open(EVENTS, post(&pods[0].0, &old, WATCH)).await;
    let mut parts = Streamed::open(PARTS, post(&pods[1].0, &old, WATCH)).await;

    // Nothing that others put on the topic counts.
    let forged = json!({ "records": [{ "user": "2", "before": 9_999_999_999_999_u64 }] });
    let forged =
        Message::template("x", &[]).with("ce-type", "relay.revocations.v1").with_data(forged.to_string());
    topic.publish([forged.with("ce-source", "/pods/a")]).await;
    for (_, admin) in &pods {
        eventually("the forged record is counted", PATIENCE, async || {
            let unsigned = metric(admin, "relay_control_unproven_total{reason=\"unsigned\"").await;
            (unsigned >= 1.0).then_some(())
        })
        .await;
        assert_eq!(metric(admin, "relay_revocations ").await, 0.0);
    }

    let began = Instant::now();
    let revoked = revoke(&pods[2].1, json!({ "user": "4" })).await;
    assert_eq!(revoked["revoked"], json!({ "user": "4" }), "{revoked}");
    for client in &mut of_user {
        let (_, end) = client.socket.receive_to_end().await;
        assert_eq!((end.code, &*end.reason), (4403, "TOKEN_REVOKED"));
    }
    while events.block().await.is_ok() {}
    let error = parts.part().await.unwrap();
    assert_eq!(error["errors"][0]["extensions"]["code"], "TOKEN_REVOKED", "{error}");
    assert!(began.elapsed() < LIMIT, "{:?}", began.elapsed());

    // A pod of afterwards has the record before it is ready.
    pods.push(start("d", Some(&topic)).await);
    let fresh = fresh_token("4", &json!({})).await;
    let ageless = token("4", &json!({ "iat": null }));
    for (pod, _) in &pods {
        assert_eq!(query(pod, &old).await, (401, "TOKEN_REVOKED".to_owned()), "{}", pod.name());
        assert_eq!(query(pod, &ageless).await.0, 401, "without iat it may be an old one");
        assert_eq!(query(pod, &fresh).await.0, 200);
        assert_eq!(query(pod, &other).await.0, 200);
    }
    for client in &mut of_other {
        client.start("still", "{ __typename }").await;
        assert_eq!(client.socket.receive().await.unwrap()["id"], "still", "others stay connected");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn revoked_token_leaves_other_tokens_alone() {
    let (pod, admin) = start("pod", None).await;
    let tokens = ["one", "two"].map(|id| token("4", &json!({ "jti": id })));
    let mut clients = Vec::new();
    for token in &tokens {
        let mut client = Client::connect(pod.port(), Dialect::Transport, token).await;
        client.watch().await;
        clients.push(client);
    }
    revoke(&admin, json!({ "token": "one" })).await;
    assert_eq!(clients[0].socket.receive_to_end().await.1.code, 4403);
    assert_eq!(query(&pod, &tokens[0]).await.1, "TOKEN_REVOKED");
    assert_eq!(query(&pod, &tokens[1]).await.0, 200);
    clients[1].start("still", "{ __typename }").await;
    assert_eq!(clients[1].socket.receive().await.unwrap()["id"], "still");
}

#[tokio::test(flavor = "multi_thread")]
async fn refreshed_connection_depends_on_its_new_token() {
    let (pod, admin) = start("pod", None).await;
    let [one, two, three] = ["one", "two", "three"].map(|id| token("4", &json!({ "jti": id })));
    let mut client = Client::connect(pod.port(), Dialect::Transport, &one).await;
    let refresh = async |client: &mut Client, token: &str| {
        client.socket.send(json!({ "type": "ping", "payload": { "token": token } })).await;
        client.socket.receive().await.unwrap()["payload"]["refresh"].clone()
    };
    let accepted = refresh(&mut client, &two).await;
    assert!(accepted["accepted"]["expires"].is_string(), "{accepted}");
    for id in ["one", "three"] {
        revoke(&admin, json!({ "token": id })).await;
    }
    for revoked in [&one, &three] {
        let refused = refresh(&mut client, revoked).await;
        assert_eq!(refused["refused"]["code"], "TOKEN_REVOKED", "{refused}");
    }
    revoke(&admin, json!({ "token": "two" })).await;
    let (_, end) = client.socket.receive_to_end().await;
    assert_eq!((end.code, &*end.reason), (4403, "TOKEN_REVOKED"));
}

#[tokio::test(flavor = "multi_thread")]
async fn token_revoked_during_body_runs_nothing() {
    let (pod, admin) = start("pod", None).await;
    let (old, other) = (token("4", &json!({})), token("3", &json!({})));
    let add =
        r#"mutation { addTemplate(templateInput: { name: "late", shareLocationIds: [] }) { success } }"#;
    let mut sockets = Vec::new();
    for (accept, query) in [("application/json", add), (EVENTS, WATCH), (PARTS, WATCH)] {
        let body = json!({ "query": query }).to_string();
        let (begin, rest) = body.split_at(10);
        let mut socket = TcpStream::connect(("127.0.0.1", pod.port())).await.unwrap();
        let head = format!(
            "POST /graphql HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {old}\r\naccept: {accept}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{begin}",
            body.len()
        );
        socket.write_all(head.as_bytes()).await.unwrap();
        sockets.push((socket, rest.to_owned()));
    }
    // The heads are read, and their tokens accepted, before the topic has the record.
    assert_eq!(query(&pod, &old).await.0, 200);
    revoke(&admin, json!({ "user": "4" })).await;
    for (mut socket, rest) in sockets {
        socket.write_all(rest.as_bytes()).await.unwrap();
        let mut answer = String::new();
        timeout(PATIENCE, socket.read_to_string(&mut answer)).await.unwrap().unwrap();
        assert!(answer.starts_with("HTTP/1.1 401 ") && answer.contains("TOKEN_REVOKED"), "{answer}");
    }
    let names = "{ templates { name } }";
    let answer = pod.http.graphql_with(Some(&format!("Bearer {other}")), names, Value::Null).await;
    assert_eq!(answer.json()["data"]["templates"], json!([]), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn client_with_changed_rights_resumes_with_them() {
    let (setup, admin) = setup("pod");
    let pod = setup.set("RELAY_SCHEMA", "examples/chat/schema.graphql").launch();
    eventually("the pod is ready", PATIENCE, async || {
        admin.try_get("/readyz").await.filter(|answer| answer.status == 200)
    })
    .await;
    let both = json!({ "rooms": ["tea", "milk"] });
    let (old, bob) = (token("ann", &both), token("bob", &both));
    let say = async |room: &str, text: &str| {
        let query = format!(r#"mutation {{ postMessage(room: "{room}", text: "{text}") {{ id }} }}"#);
        let answer = pod.http.graphql_with(Some(&format!("Bearer {bob}")), &query, Value::Null).await;
        assert_eq!(answer.json()["errors"], Value::Null, "{answer:?}");
    };
    let text = |message: &Value| message["payload"]["data"]["messagePosted"]["text"].clone();
    let mut ann = Client::connect(pod.port(), Dialect::Transport, &old).await;
    ann.start("w", "subscription { messagePosted { text } }").await;
    eventually("ann listens", PATIENCE, async || {
        (metric(&admin, "relay_watchers{").await >= 1.0).then_some(())
    })
    .await;
    say("milk", "before").await;
    let first = ann.socket.receive().await.unwrap();
    assert_eq!(text(&first), "before");
    let cursor = first["payload"]["extensions"]["cursor"].as_str().unwrap().to_owned();

    revoke(&admin, json!({ "user": "ann", "retry": true })).await;
    let (_, end) = ann.socket.receive_to_end().await;
    assert_eq!((end.code, &*end.reason), (4403, "token expired"), "stock clients come back");
    assert_eq!(query(&pod, &old).await, (401, "UNAUTHENTICATED".to_owned()));
    say("milk", "for milk").await;
    say("tea", "for tea").await;

    let fresh = fresh_token("ann", &json!({ "rooms": ["tea"] })).await;
    let mut ann = Client::connect(pod.port(), Dialect::Transport, &fresh).await;
    ann.start("w", &format!(r#"subscription {{ messagePosted(after: "{cursor}") {{ text }} }}"#)).await;
    let replayed = ann.socket.receive().await.unwrap();
    assert_eq!(text(&replayed), "for tea", "the new rights do not cover milk: {replayed}");
    say("milk", "more milk").await;
    say("tea", "more tea").await;
    assert_eq!(text(&ann.socket.receive().await.unwrap()), "more tea");
}

#[tokio::test(flavor = "multi_thread")]
async fn revocation_without_control_secret_is_refused() {
    let (setup, admin) = setup("pod");
    let pod = setup.set("RELAY_CONTROL_SECRET", "").launch();
    eventually("the pod is alive", PATIENCE, async || admin.try_get("/livez").await).await;
    let bearer = format!("Bearer {ADMIN}");
    let answer = admin.post_with(&bearer, "/admin/revoke", &json!({ "user": "4" })).await;
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (409, &"CONTROL_SECRET_UNSET".into()));
    let answer = admin.post_with(&bearer, "/admin/revoke", &json!({})).await;
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (400, &"BAD_REQUEST".into()));
    assert_eq!(query(&pod, &token("4", &json!({}))).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn command_revokes_and_explains_failure() {
    let (pod, admin) = start("pod", None).await;
    let url = format!("127.0.0.1:{}", admin.port());
    let run = async |token: &str, arguments: &[&str]| {
        let all = [&["revoke", "--url", &url][..], arguments].concat();
        let output = Setup::new("x").command_line(&all).set("RELAY_ADMIN_TOKEN", token).run().await;
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).unwrap())
    };
    let old = token("4", &json!({}));
    let (code, text) = run(ADMIN, &["--user", "4"]).await;
    assert!(code == Some(0) && text.contains(r#""revoked":{"user":"4"}"#), "{text}");
    assert_eq!(query(&pod, &old).await.1, "TOKEN_REVOKED");
    let (code, text) = run("a wrong token that is long enough to be one", &["--user", "4"]).await;
    assert!(code == Some(1) && text.contains("UNAUTHENTICATED"), "{text}");
    let (code, text) = run("", &["--user", "4"]).await;
    assert!(code == Some(64) && text.contains("RELAY_ADMIN_TOKEN is needed"), "{text}");
    let elsewhere = format!("127.0.0.1:{}", pod.port());
    let (code, text) = run(ADMIN, &["--user", "4", "--url", &elsewhere]).await;
    assert!(code == Some(64) || code == Some(69), "{text}");
}
