//! [`Relayed`]: an event as the hub holds it; [`Render`]: what an operation makes of it.

use std::sync::Arc;

use async_trait::async_trait;

use crate::{
    audience::Audience,
    cursor::Cursor,
    event::{Event, Payload},
};

/// Event that the relay has decoded.
pub struct Relayed {
    /// The event itself.
    pub event: Event,
    /// Position in the order that all pods agree on.
    pub position: Cursor,
    /// Cursor as text, from which a client that has this event resumes. Usually the event's
    /// position.
    pub cursor: Arc<str>,
    /// Subscription root fields that deliver the event; at least one.
    pub fields: Vec<Arc<str>>,
    /// Audience of the event.
    pub audience: Audience,
    /// Decoded data of the event.
    pub payload: Payload,
}

/// Renderer of events: makes the text that every watcher of one operation receives.
#[async_trait]
pub trait Render: Send + Sync + 'static {
    /// Returns the JSON of the execution result, or `None` if the operation has no result for this
    /// event. Must finish by itself within seconds, since later events wait for it.
    async fn render(&self, relayed: &Relayed) -> Option<Arc<str>>;

    /// Returns the same for a replay, marked as replayed. Many clients may request it at once.
    async fn render_again(&self, relayed: &Relayed) -> Option<Arc<str>>;

    /// Returns the JSON of a gap notice: events are missing, and events are available again from
    /// `cursor`.
    fn gap(&self, reason: &str, cursor: &str) -> Arc<str>;
}
