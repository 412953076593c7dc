//! [`Watching`]: the guard of a watcher.

use std::{fmt, sync::Arc};

use super::{
    shared::{Shared, State},
    watcher::{Start, Watch, Watcher},
};

/// Guard of a watcher in the hub: dropping it removes the watcher.
pub struct Watching {
    shared: Arc<Shared>,
    slot: usize,
}

impl Watching {
    /// Adds the watcher to the index. `state` is that of `shared`, locked. Events from
    /// before `start` are not for the watcher.
    pub(super) fn enter(shared: &Arc<Shared>, state: &mut State, watch: Watch, start: Start) -> Self {
        watch.send_queue.open_account(&shared.queues, &watch.viewer.user, false);
        Self { shared: shared.clone(), slot: state.index.insert(Watcher::new(watch, start)) }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.shared.state().index.remove(self.slot);
    }
}

impl fmt::Debug for Watching {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watching").field("slot", &self.slot).finish_non_exhaustive()
    }
}
