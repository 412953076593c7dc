//! The state that a hub shares with its watchers and replays, under one lock.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, atomic::AtomicU64};

use tokio::{sync::watch, time::Instant};

use super::{delivery_log::DeliveryLog, index::Index, turns::Turns, window::Window};
use crate::{budget::Pool, cursor::Cursor};

/// Reason of a gap: the topic no longer has the events that it took while the feed was away.
pub(super) const FEED_LOST: &str = "FEED_LOST";

/// Reason of a gap: the window does not reach back to the cursor that the client resumes from.
pub(super) const WINDOW_EXCEEDED: &str = "WINDOW_EXCEEDED";

pub(super) struct Shared {
    pub(super) topic: Arc<str>,
    pub(super) state: Mutex<State>,
    pub(super) caught_up: watch::Sender<bool>,
    pub(super) counts: Counts,
    pub(super) turns: Turns,
    /// Pool of what waits for connections.
    pub(super) queues: Pool,
    /// Turns of the replays of each user.
    pub(super) replays: Pool,
    /// Delivery log, once [`Hub::follow_events`] has switched it on.
    pub(super) delivery_log: OnceLock<DeliveryLog>,
}

impl Shared {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        crate::lock::lock(&self.state)
    }
}

/// Counts of resumed watchers, and of gap notices by reason.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) resumes: AtomicU64,
    pub(super) window_exceeded: AtomicU64,
    pub(super) feed_lost: AtomicU64,
}

pub(super) struct State {
    pub(super) index: Index,
    pub(super) window: Window,
    /// Latest cursor that is given out while the feed catches up, since events then arrive in any
    /// order. `None` once the feed has caught up. At first it is the start of the pod, which had no
    /// client before.
    pub(super) held: Option<Cursor>,
    /// Time until which history may still come, so that no replay gives a gap notice.
    pub(super) history_until: Option<Instant>,
}

impl State {
    /// Returns the position that the feed has reached, or the held cursor if there is one.
    pub(super) fn place(&self) -> &Cursor {
        self.held.as_ref().unwrap_or_else(|| self.window.head())
    }

    /// Returns the position, or the held cursor if that is earlier.
    pub(super) fn cursor(&self, position: &Cursor) -> Cursor {
        self.held.as_ref().map_or(position, |held| held.min(position)).clone()
    }
}
