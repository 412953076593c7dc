//! Keeps the results that replays rendered lately.
//!
//! Clients that reconnect together missed the same events, so each result is rendered once. The
//! oldest results make room for new ones: the memory must stay bounded.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use crate::cursor::Cursor;

/// Most bytes that all kept results of a pod take: 8 MiB. Beyond that the oldest are dropped.
const MAX_BYTES: usize = 8 << 20;

/// Results by operation and event.
#[derive(Default)]
pub(super) struct Replayed {
    results: HashMap<ReplayedKey, Option<Arc<str>>>,
    order: VecDeque<ReplayedKey>,
    bytes: usize,
    operations: u64,
}

/// Number of an operation, and position of an event.
type ReplayedKey = (u64, Cursor);

impl Replayed {
    /// Returns a number for an operation. No number is returned twice.
    pub(super) const fn number(&mut self) -> u64 {
        self.operations += 1;
        self.operations
    }

    /// Returns the result, if it is still kept.
    pub(super) fn get(&self, key: &ReplayedKey) -> Option<Option<Arc<str>>> {
        self.results.get(key).cloned()
    }

    /// Keeps a result, and drops the oldest ones beyond [`MAX_BYTES`].
    pub(super) fn insert(&mut self, key: ReplayedKey, result: Option<Arc<str>>) {
        self.bytes += weight(result.as_deref());
        if let Some(replaced) = self.results.insert(key.clone(), result) {
            self.bytes -= weight(replaced.as_deref());
            return;
        }
        self.order.push_back(key);
        while self.bytes > MAX_BYTES
            && let Some(oldest) = self.order.pop_front()
        {
            self.bytes -= self.results.remove(&oldest).map_or(0, |result| weight(result.as_deref()));
        }
    }
}

/// Returns the approximate size of a result with its key, in bytes.
fn weight(result: Option<&str>) -> usize {
    result.map_or(0, str::len) + 256
}
