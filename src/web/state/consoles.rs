//! [`Consoles`]: the open consoles of a pod, and the last snapshots that they share.

use std::sync::{Arc, Mutex, atomic::AtomicUsize};

use tokio::time::Instant;

/// Open consoles of one pod.
#[derive(Default)]
pub struct Consoles {
    /// Number of open consoles.
    pub open: AtomicUsize,
    /// The last snapshot without names, and the last one with them.
    pub last: [Mutex<Option<Snapshot>>; 2],
}

/// What consoles show of a pod.
pub struct Snapshot {
    /// Time at which it was made.
    pub at: Instant,
    /// JSON of the snapshot.
    pub text: Arc<str>,
}
