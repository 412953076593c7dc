//! [`PodStatus`]: what a pod's heartbeats report of it to operators.
//!
//! Whether a pod lives is what its heartbeats alone show. The version, the readiness and the drain
//! decide whether pods rebalance; nothing else is decided by a status.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Longest name of a version, in bytes. A longer one is dropped with the status.
const MAX_VERSION: usize = 32;

/// Status of a pod, as its last heartbeat reported it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodStatus {
    /// Version of the program.
    pub version: Arc<str>,
    /// Whether the pod is ready.
    pub ready: bool,
    /// Whether the pod drains.
    pub draining: bool,
    /// Number of watchers.
    pub watchers: u64,
    /// Number of connections over WebSocket, server-sent events and multipart.
    pub transports: [u64; 3],
    /// Time that its heartbeat took to come back, in milliseconds; `None` before the first.
    #[serde(default)]
    pub lag: Option<u64>,
    /// Time from the oldest event of the replay window to the newest, in seconds.
    pub window: u64,
}

impl PodStatus {
    /// Returns whether its texts are within their bounds.
    pub(super) fn is_sound(&self) -> bool {
        self.version.len() <= MAX_VERSION && self.version.is_ascii()
    }
}
