//! PostgreSQL as an operator meets it: the documented rights, refusals with their cures, and
//! writers that compete.
//!
//! The contract suite has what every broker promises. No test may ever share a database with
//! another.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

#[path = "support/emulator.rs"]
#[expect(dead_code, reason = "the server needs only some of it")]
mod emulator;
#[path = "support/postgres.rs"]
mod server;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::join_all;
use pubsub_relay::{
    broker::{
        Broker as _, Feed, FeedState, Publish as _, Trim as _,
        postgres::{Topic, schema},
    },
    event::Event,
};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(30);

const WINDOW: Duration = Duration::from_secs(600);

/// Returns the server and the name of a new database there. Without PostgreSQL it prints the reason
/// and returns `None`.
async fn fresh(test: &str) -> Option<(String, String)> {
    let host = server::host(test).await?;
    let database = format!("test_{}", uuid::Uuid::now_v7().simple());
    let admin = server::connect(&host, "postgres").await;
    admin.batch_execute(&format!("create database {database}")).await.unwrap();
    Some((host, database))
}

fn topic(host: &str, database: &str, user: &str) -> Topic {
    let mut topic = Topic::parse(&format!("{host}/{database}")).unwrap();
    topic.server.login.user = Some(user.to_owned());
    topic
}

fn event(data: &str) -> Event {
    Event::new("/pods/test".into(), "test.v1", None, Bytes::copy_from_slice(data.as_bytes()))
}

async fn next(feed: &mut dyn Feed) -> Event {
    timeout(PATIENCE, feed.next()).await.expect("an event in time").unwrap().event.unwrap()
}

/// Returns why the feed of this topic does not open.
async fn obstacle(topic: &Topic) -> String {
    let feed = topic.open("pod", WINDOW).unwrap().open_feed();
    let mut state = feed.state();
    let state = timeout(PATIENCE, state.wait_for(|state| matches!(state, FeedState::Opening(Some(_))))).await;
    match &*state.expect("it has a reason").unwrap() {
        FeedState::Opening(Some(why)) => why.clone(),
        state => panic!("{state:?}"),
    }
}

/// Returns the SQL of the guide that creates roles, without their passwords. Roles belong to the
/// whole server, so each test has its own names.
fn documented_roles(suffix: &str) -> String {
    let guide = include_str!("../docs/POSTGRES.md").replace("   ", "");
    let blocks = guide.split("```sql\n").skip(1).map(|rest| rest.split("```").next().unwrap().to_owned());
    let roles: Vec<_> = blocks.filter(|block| block.starts_with("create role")).collect();
    assert_eq!(roles.len(), 2, "pods and publishers");
    let sql = roles.concat().replace(" password '…'", "");
    sql.replace("relay_pods", &format!("relay_pods{suffix}")).replace("shop", &format!("shop{suffix}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn documented_rights_suffice_and_bound() {
    let Some((host, database)) = fresh("the rights of roles").await else { return };
    let owner = server::connect(&host, &database).await;
    owner.batch_execute(&schema::script("relay")).await.unwrap();
    owner.batch_execute(&documented_roles("_a")).await.unwrap();

    let postgres = topic(&host, &database, "relay_pods_a").open("pod", WINDOW).unwrap();
    let mut feed = postgres.open_feed();
    postgres.publisher().publish(&event("{}")).await.unwrap();
    assert_eq!(next(&mut feed).await.data, "{}");
    owner.batch_execute("update relay.events set position = 1").await.unwrap();
    assert_eq!(postgres.trimmer().trim().await.unwrap(), 1, "an event of 1970 is old");
    let trimmed_to = owner.query_one("select trimmed_to from relay.topic", &[]).await.unwrap();
    assert_eq!(trimmed_to.get::<_, i64>(0), 1);

    let denied = async |user: &str, sql: &str| {
        let refused = server::connect_as(&host, &database, user).await.batch_execute(sql).await;
        let refused = refused.expect_err(sql);
        assert_eq!(refused.code().map(|code| code.code()), Some("42501"), "{user}: {sql}: {refused}");
    };
    denied(
        "relay_pods_a",
        "insert into relay.events (position, id, source, type, data) values (1, 'a', 'b', 'c', 'd')",
    )
    .await;
    denied("relay_pods_a", "update relay.topic set version = 9").await;
    denied("relay_pods_a", "drop table relay.events").await;
    let shop = server::connect_as(&host, &database, "shop_a").await;
    shop.execute("select relay.publish('order.placed.v1', '{\"id\": 7}', author => 'zowi')", &[])
        .await
        .unwrap();
    assert_eq!(&*next(&mut feed).await.kind, "order.placed.v1");
    for table in ["events", "outbox", "topic"] {
        denied("shop_a", &format!("select from relay.{table}")).await;
    }
    denied("shop_a", "insert into relay.outbox (type, data) values ('t', '{}')").await;
    denied("shop_a", "select relay.tick()").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn feed_names_obstacle_and_cure() {
    let Some((host, database)) = fresh("obstacles").await else { return };
    let owner = server::connect(&host, &database).await;
    owner.batch_execute("create role relay_pods_b login").await.unwrap();
    let pods = topic(&host, &database, "relay_pods_b");
    let why = obstacle(&pods).await;
    assert!(why.contains("are missing") && why.contains("relay schema --postgres | psql"), "{why}");
    let why = obstacle(&topic(&host, "nowhere", "relay_pods_b")).await;
    assert!(why.contains("create the database"), "{why}");
    let why = obstacle(&topic(&host, &database, "unknown_b")).await;
    assert!(why.contains("RELAY_BROKER_USER"), "{why}");
    let mut encrypted = pods.clone();
    encrypted.server.tls = true;
    let why = obstacle(&encrypted).await;
    assert!(why.contains("TLS"), "{why}");
    let why = obstacle(&topic("127.0.0.1:1", &database, "relay_pods_b")).await;
    assert!(why.contains("check that the server runs"), "{why}");

    owner.batch_execute(&schema::script("relay")).await.unwrap();
    let why = obstacle(&pods).await;
    assert!(why.contains("grant the rights of docs/POSTGRES.md"), "{why}");
    owner.batch_execute("update relay.topic set version = version + 1").await.unwrap();
    let why = obstacle(&topic(&host, &database, "relay")).await;
    assert!(why.contains("newer"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn competing_writers_have_one_order() {
    const EVENTS: usize = 150;
    let Some((host, database)) = fresh("competing writers").await else { return };
    let topic = topic(&host, &database, "relay");
    let postgres = topic.open("reader", WINDOW).unwrap();
    let mut feeds = [postgres.open_feed(), postgres.open_feed()];
    for feed in &feeds {
        let mut state = feed.state();
        let open = timeout(PATIENCE, state.wait_for(|state| matches!(state, FeedState::Open(_)))).await;
        drop(open.expect("the feed opens").unwrap());
    }
    let mut foreign = server::connect(&host, &database).await;
    let open = foreign.transaction().await.unwrap();
    open.execute("select relay.publish('late.v1', '{}')", &[]).await.unwrap();
    let writers = join_all((0..8).map(|_| topic.connect("writer", WINDOW))).await;
    let write = writers.iter().map(|connected| {
        let publisher = Arc::clone(&connected.as_ref().unwrap().publisher);
        async move {
            for n in 0..EVENTS {
                publisher.publish(&event(&n.to_string())).await.unwrap();
            }
        }
    });
    join_all(write).await;
    open.commit().await.unwrap();
    let mut orders = Vec::new();
    for feed in &mut feeds {
        let mut order = Vec::new();
        while order.len() < 8 * EVENTS + 1 {
            let event = next(feed).await;
            order.push((event.published, event.id));
        }
        assert!(order.is_sorted_by(|(a, _), (b, _)| a < b), "the times grow");
        orders.push(order);
    }
    assert_eq!(orders[0], orders[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn reader_by_sequence_misses_late_commit() {
    let Some((host, database)) = fresh("the control").await else { return };
    let (mut slow, fast) = (server::connect(&host, &database).await, server::connect(&host, &database).await);
    fast.batch_execute("create table log (position bigserial)").await.unwrap();
    let open = slow.transaction().await.unwrap();
    open.batch_execute("insert into log default values").await.unwrap();
    fast.batch_execute("insert into log default values").await.unwrap();
    let read = async |last: i64| {
        let rows = fast.query("select position from log where position > $1", &[&last]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect::<Vec<i64>>()
    };
    assert_eq!(read(0).await, [2]);
    open.commit().await.unwrap();
    assert_eq!(read(2).await, [0_i64; 0], "the first is committed, and behind the reader");
}
