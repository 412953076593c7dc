//! Support of the tests from outside: real pods, a real broker, and clients that speak the
//! protocols of a browser.
//!
//! It works over the wire only, so the tests stay valid for any implementation. It must never use
//! the relay's internals.

mod client;
mod collector;
mod emulator;
mod haproxy;
mod http;
mod ports;
pub(crate) mod postgres;
pub(crate) mod rabbitmq;
mod relay;
mod service;
mod stream;
mod topic;

pub(crate) use client::{Client, Data, Dialect, End, OpCode, Socket, watchers_on};
pub(crate) use collector::Collector;
pub(crate) use emulator::environment;
pub(crate) use haproxy::Haproxy;
pub(crate) use http::{Answer, Http};
pub(crate) use ports::free_ports;
pub(crate) use relay::{Relay, Setup};
pub(crate) use service::{Fault, Metadata, Service, State};
pub(crate) use stream::{BodyEnd, EVENTS, PARTS, Streamed, WATCH, post, request};
pub(crate) use topic::{Kind, Message, Topic};

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// Time limit for anything that must happen, on a machine with four pods, an emulator and a
/// compiler on two cores.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The tutorial's users; the first connects to the first pod, and so on.
pub(crate) const USERS: [&str; 4] = ["ZOWI", "ZOLO", "ZEWI", "ZELO"];

/// Returns the locations that this user listens to.
pub(crate) fn locations(user: &str) -> &'static [&'static str] {
    match user {
        "ZELO" => &["1"],
        "ZOLO" => &["3"],
        "ZOWI" => &["1", "2"],
        "ZEWI" => &["3", "4"],
        _ => panic!("no user {user}"),
    }
}

/// All locations. A template shared with all of them matches every user but its author.
pub(crate) const EVERYWHERE: [&str; 4] = ["1", "2", "3", "4"];

/// Calls `ask` every 20 ms until it returns a value, for `limit` at most; then the test fails.
pub(crate) async fn eventually<T>(what: &str, limit: Duration, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Starts four pods, `pod1` to `pod4`, on this topic and waits until they are ready.
pub(crate) async fn four_pods(topic: &Topic) -> Vec<Relay> {
    let pods = (1..=4).map(|n| Setup::new(&format!("pod{n}")).topic(topic).start());
    futures_util::future::join_all(pods).await
}
