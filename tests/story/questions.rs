//! Questions across the pods: one pod is asked why a user did or did not receive an event, and all
//! answer over the topic.
//!
//! The pods are real processes on a real broker. An answer must never be late, and a pod that gives
//! none is named.

use std::{fs, time::Duration};

use pubsub_relay::cursor::Cursor;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::{Answer, Client, Dialect, Http, PATIENCE, Relay, Setup, Topic, eventually, free_ports};

const TOKEN: &str = "an-operators-token-of-more-than-32-bytes";
const SECRET: &str = "a-control-secret-of-more-than-32-bytes";

/// Pods of one topic with their admin addresses.
struct Pods {
    pods: Vec<(Relay, Http)>,
}

impl Pods {
    /// Starts this many pods and waits until each counts all of them.
    async fn start(topic: &Topic, count: usize, settings: &[(&str, &str)]) -> Self {
        let pods = (1..=count).map(|n| {
            let admin = free_ports(1);
            let setup = Setup::new(&format!("pod-{n}")).topic(topic);
            let setup = setup.set("RELAY_ADMIN_LISTEN", format!("127.0.0.1:{admin}"));
            let setup = setup.set("RELAY_DEBUG_TOKEN", TOKEN).set("RELAY_HEARTBEAT_INTERVAL", "1s");
            let setup = settings.iter().fold(setup, |setup, (name, value)| setup.set(name, *value));
            (setup.launch(), Http::new(admin))
        });
        let pods = Self { pods: pods.collect() };
        for (_, machines) in &pods.pods {
            eventually("each pod counts all", PATIENCE, async || {
                let answer = machines.try_get("/readyz").await.filter(|answer| answer.status == 200)?;
                (answer.json()["membership"]["pods"] == count).then_some(())
            })
            .await;
        }
        pods
    }

    fn port(&self, n: usize) -> u16 {
        self.pods[n - 1].0.port()
    }

    async fn try_ask(&self, n: usize, path: &str) -> Answer {
        self.pods[n - 1].1.get_with(&format!("Bearer {TOKEN}"), path).await
    }

    async fn ask(&self, n: usize, path: &str) -> Value {
        let answer = self.try_ask(n, path).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }

    /// Asks this pod about an event and a user.
    async fn explain(&self, n: usize, event: &str, user: &str) -> Value {
        self.ask(n, &format!("/debug/explain?event={event}&user={user}")).await
    }

    /// Connects a client that subscribes with this document, and waits until the pod has this many
    /// watchers.
    async fn watch(&self, n: usize, user: &str, document: &str, watchers: u64) -> Client {
        let mut client = Client::connect(self.port(n), Dialect::Transport, user).await;
        client.start("watch", document).await;
        self.until_watchers(n, watchers).await;
        client
    }

    async fn until_watchers(&self, n: usize, count: u64) {
        eventually("the pod has its watchers", PATIENCE, async || {
            let connections = self.ask(n, "/debug/connections").await;
            let rows = connections["connections"].as_array().unwrap().iter();
            let watchers: u64 = rows.map(|row| row["watchers"].as_u64().unwrap()).sum();
            (watchers == count).then_some(())
        })
        .await;
    }
}

/// Returns what this pod answers, in an answer of all pods.
fn of(answer: &Value, pod: usize) -> &Value {
    let rows = answer["pods"].as_array().unwrap_or_else(|| panic!("{answer}"));
    let row = rows.iter().find(|row| row["pod"] == format!("pod-{pod}"));
    row.unwrap_or_else(|| panic!("pod-{pod}: {answer}"))
}

fn event_of(message: &Value) -> String {
    message["payload"]["extensions"]["eventId"].as_str().unwrap_or_else(|| panic!("{message}")).to_owned()
}

const ALL: &str = "subscription { templateAdded { id } }";

/// Starts four pods with the tutorial's file and an argument to filter by, which it lacks.
async fn start_with_filter(topic: &Topic) -> Pods {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/domains");
    let file = fs::read_to_string(format!("{folder}/tutorial.graphql")).unwrap();
    let file = file.replace("templateAdded: Template", "templateAdded(name: String @filter): Template");
    let schema = std::env::temp_dir().join(format!("relay-{}.graphql", uuid::Uuid::now_v7()));
    fs::write(&schema, file).unwrap();
    let settings = [
        ("RELAY_CONTROL_SECRET", SECRET),
        ("RELAY_SCHEMA", schema.to_str().unwrap()),
        ("RELAY_DIRECTORY", &format!("{folder}/tutorial/directory.json")),
        // A larger result is refused, and eight times as much is too much to wait.
        ("RELAY_QUEUE_BYTES", "128KiB"),
    ];
    let pods = Pods::start(topic, 4, &settings).await;
    fs::remove_file(&schema).unwrap();
    pods
}

/// Resumes from a cursor that is too old, and asserts that the notice explains the event.
async fn assert_gap(pods: &Pods, topic: &Topic, event: &str) {
    let ancient = Cursor {
        published: std::time::SystemTime::now() - Duration::from_secs(3_600),
        event: String::new().into(),
    };
    let mut late = Client::connect(pods.port(1), Dialect::Transport, "ZEWI").await;
    late.watch_after(&ancient.encode(&topic_name(topic))).await;
    let notice = late.socket.receive().await.unwrap();
    assert_eq!(notice["payload"]["extensions"]["gap"]["reason"], "WINDOW_EXCEEDED", "{notice}");
    let gap = pods.explain(2, event, "ZEWI").await;
    assert_eq!(of(&gap, 1)["answer"], "GAP", "{gap}");
    assert!(of(&gap, 1)["sentence"].as_str().unwrap().contains("WINDOW_EXCEEDED"), "{gap}");
}

#[tokio::test(flavor = "multi_thread")]
async fn four_pods_give_each_reason() {
    let Some(topic) = Topic::fresh().await else { return };
    let pods = start_with_filter(&topic).await;
    let mut zolo = pods.watch(2, "ZOLO", ALL, 1).await;
    let _zowi = pods.watch(1, "ZOWI", ALL, 1).await;
    let other = r#"subscription { templateAdded(name: "another") { id } }"#;
    let _filtered = pods.watch(4, "ZOLO", other, 1).await;
    let zewi = pods.watch(3, "ZEWI", ALL, 1).await;
    let cursor = Client::cursor_at_start(pods.port(3), "ZEWI").await;
    zewi.socket.close().await;
    pods.until_watchers(3, 0).await;
    pods.pods[0].0.add_template("ZOWI", "story", Some(&["3"])).await;
    let event = event_of(&zolo.socket.receive().await.unwrap());

    // By demo name, by e-mail address and by id.
    for user in ["ZOLO", "User-4@gmail.com", "4"] {
        let told = pods.explain(1, &event, user).await;
        assert_eq!(of(&told, 2)["answer"], "TOLD", "{user}: {told}");
        assert_eq!(of(&told, 4)["answer"], "FILTERED", "{user}: {told}");
        assert_eq!(of(&told, 3)["answer"], "NOT_CONNECTED", "{user}: {told}");
        assert_eq!((&told["silent"], &told["not_asked"]), (&json!([]), &Value::Null), "{told}");
    }
    let author = pods.explain(3, &event, "ZOWI").await;
    let elsewhere = pods.explain(3, &event, "ZELO").await;
    for pod in 1..=4 {
        assert_eq!(of(&author, pod)["answer"], "AUTHOR", "{author}");
        assert_eq!(of(&elsewhere, pod)["answer"], "NO_COMMON_KEY", "{elsewhere}");
    }
    let left = pods.explain(2, &event, "ZEWI").await;
    assert_eq!(of(&left, 3)["answer"], "NOT_CONNECTED", "{left}");
    let sentence = of(&left, 3)["sentence"].as_str().unwrap();
    assert!(sentence.ends_with("because the client left."), "{sentence}");
    assert_eq!(of(&left, 3)["connections"][0]["reason"], "left", "{left}");
    let unknown = pods.explain(2, &event, "ZORRO").await;
    assert_eq!(
        (&unknown["user"]["answer"], unknown.get("pods")),
        (&"UNKNOWN_USER".into(), None),
        "{unknown}"
    );

    let mut zewi = Client::connect(pods.port(4), Dialect::Transport, "ZEWI").await;
    zewi.watch_after(&cursor).await;
    assert_eq!(event_of(&zewi.socket.receive().await.unwrap()), event);
    let moved = pods.explain(1, &event, "ZEWI").await;
    assert_eq!(of(&moved, 4)["answer"], "TOLD", "{moved}");
    assert_eq!(
        (&of(&moved, 3)["answer"], &of(&moved, 3)["resumed"]["pod"]),
        (&"RESUMED_ELSEWHERE".into(), &"pod-4".into())
    );

    assert_gap(&pods, &topic, &event).await;
    assert_eq!(pods.explain(2, "nothing", "ZOLO").await["pods"][0]["answer"], "NOT_IN_WINDOW");

    assert_queue_full(&pods, &mut zolo).await;
    assert_sentences(&pods, &event).await;
}

/// Floods a client that does not read, and asserts that its pod says so.
async fn assert_queue_full(pods: &Pods, zolo: &mut Client) {
    let _deaf = pods.watch(3, "ZOLO", "subscription { templateAdded { shareLocationIds } }", 1).await;
    let mut locations: Vec<String> = (0..999).map(|n| format!("{n:-<60}")).collect();
    locations.push("3".to_owned());
    let locations: Vec<&str> = locations.iter().map(String::as_str).collect();
    for _ in 0..300 {
        pods.pods[0].0.add_template("ZOWI", "large", Some(&locations)).await;
        let event = event_of(&zolo.socket.receive().await.unwrap());
        let asked = pods.ask(3, "/debug/events?limit=9").await;
        let rows = asked["events"].as_array().unwrap();
        let Some(full) = rows.iter().find(|row| row["queue_full"] == 1) else { continue };
        assert!(rows.len() <= 9 && full["kind"] == "template.added.v1", "{full}");
        let explained = pods.explain(1, full["event"].as_str().unwrap(), "ZOLO").await;
        assert_eq!(of(&explained, 3)["answer"], "QUEUE_FULL", "{explained}");
        assert!(!event.is_empty());
        return;
    }
    panic!("the socket takes everything");
}

/// Asserts what the command prints, for right and wrong arguments.
async fn assert_sentences(pods: &Pods, event: &str) {
    let explain = |user: &'static str, token: &'static str| {
        let url = format!("127.0.0.1:{}", pods.pods[0].1.port());
        let arguments = ["explain", "--event", event, "--user", user, "--url", &url];
        Setup::new("terminal").command_line(&arguments).set("RELAY_DEBUG_TOKEN", token).run()
    };
    let output = explain("ZOWI", TOKEN).await;
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().count(), 4, "{text}");
    for (n, line) in (1..).zip(text.lines()) {
        assert_eq!(line, format!("pod-{n} left the user out: the user is the author of the event."));
    }
    for (user, token, words) in
        [("ZORRO", TOKEN, "there is no user ZORRO"), ("ZOWI", SECRET, "refuses the debug token")]
    {
        let output = explain(user, token).await;
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), text.contains(words)), (Some(1), true), "{text}");
    }
}

fn topic_name(topic: &Topic) -> String {
    pubsub_relay::broker::open::BrokerUrl::parse(&topic.broker()).unwrap().open(PATIENCE, 1 << 20).topic()
}

#[tokio::test(flavor = "multi_thread")]
async fn frozen_pod_is_named_within_two_seconds() {
    let Some(topic) = Topic::fresh().await else { return };
    let pods =
        Pods::start(&topic, 6, &[("RELAY_CONTROL_SECRET", SECRET), ("RELAY_HEARTBEAT_INTERVAL", "5s")]).await;
    let mut zolo = pods.watch(2, "ZOLO", ALL, 1).await;
    pods.pods[0].0.add_template("ZOWI", "story", Some(&["3"])).await;
    let event = event_of(&zolo.socket.receive().await.unwrap());
    let all = pods.explain(1, &event, "ZOLO").await;
    assert_eq!((all["pods"].as_array().unwrap().len(), &all["silent"]), (6, &json!([])), "{all}");

    pods.pods[5].0.signal("STOP");
    for _ in 0..3 {
        let began = Instant::now();
        let explained = pods.explain(1, &event, "ZOLO").await;
        let took = began.elapsed();
        assert!(took < Duration::from_secs(2), "{took:?}");
        assert_eq!(explained["silent"], json!(["pod-6"]), "{explained}");
        assert_eq!(explained["pods"].as_array().unwrap().len(), 5, "{explained}");
        assert_eq!(of(&explained, 2)["answer"], "TOLD", "{explained}");
    }
    pods.pods[5].0.signal("CONT");
}

#[tokio::test(flavor = "multi_thread")]
async fn pod_without_secret_answers_for_itself() {
    let Some(topic) = Topic::fresh().await else { return };
    let pods = Pods::start(&topic, 2, &[]).await;
    let mut zolo = pods.watch(2, "ZOLO", ALL, 1).await;
    pods.pods[0].0.add_template("ZOWI", "story", Some(&["3"])).await;
    let event = event_of(&zolo.socket.receive().await.unwrap());
    let explained = pods.explain(2, &event, "ZOLO").await;
    assert_eq!(explained["not_asked"]["code"], "NO_CONTROL_SECRET", "{explained}");
    assert_eq!(
        (explained["pods"].as_array().unwrap().len(), &of(&explained, 2)["answer"]),
        (1, &"TOLD".into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn flood_of_questions_is_refused() {
    let Some(topic) = Topic::fresh().await else { return };
    let pods = Pods::start(&topic, 1, &[("RELAY_CONTROL_SECRET", SECRET)]).await;
    let mut refused = 0;
    for _ in 0..40 {
        let explained = pods.explain(1, "nothing", "ZOLO").await;
        refused += u32::from(explained["not_asked"]["code"] == "RATE_LIMITED");
        assert_eq!(of(&explained, 1)["answer"], "NOT_IN_WINDOW", "its own answer is given: {explained}");
    }
    assert!(refused > 0, "40 questions at once are too many");
}
