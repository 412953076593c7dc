//! The two ports to a broker: [`Publish`] (out) and [`Feed`] (in).
//!
//! Two implementations, [`memory`] and [`crate::broker::pubsub`], held by one contract suite (`tests/contract.rs`). The guarantee
//! is at least once, in the order of each author; deduplication is the reader's ([`crate::relay`]).

pub mod memory;
#[cfg(feature = "pubsub")]
pub mod pubsub;

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use thiserror::Error;
use tokio::sync::watch;

use crate::event::{
    Event,
    cloudevent::{self, Undecodable},
};

/// The largest payload of an event, in bytes. Pub/Sub takes 10,000,000 with attributes and framing; one that is larger
/// would be refused there, with all that shares its batch.
pub const MAX_DATA_BYTES: usize = 9_000_000;

/// How long [`Publish::publish`] may take before it gives up: the client's answer is due within 5 s, and the rest of its way
/// takes time too.
pub const PUBLISH_TIMEOUT: Duration = Duration::from_millis(4_500);

/// The least that Pub/Sub retains, for a topic and for a subscription.
pub const MIN_RETENTION: Duration = Duration::from_secs(600);

/// The way out: events to the topic.
#[async_trait]
pub trait Publish: Send + Sync + 'static {
    /// Publishes the event and returns once the topic has acknowledged it, within [`PUBLISH_TIMEOUT`]. Events of one
    /// author reach every feed in the order of their calls. Cancelling the call does not unpublish.
    async fn publish(&self, event: &Event) -> Result<(), PublishError>;

    /// Waits until nothing is in flight any more. Unbounded: callers put their own limit on it.
    async fn flush(&self);
}

/// Why an event was not acknowledged. After [`TimedOut`](Self::TimedOut) and [`Unavailable`](Self::Unavailable) it may
/// still appear on the topic.
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
    #[error("topic unavailable")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl PublishError {
    /// What became of the event, as metrics say it, in the order of the variants.
    pub const REASONS: [&'static str; 4] = ["invalid", "overloaded", "timed_out", "unavailable"];

    /// The cause as a metric's label, one of [`REASONS`](Self::REASONS).
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

/// Refuses what Pub/Sub and its readers would refuse.
///
/// # Errors
/// [`PublishError::Invalid`].
pub fn check(event: &Event) -> Result<(), PublishError> {
    if event.data.is_empty() || event.data.len() > MAX_DATA_BYTES {
        let text = format!("{} bytes of data; it must have 1 to {MAX_DATA_BYTES}", event.data.len());
        return Err(PublishError::Invalid(text));
    }
    cloudevent::check(event).map_err(|error| PublishError::Invalid(error.to_string()))
}

/// The way in: a pod's own view of the topic.
#[async_trait]
pub trait Feed: Send + 'static {
    /// The next message of the topic, waiting for it and through every outage; `None` only when the feed is closed for
    /// good. Cancel-safe.
    async fn next(&mut self) -> Option<Received>;

    /// Whether the topic can be heard, as it changes.
    fn state(&self) -> watch::Receiver<FeedState>;

    /// The way to ask it for a new life, when it says that it is open and nothing comes.
    fn reopen(&self) -> Reopen;

    /// Whether a life of it brings what was published before that life began, as far as the topic still has it. For a feed
    /// that is open.
    fn reaches_back(&self) -> bool;

    /// Ends the feed and leaves nothing behind at the broker. Unbounded: callers put their own limit on it.
    async fn close(&mut self);
}

/// One message off the topic, not yet acknowledged.
#[derive(Debug)]
pub struct Received {
    /// The event in it, or why there is none.
    pub event: Result<Event, Undecodable>,
    /// The broker's own name for it, for the log; empty where there is none.
    pub message_id: String,
    /// Must be called once the event was handed over, also for a message without an event.
    pub ack: Ack,
}

/// Acknowledges one message. Dropped without a call, the message comes again.
#[must_use = "dropped without `ack`, the message comes again"]
pub struct Ack(Option<Box<dyn FnOnce() + Send>>);

impl Ack {
    /// An acknowledgement that calls `ack`.
    pub fn new(ack: impl FnOnce() + Send + 'static) -> Self {
        Self(Some(Box::new(ack)))
    }

    /// For brokers that need none.
    pub const fn none() -> Self {
        Self(None)
    }

    /// Tells the broker that the message was handed over. Returns at once.
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

/// Whether a feed hears the topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FeedState {
    /// It is being created or created anew; the text says what stands in the way, if anything does.
    Opening(Option<String>),
    /// What is published from now on arrives, or so the broker says. The name is new for each generation of the feed.
    Open(Arc<str>),
    /// It has ended, for good.
    Closed,
}

/// Asks a feed for a new life. Clones ask the same feed.
#[derive(Clone, Debug)]
pub struct Reopen(watch::Sender<Option<Arc<str>>>);

impl Default for Reopen {
    fn default() -> Self {
        Self(watch::Sender::new(None))
    }
}

impl Reopen {
    /// Asks that the life of this name make room for a new one. Returns at once, and may be repeated: a life that has
    /// ended meanwhile is ended, and no other one is meant.
    pub fn ask(&self, generation: &Arc<str>) {
        self.0.send_replace(Some(generation.clone()));
    }

    /// Waits until the life of this name is to end. Cancel-safe.
    pub async fn asked(&self, generation: &str) {
        let mut asked = self.0.subscribe();
        // An error says that the sender is gone, which it cannot be: we hold it.
        let _ = asked.wait_for(|asked| asked.as_deref() == Some(generation)).await;
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn what_the_topic_would_refuse_is_refused_before() {
        let event = |data: Bytes| Event::new("/test".into(), "k", None, data);
        let is_invalid = |event: &Event| matches!(check(event), Err(PublishError::Invalid(_)));
        assert!(check(&event(vec![b'x'; MAX_DATA_BYTES].into())).is_ok());
        assert!(is_invalid(&event(vec![b'x'; MAX_DATA_BYTES + 1].into())));
        assert!(is_invalid(&event(Bytes::new())));
        let mut long = event(Bytes::from_static(b"{}"));
        long.author = Some("x".repeat(1_025).into());
        assert!(is_invalid(&long));
    }
}
