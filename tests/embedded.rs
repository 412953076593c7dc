//! A program that embeds two pods, with a broker and a domain of its own.
//!
//! Both are implemented against the crate's front door, as a team would do it: the test must never
//! use a module that the documentation hides.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use futures_util::{SinkExt as _, Stream, StreamExt as _};
use pubsub_relay::{
    Audience, Broker, Domain, Drained, Error, Event, Fact, Identity, Interests, Pod, PodSettings, Unreadable,
    Viewer,
    async_graphql::{Context, EmptyMutation, Object, Schema, Subscription},
    broker::{
        Ack, ConnectError, Connected, Feed, FeedState, Limits, Publish, PublishError, Received, Reopen,
    },
    build_api, payloads, publish,
};
use serde_json::{Value, json};
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
    time::{Instant, interval, sleep, timeout},
};
use tokio_tungstenite::{
    connect_async,
    tungstenite::{Message, client::IntoClientRequest as _},
};

const LIMITS: Limits =
    Limits { payload_bytes: 1_000, least_retention: Duration::from_secs(60), fetched_bytes: 0 };
const PATIENCE: Duration = Duration::from_secs(20);

/// Broker in a vector: every feed reads it from the beginning.
#[derive(Clone, Default)]
struct Notebook {
    pages: Arc<Pages>,
    /// How late its feeds bring an event.
    lag: Duration,
}

#[derive(Default)]
struct Pages {
    events: Mutex<Vec<Event>>,
    written: Notify,
    open_feeds: AtomicUsize,
}

#[async_trait]
impl Broker for Notebook {
    fn topic(&self) -> String {
        "notebook:".to_owned()
    }

    fn system(&self) -> &'static str {
        "notebook"
    }

    fn limits(&self) -> Limits {
        LIMITS
    }

    fn check_pod(&self, pod: &str) -> Result<(), String> {
        if pod.is_empty() { Err("needs pods with names".to_owned()) } else { Ok(()) }
    }

    async fn connect(&self, pod: &str, _window: Duration) -> Result<Connected, ConnectError> {
        self.check_pod(pod).map_err(ConnectError::new)?;
        let number = self.pages.open_feeds.fetch_add(1, Ordering::Relaxed);
        let generation = format!("notebook.{pod}.{number}").into();
        let state = watch::Sender::new(FeedState::Open(generation));
        let feed = Reader { pages: self.pages.clone(), next: 0, lag: self.lag, state };
        Ok(Connected { publisher: Arc::new(self.clone()), feed: Box::new(feed), upkeep: None })
    }
}

#[async_trait]
impl Publish for Notebook {
    async fn publish(&self, event: &Event) -> Result<(), PublishError> {
        LIMITS.check(event)?;
        let mut event = event.clone();
        event.published = Some(SystemTime::now());
        self.pages.events.lock().unwrap().push(event);
        self.pages.written.notify_waiters();
        Ok(())
    }

    async fn flush(&self) {}
}

/// Feed of a [`Notebook`].
struct Reader {
    pages: Arc<Pages>,
    next: usize,
    lag: Duration,
    state: watch::Sender<FeedState>,
}

#[async_trait]
impl Feed for Reader {
    async fn next(&mut self) -> Option<Received> {
        loop {
            let written = self.pages.written.notified();
            let event = self.pages.events.lock().unwrap().get(self.next).cloned();
            if let Some(event) = event {
                let age = event.published.unwrap().elapsed().unwrap_or_default();
                sleep(self.lag.saturating_sub(age)).await;
                self.next += 1;
                return Some(Received {
                    event: Ok(event),
                    message_id: self.next.to_string(),
                    ack: Ack::none(),
                });
            }
            // An event written between the look and the wait is found by the next look.
            let _ = timeout(Duration::from_millis(10), written).await;
        }
    }

    fn state(&self) -> watch::Receiver<FeedState> {
        self.state.subscribe()
    }

    fn reopen(&self) -> Reopen {
        Reopen::default()
    }

    fn reaches_back(&self) -> bool {
        true
    }

    async fn close(&mut self) {
        self.pages.open_feeds.fetch_sub(1, Ordering::Relaxed);
        self.state.send_replace(FeedState::Closed);
    }
}

/// Letters that were sent, by the ids of their events.
type Sent = Arc<Mutex<BTreeMap<Arc<str>, String>>>;

/// Domain whose viewers listen to the letters of their names.
struct Letters(Sent);

impl Domain for Letters {
    fn viewer(&self, identity: Identity<'_>) -> Option<Viewer> {
        let Identity::Demo(name) = identity else { return None };
        let letters = name.chars().map(|letter| letter.to_string().into());
        Some(Viewer::new(name, Interests::new(letters)))
    }

    fn read(&self, event: &Event) -> Result<Fact, Unreadable> {
        if &*event.kind != "letter.sent.v1" {
            return Err(Unreadable::UnknownType);
        }
        let letter: String = serde_json::from_slice(&event.data)
            .map_err(|_| Unreadable::Malformed("the data is no text".to_owned()))?;
        let audience = Audience::new([letter.as_str().into()], event.author.clone());
        // One event, delivered on two fields.
        let fields = vec!["letterSent".into(), "anythingSent".into()];
        Ok(Fact { fields, audience, payload: Arc::new(letter) })
    }

    fn apply(&self, event: &Event, fact: &Fact) {
        let letter = fact.payload.downcast_ref::<String>().unwrap();
        self.0.lock().unwrap().insert(event.id.clone(), letter.clone());
    }
}

struct Query(Sent);

#[Object]
impl Query {
    async fn sent(&self) -> Vec<String> {
        self.0.lock().unwrap().values().cloned().collect()
    }

    async fn send(&self, ctx: &Context<'_>, letter: String) -> Result<bool, Error> {
        publish(ctx, "letter.sent.v1", &letter).await?;
        Ok(true)
    }
}

struct Subscriptions;

#[Subscription(name = "Subscription")]
impl Subscriptions {
    async fn letter_sent(&self, ctx: &Context<'_>) -> impl Stream<Item = String> {
        payloads(ctx)
    }

    async fn anything_sent(&self, ctx: &Context<'_>) -> impl Stream<Item = String> {
        payloads(ctx)
    }
}

async fn start(name: &str, broker: &Notebook) -> Pod {
    let sent = Sent::default();
    let api = build_api(Schema::build(Query(sent.clone()), EmptyMutation, Subscriptions));
    let settings = PodSettings::local(name, ([127, 0, 0, 1], 0).into(), Arc::new(broker.clone()));
    let pod = Pod::start(settings, Arc::new(Letters(sent)), api).await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    while reqwest::get(url(&pod, "readyz")).await.unwrap().status() != 200 {
        assert!(Instant::now() < deadline, "{name} is not ready");
        sleep(Duration::from_millis(10)).await;
    }
    pod
}

fn url(pod: &Pod, path: &str) -> String {
    format!("http://{}/{path}", pod.address())
}

async fn operation(pod: &Pod, user: &str, query: &str) -> reqwest::Response {
    let request = reqwest::Client::new()
        .post(url(pod, "graphql"))
        .header("authorization", format!("Bearer {user}"))
        .header("content-type", "application/json")
        .header("accept", "text/event-stream, application/json;q=0.9");
    request.body(json!({ "query": query }).to_string()).send().await.unwrap()
}

/// Reads a stream until it holds this text.
async fn read_until(stream: &mut reqwest::Response, text: &str) -> String {
    let mut read = String::new();
    timeout(PATIENCE, async {
        while !read.contains(text) {
            read.push_str(std::str::from_utf8(&stream.chunk().await.unwrap().expect("it goes on")).unwrap());
        }
    })
    .await
    .unwrap_or_else(|_| panic!("{text} did not come: {read}"));
    read
}

#[tokio::test(flavor = "multi_thread")]
async fn two_pods_share_a_foreign_broker() {
    let broker = Notebook::default();
    let (first, second) = (start("first", &broker).await, start("second", &broker).await);
    let mut ann = operation(&second, "ann", "subscription { letterSent }").await;
    let mut everything = operation(&second, "ann", "subscription { anythingSent }").await;
    let mut author = operation(&second, "bab", "subscription { letterSent }").await;
    // A stream's first bytes come once its watcher is in.
    for stream in [&mut ann, &mut everything, &mut author] {
        read_until(stream, ":").await;
    }
    for letter in ["b", "a"] {
        let sent = operation(&first, "bab", &format!("{{ send(letter: \"{letter}\") }}")).await;
        assert!(sent.text().await.unwrap().contains("true"));
    }
    let read = read_until(&mut ann, r#"{"letterSent":"a"}"#).await;
    assert!(!read.contains(r#""b""#), "it is for viewers of the letter only: {read}");
    read_until(&mut everything, r#"{"anythingSent":"a"}"#).await;
    let sent = operation(&second, "ann", "{ send(letter: \"b\") }").await;
    assert!(sent.text().await.unwrap().contains("true"));
    let read = read_until(&mut author, r#"{"letterSent":"b"}"#).await;
    assert_eq!(read.matches("event: next").count(), 1, "not what its user wrote: {read}");
    drop((ann, everything, author));
    assert_eq!((first.drain().await, second.drain().await), (Drained::Cleanly, Drained::Cleanly));
    assert_eq!(broker.pages.open_feeds.load(Ordering::Relaxed), 0, "no feed is left open");
}

/// Sends a letter. Returns the token of its event.
async fn send_letter(pod: &Pod, letter: &str) -> String {
    let sent = request(pod, &json!({ "query": format!("{{ send(letter: \"{letter}\") }}") })).await;
    let sent: Value = serde_json::from_str(&sent.text().await.unwrap()).unwrap();
    assert!(sent["extensions"]["eventId"].is_string(), "{sent}");
    sent["extensions"]["written"].as_str().unwrap().to_owned()
}

async fn request(pod: &Pod, body: &Value) -> reqwest::Response {
    let request = reqwest::Client::new().post(url(pod, "graphql")).header("authorization", "Bearer ann");
    request.header("content-type", "application/json").body(body.to_string()).send().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn read_waits_for_own_write_only() {
    let broker = Notebook::default();
    let late = Notebook { lag: Duration::from_millis(700), ..broker.clone() };
    let (first, second) = (start("first", &broker).await, start("second", &late).await);
    let (sent, mut tokens) = ("{ sent }", Vec::new());
    for letter in ["a", "b", "c"] {
        tokens.push(send_letter(&first, letter).await);
        let without = request(&second, &json!({ "query": sent })).await.text().await.unwrap();
        assert!(!without.contains(&format!("{letter:?}")), "the control misses it: {without}");
        let extensions = json!({ "readAfter": tokens[tokens.len() - 1] });
        let began = Instant::now();
        let with = request(&second, &json!({ "query": sent, "extensions": extensions })).await;
        let with = with.text().await.unwrap();
        assert!(with.contains(&format!("{letter:?}")), "{with}");
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    }
    // The last token covers the earlier writes of the same author.
    let token = send_letter(&first, "d").await;
    let body = json!({ "query": sent, "extensions": { "readAfter": [token, tokens[0]] } });
    let with = request(&second, &body).await.text().await.unwrap();
    assert!(with.contains(r#"{"sent":["a","b","c","d"]}"#), "{with}");
    let metrics = reqwest::get(url(&second, "metrics")).await.unwrap().text().await.unwrap();
    assert!(metrics.contains("relay_read_after_requests_total{outcome=\"waited\"} 4"), "{metrics}");
    // A token of another topic, or none at all, is the client's mistake.
    for bad in [json!("x"), json!(7), json!(vec!["x"; 9])] {
        let answer = request(&second, &json!({ "query": sent, "extensions": { "readAfter": bad } })).await;
        let text = answer.text().await.unwrap();
        let code = if bad.is_string() { "BAD_READ_AFTER" } else { "BAD_REQUEST" };
        assert!(text.contains(code) && !text.contains("\"data\""), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pod_behind_refuses_on_every_transport() {
    let broker = Notebook::default();
    let late = Notebook { lag: Duration::from_secs(5), ..broker.clone() };
    let (first, second) = (start("first", &broker).await, start("second", &late).await);
    let token = send_letter(&first, "a").await;
    let by_header = async |accept: &'static str| {
        let request = reqwest::Client::new().post(url(&second, "graphql")).header("accept", accept);
        let request = request.header("authorization", "Bearer ann").header("x-relay-read-after", &token);
        let request = request.header("content-type", "application/json");
        request.body(json!({ "query": "{ sent }" }).to_string()).send().await.unwrap()
    };
    let socket = async {
        let mut request = format!("ws://{}/graphql", second.address()).into_client_request().unwrap();
        request.headers_mut().insert("sec-websocket-protocol", "graphql-transport-ws".parse().unwrap());
        let (mut socket, _) = connect_async(request).await.unwrap();
        let payload = json!({ "query": "{ sent }", "extensions": { "readAfter": [token.clone()] } });
        for message in [
            json!({ "type": "connection_init", "payload": { "token": "ann" } }),
            json!({ "id": "q", "type": "subscribe", "payload": payload }),
        ] {
            socket.send(Message::text(message.to_string())).await.unwrap();
        }
        socket.next().await.unwrap().unwrap();
        socket.next().await.unwrap().unwrap().into_text().unwrap().to_string()
    };
    let began = Instant::now();
    let (json, events, message) =
        tokio::join!(by_header("application/json"), by_header("text/event-stream"), socket);
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(2) && took < Duration::from_secs(4), "{took:?}");
    for answer in [json, events] {
        assert_eq!((answer.status().as_u16(), answer.headers()["retry-after"].to_str().unwrap()), (503, "1"));
        let error: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
        let extensions = &error["errors"][0]["extensions"];
        assert_eq!(*extensions, json!({ "code": "NOT_CAUGHT_UP", "retryAfter": 1 }), "{error}");
    }
    let message: Value = serde_json::from_str(&message).unwrap();
    assert_eq!((&message["type"], &message["id"]), (&json!("error"), &json!("q")), "{message}");
    assert_eq!(message["payload"][0]["extensions"]["code"], "NOT_CAUGHT_UP", "{message}");
    // It runs as soon as the event has come.
    loop {
        let answer = by_header("application/json").await;
        if answer.status() == 200 {
            assert!(answer.text().await.unwrap().contains(r#"{"sent":["a"]}"#));
            break;
        }
        assert!(began.elapsed() < PATIENCE, "the event has not come");
    }
}

#[tokio::test]
async fn start_fails_with_the_brokers_own_words() {
    let sent = Sent::default();
    let api = build_api(Schema::build(Query(sent.clone()), EmptyMutation, Subscriptions));
    let settings = PodSettings::local("", ([127, 0, 0, 1], 0).into(), Arc::new(Notebook::default()));
    let error = Pod::start(settings, Arc::new(Letters(sent)), api).await.err().unwrap();
    assert_eq!(error.to_string(), "needs pods with names");
}

/// Subscribes to this many distinct operations on a WebSocket of its own, and reads all that comes.
async fn crowd(pod: &Pod, user: &str, numbers: std::ops::Range<usize>, readers: &mut JoinSet<()>) {
    let mut request = format!("ws://{}/graphql", pod.address()).into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", "graphql-transport-ws".parse().unwrap());
    let (mut socket, _) = connect_async(request).await.unwrap();
    let init = json!({ "type": "connection_init", "payload": { "token": user } });
    socket.send(Message::text(init.to_string())).await.unwrap();
    for number in numbers {
        let payload = json!({ "query": format!("subscription {{ x{number}: letterSent }}") });
        let message = json!({ "id": number.to_string(), "type": "subscribe", "payload": payload });
        socket.send(Message::text(message.to_string())).await.unwrap();
    }
    readers.spawn(async move { while let Some(Ok(_)) = socket.next().await {} });
}

/// Returns the number of subscriptions that run.
async fn watchers(pod: &Pod) -> usize {
    let text = reqwest::get(url(pod, "metrics")).await.unwrap().text().await.unwrap();
    let series = text.lines().filter(|line| line.starts_with("relay_watchers{"));
    series.map(|line| line.rsplit_once(' ').unwrap().1.parse::<usize>().unwrap()).sum()
}

/// Publishes this many letters, 20 each second, however late they arrive. Returns the time that
/// each took to a reader, sorted.
async fn latencies(broker: &Notebook, reader: &mut reqwest::Response, count: usize) -> Vec<Duration> {
    let sent = Mutex::new(Vec::new());
    let publish = async {
        let mut ticks = interval(Duration::from_millis(50));
        for _ in 0..count {
            ticks.tick().await;
            let data = bytes::Bytes::from_static(b"\"a\"");
            let event = Event::new("/test".into(), "letter.sent.v1", Some("bob".into()), data);
            sent.lock().unwrap().push(Instant::now());
            broker.publish(&event).await.unwrap();
        }
    };
    let read = async {
        let (mut text, mut latencies) = (String::new(), Vec::new());
        while latencies.len() < count {
            let chunk = timeout(PATIENCE, reader.chunk()).await.expect("a letter in time");
            text.push_str(std::str::from_utf8(&chunk.unwrap().expect("it goes on")).unwrap());
            for _ in latencies.len()..text.matches(r#"{"letterSent":"a"}"#).count() {
                latencies.push(sent.lock().unwrap()[latencies.len()].elapsed());
            }
        }
        latencies
    };
    let mut latencies = tokio::join!(publish, read).1;
    latencies.sort_unstable();
    latencies
}

#[tokio::test(flavor = "multi_thread")]
async fn busy_user_delays_no_other_user() {
    let broker = Notebook::default();
    let pod = start("pod", &broker).await;
    let mut reader = operation(&pod, "ann", "subscription { letterSent }").await;
    read_until(&mut reader, ":").await;
    let alone = latencies(&broker, &mut reader, 20).await;
    let mut readers = JoinSet::new();
    for n in 0..8 {
        crowd(&pod, "carla", n * 62..(n + 1) * 62, &mut readers).await;
    }
    let deadline = Instant::now() + PATIENCE;
    while watchers(&pod).await < 8 * 62 + 1 {
        assert!(Instant::now() < deadline, "{} subscriptions run", watchers(&pod).await);
        sleep(Duration::from_millis(50)).await;
    }
    let beside = latencies(&broker, &mut reader, 160).await;
    let (before, after) = (alone[10], beside[80]);
    println!("median {before:?} alone, {after:?} beside a busy user, {:?} at most", beside[159]);
    // A machine that also compiles delays the pod itself.
    assert!(after < 3 * before + Duration::from_millis(50), "{before:?} {after:?}");
}
