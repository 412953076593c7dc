//! Watcher: one running GraphQL subscription on a connection, as the hub sees it.
//!
//! The hub needs no more of a connection than its send queue. A watcher never waits for a socket.

use std::{sync::Arc, time::SystemTime};

use super::{
    delivery::{Delivery, Rendered},
    relayed::Render,
    send_queue::SendQueue,
};
use crate::{audience::Viewer, cursor::Cursor};

/// Parts of a watcher.
#[derive(Clone)]
pub struct Watch {
    /// Number of the watcher, unique within its connection and never used twice there.
    pub id: u64,
    /// Subscription root field that it watches.
    pub field: Arc<str>,
    /// Viewer whose interests decide which events it receives.
    pub viewer: Arc<Viewer>,
    /// Renderer of the events, shared by all watchers of the same operation.
    pub operation: Arc<dyn Render>,
    /// Send queue of its connection.
    pub send_queue: Arc<SendQueue>,
}

/// Start of a watcher's client. Events from before it are not for the client, however late they
/// arrive.
pub(super) enum Start {
    /// There is none: the watcher receives every event.
    Unknown,
    /// Time of publishing. Most watchers have one, so it must be small.
    Time(SystemTime),
    /// Position; the event there is from before the client.
    Behind(Box<Cursor>),
}

/// Watcher in the index.
pub struct Watcher {
    id: u64,
    pub(super) field: Arc<str>,
    pub(super) viewer: Arc<Viewer>,
    pub(super) operation: Arc<dyn Render>,
    pub(super) send_queue: Arc<SendQueue>,
    start: Start,
}

impl Watcher {
    pub(super) fn new(watch: Watch, start: Start) -> Self {
        let Watch { id, field, viewer, operation, send_queue } = watch;
        Self { id, field, viewer, operation, send_queue, start }
    }

    /// Returns whether an event at this position may be for the watcher.
    pub(super) fn is_after_start(&self, position: &Cursor) -> bool {
        match &self.start {
            Start::Unknown => true,
            Start::Time(start) => *start <= position.published,
            Start::Behind(start) => **start < *position,
        }
    }

    /// Returns a pointer that is equal for watchers that share an operation, and distinct from
    /// every other live watcher's.
    pub(super) fn operation_address(&self) -> *const () {
        Arc::as_ptr(&self.operation).cast()
    }

    pub(super) fn deliver(&self, result: Arc<Rendered>) {
        self.send_queue.push(Delivery { watcher: self.id, result });
    }
}
