//! Counts of viewers over all pods while pods crash and are replaced under load.
//!
//! The viewers are connected over WebSocket and over server-sent events. The count is read in every
//! form: by a query over plain HTTP, and by subscriptions over both transports. A reader must never
//! go on with a wrong count once two heartbeat intervals have passed.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    select,
    task::JoinSet,
    time::{Instant, interval, sleep},
};

use crate::{
    deployment::Deployment,
    resuming::Ports,
    shared_turn,
    support::{Client, Dialect, EVENTS, Http, Message, PATIENCE, Streamed, Topic, eventually},
};

/// Heartbeat interval of the pods, and two of them with the time of a busy machine.
const INTERVAL: Duration = Duration::from_secs(3);
const TWO_INTERVALS: Duration = Duration::from_millis(6_500);

/// Time for which every reader must have the right count then.
const STEADY: Duration = Duration::from_millis(1_500);

/// Pods, and viewers of the room. At first the viewers are spread over the pods in turn.
const PODS: usize = 3;
const VIEWERS: usize = 24;

/// Number of the first viewer who stays away after the crash, if it was connected to that pod.
const AWAY: usize = 12;

/// Events of the room in a second.
const EVENTS_PER_SECOND: u32 = 20;

const SCHEMA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/story/counted-rooms.graphql");

const POSTED: &str = "subscription { posted { room } }";
const VIEWERS_OF_ROOM: &str = "subscription { viewers(room: \"tea\") }";

/// Transport of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Over {
    WebSocket,
    Sse,
}

/// Connection of either transport, with one subscription.
enum Connection {
    WebSocket(Box<Client>),
    Sse(Box<Streamed>),
}

impl Connection {
    async fn open(over: Over, port: u16, user: &str, query: &str) -> Self {
        let token = json!({ "sub": user, "rooms": ["tea"] }).to_string();
        match over {
            Over::WebSocket => {
                let mut client = Client::connect(port, Dialect::Transport, &token).await;
                client.start("1", query).await;
                Self::WebSocket(client.into())
            }
            Over::Sse => {
                let request = reqwest::Client::new().post(format!("http://127.0.0.1:{port}/graphql"));
                let request = request.header("authorization", format!("Bearer {token}"));
                let request = request.header("content-type", "application/json");
                let request = request.body(json!({ "query": query }).to_string());
                Self::Sse(Streamed::open(EVENTS, request).await.into())
            }
        }
    }

    /// Returns the data of the next result; `None` if the connection has ended.
    async fn next(&mut self) -> Option<Value> {
        match self {
            Self::WebSocket(client) => loop {
                select! {
                    message = client.socket.receive() => return Some(message.ok()?["payload"]["data"].take()),
                    // A count may stay the same for longer than a message is awaited.
                    () = sleep(PATIENCE / 3) => {}
                }
            },
            Self::Sse(stream) => Some(stream.event().await.ok()?.2["data"].take()),
        }
    }
}

/// Last count that a subscription has given; `None` before the first of its connection.
type Last = Arc<Mutex<Option<u64>>>;

/// Pods under load, viewers who connect again, and readers of the count.
struct Scene {
    deployment: Deployment,
    /// Viewers from this number on stay away once their connection has ended.
    stay: Arc<AtomicUsize>,
    readers: Vec<(Over, Last)>,
    tasks: JoinSet<()>,
}

impl Scene {
    async fn open(topic: &Topic) -> Self {
        let interval = format!("{}s", INTERVAL.as_secs());
        let settings = [
            ("RELAY_SCHEMA", SCHEMA),
            ("RELAY_HEARTBEAT_INTERVAL", &*interval),
            ("RELAY_DRAIN_DELAY", "0s"),
            ("RELAY_DRAIN_SPREAD", "1s"),
        ];
        let deployment = Deployment::start(topic, PODS, &settings).await;
        let (stay, readers, tasks) = (Arc::new(AtomicUsize::new(VIEWERS)), Vec::new(), JoinSet::new());
        let mut scene = Self { deployment, stay, readers, tasks };
        for number in 0..VIEWERS {
            let over = if number % 2 == 0 { Over::WebSocket } else { Over::Sse };
            let first = scene.deployment.pods[number % PODS].port();
            scene.tasks.spawn(view(scene.deployment.ports.clone(), first, over, number, scene.stay.clone()));
        }
        for over in [Over::WebSocket, Over::Sse] {
            let last = Last::default();
            scene.tasks.spawn(read(scene.deployment.ports.clone(), over, last.clone()));
            scene.readers.push((over, last));
        }
        scene.tasks.spawn(post(topic.clone()));
        scene
    }

    /// Returns the count in every form: by a query to each pod, and by each subscription.
    async fn counts(&self) -> Vec<(String, Option<u64>)> {
        let mut counts = Vec::new();
        for pod in &self.deployment.pods {
            counts.push((format!("query to {}", pod.name()), asked(&pod.http).await));
        }
        let read = |(over, last): &(Over, Last)| (format!("{over:?}"), *last.lock().unwrap());
        counts.extend(self.readers.iter().map(read));
        counts
    }

    /// Waits until the count is this in every form, for `limit` at most.
    async fn until(&self, expected: usize, limit: Duration) {
        eventually("the count is right in every form", limit, async || {
            let counts = self.counts().await;
            counts.iter().all(|(_, count)| *count == u64::try_from(expected).ok()).then_some(())
        })
        .await;
    }

    /// Asserts that the count is this in every form within two intervals of `since`, and stays so.
    async fn expect(&self, expected: usize, since: Instant, what: &str) {
        self.until(expected, (since + TWO_INTERVALS) - Instant::now()).await;
        println!("{what}: {expected} in every form {:.1?} after it", since.elapsed());
        while since.elapsed() < TWO_INTERVALS + STEADY {
            sleep(INTERVAL / 20).await;
            let is_due = since.elapsed() >= TWO_INTERVALS;
            let counts = self.counts().await;
            let is_right = counts.iter().all(|(_, count)| *count == u64::try_from(expected).ok());
            assert!(is_right || !is_due, "{what}: not {expected} after {:?}: {counts:?}", since.elapsed());
        }
    }
}

/// Asks for the count by a query over plain HTTP; `None` while it is not known.
async fn asked(http: &Http) -> Option<u64> {
    let token = json!({ "sub": "reader", "rooms": ["tea"] }).to_string();
    let query = "query($room: ID!) { viewers(room: $room) }";
    let answer = http.graphql(&token, query, json!({ "room": "tea" })).await;
    let json = answer.json();
    assert_eq!((answer.status, &json["errors"]), (200, &Value::Null), "{}", answer.text);
    json["data"]["viewers"].as_u64()
}

/// Watches the events of the room, on this pod first, and connects to any pod after each end.
async fn view(ports: Ports, first: u16, over: Over, number: usize, stay: Arc<AtomicUsize>) {
    let mut port = first;
    loop {
        let mut connection = Connection::open(over, port, &format!("user-{number}"), POSTED).await;
        while connection.next().await.is_some() {}
        if number >= stay.load(Ordering::Relaxed) {
            return;
        }
        port = ports.any().unwrap();
    }
}

/// Reads the count, on any pod, and connects again after each end.
async fn read(ports: Ports, over: Over, last: Last) {
    loop {
        let port = ports.any().unwrap();
        // A reader listens to no event, so it is no viewer.
        let mut connection = Connection::open(over, port, "reader", VIEWERS_OF_ROOM).await;
        while let Some(data) = connection.next().await {
            *last.lock().unwrap() = Some(data["viewers"].as_u64().unwrap());
        }
        *last.lock().unwrap() = None;
    }
}

/// Publishes events of the room at a steady rate.
async fn post(topic: Topic) {
    let mut pace = interval(Duration::from_secs(1) / EVENTS_PER_SECOND);
    loop {
        pace.tick().await;
        let message = Message::template("", &[]).with("ce-type", "posted.v1");
        topic.publish([message.with_data(r#"{"room":"tea"}"#)]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_are_right_after_crash_and_rolling_restart() {
    let _turn = shared_turn().await;
    let Some(topic) = Topic::fresh().await else { return };
    let mut scene = Scene::open(&topic).await;
    scene.until(VIEWERS, PATIENCE).await;

    scene.stay.store(AWAY, Ordering::Relaxed);
    let mut crashed = scene.deployment.retire();
    crashed.kill();
    let away = (AWAY..VIEWERS).filter(|number| number % PODS == 0).count();
    scene.expect(VIEWERS - away, Instant::now(), "crash").await;
    scene.stay.store(VIEWERS, Ordering::Relaxed);

    for _ in 1..PODS {
        scene.deployment.add(None).await;
        let mut old = scene.deployment.retire();
        old.signal("TERM");
        assert_eq!(old.ended().await.code(), Some(0));
        scene.expect(VIEWERS - away, Instant::now(), "rolling restart").await;
    }
    while let Some(ended) = scene.tasks.try_join_next() {
        ended.unwrap();
    }
    // Before the pods end: a client that finds none panics.
    scene.tasks.shutdown().await;
}
