//! Writers that compete: one order for all readers, and none misses an event.
//!
//! The control shows that a reader by a sequence alone does miss events, so that the test can fail.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use pubsub_relay::broker::{Broker as _, Feed};
use tokio::{join, time::Instant};

use crate::{WINDOW, event, next, postgres, topic, until_open};

const WRITERS: usize = 8;

/// Type of the event that ends a test.
const LAST: &str = "late.v1";

/// Reads up to the event that ends the test. Returns the ids in their order.
async fn read(mut feed: Box<dyn Feed>) -> Vec<Arc<str>> {
    let (mut ids, mut newest) = (Vec::new(), None);
    loop {
        let event = next(&mut *feed).await;
        assert!(event.published > newest, "the times grow");
        newest = event.published;
        ids.push(event.id);
        if &*event.kind == LAST {
            return ids;
        }
    }
}

/// Runs eight writers for this time beside a transaction that has published and stays open. Two
/// feeds must have all events in one order.
async fn compete(during: Duration) {
    let Some((host, database)) = postgres::fresh("competing writers").await else { return };
    let topic = topic(&host, &database, "relay");
    let reader = topic.open("reader", WINDOW).unwrap();
    let feeds: [Box<dyn Feed>; 2] = [Box::new(reader.open_feed()), Box::new(reader.open_feed())];
    for feed in &feeds {
        until_open(&**feed).await;
    }
    let mut foreign = postgres::connect(&host, &database).await;
    let open = foreign.transaction().await.unwrap();
    open.execute("select relay.publish($1, '{}')", &[&LAST]).await.unwrap();
    let writers = join_all((0..WRITERS).map(|_| topic.connect("writer", WINDOW))).await;
    let end = Instant::now() + during;
    let write = writers.iter().map(|connected| {
        let publisher = Arc::clone(&connected.as_ref().unwrap().publisher);
        async move {
            let mut ids = Vec::new();
            while Instant::now() < end {
                let event = event("{}");
                publisher.publish(&event).await.unwrap();
                ids.push(event.id);
            }
            ids
        }
    });
    let write = async {
        let written = join_all(write).await.concat();
        open.commit().await.unwrap();
        written
    };
    let [first, second] = feeds;
    let (mut written, first, second) = join!(write, read(first), read(second));
    println!("{WRITERS} writers for {during:?}: {} events, two feeds", written.len());
    assert_eq!(first, second, "one order");
    let mut heard = first;
    assert_eq!(heard.pop().map(|_| heard.len()), Some(written.len()), "the open one is the last");
    heard.sort_unstable();
    written.sort_unstable();
    assert_eq!(heard, written, "0 missed");
}

/// Runs the same writers into a table with a sequence, and a reader by that alone. Returns how many
/// rows there are, and how many of them the reader missed.
async fn miss_by_sequence(during: Duration) -> Option<(usize, usize)> {
    let (host, database) = postgres::fresh("the control").await?;
    let owner = postgres::connect(&host, &database).await;
    owner.batch_execute("create table log (position bigserial primary key)").await.unwrap();
    let end = Instant::now() + during;
    let writers = join_all((0..WRITERS).map(|_| postgres::connect(&host, &database))).await;
    let write = join_all(writers.iter().map(|writer| async move {
        let mut count = 0;
        while Instant::now() < end {
            writer.batch_execute("insert into log default values").await.unwrap();
            count += 1;
        }
        count
    }));
    let read = async {
        let (mut last, mut count) = (0_i64, 0);
        loop {
            let is_over = Instant::now() > end + Duration::from_secs(1);
            let rows = "select position from log where position > $1 order by position";
            let rows = owner.query(rows, &[&last]).await.unwrap();
            count += rows.len();
            last = rows.last().map_or(last, |row| row.get(0));
            if is_over {
                return count;
            }
        }
    };
    let (written, heard) = join!(write, read);
    let written = written.iter().sum::<usize>();
    Some((written, written - heard))
}

#[tokio::test(flavor = "multi_thread")]
async fn competing_writers_have_one_order() {
    compete(Duration::from_secs(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "two minutes"]
async fn minute_of_writers_has_one_order() {
    compete(Duration::from_secs(60)).await;
    let Some((written, missed)) = miss_by_sequence(Duration::from_secs(60)).await else { return };
    println!("the control, a reader by sequence: {written} rows, {missed} missed");
    assert!(missed > 0, "the control shows nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn reader_by_sequence_misses_late_commit() {
    let Some((host, database)) = postgres::fresh("the control").await else { return };
    let (mut slow, fast) =
        (postgres::connect(&host, &database).await, postgres::connect(&host, &database).await);
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
