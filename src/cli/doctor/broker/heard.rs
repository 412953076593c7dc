//! [`Heard`]: what the doctor received through its trial feed.

use std::{collections::HashSet, sync::Arc, time::SystemTime};

use crate::broker::pubsub::cause::Cause;

/// What came through the trial feed.
#[derive(Default)]
pub(super) struct Heard {
    /// Pods that send heartbeats.
    pub(super) live_pods: HashSet<Arc<str>>,
    /// Whether any heartbeat came.
    pub(super) is_open: bool,
    /// Times at which the doctor's own heartbeat was published, on Pub/Sub's clock and on this
    /// machine's; `None` if it did not come back.
    pub(super) own: Option<(SystemTime, SystemTime)>,
    /// Why Pub/Sub refuses to send.
    pub(super) refusal: Option<Cause>,
}
