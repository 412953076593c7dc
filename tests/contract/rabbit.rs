//! What RabbitMQ promises beyond the suite: routing, stamps, foreign publishers, other queues.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use futures_util::future::join_all;

use lapin::{
    BasicProperties, Channel, Confirmation, Connection,
    options::{BasicPublishOptions, QueueDeclareOptions, QueueDeleteOptions},
    types::{AMQPValue, FieldTable},
};
use pubsub_relay::broker::{
    Broker as _, Connected, Feed, FeedState, Order, PublishError,
    rabbitmq::Topic,
    server::{Password, Server},
};
use tokio::{
    join, select,
    time::{Instant, sleep, timeout},
};

use super::{
    PATIENCE, accept, event, is_open, next,
    proxy::{Fault, Proxy},
    rabbitmq_server::{self, Node},
    receive,
};

/// Window of the feeds of this suite.
const WINDOW: Duration = Duration::from_secs(600);

/// Stream of its own on a node, with a client that the relay itself does not use in this way.
pub(crate) struct Rabbit {
    pub(crate) topic: Topic,
}

impl Rabbit {
    /// Returns a stream that does not exist yet, or `None` without RabbitMQ.
    pub(crate) async fn fresh(case: &str) -> Option<Self> {
        rabbitmq_server::shared(case).await.map(|node| Self::on(node.port))
    }

    fn on(port: u16) -> Self {
        let stream = format!("relay.{}", uuid::Uuid::now_v7().simple());
        let url = format!("127.0.0.1:{port}/%2f?stream={stream}");
        Self { topic: Topic::parse(&url, false).unwrap() }
    }

    pub(crate) async fn connect(&self, pod: &str) -> Connected {
        self.topic.connect(pod, WINDOW).await.unwrap()
    }

    async fn open_feed(&self, pod: &str) -> Box<dyn Feed> {
        let feed = self.connect(pod).await.feed;
        timeout(PATIENCE, feed.state().wait_for(is_open)).await.expect("the feed opens").unwrap();
        feed
    }

    /// Opens a feed and returns the reason why it stays closed.
    async fn refusal(&self) -> String {
        let feed = self.connect("reader").await.feed;
        let mut state = feed.state();
        let is_refused = |state: &FeedState| matches!(state, FeedState::Opening(Some(_)));
        let refused = timeout(PATIENCE, state.wait_for(is_refused)).await.expect("a reason").unwrap().clone();
        let FeedState::Opening(Some(why)) = refused else { panic!("{refused:?}") };
        why
    }

    /// Has eight authors publish without a pause through a fault, until the topic takes an event of
    /// each again. A feed must have brought everything acknowledged 10 s after the fault.
    async fn survives(&self, fault: impl Future<Output = ()>) {
        let mut feed = self.open_feed("reader").await;
        let publisher = self.connect("publisher").await.publisher;
        let (received, is_over) = (Mutex::new(HashSet::new()), AtomicBool::new(false));
        let read = async {
            while let Some(message) = feed.next().await {
                received.lock().unwrap().insert(accept(message).unwrap().id);
            }
        };
        let publish = async |author: usize| {
            let (mut acknowledged, mut refused) = (Vec::new(), 0);
            loop {
                let (event, was_over) = (event(Some(&author.to_string()), "{}"), is_over.load(Relaxed));
                match publisher.publish(&event).await {
                    Ok(()) => acknowledged.push(event.id),
                    Err(PublishError::Unavailable(_) | PublishError::TimedOut) => {
                        refused += 1;
                        sleep(Duration::from_millis(20)).await;
                        continue;
                    }
                    Err(error) => panic!("{error}"),
                }
                if was_over {
                    return (acknowledged, refused);
                }
            }
        };
        let fault = async {
            sleep(Duration::from_secs(1)).await;
            fault.await;
            is_over.store(true, Relaxed);
            Instant::now()
        };
        let check = async {
            let (published, over) = join!(join_all((0..8).map(publish)), fault);
            let refused: usize = published.iter().map(|(_, refused)| refused).sum();
            let acknowledged: Vec<_> = published.into_iter().flat_map(|(ids, _)| ids).collect();
            assert!(refused > 0, "the fault was felt");
            loop {
                let missing =
                    acknowledged.iter().filter(|id| !received.lock().unwrap().contains(*id)).count();
                let waited = over.elapsed();
                if missing == 0 {
                    return;
                }
                assert!(waited < Duration::from_secs(10), "{missing} of {} are missing", acknowledged.len());
                sleep(Duration::from_millis(20)).await;
            }
        };
        select! {
            () = check => {}
            () = read => panic!("the feed has ended"),
        }
    }

    /// Opens a channel that confirms. The connection must be held.
    async fn channel(&self) -> (Connection, Channel) {
        rabbitmq_server::channel(&format!("127.0.0.1:{}", self.topic.server.port)).await
    }

    /// Declares a queue with the stream's name.
    async fn declare(&self, arguments: &[(&str, AMQPValue)]) {
        let table: BTreeMap<_, _> =
            arguments.iter().map(|(name, value)| ((*name).into(), value.clone())).collect();
        let (_connection, channel) = self.channel().await;
        let durable = QueueDeclareOptions { durable: true, ..Default::default() };
        channel.queue_declare(self.topic.stream.as_str().into(), durable, table.into()).await.unwrap();
    }

    async fn delete(&self) {
        let (_connection, channel) = self.channel().await;
        let options = QueueDeleteOptions::default();
        channel.queue_delete(self.topic.stream.as_str().into(), options).await.unwrap();
    }

    /// Returns how many consumers the stream has.
    pub(crate) async fn consumers(&self) -> u32 {
        let (_connection, channel) = self.channel().await;
        let passive = QueueDeclareOptions { passive: true, ..Default::default() };
        let queue = channel.queue_declare(self.topic.stream.as_str().into(), passive, FieldTable::default());
        queue.await.unwrap().consumer_count()
    }

    /// Publishes messages as a foreign program, each with headers, content type and data.
    async fn publish(&self, messages: &[Message<'_>]) {
        let (_connection, channel) = self.channel().await;
        for (headers, content_type, data) in messages {
            let table: BTreeMap<_, _> =
                headers.iter().map(|(name, value)| ((*name).into(), value.clone())).collect();
            let mut properties = BasicProperties::default().with_headers(table.into());
            if let Some(content_type) = content_type {
                properties = properties.with_content_type((*content_type).into());
            }
            let stream = self.topic.stream.as_str().into();
            let options = BasicPublishOptions::default();
            let confirm = channel.basic_publish("".into(), stream, options, data, properties).await.unwrap();
            assert_eq!(confirm.await.unwrap(), Confirmation::Ack(None));
        }
    }

    /// Publishes three messages that hold no event, and one of a foreign program that does.
    pub(crate) async fn publish_garbage(&self) {
        let now = AMQPValue::Timestamp(now().as_secs());
        let yesterday =
            [headers("cloudEvents:", "f"), vec![("cloudEvents:time", text("yesterday"))]].concat();
        let foreign = [headers("cloudEvents:", "f"), vec![("cloudEvents:time", now)]].concat();
        let json = Some("application/json; charset=utf-8");
        self.publish(&[
            (vec![("a", text("b"))], None, b""),
            (vec![("cloudEvents:id", AMQPValue::Boolean(true))], None, &[0, 1, 2, 255]),
            (yesterday, json, b"{}"),
            (foreign, json, b"{}"),
        ])
        .await;
    }
}

type Message<'a> = (Vec<(&'static str, AMQPValue)>, Option<&'a str>, &'a [u8]);

fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

fn now() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap()
}

/// Returns the headers that every event needs, with one of the prefixes.
fn headers(prefix: &str, id: &str) -> Vec<(&'static str, AMQPValue)> {
    let names = match prefix {
        "cloudEvents:" => {
            ["cloudEvents:specversion", "cloudEvents:id", "cloudEvents:source", "cloudEvents:type"]
        }
        "cloudEvents_" => {
            ["cloudEvents_specversion", "cloudEvents_id", "cloudEvents_source", "cloudEvents_type"]
        }
        "ce-" => ["ce-specversion", "ce-id", "ce-source", "ce-type"],
        _ => panic!("no prefix {prefix}"),
    };
    names.into_iter().zip(["1.0", id, "/foreign", "foreign.v1"].map(text)).collect()
}

/// Logs in as a user whose password is the name.
fn log_in(topic: &mut Topic, user: &str) {
    topic.server.login.user = Some(user.to_owned());
    topic.server.login.password = Some(Password::new(user));
}

/// Returns the header with the broker's stamp.
fn stamp(since: Duration) -> (&'static str, AMQPValue) {
    ("timestamp_in_ms", AMQPValue::LongLongInt(i64::try_from(since.as_millis()).unwrap()))
}

#[tokio::test(flavor = "multi_thread")]
async fn unroutable_event_is_not_acknowledged() {
    let Some(rabbit) = Rabbit::fresh("unroutable_event_is_not_acknowledged").await else { return };
    let publisher = rabbit.connect("publisher").await.publisher;
    let refused = publisher.publish(&event(None, "{}")).await;
    let Err(PublishError::Unavailable(why)) = refused else { panic!("{refused:?}") };
    assert!(why.to_string().contains(&format!("no stream {} in /", rabbit.topic.stream)), "{why}");
    let mut feed = rabbit.open_feed("reader").await;
    let sent = event(None, "{}");
    publisher.publish(&sent).await.unwrap();
    assert_eq!(receive(&mut *feed, 1).await[0].id, sent.id);
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_headers_are_heard_with_each_prefix() {
    let Some(rabbit) = Rabbit::fresh("foreign_headers_are_heard_with_each_prefix").await else { return };
    let mut feed = rabbit.open_feed("reader").await;
    let time = "2026-01-02T03:04:05.678Z";
    for (prefix, name, author) in [
        ("cloudEvents:", "cloudEvents:time", "cloudEvents:author"),
        ("cloudEvents_", "cloudEvents_time", "cloudEvents_author"),
        ("ce-", "ce-time", "ce-author"),
    ] {
        let more = vec![(name, text(time)), (author, text("7"))];
        rabbit.publish(&[([headers(prefix, prefix), more].concat(), None, b"{}")]).await;
        let event = receive(&mut *feed, 1).await.remove(0);
        assert_eq!((&*event.id, event.author.as_deref(), &*event.kind), (prefix, Some("7"), "foreign.v1"));
        let published = event.published.unwrap().duration_since(event.time).unwrap();
        assert!(published < Duration::from_millis(1), "{published:?} after its own time");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stamp_of_broker_precedes_own_time() {
    let Some(rabbit) = Rabbit::fresh("stamp_of_broker_precedes_own_time").await else { return };
    let mut feed = rabbit.open_feed("reader").await;
    // An event without a time is of no use, unless the broker stamps.
    let at = Duration::from_secs(now().as_secs());
    let ahead = ("ce-time", AMQPValue::Timestamp((now() + Duration::from_secs(60)).as_secs()));
    rabbit
        .publish(&[
            ([headers("ce-", "a"), vec![stamp(at)]].concat(), None, b"{}"),
            ([headers("ce-", "b"), vec![stamp(at), ahead.clone()]].concat(), None, b"{}"),
            (headers("ce-", "c"), None, b"{}"),
            ([headers("ce-", "d"), vec![ahead]].concat(), None, b"{}"),
        ])
        .await;
    let a = accept(next(&mut *feed).await).unwrap();
    let b = accept(next(&mut *feed).await).unwrap();
    let since = |event: &pubsub_relay::event::Event| {
        event.published.unwrap().duration_since(SystemTime::UNIX_EPOCH).unwrap().checked_sub(at).unwrap()
    };
    assert_eq!((since(&a), since(&b)), (Duration::ZERO, Duration::from_nanos(1)), "distinct, and in order");
    for _ in 0..2 {
        let reason = accept(next(&mut *feed).await).unwrap_err().reason();
        assert_eq!(reason, "time");
    }
    assert_eq!(feed.order(), Order::Lanes, "the last message has no stamp");
    rabbit.publish(&[([headers("ce-", "e"), vec![stamp(at)]].concat(), None, b"{}")]).await;
    receive(&mut *feed, 1).await;
    assert_eq!(feed.order(), Order::Total);
}

#[tokio::test(flavor = "multi_thread")]
async fn times_grow_and_are_distinct() {
    const EVENTS: usize = 500;
    let Some(rabbit) = Rabbit::fresh("times_grow_and_are_distinct").await else { return };
    let (mut one, mut two) = (rabbit.open_feed("one").await, rabbit.open_feed("two").await);
    let publisher = rabbit.connect("publisher").await.publisher;
    for n in 0..EVENTS {
        publisher.publish(&event(Some("1"), &n.to_string())).await.unwrap();
    }
    let of_one = receive(&mut *one, EVENTS).await;
    assert_eq!(of_one, receive(&mut *two, EVENTS).await, "all pods agree");
    assert!(of_one.is_sorted_by(|a, b| a.published < b.published));
}

#[tokio::test(flavor = "multi_thread")]
async fn queue_with_other_arguments_is_refused() {
    let case = "queue_with_other_arguments_is_refused";
    let Some(rabbit) = Rabbit::fresh(case).await else { return };
    rabbit.declare(&[]).await;
    let why = rabbit.refusal().await;
    assert!(why.contains("is not a durable stream: delete it"), "{why}");

    let short = Rabbit::on(rabbit.topic.server.port);
    short.declare(&[("x-queue-type", text("stream")), ("x-max-age", text("1m"))]).await;
    let why = short.refusal().await;
    assert!(why.contains("retains events for 1m only, and the window is 600 s"), "{why}");

    let long = Rabbit::on(rabbit.topic.server.port);
    long.declare(&[("x-queue-type", text("stream")), ("x-max-age", text("1D"))]).await;
    let feed = long.open_feed("reader").await;
    assert!(feed.reaches_back());
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_stream_is_created_anew() {
    let Some(rabbit) = Rabbit::fresh("deleted_stream_is_created_anew").await else { return };
    let mut feed = rabbit.open_feed("reader").await;
    let publisher = rabbit.connect("publisher").await.publisher;
    publisher.publish(&event(None, "before")).await.unwrap();
    receive(&mut *feed, 1).await;
    let mut state = feed.state();
    let FeedState::Open(generation) = state.borrow_and_update().clone() else { panic!("the feed is open") };
    let deleted = Instant::now();
    rabbit.delete().await;
    let is_new = |state: &FeedState| matches!(state, FeedState::Open(new) if *new != generation);
    timeout(PATIENCE, state.wait_for(is_new)).await.expect("the feed opens anew").unwrap();
    assert!(deleted.elapsed() < Duration::from_secs(10), "{:?}", deleted.elapsed());
    let after = event(None, "after");
    publisher.publish(&after).await.unwrap();
    assert_eq!(receive(&mut *feed, 1).await[0].id, after.id);
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_name_cause_and_cure() {
    let Some(rabbit) = Rabbit::fresh("refusals_name_cause_and_cure").await else { return };
    let wrong = |change: fn(&mut Topic)| {
        let mut topic = rabbit.topic.clone();
        change(&mut topic);
        Rabbit { topic }
    };
    let why = wrong(|topic| topic.server.login.password = Some(Password::new("wrong"))).refusal().await;
    assert!(why.contains("check RELAY_BROKER_USER (now guest) and RELAY_BROKER_PASSWORD_FILE"), "{why}");
    assert!(!why.contains("wrong"), "{why}");
    let why = wrong(|topic| topic.vhost = "nowhere".into()).refusal().await;
    assert!(why.contains("create the virtual host nowhere"), "{why}");
    let why = wrong(|topic| topic.server.port = 1).refusal().await;
    assert!(why.contains("RabbitMQ at 127.0.0.1:1 cannot be reached"), "{why}");
    // A reader can create no stream, and publish nothing to one.
    let reader = wrong(|topic| log_in(topic, "reader"));
    let why = reader.refusal().await;
    assert!(why.contains("give the user reader the rights of docs/RABBITMQ.md"), "{why}");
    let _feed = rabbit.open_feed("creator").await;
    let mut feed = reader.open_feed("reader").await;
    let refused = reader.connect("reader").await.publisher.publish(&event(None, "{}")).await;
    let Err(PublishError::Unavailable(why)) = refused else { panic!("{refused:?}") };
    assert!(why.to_string().contains("give the user reader the rights"), "{why}");
    // The rights of the document are enough for both.
    let relay = wrong(|topic| log_in(topic, "relay"));
    relay.connect("relay").await.publisher.publish(&event(None, "{}")).await.unwrap();
    receive(&mut *feed, 1).await;
    let mut created = Rabbit::on(rabbit.topic.server.port);
    log_in(&mut created.topic, "relay");
    created.open_feed("relay").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn certificate_of_broker_is_verified() {
    let Some(node) = rabbitmq_server::shared("certificate_of_broker_is_verified").await else { return };
    let (port, authority) = node.tls();
    let mut rabbit = Rabbit::on(port);
    rabbit.topic.server.tls = true;
    let why = rabbit.refusal().await;
    assert!(why.contains("set RELAY_BROKER_CA_FILE"), "{why}");
    rabbit.topic.server.login.ca_file = Some(authority);
    let why = rabbit.refusal().await;
    assert!(why.contains("not valid for name \"127.0.0.1\""), "{why}");
    rabbit.topic.server.host = "localhost".into();
    let mut feed = rabbit.open_feed("reader").await;
    rabbit.connect("publisher").await.publisher.publish(&event(None, "{}")).await.unwrap();
    receive(&mut *feed, 1).await;
    rabbit.topic.server.port = node.port;
    let why = rabbit.refusal().await;
    assert!(why.contains("write amqp:// for a server without TLS"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_broker_loses_nothing_acknowledged() {
    let Some(mut node) = Node::start().await else { return };
    let rabbit = Rabbit::on(node.port);
    rabbit
        .survives(async {
            // RabbitMQ 3.10 keeps the first stream of a node in memory for some seconds
            sleep(Duration::from_secs(7)).await;
            node.kill();
            sleep(Duration::from_secs(1)).await;
            node.launch().await;
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hole_of_ten_seconds_loses_nothing_acknowledged() {
    hole(Duration::from_secs(10)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hole_of_forty_seconds_loses_nothing_acknowledged() {
    hole(Duration::from_secs(40)).await;
}

async fn hole(length: Duration) {
    let Some(rabbit) = Rabbit::fresh("a hole").await else { return };
    let proxy = Proxy::start(&rabbit.topic.server.to_string()).await;
    let server = Server::parse(&proxy.host(), 0).unwrap();
    let through = Rabbit { topic: Topic { server, ..rabbit.topic } };
    through
        .survives(async {
            proxy.set(Fault::BlackHole);
            sleep(length).await;
            proxy.set(Fault::None);
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn emptied_broker_opens_feed_anew() {
    let Some(mut node) = Node::start().await else { return };
    let rabbit = Rabbit::on(node.port);
    let mut feed = rabbit.open_feed("reader").await;
    let publisher = rabbit.connect("publisher").await.publisher;
    publisher.publish(&event(None, "lost")).await.unwrap();
    receive(&mut *feed, 1).await;
    let mut state = feed.state();
    let FeedState::Open(generation) = state.borrow_and_update().clone() else { panic!("the feed is open") };
    node.kill();
    node.forget();
    node.launch().await;
    // The relay tells a gap, since what the feed brought last does not come again
    let is_new = |state: &FeedState| matches!(state, FeedState::Open(new) if *new != generation);
    timeout(PATIENCE, state.wait_for(is_new)).await.expect("the feed opens anew").unwrap();
    let after = event(None, "after");
    publisher.publish(&after).await.unwrap();
    assert_eq!(receive(&mut *feed, 1).await[0].id, after.id);
}
