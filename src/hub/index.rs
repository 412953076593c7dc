//! The inverted index from field and key to watchers.
//!
//! Plain data without a lock or a clock; [`crate::hub::Hub`] guards it.

use std::{
    collections::{BTreeSet, HashMap},
    mem,
    sync::Arc,
};

use slab::Slab;

use super::watcher::Watcher;
use crate::audience::{Audience, Key};

/// Which watchers listen to what. A watcher stands in every key of its viewer's interests, under its field.
#[derive(Default)]
pub struct Index {
    watchers: Slab<Entry>,
    /// How many look-ups there were.
    turn: u64,
    /// In the order of slots, which is nearly that of memory: an event that visits thousands of connections, far more than
    /// a cache holds, costs a tenth less than in the order of hashes.
    fields: HashMap<Arc<str>, HashMap<Key, BTreeSet<usize>>>,
}

struct Entry {
    watcher: Arc<Watcher>,
    /// The last look-up that found it, so that it is found once however many keys it listens to.
    found: u64,
}

impl Index {
    /// Adds the watcher and returns its slot.
    pub fn insert(&mut self, watcher: Watcher) -> usize {
        let entry = self.watchers.vacant_entry();
        let slot = entry.key();
        watcher.send_queue.join();
        if !watcher.viewer.interests.keys().is_empty() {
            let keys = self.fields.entry(watcher.field.clone()).or_default();
            for key in watcher.viewer.interests.keys() {
                keys.entry(key.clone()).or_default().insert(slot);
            }
        }
        entry.insert(Entry { watcher: Arc::new(watcher), found: 0 });
        slot
    }

    /// Removes the watcher in that slot, and every key that nobody listens to any more.
    pub fn remove(&mut self, slot: usize) {
        let Some(Entry { watcher, .. }) = self.watchers.try_remove(slot) else { return };
        watcher.send_queue.leave();
        let Some(keys) = self.fields.get_mut(&watcher.field) else { return };
        for key in watcher.viewer.interests.keys() {
            if let Some(slots) = keys.get_mut(key) {
                slots.remove(&slot);
                if slots.is_empty() {
                    keys.remove(key);
                }
            }
        }
        if keys.is_empty() {
            self.fields.remove(&watcher.field);
        }
    }

    /// The watchers of `field` whom the audience includes, each once, key by key in the order of their slots.
    #[must_use]
    pub fn matching(&mut self, field: &str, audience: &Audience) -> Vec<Arc<Watcher>> {
        let Some(keys) = self.fields.get(field) else { return Vec::new() };
        self.turn += 1;
        let mut matching = Vec::new();
        for &slot in audience.keys().iter().filter_map(|key| keys.get(key)).flatten() {
            let Some(entry) = self.watchers.get_mut(slot) else { continue };
            if mem::replace(&mut entry.found, self.turn) < self.turn
                && !audience.excludes(&entry.watcher.viewer.user)
            {
                matching.push(entry.watcher.clone());
            }
        }
        matching
    }

    /// Every watcher, in no particular order.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Watcher>> {
        self.watchers.iter().map(|(_, entry)| &entry.watcher)
    }

    /// How many watchers there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.watchers.len()
    }

    /// Whether there is no watcher.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.watchers.is_empty()
    }

    /// How many keys have listeners, over all fields.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.fields.values().map(HashMap::len).sum()
    }
}
