//! Signed tokens from outside: which tokens a pod accepts, and for how long.
//!
//! A connection lasts as long as its token. An expired token must never keep a connection open.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, get_current_timestamp, jwk::Jwk};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt as _, task::JoinSet, time::Instant};

use crate::{
    doctor::{head, server},
    support::{Client, Dialect, PATIENCE, Relay, Setup, Socket, eventually},
};

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
async fn ping_with_fresh_token_extends_connection() {
    let pod = pod().await;
    let soon = get_current_timestamp() + 4;
    let mut client = Client::connect(pod.port(), Dialect::Transport, &token("4", soon, SECRET)).await;
    client.watch().await;
    let mut refresh = async |token: &str| {
        client.socket.send(json!({ "type": "ping", "payload": { "token": token } })).await;
        let answer = client.socket.receive().await.unwrap();
        assert_eq!(answer["type"], "pong", "{answer}");
        assert!(!answer.to_string().contains(token), "a token is never sent back: {answer}");
        answer["payload"]["refresh"].clone()
    };
    for (other, code) in [
        (token("3", soon + 600, SECRET), "OTHER_USER"),
        (token("4", soon + 600, "some other secret of 32 bytes..."), "UNAUTHENTICATED"),
    ] {
        assert_eq!(refresh(&other).await["refused"]["code"], code);
    }
    let accepted = refresh(&token("4", soon + 4, SECRET)).await;
    assert!(accepted["accepted"]["expires"].is_string(), "{accepted}");
    tokio::time::sleep(Duration::from_secs(5)).await;
    pod.add_template(&token("3", soon + 600, SECRET), "after", Some(&["3"])).await;
    assert_eq!(client.next().await, "after", "the first token has expired");
    assert_eq!(client.socket.receive_to_end().await.1.code, 4403, "the second one expires as well");
    assert!(get_current_timestamp() >= soon + 4);
}

#[tokio::test]
async fn ping_with_other_rights_changes_nothing() {
    let pod = Setup::new("pod").set("RELAY_AUTH", "jwt").set("RELAY_JWT_SECRET", SECRET);
    let pod = pod.set("RELAY_SCHEMA", "examples/chat/schema.graphql").start().await;
    let soon = get_current_timestamp() + 4;
    let token = |user: &str, rooms: &[&str], expires: u64| {
        let claims = json!({ "sub": user, "rooms": rooms, "exp": expires });
        encode(&Header::default(), &claims, &EncodingKey::from_secret(SECRET.as_bytes())).unwrap()
    };
    let first = token("ann", &["tea"], soon);
    let mut client = Client::connect(pod.port(), Dialect::Transport, &first).await;
    client.start("w", "subscription { messagePosted { text } }").await;
    pod.until_metric("relay_watchers", 1.0).await;
    for rooms in [&["tea", "gin"][..], &[]] {
        let payload = json!({ "token": token("ann", rooms, soon + 600) });
        client.socket.send(json!({ "type": "ping", "payload": payload })).await;
        let answer = client.socket.receive().await.unwrap();
        assert_eq!(answer["payload"]["refresh"]["refused"]["code"], "RIGHTS_CHANGED", "{answer}");
    }
    let bob = token("bob", &["tea", "gin"], soon + 600);
    for room in ["gin", "tea"] {
        let query = format!(r#"mutation {{ postMessage(room: "{room}", text: "{room}") {{ id }} }}"#);
        let answer = pod.http.graphql(&bob, &query, Value::Null).await;
        assert_eq!(answer.json()["errors"], Value::Null, "{answer:?}");
    }
    let (messages, end) = client.socket.receive_to_end().await;
    let texts: Vec<_> =
        messages.iter().map(|message| &message["payload"]["data"]["messagePosted"]["text"]).collect();
    assert_eq!(texts, ["tea"], "the interests of the first token");
    assert_eq!(end.code, 4403, "the life of the first token");
    assert!(get_current_timestamp() <= soon + 2);
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

/// Issuer of OpenID Connect, with a server of its own.
struct Issuer {
    url: String,
    key: EncodingKey,
    /// `issuer` of its configuration; `None`: the server answers with 503.
    named: Arc<Mutex<Option<String>>>,
    _tasks: JoinSet<()>,
}

impl Issuer {
    async fn start() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let key = EncodingKey::from_ec_der(key.serialized_der());
        let mut jwk = Jwk::from_encoding_key(&key, Algorithm::ES256).unwrap();
        jwk.common.key_id = Some("key-1".to_owned());
        let keys = json!({ "keys": [jwk] }).to_string();
        let named = Arc::new(Mutex::new(None::<String>));
        let answers = named.clone();
        let (address, tasks) = server(move |mut socket| {
            let (answers, keys) = (answers.clone(), keys.clone());
            async move {
                let head = head(&mut socket).await;
                let named = answers.lock().unwrap().clone();
                let address = socket.local_addr().unwrap();
                let (status, body) = match named {
                    None => ("503 Service Unavailable", String::new()),
                    Some(_) if head.starts_with(b"GET /keys ") => ("200 OK", keys),
                    Some(issuer) => {
                        let keys = format!("http://{address}/keys");
                        ("200 OK", json!({ "issuer": issuer, "jwks_uri": keys }).to_string())
                    }
                };
                let length = body.len();
                let answer = format!(
                    "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
                );
                socket.write_all(answer.as_bytes()).await.ok();
            }
        })
        .await;
        let issuer = Self { url: format!("http://{address}"), key, named, _tasks: tasks };
        issuer.name(Some(&issuer.url));
        issuer
    }

    fn name(&self, named: Option<&str>) {
        *self.named.lock().unwrap() = named.map(str::to_owned);
    }

    /// Returns a token of user 3 by this issuer that names this issuer.
    fn token(&self, issuer: &str) -> String {
        let header = Header { kid: Some("key-1".to_owned()), ..Header::new(Algorithm::ES256) };
        let claims = json!({ "sub": "3", "exp": get_current_timestamp() + 60, "iss": issuer });
        encode(&header, &claims, &self.key).unwrap()
    }
}

fn discovering(issuers: &[&Issuer]) -> Setup {
    let names = issuers.iter().map(|issuer| &*issuer.url).collect::<Vec<_>>().join(",");
    Setup::new("pod").set("RELAY_AUTH", "jwt").set("RELAY_JWT_ISSUER", names)
}

#[tokio::test(flavor = "multi_thread")]
async fn pod_discovers_keys_of_two_issuers() {
    let (one, two) = (Issuer::start().await, Issuer::start().await);
    let pod = discovering(&[&one, &two]).start().await;
    for (signer, named, expected) in
        [(&one, &one, 200), (&two, &two, 200), (&one, &two, 401), (&two, &one, 401)]
    {
        assert_eq!(status(&pod, &signer.token(&named.url)).await, expected);
    }
    assert_eq!(status(&pod, &one.token("https://elsewhere.example")).await, 401);
    let report = discovering(&[&one, &two]).command_line(&["doctor"]).run().await;
    let report = String::from_utf8(report.stdout).unwrap();
    let line = report.lines().find(|line| line.contains(" keys ")).unwrap();
    assert!(line.starts_with("ok") && line.contains(&one.url) && line.contains(&two.url), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pod_without_keys_is_unready_and_names_issuer() {
    let (sound, away) = (Issuer::start().await, Issuer::start().await);
    away.name(None);
    let mut pod = discovering(&[&sound, &away]).launch();
    let reasons = async |pod: &Relay, word: &str| {
        eventually(&format!("a reason names {word}"), PATIENCE, async || {
            let answer = pod.http.try_get("/readyz").await?;
            let reasons = answer.json()["reasons"].to_string();
            (answer.status == 503 && reasons.contains(word)).then_some(reasons)
        })
        .await
    };
    let named = reasons(&pod, "status 503").await;
    for words in [&*format!("tokens: the keys of {}", away.url), "cure: ", "curl --fail"] {
        assert!(named.contains(words), "{words}: {named}");
    }
    let doctor = discovering(&[&sound, &away]).command_line(&["doctor"]).run().await;
    let report = String::from_utf8(doctor.stdout).unwrap();
    let line = report.lines().find(|line| line.contains(" keys ")).unwrap();
    assert!(line.starts_with("WRONG") && line.contains(&format!("the keys of {}", away.url)), "{report}");
    away.name(Some(&sound.url));
    reasons(&pod, "another issuer").await;
    away.name(Some(&away.url));
    pod.until_ready(PATIENCE).await;
    assert_eq!(status(&pod, &away.token(&away.url)).await, 200);
    assert!(!pod.output().contains("Some(") && !pod.output().contains("error.sources"), "{}", pod.output());
    // An issuer that fails later takes nothing away.
    away.name(None);
    assert_eq!(status(&pod, &away.token(&away.url)).await, 200);
    assert_eq!(pod.http.get("/readyz").await.status, 200);
}

#[tokio::test]
async fn leeway_of_setting_holds() {
    let pod = Setup::new("pod").set("RELAY_AUTH", "jwt").set("RELAY_JWT_SECRET", SECRET);
    let pod = pod.set("RELAY_JWT_LEEWAY", "1m").start().await;
    let now = get_current_timestamp();
    assert_eq!(status(&pod, &token("3", now - 40, SECRET)).await, 200);
    assert_eq!(status(&pod, &token("3", now - 70, SECRET)).await, 401);
}
