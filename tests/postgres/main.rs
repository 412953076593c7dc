//! PostgreSQL as an operator meets it: the documented rights and programs, faults with their cures,
//! and writers that compete.
//!
//! The contract suite has what every broker promises. No test may ever share a database with
//! another.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]
#![expect(clippy::print_stdout, reason = "the measured figures are printed for readers")]

#[path = "../support/emulator.rs"]
#[expect(dead_code, reason = "the server needs only some of it")]
mod emulator;
#[path = "../support/own_postgres.rs"]
#[expect(dead_code, reason = "each binary uses only some of it")]
mod own;
#[path = "../support/packages.rs"]
mod packages;
#[path = "../support/postgres.rs"]
mod postgres;

use postgres as postgres_server;

mod causes;
mod faults;
mod programs;
mod rights;
mod writers;

use std::time::Duration;

use bytes::Bytes;
use pubsub_relay::{
    broker::{Feed, FeedState, postgres::Topic},
    event::Event,
};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(30);

const WINDOW: Duration = Duration::from_secs(600);

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

/// Waits until the feed is open.
async fn until_open(feed: &dyn Feed) {
    let mut state = feed.state();
    let open = timeout(PATIENCE, state.wait_for(|state| matches!(state, FeedState::Open(_)))).await;
    open.unwrap_or_else(|_| panic!("still {:?}", feed.state().borrow())).unwrap();
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
