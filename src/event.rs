//! [`Event`]: the one value that flows from a mutation to the topic, and from the topic to the
//! sockets.
//!
//! It is only the envelope: the meaning of its data belongs to the domain
//! ([`crate::domain::Domain`]). It must never hold a type of Google's or of GraphQL's.

pub mod cloudevent;
pub mod foreign;

use std::{any::Any, collections::BTreeMap, sync::Arc, time::SystemTime};

use bytes::Bytes;
use uuid::Uuid;

/// Data of an event as the domain decoded it. Resolvers take it by its type.
pub type Payload = Arc<dyn Any + Send + Sync>;

/// Kind of the events by which pods discover each other ([`crate::membership`]). No domain reads
/// them.
pub const HEARTBEAT: &str = "relay.heartbeat.v1";

/// Beginning of the types of heartbeats of all releases.
pub const HEARTBEATS: &str = "relay.heartbeat.";

/// Beginning of the types of all control events, by which pods steer each other. No other program
/// and no domain may use it.
pub const CONTROL: &str = "relay.";

/// Beginning of the source of an event that a pod has published.
pub const PODS: &str = "/pods/";

/// One thing that happened, as every pod sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Id, unique among the events of the source: two events with one source and one id are the
    /// same event. The relay's own ids are UUIDv7.
    pub id: Arc<str>,
    /// Publisher of the event, as a URI reference (`/pods/<pod>` for a pod of the relay).
    pub source: Arc<str>,
    /// What happened, with the version of its data: `template.added.v1`.
    pub kind: Arc<str>,
    /// Time at which it happened, by the publisher's clock.
    pub time: SystemTime,
    /// Id of the user who caused the event, and who therefore does not receive it. Foreign
    /// publishers may omit it.
    pub author: Option<Arc<str>>,
    /// Payload, as the domain wrote it.
    pub data: Bytes,
    /// W3C `traceparent` of the span that published the event.
    pub trace: Option<Arc<str>>,
    /// Time at which the topic took the event, by the topic's clock: the same on every pod. `None`
    /// until the event has come back from the topic.
    pub published: Option<SystemTime>,
}

impl Event {
    /// Creates an event of this moment, with a new id, not yet published.
    #[must_use]
    pub fn new(source: Arc<str>, kind: &str, author: Option<Arc<str>>, data: Bytes) -> Self {
        Self {
            id: Uuid::now_v7().to_string().into(),
            source,
            kind: kind.into(),
            time: SystemTime::now(),
            author,
            data,
            trace: None,
            published: None,
        }
    }

    /// Returns the name of the event among those of all publishers: its id, or `source#id` if no
    /// pod has published it. Clients receive it as `eventId`.
    #[must_use]
    pub fn identity(&self) -> Arc<str> {
        if self.source.starts_with(PODS) {
            return self.id.clone();
        }
        format!("{}#{}", self.source, self.id).into()
    }
}

/// Message that is marked neither as a CloudEvent nor as a batch of them. A domain may read it as
/// an event all the same ([`foreign`]).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Foreign {
    /// Attributes or headers of the message, as texts.
    pub attributes: BTreeMap<String, String>,
    /// Data of the message, unchanged.
    pub data: Bytes,
    /// Time at which the topic took the message; `None` if that is unknown.
    pub published: Option<SystemTime>,
    /// Broker's id of the message: the same each time that the message comes, and on each pod.
    pub message_id: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_event_is_known_by_source_too() {
        let mut event = Event::new("/pods/a".into(), "k", None, Bytes::new());
        assert_eq!(event.identity(), event.id);
        event.source = "/shop".into();
        assert_eq!(*event.identity(), *format!("/shop#{}", event.id));
    }
}
