//! One running GraphQL subscription operation on a connection, as the hub sees it.

use std::{fmt, sync::Arc};

use super::{Delivery, Hub, Render, Rendered, SendQueue};
use crate::audience::Viewer;

/// What a watcher is made of.
#[derive(Clone)]
pub struct Watch {
    /// Tells the watchers of one connection apart; never used twice on it.
    pub id: u64,
    /// The subscription root field that it watches.
    pub field: Arc<str>,
    /// Whose interests decide.
    pub viewer: Arc<Viewer>,
    /// Renders events; shared by all the watchers of the same operation.
    pub operation: Arc<dyn Render>,
    /// Its connection's outgoing queue.
    pub send_queue: Arc<SendQueue>,
}

/// A watcher in the index.
pub struct Watcher {
    id: u64,
    pub(super) field: Arc<str>,
    pub(super) viewer: Arc<Viewer>,
    pub(super) operation: Arc<dyn Render>,
    pub(super) send_queue: Arc<SendQueue>,
}

impl Watcher {
    pub(super) fn new(Watch { id, field, viewer, operation, send_queue }: Watch) -> Self {
        Self { id, field, viewer, operation, send_queue }
    }

    /// The same for the watchers that share an operation, and for no others while they live.
    pub(super) fn operation_address(&self) -> *const () {
        Arc::as_ptr(&self.operation).cast()
    }

    pub(super) fn deliver(&self, result: Arc<Rendered>) {
        self.send_queue.push(Delivery { watcher: self.id, result });
    }
}

/// Keeps a watcher in the hub; dropped, the watcher has left.
pub struct Watching {
    hub: Hub,
    slot: usize,
}

impl Watching {
    pub(super) const fn new(hub: Hub, slot: usize) -> Self {
        Self { hub, slot }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.hub.state().index.remove(self.slot);
    }
}

impl fmt::Debug for Watching {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watching").field("slot", &self.slot).finish_non_exhaustive()
    }
}
