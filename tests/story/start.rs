//! Starts that fail, and starts that wait for the broker.
//!
//! A configuration error must end a pod at once. A missing broker must never end it: the pod waits.

use std::{
    fs,
    path::PathBuf,
    process::Output,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{Instant, timeout},
};

use crate::{
    doctor::{head, server},
    support::{Message, PATIENCE, Setup, Topic, eventually, free_ports, watchers_on},
};

fn lines(output: &Output) -> Vec<String> {
    String::from_utf8(output.stderr.clone()).unwrap().lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn pod_reports_every_bad_setting_at_once() {
    let setup = Setup::new("pod")
        .set("RELAY_BROKER", "http://127.0.0.1")
        .set("RELAY_QUEUE_BYTES", "lots")
        .set("RELAY_LOG_FORMAT", "yaml");
    let output = setup.run().await;
    assert_eq!(output.status.code(), Some(64), "{output:?}");
    for variable in ["RELAY_BROKER", "RELAY_QUEUE_BYTES", "RELAY_LOG_FORMAT"] {
        assert!(lines(&output).iter().any(|line| line.contains(variable)), "{variable}: {output:?}");
    }
}

#[tokio::test]
async fn pod_refuses_demo_users_with_real_project() {
    let output = Setup::new("pod").set("RELAY_BROKER", "pubsub://production/templates").run().await;
    assert_eq!(output.status.code(), Some(64), "{output:?}");
    assert!(lines(&output).iter().any(|line| line.contains("RELAY_AUTH")), "{output:?}");
}

#[tokio::test]
async fn port_in_use_gives_one_clear_line() {
    let setup = Setup::new("pod").set("RELAY_LOG", "error");
    let taken = std::net::TcpListener::bind(("127.0.0.1", setup.port())).unwrap();
    let output = setup.run().await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let lines = lines(&output);
    let port = taken.local_addr().unwrap().port().to_string();
    assert!(matches!(&lines[..], [line] if line.contains(&port) && line.contains("in use")), "{lines:#?}");
}

#[tokio::test]
async fn pod_on_all_addresses_serves_both_families() {
    let port = free_ports(1);
    let mut pod = Setup::new("pod").at(port).set("RELAY_LISTEN", format!("[::]:{port}")).launch();
    pod.until_ready(PATIENCE).await;
    if TcpListener::bind("[::1]:0").await.is_ok() {
        let answer = reqwest::get(format!("http://[::1]:{port}/livez")).await.unwrap();
        assert_eq!(answer.status(), 200);
    }
    let check = Setup::new("check").set("RELAY_LISTEN", format!("[::]:{port}"));
    let output = check.command_line(&["healthcheck"]).run().await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[tokio::test]
async fn unreadable_credentials_give_one_clear_line() {
    let setup = Setup::new("pod").set("RELAY_BROKER", "pubsub://p-1/events").set("RELAY_LOG", "error");
    let setup = setup.set("RELAY_AUTH", "jwt").set("RELAY_JWT_SECRET", "thirty-two bytes are just enough");
    let setup = setup.set("GOOGLE_APPLICATION_CREDENTIALS", "/nonexistent/key.json");
    let output = setup.run().await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let lines = lines(&output);
    let [line] = &lines[..] else { panic!("{lines:#?}") };
    for words in ["the credentials for Google cannot be used", "GOOGLE_APPLICATION_CREDENTIALS", "cure: "] {
        assert!(line.contains(words), "{words}: {line}");
    }
    for words in ["Pub/Sub client", "RELAY_BROKER", "Some(", "Error"] {
        assert!(!line.contains(words), "{words}: {line}");
    }
}

#[tokio::test]
async fn pod_reports_fault_in_directory() {
    let user = |id: &str, location: &str| {
        format!(
            r#"{{"id": "{id}", "email": "u{id}@example.com", "type": "U{id}", "locationId": "{location}"}}"#
        )
    };
    let location = r#"{"id": "1", "name": "one", "orgId": "1"}"#;
    let file = |location: &str, users: &[String]| {
        format!(r#"{{"locations": [{location}], "users": [{}]}}"#, users.join(","))
    };
    for (content, culprit) in [
        (
            file(location, &[user("double", "1"), user("double", "1")]),
            "`users`, row 2: its `id` is given twice",
        ),
        (file(r#"{"id": "1", "name": "one"}"#, &[]), "`locations`, row 1: `orgId`: a value is expected"),
        ("{\"users\": [".to_owned(), "line 1"),
    ] {
        let path = Scratch::file(&content);
        let setup = Setup::new("pod").set("RELAY_DIRECTORY", path.0.to_str().unwrap());
        let output = setup.set("RELAY_QUEUE_BYTES", "lots").run().await;
        assert_eq!(output.status.code(), Some(64), "{content}: {output:?}");
        let lines = lines(&output);
        for beginning in ["relay: RELAY_DIRECTORY ", "relay: RELAY_QUEUE_BYTES "] {
            assert!(lines.iter().any(|line| line.starts_with(beginning)), "{content}: {lines:#?}");
        }
        assert!(lines.concat().contains(culprit), "{content}: {lines:#?}");
    }
}

/// File that is deleted when dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn file(content: &str) -> Self {
        let path = std::env::temp_dir().join(format!("relay-{}.json", uuid::Uuid::now_v7()));
        fs::write(&path, content).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        fs::remove_file(&self.0).ok();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pod_stopped_during_start_leaves_nothing() {
    let Some(topic) = Topic::fresh().await else { return };
    // A server that accepts the connection and never answers.
    let issuer = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let keys = format!("http://{}/keys", issuer.local_addr().unwrap());
    let setup = Setup::new("pod").topic(&topic).set("RELAY_AUTH", "jwt").set("RELAY_JWT_JWKS", keys);
    let mut pod = setup.launch();
    let _asked = timeout(PATIENCE, issuer.accept()).await.expect("the pod asks for keys").unwrap();
    pod.signal("TERM");
    let asked = Instant::now();
    assert_eq!(pod.ended().await.code(), Some(0), "{}", pod.output());
    assert!(asked.elapsed() < Duration::from_secs(3), "{:?}", asked.elapsed());
    assert!(topic.feeds_of("pod").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn pod_is_alive_but_unready_without_broker() {
    let Some(topic) = Topic::fresh().await else { return };
    let host = format!("127.0.0.1:{}", free_ports(1));
    let mut pod = Setup::new("pod").topic(&topic.seen_at(&host)).launch();
    let http = pod.http.clone();
    eventually("the pod is alive", PATIENCE, async || {
        http.try_get("/livez").await.filter(|answer| answer.status == 200)
    })
    .await;
    let answer = eventually("the pod reports why it is not ready", PATIENCE, async || {
        let answer = http.get("/readyz").await;
        assert_eq!(answer.status, 503, "{answer:?}");
        (answer.json()["reasons"][0] != "feed: opening").then_some(answer)
    })
    .await;
    assert!(answer.json()["reasons"][0].as_str().is_some_and(|reason| !reason.is_empty()), "{answer:?}");

    let asked = Instant::now();
    let answer = http.add_template("ZOWI", "too early", Some(&["3"])).await;
    assert_eq!(answer.code(), "PUBLISH_FAILED", "{answer:?}");
    assert!(asked.elapsed() < Duration::from_secs(7), "{:?}", asked.elapsed());
    assert!(pod.template_names().await.is_empty());

    let _bridge = Bridge::open(&host, topic.host()).await;
    // The longest backoff and a reserve
    pod.until_ready(Duration::from_secs(60)).await;
    let mut clients = watchers_on(&pod, crate::support::Dialect::Transport, &["ZOLO"]).await;
    topic.publish([Message::template("at last", &["3"])]).await;
    clients[0].until_all(["at last".to_owned()]).await;
}

/// Puts a server before the emulator that lets no pod create its topic until the test has created
/// it.
#[tokio::test(flavor = "multi_thread")]
async fn pod_is_alive_but_unready_without_topic() {
    let Some(topic) = Topic::on_pubsub().await else { return };
    let (emulator, is_made) = (topic.host().to_owned(), Arc::new(AtomicBool::new(false)));
    let there = is_made.clone();
    let (address, _tasks) = server(move |mut socket| {
        let (emulator, is_made) = (emulator.clone(), there.clone());
        async move {
            let head = head(&mut socket).await;
            if head.starts_with(b"PUT ") && !is_made.load(Ordering::Relaxed) {
                let body = r#"{"error":{"code":404,"status":"NOT_FOUND","message":"Topic not found"}}"#;
                let length = body.len();
                let answer = format!(
                    "HTTP/1.1 404 Not Found\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\
                     connection: close\r\n\r\n{body}"
                );
                socket.write_all(answer.as_bytes()).await.ok();
                return;
            }
            let mut upstream = TcpStream::connect(&emulator).await.unwrap();
            upstream.write_all(&head).await.unwrap();
            copy_bidirectional(&mut socket, &mut upstream).await.ok();
        }
    })
    .await;
    let mut pod = Setup::new("pod").topic(&topic.seen_at(&address)).launch();
    eventually("the pod reports why it is not ready", PATIENCE, async || {
        let answer = pod.http.try_get("/readyz").await.filter(|answer| answer.status == 503)?;
        let reason = answer.json()["reasons"][0].to_string();
        reason.contains("Topic not found").then_some(())
    })
    .await;
    topic.make(Some("600s")).await;
    is_made.store(true, Ordering::Relaxed);
    pod.until_ready(Duration::from_secs(60)).await;
    let mut clients = watchers_on(&pod, crate::support::Dialect::Transport, &["ZOLO"]).await;
    pod.add_template("ZOWI", "at last", Some(&["3"])).await;
    clients[0].until_all(["at last".to_owned()]).await;
}

/// Bridge that makes the emulator reachable at another address. It closes when dropped.
pub(crate) struct Bridge {
    _tasks: JoinSet<()>,
}

impl Bridge {
    pub(crate) async fn open(at: &str, to: &str) -> Self {
        // The port of an earlier bridge may take a moment to become free
        let listener =
            eventually("the address is free", PATIENCE, async || TcpListener::bind(at).await.ok()).await;
        let to = to.to_owned();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut near, _)) = listener.accept().await {
                let to = to.clone();
                connections.spawn(async move {
                    let mut far = TcpStream::connect(to).await.unwrap();
                    // An error means that one side ended, which ends the other too
                    copy_bidirectional(&mut near, &mut far).await.ok();
                });
            }
        });
        Self { _tasks: tasks }
    }
}
