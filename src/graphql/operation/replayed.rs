//! What replays rendered lately: clients that come back together missed the same.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use crate::cursor::Cursor;

/// What the results may take, in bytes, for the whole pod.
const MAX_BYTES: usize = 8 << 20;

/// Results by operation and event.
#[derive(Default)]
pub(super) struct Replayed {
    results: HashMap<ReplayedKey, Option<Arc<str>>>,
    order: VecDeque<ReplayedKey>,
    bytes: usize,
    operations: u64,
}

/// An operation, by its number, and an event.
type ReplayedKey = (u64, Cursor);

impl Replayed {
    /// A number for an operation, never given twice.
    pub(super) const fn number(&mut self) -> u64 {
        self.operations += 1;
        self.operations
    }

    /// The result, if it is still known.
    pub(super) fn get(&self, key: &ReplayedKey) -> Option<Option<Arc<str>>> {
        self.results.get(key).cloned()
    }

    /// Keeps a result, and lets go of the oldest ones that are too much.
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

/// What a result takes with its key, in bytes, roughly.
fn weight(result: Option<&str>) -> usize {
    result.map_or(0, str::len) + 256
}
