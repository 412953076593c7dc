//! [`Event`]: the one value that flows, from a mutation to the topic and from the topic to the sockets.
//!
//! It is the envelope only: what the bytes in it mean is the domain's business ([`crate::domain::Domain`]).
//! It must never hold anything of Google's or of GraphQL's.

pub mod cloudevent;

use std::{any::Any, sync::Arc, time::SystemTime};

use bytes::Bytes;
use uuid::Uuid;

/// An event's data as the domain decoded it, for the resolvers that take it by its type.
pub type Payload = Arc<dyn Any + Send + Sync>;

/// The kind of the events by which pods know of each other ([`crate::membership`]). No domain reads them.
pub const HEARTBEAT: &str = "relay.heartbeat.v1";

/// One thing that happened, as every pod sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Unique over all pods and publishers; two events with one id are the same event. Ours are UUIDv7.
    pub id: Arc<str>,
    /// Who published it, as a URI reference (`/pods/<pod>` for ours).
    pub source: Arc<str>,
    /// What happened, with the version of its data: `template.added.v1`.
    pub kind: Arc<str>,
    /// When it happened, by the publisher's clock.
    pub time: SystemTime,
    /// The id of the user who made it happen, whom it is therefore not for. Foreign publishers may leave it out.
    pub author: Option<Arc<str>>,
    /// The payload, as the domain wrote it.
    pub data: Bytes,
    /// The W3C `traceparent` of the span that published it.
    pub trace: Option<Arc<str>>,
    /// When the topic took it, by the topic's clock: the same on every pod. `None` until it came back from there.
    pub published: Option<SystemTime>,
}

impl Event {
    /// A new event of this moment, with a fresh id, not yet published.
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
}
