//! Contract suite that every broker passes: what a [`Publish`] and a [`Feed`] promise, on
//! `memory:`, on Google's emulator, on PostgreSQL and on RabbitMQ.
//!
//! The suite tests what the relay relies on, and no more. No test may ever share a topic with
//! another.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, SystemTime},
};

#[path = "support/emulator.rs"]
mod emulator;
#[path = "contract/figures.rs"]
mod figures;
#[path = "support/postgres.rs"]
mod postgres_server;
#[path = "support/proxy.rs"]
#[expect(dead_code, reason = "the suite needs only some of it")]
mod proxy;
#[path = "contract/rabbit.rs"]
mod rabbit;
#[path = "support/rabbitmq.rs"]
#[expect(dead_code, reason = "only tests of whole pods use some of it")]
mod rabbitmq_server;
#[path = "support/ports.rs"]
mod support;

use bytes::Bytes;
use futures_util::future::join_all;
use pubsub_relay::{
    broker::postgres as postgresql,
    broker::pubsub::{PubSub, Settings},
    broker::{
        Feed, FeedState, Order, Publish, PublishError, Received,
        memory::{LIMITS, Topic},
    },
    event::{Event, cloudevent::Undecodable},
};
use tokio::time::{Instant, sleep, timeout};

use self::support::free_ports;

/// Time limit for anything that must happen: enough for an emulator on a busy machine, and less
/// than the minute for which an emulator is silent after a broken stream.
const PATIENCE: Duration = Duration::from_secs(30);

const TOPIC: &str = "events";

macro_rules! contract {
    ($($case:ident),+ $(,)?) => {
        mod memory {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                super::$case(super::Broker::memory()).await;
            })+
        }

        mod pubsub {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                if let Some(broker) = super::Broker::pubsub(stringify!($case)).await {
                    super::$case(broker).await;
                }
            })+
        }

        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                if let Some(broker) = super::Broker::postgres(stringify!($case)).await {
                    super::$case(broker).await;
                }
            })+
        }

        mod rabbitmq {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                if let Some(broker) = super::Broker::rabbitmq(stringify!($case)).await {
                    super::$case(broker).await;
                }
            })+
        }
    };
}

contract! {
    published_event_reaches_every_feed_unchanged,
    events_of_one_author_arrive_in_order,
    late_feed_receives_retained_events,
    unacknowledged_event_comes_again,
    event_without_data_is_invalid,
    unreadable_event_is_invalid,
    oversize_event_is_invalid_and_blocks_no_other,
    closed_feed_ends_and_leaves_nothing,
    wait_for_next_event_can_be_cancelled,
    feed_hands_out_garbage_and_goes_on,
    deleted_feed_reopens_and_receives_missed_events,
    reopened_feed_has_new_generation_and_misses_nothing,
    times_grow_with_the_order_of_events,
    late_commit_is_not_slipped_under,
    feed_overtaken_by_retention_opens_anew,
    foreign_publisher_is_heard_at_its_commit,
    held_lock_fails_publishers_with_its_cure,
}

async fn published_event_reaches_every_feed_unchanged(broker: Broker) {
    let (mut one, mut two) = (broker.open_feed("one").await, broker.open_feed("two").await);
    let publisher = broker.publisher().await;
    let mut traced = event(Some("1"), r#"{"name":"Grüße 👋"}"#);
    traced.trace = Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into());
    traced.time = SystemTime::UNIX_EPOCH + Duration::new(1_700_000_000, 123_456_789);
    let anonymous = event(None, "{}");
    let binary = Event { data: Bytes::from_static(&[0, 255, 10, 0]), ..event(Some("用户"), "") };
    let sent = [traced, anonymous, binary];
    for event in &sent {
        publisher.publish(event).await.unwrap();
    }

    let (one, two) = (by_id(receive(&mut *one, 3).await), by_id(receive(&mut *two, 3).await));
    assert_eq!(one, two);
    for event in sent {
        let published = one[&event.id].published;
        assert!(published.is_some());
        assert_eq!(one[&event.id], Event { published, ..event });
    }
}

async fn events_of_one_author_arrive_in_order(broker: Broker) {
    const EVENTS: usize = 200;
    let mut feed = broker.open_feed("reader").await;
    let publisher = broker.publisher().await;
    let publish_all = |author: &'static str| {
        let publisher = Arc::clone(&publisher);
        async move {
            let numbers: Vec<usize> = (0..EVENTS).collect();
            // The order of the calls counts, whether they are answered or not
            for calls in numbers.chunks(20) {
                let calls: Vec<Event> = calls.iter().map(|n| event(Some(author), &n.to_string())).collect();
                for answer in join_all(calls.iter().map(|event| publisher.publish(event))).await {
                    answer.unwrap();
                }
            }
        }
    };
    let authors = ["1", "2", "3", "4"];
    let (events, _) =
        tokio::join!(receive(&mut *feed, authors.len() * EVENTS), join_all(authors.map(publish_all)));

    for author in authors {
        let of_author = events.iter().filter(|event| event.author.as_deref() == Some(author));
        let numbers: Vec<String> =
            of_author.map(|event| String::from_utf8_lossy(&event.data).into_owned()).collect();
        let expected: Vec<String> = (0..EVENTS).map(|n| n.to_string()).collect();
        assert_eq!(numbers, expected, "author {author}");
    }
}

async fn late_feed_receives_retained_events(broker: Broker) {
    let mut early = broker.open_feed("early").await;
    let publisher = broker.publisher().await;
    for n in 0..10 {
        publisher.publish(&event(Some("1"), &n.to_string())).await.unwrap();
    }
    let received = receive(&mut *early, 10).await;
    let mut late = broker.open_feed("late").await;
    assert_eq!(receive(&mut *late, 10).await, received);
    publisher.publish(&event(Some("1"), "live")).await.unwrap();
    assert_eq!(receive(&mut *late, 1).await[0].data, "live");
}

async fn unacknowledged_event_comes_again(broker: Broker) {
    let Broker::PubSub(google) = &broker else {
        // The others need no acknowledgement: each is a log, which the feed reads again after a
        // failure
        return;
    };
    let mut feed = broker.open_feed("reader").await;
    // A new feed has two subscriptions for a moment. The one that is deleted takes its redelivery
    // with it, if the other's copy was acknowledged
    google.only_subscription().await;
    let publisher = broker.publisher().await;
    let sent = event(Some("1"), "{}");
    publisher.publish(&sent).await.unwrap();
    let first = next(&mut *feed).await;
    assert_eq!(first.event.unwrap().id, sent.id);
    drop(first.ack);
    let again = next(&mut *feed).await;
    assert_eq!(again.event.unwrap().id, sent.id);
    again.ack.ack();
}

async fn event_without_data_is_invalid(broker: Broker) {
    let mut feed = broker.open_feed("reader").await;
    let publisher = broker.publisher().await;
    let empty = event(Some("1"), "");
    let good = event(Some("1"), "{}");
    // Both at once, since the real service fails the whole batch of an empty message
    let (refused, accepted) = tokio::join!(publisher.publish(&empty), publisher.publish(&good));
    assert!(matches!(refused, Err(PublishError::Invalid(_))), "{refused:?}");
    accepted.unwrap();
    assert_eq!(receive(&mut *feed, 1).await[0].id, good.id);
}

async fn unreadable_event_is_invalid(broker: Broker) {
    let publisher = broker.publisher().await;
    let unnamed = Event { id: "".into(), ..event(Some("1"), "{}") };
    let long = Event { author: Some("x".repeat(2_000).into()), ..event(None, "{}") };
    for event in [unnamed, long] {
        let refused = publisher.publish(&event).await;
        assert!(matches!(refused, Err(PublishError::Invalid(_))), "{refused:?}");
    }
}

async fn oversize_event_is_invalid_and_blocks_no_other(broker: Broker) {
    let mut feed = broker.open_feed("reader").await;
    let publisher = broker.publisher().await;
    let oversize = Event { data: vec![b'x'; LIMITS.payload_bytes + 1].into(), ..event(Some("1"), "") };
    let refused = publisher.publish(&oversize).await;
    assert!(matches!(refused, Err(PublishError::Invalid(_))), "{refused:?}");
    let largest = Event { data: vec![b'x'; LIMITS.payload_bytes].into(), ..event(Some("1"), "") };
    publisher.publish(&largest).await.unwrap();
    publisher.publish(&event(Some("1"), "{}")).await.unwrap();
    let lengths: Vec<usize> = receive(&mut *feed, 2).await.iter().map(|event| event.data.len()).collect();
    assert_eq!(lengths, [LIMITS.payload_bytes, 2]);
}

async fn closed_feed_ends_and_leaves_nothing(broker: Broker) {
    let mut feed = broker.open_feed("reader").await;
    let mut other = broker.open_feed("other").await;
    let publisher = broker.publisher().await;
    publisher.publish(&event(Some("1"), "{}")).await.unwrap();
    receive(&mut *feed, 1).await;
    timeout(PATIENCE, feed.close()).await.expect("the feed closes");
    assert!(next_or_none(&mut *feed).await.is_none());
    assert_eq!(*feed.state().borrow(), FeedState::Closed);

    publisher.publish(&event(Some("1"), "{}")).await.unwrap();
    receive(&mut *other, 2).await;
    timeout(PATIENCE, other.close()).await.expect("the feed closes");
    timeout(PATIENCE, publisher.flush()).await.expect("nothing is in flight");
    match &broker {
        Broker::Memory(_) => {}
        Broker::PubSub(google) => assert_eq!(google.subscriptions().await, Vec::<String>::new()),
        Broker::Postgres(postgres) => {
            drop(publisher);
            let deadline = Instant::now() + PATIENCE;
            while postgres.sessions().await > 0 {
                assert!(Instant::now() < deadline, "sessions stay at the server");
                sleep(Duration::from_millis(20)).await;
            }
        }
        Broker::RabbitMq(rabbit) => assert_eq!(rabbit.consumers().await, 0),
    }
}

async fn wait_for_next_event_can_be_cancelled(broker: Broker) {
    const EVENTS: usize = 50;
    let mut feed = broker.open_feed("reader").await;
    let publisher = broker.publisher().await;
    let mut arrived = Vec::new();
    let mut sent = HashSet::new();
    for n in 0..EVENTS {
        // First on a quiet feed, then with an event in flight, then at once
        if n % 3 == 0 {
            sleep(Duration::from_millis(5)).await;
        }
        if let Ok(received) = timeout(Duration::from_millis(n as u64 % 4), feed.next()).await {
            arrived.push(accept(received.expect("the feed is open")).unwrap());
        }
        let event = event(Some("1"), "{}");
        publisher.publish(&event).await.unwrap();
        sent.insert(event.id);
    }
    while arrived.len() < EVENTS {
        arrived.push(accept(next(&mut *feed).await).unwrap());
    }
    assert_eq!(arrived.into_iter().map(|event| event.id).collect::<HashSet<_>>(), sent);
    assert!(timeout(Duration::from_millis(500), feed.next()).await.is_err(), "an event came twice");
}

async fn feed_hands_out_garbage_and_goes_on(broker: Broker) {
    if let Broker::Postgres(postgres) = &broker {
        return feed_of_table_hands_out_garbage(&broker, postgres).await;
    }
    let mut feed = broker.open_feed("reader").await;
    match &broker {
        // The in-memory broker takes nothing but events
        Broker::Memory(_) | Broker::Postgres(_) => return,
        Broker::PubSub(google) => google.publish_garbage().await,
        Broker::RabbitMq(rabbit) => rabbit.publish_garbage().await,
    }
    let mut events = Vec::new();
    let mut causes = HashMap::new();
    for _ in 0..4 {
        let received = next(&mut *feed).await;
        assert!(!received.message_id.is_empty(), "the log needs the message id");
        match accept(received) {
            Ok(event) => events.push(event),
            Err(cause) => *causes.entry(cause.reason()).or_insert(0) += 1,
        }
    }
    assert_eq!(causes, HashMap::from([("not_cloudevent", 2), ("time", 1)]));
    let [foreign] = &events[..] else { panic!("{events:?}") };
    assert_eq!((&*foreign.id, &foreign.author, &foreign.data[..]), ("f", &None, &b"{}"[..]));
    if let Broker::PubSub(_) = &broker {
        assert_eq!(Some(foreign.time), foreign.published);
    }

    let own = event(Some("1"), "{}");
    broker.publisher().await.publish(&own).await.unwrap();
    assert_eq!(receive(&mut *feed, 1).await[0].id, own.id);
}

async fn feed_of_table_hands_out_garbage(broker: &Broker, postgres: &Postgres) {
    let mut feed = broker.open_feed("reader").await;
    let sql = "insert into relay.events (id, source, type, time, content_type, data) values \
               ('', '/f', 't', null, null, '{}'), ('1', '/f', 't', 'yesterday', null, '{}'), \
               ('2', '/f', 't', null, 'text/plain', '{}'), ('3', '/f', 't', null, null, '{}')";
    postgres.sql(sql).await;
    let mut causes = Vec::new();
    for _ in 0..3 {
        let received = next(&mut *feed).await;
        assert!(!received.message_id.is_empty(), "the log needs the message id");
        causes.push(accept(received).unwrap_err().reason());
    }
    assert_eq!(causes, ["id", "time", "content_type"]);
    assert_eq!(&*receive(&mut *feed, 1).await[0].id, "3");
}

async fn deleted_feed_reopens_and_receives_missed_events(broker: Broker) {
    if let Broker::Postgres(postgres) = &broker {
        let mut feed = broker.open_feed("reader").await;
        let publisher = broker.publisher().await;
        publisher.publish(&event(Some("1"), "before")).await.unwrap();
        receive(&mut *feed, 1).await;
        postgres
            .sql("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'relay/reader' \
                  and datname = current_database()")
            .await;
        let between = event(Some("1"), "between");
        publisher.publish(&between).await.unwrap();
        while accept(next(&mut *feed).await).unwrap().id != between.id {}
        return;
    }
    let Broker::PubSub(google) = &broker else {
        // No other program can delete a feed of the in-memory broker
        return;
    };
    let mut feed = broker.open_feed("reader").await;
    let publisher = broker.publisher().await;
    publisher.publish(&event(Some("1"), "before")).await.unwrap();
    let before = receive(&mut *feed, 1).await;

    let subscription = google.only_subscription().await;
    google.delete(&subscription).await;
    let between = event(Some("1"), "between");
    publisher.publish(&between).await.unwrap();
    let deleted = Instant::now();
    loop {
        // Events that it has received may come again
        let event = accept(next(&mut *feed).await).unwrap();
        if event.id == between.id {
            break;
        }
        assert_eq!(event.id, before[0].id);
    }
    assert!(deleted.elapsed() < Duration::from_secs(10), "{:?}", deleted.elapsed());
    assert!(!google.subscriptions().await.contains(&subscription), "a new generation has a new name");
    assert!(is_open(&feed.state().borrow()));
}

async fn reopened_feed_has_new_generation_and_misses_nothing(broker: Broker) {
    if let Broker::Memory(_) = &broker {
        // The in-memory broker never loses a feed
        return;
    }
    let mut feed = broker.open_feed("reader").await;
    let publisher = broker.publisher().await;
    let old = broker.left_at_broker().await;
    let mut state = feed.state();
    let FeedState::Open(generation) = state.borrow_and_update().clone() else { panic!("the feed is open") };
    let begin = format!("{}.reader.", broker.name());
    assert!(generation.starts_with(&begin), "{generation}: heartbeats hold the name without the project");
    feed.reopen().ask(&generation);
    let between = event(Some("1"), "between");
    publisher.publish(&between).await.unwrap();
    let is_new = |state: &FeedState| matches!(state, FeedState::Open(new) if *new != generation);
    timeout(PATIENCE, state.wait_for(is_new)).await.expect("the feed opens anew").unwrap();
    assert_eq!(receive(&mut *feed, 1).await[0].id, between.id);

    // The old feed is deleted once the new one is open. A late request about the old one changes
    // nothing
    feed.reopen().ask(&generation);
    let deadline = Instant::now() + PATIENCE;
    while broker.left_at_broker().await.iter().any(|feed| old.contains(feed)) {
        assert!(Instant::now() < deadline, "the old feed is still there");
        sleep(Duration::from_millis(20)).await;
    }
    assert!(is_new(&feed.state().borrow()));
}

async fn times_grow_with_the_order_of_events(broker: Broker) {
    let mut feed = broker.open_feed("reader").await;
    let publishers = [broker.publisher().await, broker.publisher().await];
    let events: Vec<Event> = (0..100).map(|n| event(Some("1"), &n.to_string())).collect();
    let calls =
        events.iter().zip(publishers.iter().cycle()).map(|(event, publisher)| publisher.publish(event));
    let (received, answers) = tokio::join!(receive(&mut *feed, events.len()), join_all(calls));
    answers.into_iter().for_each(|answer| answer.unwrap());
    if feed.order() == Order::Total {
        assert!(received.is_sorted_by(|a, b| a.published < b.published), "{received:?}");
    }
}

async fn late_commit_is_not_slipped_under(broker: Broker) {
    let Broker::Postgres(postgres) = &broker else { return };
    let (mut one, mut two) = (broker.open_feed("one").await, broker.open_feed("two").await);
    let publisher = broker.publisher().await;
    let mut other = postgres.client().await;
    let open = other.transaction().await.unwrap();
    open.execute("select relay.publish('late.v1', '{}', id => 'late')", &[]).await.unwrap();
    for n in 0..20 {
        // No publisher waits for the open transaction
        let event = event(Some("1"), &n.to_string());
        timeout(Duration::from_secs(2), publisher.publish(&event))
            .await
            .expect("nothing holds the topic")
            .unwrap();
    }
    assert_eq!(receive(&mut *one, 20).await.len(), 20);
    let published = async {
        for n in 20..60 {
            publisher.publish(&event(Some("1"), &n.to_string())).await.unwrap();
        }
    };
    let (commit, ()) = tokio::join!(open.commit(), published);
    commit.unwrap();
    let (one, two) = (receive(&mut *one, 41).await, receive(&mut *two, 61).await);
    assert_eq!(one, two[20..], "both feeds have one order");
    assert!(one.iter().any(|event| &*event.id == "late"));
}

async fn feed_overtaken_by_retention_opens_anew(broker: Broker) {
    let Broker::Postgres(postgres) = &broker else { return };
    let mut feed = broker.open_feed("reader").await;
    let publisher = broker.publisher().await;
    let mut state = feed.state();
    let FeedState::Open(generation) = state.borrow_and_update().clone() else { panic!("the feed is open") };
    // As if events that this feed has not read were deleted
    postgres.sql("update relay.topic set trimmed_to = relay.tick()").await;
    let reason = timeout(PATIENCE, state.wait_for(|state| matches!(state, FeedState::Opening(Some(_)))));
    let FeedState::Opening(Some(reason)) = reason.await.expect("the feed says so").unwrap().clone() else {
        panic!()
    };
    assert!(reason.contains("deleted"), "{reason}");
    let is_new = |state: &FeedState| matches!(state, FeedState::Open(new) if *new != generation);
    timeout(PATIENCE, state.wait_for(is_new)).await.expect("the feed opens anew").unwrap();
    publisher.publish(&event(Some("1"), "after")).await.unwrap();
    assert_eq!(receive(&mut *feed, 1).await[0].data, "after");
}

async fn foreign_publisher_is_heard_at_its_commit(broker: Broker) {
    let Broker::Postgres(postgres) = &broker else { return };
    let mut feed = broker.open_feed("reader").await;
    let mut foreign = postgres.client().await;
    let rolled_back = foreign.transaction().await.unwrap();
    rolled_back.execute("select relay.publish('never.v1', '{}')", &[]).await.unwrap();
    rolled_back.rollback().await.unwrap();
    let committed = foreign.transaction().await.unwrap();
    let sql = "insert into relay.outbox (id, type, author, data) values ('f', 'foreign.v1', 'zowi', '{}')";
    committed.execute(sql, &[]).await.unwrap();
    assert!(timeout(Duration::from_millis(300), feed.next()).await.is_err(), "nothing is committed yet");
    let began = SystemTime::now();
    committed.commit().await.unwrap();
    let [event] = &receive(&mut *feed, 1).await[..] else { panic!() };
    assert_eq!((&*event.id, &*event.source, event.author.as_deref()), ("f", "/sql", Some("zowi")));
    let published = event.published.unwrap();
    assert!(published + Duration::from_millis(1) > began, "the time is that of the commit");
    assert_eq!(event.time, published);
    let left = foreign.query_one("select count(*) from relay.outbox", &[]).await.unwrap();
    assert_eq!(left.get::<_, i64>(0), 0);
    for bad in ["'', '{}'", "repeat('x', 257), '{}'", "E'a\\u0085', '{}'", "'t', ''"] {
        let refused =
            foreign.execute(&format!("insert into relay.outbox (type, data) values ({bad})"), &[]).await;
        assert!(refused.is_err(), "{bad}: readers would refuse it");
    }
}

async fn held_lock_fails_publishers_with_its_cure(broker: Broker) {
    let Broker::Postgres(postgres) = &broker else { return };
    let mut feed = broker.open_feed("reader").await;
    let publisher = broker.publisher().await;
    let mut holder = postgres.client().await;
    let direct = holder.transaction().await.unwrap();
    direct
        .execute("insert into relay.events (id, source, type, data) values ('d', '/f', 't', '{}')", &[])
        .await
        .unwrap();
    let refused = publisher.publish(&event(Some("1"), "{}")).await.unwrap_err();
    assert!(refused.to_string().contains("outbox"), "{refused}");
    direct.commit().await.unwrap();
    publisher.publish(&event(Some("1"), "{}")).await.unwrap();
    assert_eq!(receive(&mut *feed, 2).await.len(), 2);
}

#[tokio::test]
async fn own_emulator_serves_until_it_is_stopped() {
    let emulator = match emulator::start().await {
        Ok(emulator) => emulator,
        Err(missing) => return emulator::skip("the emulator's own test", &missing),
    };
    let url = format!("http://{}/v1/projects/own/topics", emulator.host());
    assert!(reqwest::get(&url).await.unwrap().status().is_success());
    emulator.stop().await;
    assert!(reqwest::get(&url).await.is_err());
}

/// Topic of its own on one of the brokers.
enum Broker {
    Memory(Topic),
    PubSub(Google),
    Postgres(Postgres),
    RabbitMq(rabbit::Rabbit),
}

impl Broker {
    fn memory() -> Self {
        Self::Memory(Topic::new(Duration::from_secs(600), 64 << 20))
    }

    /// Returns a topic on the emulator. Without an emulator it prints the reason and returns
    /// `None`.
    async fn pubsub(case: &str) -> Option<Self> {
        let host = emulator::host(case).await?;
        let id = uuid::Uuid::now_v7().simple().to_string();
        Some(Self::PubSub(Google { host, project: format!("contract-{}", &id[20..]) }))
    }

    /// Returns a topic in a database of its own. Without PostgreSQL it prints the reason and
    /// returns `None`.
    async fn postgres(case: &str) -> Option<Self> {
        let (host, database) = postgres_server::fresh(case).await?;
        let topic = postgresql::Topic::parse(&format!("{host}/{database}")).unwrap();
        Some(Self::Postgres(Postgres { host, topic }))
    }

    /// Returns a stream on RabbitMQ. Without RabbitMQ it prints the reason and returns `None`.
    async fn rabbitmq(case: &str) -> Option<Self> {
        rabbit::Rabbit::fresh(case).await.map(Self::RabbitMq)
    }

    /// Returns the name that generations begin with.
    fn name(&self) -> &str {
        match self {
            Self::Memory(_) => "memory",
            Self::PubSub(_) => TOPIC,
            Self::Postgres(postgres) => &postgres.topic.name,
            Self::RabbitMq(rabbit) => &rabbit.topic.stream,
        }
    }

    /// Returns the feeds that would stay at the broker if their pod died.
    async fn left_at_broker(&self) -> Vec<String> {
        match self {
            Self::PubSub(google) => google.subscriptions().await,
            _ => Vec::new(),
        }
    }

    /// Connects a publisher. Tests open a feed first: the first feed creates the topic, or the
    /// stream.
    async fn publisher(&self) -> Arc<dyn Publish> {
        match self {
            Self::Memory(topic) => Arc::new(topic.clone()),
            Self::PubSub(google) => google.connect("publisher").await.publisher(),
            Self::Postgres(postgres) => Arc::new(postgres.open("publisher").publisher()),
            Self::RabbitMq(rabbit) => rabbit.connect("publisher").await.publisher,
        }
    }

    /// Opens a feed and waits until it is open.
    async fn open_feed(&self, pod: &str) -> Box<dyn Feed> {
        let feed: Box<dyn Feed> = match self {
            Self::Memory(topic) => Box::new(topic.open_feed()),
            Self::PubSub(google) => Box::new(google.connect(pod).await.open_feed()),
            Self::Postgres(postgres) => Box::new(postgres.open(pod).open_feed()),
            Self::RabbitMq(rabbit) => rabbit.connect(pod).await.feed,
        };
        let mut state = feed.state();
        let open = timeout(PATIENCE, state.wait_for(is_open)).await;
        open.unwrap_or_else(|_| panic!("still {:?}", feed.state().borrow())).expect("the feed exists");
        feed
    }
}

/// Database of its own on a server of PostgreSQL.
struct Postgres {
    host: String,
    topic: postgresql::Topic,
}

impl Postgres {
    fn open(&self, pod: &str) -> postgresql::Postgres {
        self.topic.open(pod, Duration::from_secs(600)).unwrap()
    }

    async fn client(&self) -> tokio_postgres::Client {
        postgres_server::connect(&self.host, &self.topic.database).await
    }

    async fn sql(&self, sql: &str) {
        self.client().await.batch_execute(sql).await.unwrap();
    }

    /// Returns the number of sessions that pods have at the server.
    async fn sessions(&self) -> i64 {
        let sql = "select count(*) from pg_stat_activity where application_name like 'relay/%' \
                   and datname = current_database()";
        self.client().await.query_one(sql, &[]).await.unwrap().get(0)
    }
}

/// Project of its own on an emulator, with REST calls that the relay itself does not use.
struct Google {
    host: String,
    project: String,
}

impl Google {
    async fn connect(&self, pod: &str) -> PubSub {
        let settings = Settings {
            project: self.project.clone(),
            topic: TOPIC.to_owned(),
            pod: pod.to_owned(),
            emulator: Some(self.host.clone()),
            endpoint: None,
            proxy: None,
            replay_window: Duration::from_secs(600),
        };
        PubSub::connect(settings).await.unwrap()
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}/v1/{path}", self.host)
    }

    async fn subscriptions(&self) -> Vec<String> {
        let url = self.url(&format!("projects/{}/subscriptions", self.project));
        let body = reqwest::get(url).await.unwrap().error_for_status().unwrap().text().await.unwrap();
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        let names = body["subscriptions"].as_array().into_iter().flatten();
        names.map(|subscription| subscription["name"].as_str().unwrap().to_owned()).collect()
    }

    /// Waits until there is one subscription and returns it. On an emulator a new feed has a second
    /// one beside it for a moment.
    async fn only_subscription(&self) -> String {
        let only = async {
            loop {
                match &self.subscriptions().await[..] {
                    [only] => break only.clone(),
                    _ => sleep(Duration::from_millis(50)).await,
                }
            }
        };
        timeout(PATIENCE, only).await.expect("one feed, with nothing beside it")
    }

    async fn delete(&self, subscription: &str) {
        let answer = reqwest::Client::new().delete(self.url(subscription)).send().await.unwrap();
        answer.error_for_status().unwrap();
    }

    /// Publishes three messages that hold no event, and one of a foreign program that does.
    async fn publish_garbage(&self) {
        let foreign = r#""ce-specversion":"1.0","ce-id":"f","ce-source":"/foreign","ce-type":"foreign.v1""#;
        self.publish(&format!(
            r#"{{"messages":[
                {{"attributes":{{"a":"b"}}}},
                {{"data":"AAEC/w=="}},
                {{"attributes":{{{foreign},"ce-time":"yesterday"}},"data":"e30="}},
                {{"attributes":{{{foreign},"content-type":"application/json; charset=utf-8"}},"data":"e30="}}
            ]}}"#
        ))
        .await;
    }

    async fn publish(&self, body: &str) {
        let url = self.url(&format!("projects/{}/topics/{TOPIC}:publish", self.project));
        let request = reqwest::Client::new().post(url).header("content-type", "application/json");
        request.body(body.to_owned()).send().await.unwrap().error_for_status().unwrap();
    }
}

fn event(author: Option<&str>, data: &str) -> Event {
    Event::new(
        "/pods/contract".into(),
        "contract.v1",
        author.map(Into::into),
        Bytes::copy_from_slice(data.as_bytes()),
    )
}

fn is_open(state: &FeedState) -> bool {
    matches!(state, FeedState::Open(_))
}

fn by_id(events: Vec<Event>) -> HashMap<Arc<str>, Event> {
    events.into_iter().map(|event| (Arc::clone(&event.id), event)).collect()
}

fn accept(received: Received) -> Result<Event, Undecodable> {
    received.ack.ack();
    received.event
}

async fn next(feed: &mut dyn Feed) -> Received {
    next_or_none(feed).await.expect("the feed is open")
}

async fn next_or_none(feed: &mut dyn Feed) -> Option<Received> {
    timeout(PATIENCE, feed.next()).await.expect("a message in time")
}

/// Receives and acknowledges `count` different events, in the order of their first arrival. A
/// broker may repeat events.
async fn receive(feed: &mut dyn Feed, count: usize) -> Vec<Event> {
    let mut seen = HashSet::new();
    let mut events = Vec::new();
    while events.len() < count {
        let event = accept(next(feed).await).unwrap();
        if seen.insert(Arc::clone(&event.id)) {
            events.push(event);
        }
    }
    events
}
