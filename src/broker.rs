//! The ports to a broker: [`Broker`] connects a pod, [`Publish`] sends events, [`Feed`] receives
//! them.
//!
//! Adapters implement the ports: [`memory`] and, with the features of the same names, `pubsub`,
//! `postgres` and `rabbitmq`. One contract suite tests them all (`tests/contract.rs`). The
//! guarantee is at least once, in the order of each author. The reader drops repeats
//! ([`crate::relay`]). Only [`open`] and the program's own commands may name an adapter; nothing
//! else outside this folder may.

pub mod kept_feed;
#[doc(hidden)]
pub mod memory;
pub mod open;
#[cfg(feature = "postgres")]
#[doc(hidden)]
pub mod postgres;
#[cfg(feature = "pubsub")]
#[doc(hidden)]
pub mod pubsub;
#[cfg(any(feature = "postgres", feature = "pubsub", feature = "rabbitmq"))]
#[doc(hidden)]
#[cfg(any(feature = "postgres", feature = "pubsub", feature = "rabbitmq"))]
mod queue;
#[cfg(feature = "rabbitmq")]
#[doc(hidden)]
pub mod rabbitmq;
#[doc(hidden)]
pub mod server;
#[cfg(any(feature = "postgres", feature = "rabbitmq"))]
#[doc(hidden)]
pub mod task_publisher;
#[cfg(any(feature = "postgres", feature = "rabbitmq"))]
mod tls;

use std::{
    error::Error,
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use thiserror::Error;
use tokio::sync::watch;

use crate::event::{
    Event,
    cloudevent::{self, Undecodable},
};

/// Longest time that [`Publish::publish`] may take; at the limit it fails. A client expects its
/// response within 5 s, and the rest of the way takes time as well.
pub const PUBLISH_TIMEOUT: Duration = Duration::from_millis(4_500);

/// A topic at a broker, to which any number of pods connect.
///
/// ```
/// use pubsub_relay::{Broker, broker::memory::Topic};
/// use std::time::Duration;
///
/// let topic = Topic::new(Duration::from_secs(600), 1 << 20);
/// assert_eq!(Broker::topic(&topic), "memory:");
/// assert!(topic.limits().payload_bytes >= 1 << 20);
/// ```
#[async_trait]
pub trait Broker: Send + Sync + 'static {
    /// Returns the full name of the topic. The name distinguishes this topic's cursors from those
    /// of others. So it must be the same on every pod: without hosts, users and passwords.
    fn topic(&self) -> String;

    /// Returns the broker's name in traces: the `messaging.system` of OpenTelemetry's conventions.
    fn system(&self) -> &'static str;

    /// Returns the broker's limits.
    fn limits(&self) -> Limits;

    /// Returns how long nothing older than a pod's own first heartbeat must come, until the feed
    /// counts as caught up. 200 ms by default; longer for a broker whose replay may come late.
    fn settle(&self) -> Duration {
        Duration::from_millis(200)
    }

    /// Checks that a pod may have this name. A broker that makes no names out of it accepts any.
    ///
    /// # Errors
    /// A text that states what to change. It completes a sentence that begins with the broker's
    /// URL.
    fn check_pod(&self, pod: &str) -> Result<(), String> {
        let _ = pod;
        Ok(())
    }

    /// Connects the pod of this name. Its feed replays what was published in the last `window`, as
    /// far as the topic retains it.
    ///
    /// The broker need not answer. While it does not, the feed is in the state
    /// [`FeedState::Opening`], and publishing fails.
    ///
    /// # Errors
    /// [`ConnectError`] for settings that can never work, such as missing credentials.
    async fn connect(&self, pod: &str, window: Duration) -> Result<Connected, ConnectError>;
}

impl fmt::Debug for dyn Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Broker").field(&self.topic()).finish()
    }
}

/// The two ends of a topic that one pod holds.
pub struct Connected {
    /// Publisher of events to the topic.
    pub publisher: Arc<dyn Publish>,
    /// The pod's feed from the topic.
    pub feed: Box<dyn Feed>,
    /// Work that keeps the topic from growing; `None` where the broker does all of it.
    pub upkeep: Option<Upkeep>,
}

/// Why a pod cannot be connected. The operator has to change something; retrying does not help.
#[derive(Debug, Error)]
#[error(transparent)]
pub struct ConnectError(#[from] Box<dyn Error + Send + Sync>);

impl ConnectError {
    /// Wraps an adapter's error. Its text should state what to change.
    pub fn new(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(error.into())
    }
}

/// Limits of a broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest payload of an event, in bytes. A larger one is refused before it is published.
    pub payload_bytes: usize,
    /// Time for which the topic and a feed retain messages, whatever window is asked for. A window
    /// below it costs nothing.
    pub least_retention: Duration,
    /// Most bytes of messages that a feed has fetched and the relay has not yet read.
    pub fetched_bytes: usize,
}

impl Limits {
    /// Refuses an event that the broker or a reader would refuse.
    ///
    /// # Errors
    /// [`PublishError::Invalid`] names what is wrong with the event.
    pub fn check(&self, event: &Event) -> Result<(), PublishError> {
        let most = self.payload_bytes;
        if event.data.is_empty() || event.data.len() > most {
            let text = format!("{} bytes of data; it must have 1 to {most}", event.data.len());
            return Err(PublishError::Invalid(text));
        }
        cloudevent::check(event).map_err(|error| PublishError::Invalid(error.to_string()))
    }
}

/// Work that every pod does from time to time, so that nothing grows without a bound at the broker.
pub enum Upkeep {
    /// Feeds outlive their pods: those of dead pods are deleted.
    Feeds(Box<dyn Cleanup>),
    /// The topic is a log that the broker does not shorten: old events are deleted.
    Log(Box<dyn Trim>),
}

/// Deletion of the events that no pod needs any more.
#[async_trait]
pub trait Trim: Send + 'static {
    /// Deletes old events once, and returns how many. Several pods may trim at the same time: one
    /// of them does it, and the others return 0.
    ///
    /// # Errors
    /// If the broker does not answer, or refuses. The caller tries again later.
    async fn trim(&mut self) -> Result<u64, Box<dyn Error + Send + Sync>>;
}

/// Decision whether a feed is an orphan, from the name of its pod and the time of its creation.
pub type IsOrphan<'a> = dyn Fn(&str, SystemTime) -> bool + Send + Sync + 'a;

/// Cleanup of feeds that outlived their pods.
#[async_trait]
pub trait Cleanup: Send + 'static {
    /// Examines all feeds of the topic once, and deletes some of the orphans. It must never touch
    /// anything that is not a feed of this topic. Several pods may sweep at the same time.
    ///
    /// # Errors
    /// If the broker does not answer. The caller tries again later.
    async fn sweep(&mut self, is_orphan: &IsOrphan<'_>) -> Result<Swept, Box<dyn Error + Send + Sync>>;
}

/// What one sweep found and did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Feeds of living pods.
    pub living: usize,
    /// Feeds of dead pods, including the deleted ones.
    pub orphaned: usize,
    /// Feeds that this sweep deleted.
    pub deleted: u64,
}

/// Publisher of events to the topic.
///
/// ```
/// # async fn example(publisher: &dyn pubsub_relay::broker::Publish, event: &pubsub_relay::Event) {
/// if let Err(error) = publisher.publish(event).await {
///     eprintln!("not acknowledged ({}): {error}", error.reason());
/// }
/// publisher.flush().await;
/// # }
/// ```
#[async_trait]
pub trait Publish: Send + Sync + 'static {
    /// Publishes the event and returns once the topic has acknowledged it, within
    /// [`PUBLISH_TIMEOUT`]. Events of one author reach every feed in the order of their calls.
    /// Cancelling the call does not unpublish.
    ///
    /// # Errors
    /// [`PublishError`] states whether the event may still appear on the topic.
    async fn publish(&self, event: &Event) -> Result<(), PublishError>;

    /// Waits until nothing is in flight any more. The wait is unbounded: callers put a limit on it.
    async fn flush(&self);
}

/// Why an event was not acknowledged. After [`TimedOut`](Self::TimedOut) and
/// [`Unavailable`](Self::Unavailable) it may still appear on the topic.
#[derive(Debug, Error)]
pub enum PublishError {
    /// The event can never be published: too large, or an attribute out of bounds. Do not retry.
    #[error("event cannot be published: {0}")]
    Invalid(String),
    /// Too many events are in flight. Retry later.
    #[error("too many events in flight")]
    Overloaded,
    /// No acknowledgement in time. Retry if a repeat does no harm.
    #[error("topic did not acknowledge within {} s", PUBLISH_TIMEOUT.as_secs_f64())]
    TimedOut,
    /// The topic refused it or cannot be reached. Retry if a repeat does no harm.
    #[error("{0}")]
    Unavailable(Box<dyn std::error::Error + Send + Sync>),
}

impl PublishError {
    /// Reasons as metrics label them, in the order of the variants.
    pub const REASONS: [&'static str; 4] = ["invalid", "overloaded", "timed_out", "unavailable"];

    /// Returns the reason as a metric's label, one of [`REASONS`](Self::REASONS).
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        let [invalid, overloaded, timed_out, unavailable] = Self::REASONS;
        match self {
            Self::Invalid(_) => invalid,
            Self::Overloaded => overloaded,
            Self::TimedOut => timed_out,
            Self::Unavailable(_) => unavailable,
        }
    }
}

/// Feed: a pod's own view of the topic.
///
/// **The promise.** Once a feed reports [`FeedState::Open`], it brings every event acknowledged
/// from then on, at least once. Events of one author come in the order of their publishing. Between
/// the events of two authors there is no order, unless [`Feed::order`] is [`Order::Total`]. An
/// event comes again if its message is not acknowledged. When a generation of the feed ends, the
/// next one brings what may be missing, as far as the topic retains it. It also brings repeats.
/// Every pod has a feed of its own, and one pod's feed takes nothing from another's.
///
/// ```
/// # async fn example(mut feed: Box<dyn pubsub_relay::broker::Feed>) {
/// while let Some(received) = feed.next().await {
///     if let Ok(event) = &received.event {
///         println!("{} {}", event.kind, event.id);
///     }
///     received.ack.ack();
/// }
/// # }
/// ```
#[async_trait]
pub trait Feed: Send + 'static {
    /// Returns the next message of the topic. It waits through every outage, and returns `None`
    /// only when the feed is closed for good. Cancel-safe.
    async fn next(&mut self) -> Option<Received>;

    /// Returns the state of the feed, as it changes.
    fn state(&self) -> watch::Receiver<FeedState>;

    /// Returns the handle that asks for a new generation, for a feed that reports itself open and
    /// brings nothing.
    fn reopen(&self) -> Reopen;

    /// Returns the order in which a generation brings events; [`Order::Lanes`] by default, which
    /// promises less.
    fn order(&self) -> Order {
        Order::Lanes
    }

    /// Returns whether a generation brings what was published before it began, as far as the topic
    /// retains it. The result is defined while the feed is open.
    fn reaches_back(&self) -> bool;

    /// Ends the feed and leaves nothing behind at the broker. The wait is unbounded: callers put a
    /// limit on it.
    async fn close(&mut self);
}

/// One message of the topic that is not acknowledged yet.
#[derive(Debug)]
pub struct Received {
    /// Event in the message, or why there is none.
    pub event: Result<Event, Undecodable>,
    /// The broker's id of the message, for the log; empty where there is none.
    pub message_id: String,
    /// Acknowledgement, to be called once the event was processed, also for a message without an
    /// event.
    pub ack: Ack,
}

impl Received {
    /// Returns the number of bytes of data that the message holds in memory.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match &self.event {
            Ok(event) => event.data.len(),
            Err(Undecodable::Foreign(message)) => message.data.len(),
            Err(_) => 0,
        }
    }
}

/// Acknowledgement of one message. If it is dropped without a call, the message comes again.
#[must_use = "dropped without `ack`, the message comes again"]
pub struct Ack(Option<Box<dyn FnOnce() + Send>>);

impl Ack {
    /// Creates an acknowledgement that calls `ack`.
    pub fn new(ack: impl FnOnce() + Send + 'static) -> Self {
        Self(Some(Box::new(ack)))
    }

    /// Creates an acknowledgement for brokers that need none.
    pub const fn none() -> Self {
        Self(None)
    }

    /// Acknowledges the message. Returns at once.
    pub fn ack(self) {
        if let Some(ack) = self.0 {
            ack();
        }
    }
}

impl fmt::Debug for Ack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ack")
    }
}

/// Order of the events of one generation of a feed, and of their times of publishing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The topic has one order, in which every generation brings all events. No two events have the
    /// same time of publishing, and the times grow in that order.
    Total,
    /// The topic consists of lanes, such as ordering keys or partitions. Each author has one lane.
    /// The events of a lane come in its order. Those of different lanes come in any order, and
    /// their times of publishing are as different as the clocks of the broker's servers.
    Lanes,
}

/// State of a feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FeedState {
    /// A generation is being opened. The text names the obstacle, if there is one.
    Opening(Option<String>),
    /// A generation is open, as far as the broker reports: what is published from now on arrives.
    /// Each generation has a name of its own.
    Open(Arc<str>),
    /// The feed has ended for good.
    Closed,
}

/// Handle that asks a feed for a new generation. Clones ask the same feed.
#[derive(Clone, Debug)]
pub struct Reopen(watch::Sender<Option<Arc<str>>>);

impl Default for Reopen {
    fn default() -> Self {
        Self(watch::Sender::new(None))
    }
}

impl Reopen {
    /// Asks the feed to end the generation of this name and to open a new one. Returns at once, and
    /// may be repeated: if that generation has ended meanwhile, nothing happens.
    pub fn ask(&self, generation: &Arc<str>) {
        self.0.send_replace(Some(generation.clone()));
    }

    /// Waits until the generation of this name is to end. Cancel-safe.
    pub async fn asked(&self, generation: &str) {
        let mut asked = self.0.subscribe();
        // An error would mean that the sender is gone, but `self` holds it.
        let _ = asked.wait_for(|asked| asked.as_deref() == Some(generation)).await;
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn event_that_readers_refuse_is_not_published() {
        let limits = Limits { payload_bytes: 1_000, least_retention: Duration::ZERO, fetched_bytes: 0 };
        let event = |data: Bytes| Event::new("/test".into(), "k", None, data);
        let is_invalid = |event: &Event| matches!(limits.check(event), Err(PublishError::Invalid(_)));
        assert!(limits.check(&event(vec![b'x'; 1_000].into())).is_ok());
        assert!(is_invalid(&event(vec![b'x'; 1_001].into())));
        assert!(is_invalid(&event(Bytes::new())));
        let mut long = event(Bytes::from_static(b"{}"));
        long.author = Some("x".repeat(1_025).into());
        assert!(is_invalid(&long));
    }
}
