//! Inverted index from field and key to watchers.
//!
//! It finds the watchers of an event without visiting the others. It is plain data without a lock
//! or a clock; [`crate::hub::Hub`] guards it.

use std::{
    collections::{BTreeSet, HashMap},
    mem,
    sync::Arc,
};

use slab::Slab;

use super::watcher::Watcher;
use crate::audience::{Audience, Key};

/// Index of the watchers. A watcher is listed under its field, at every key of its viewer's
/// interests.
#[derive(Default)]
pub struct Index {
    watchers: Slab<Entry>,
    /// Number of look-ups so far.
    lookups: u64,
    /// Slots by field and key, in ascending order, which is nearly the order of memory. An event
    /// that visits thousands of connections, more than a cache holds, costs a tenth less than in
    /// hash order.
    fields: HashMap<Arc<str>, HashMap<Key, BTreeSet<usize>>>,
    /// Users by the keys that they listen to, each with the number of watchers; `None`: not kept.
    listeners: Option<HashMap<Key, HashMap<Arc<str>, usize>>>,
}

struct Entry {
    watcher: Arc<Watcher>,
    /// Number of the last look-up that found the watcher. A look-up finds it only once, however
    /// many of its keys match.
    last_found: u64,
}

impl Index {
    /// Keeps the users who listen to each key from now on.
    pub fn count_listeners(&mut self) {
        self.listeners.get_or_insert_default();
    }

    /// Returns the number of users with watchers who listen to the key, and these users if they are
    /// `most` at most.
    #[must_use]
    pub fn listeners(&self, key: &str, most: usize) -> (usize, Vec<Arc<str>>) {
        let Some(users) = self.listeners.as_ref().and_then(|keys| keys.get(key)) else {
            return (0, Vec::new());
        };
        let few = if users.len() <= most { users.len() } else { 0 };
        (users.len(), users.keys().take(few).cloned().collect())
    }

    /// Adds the watcher and returns its slot.
    pub fn insert(&mut self, watcher: Watcher) -> usize {
        let entry = self.watchers.vacant_entry();
        let slot = entry.key();
        watcher.send_queue.join();
        if let Some(listeners) = &mut self.listeners {
            for key in watcher.viewer.keys() {
                let users = listeners.entry(key.clone()).or_default();
                *users.entry(watcher.viewer.user.clone()).or_default() += 1;
            }
        }
        if !watcher.viewer.interests.keys().is_empty() {
            let keys = self.fields.entry(watcher.field.clone()).or_default();
            for key in watcher.viewer.interests.keys() {
                keys.entry(key.clone()).or_default().insert(slot);
            }
        }
        entry.insert(Entry { watcher: Arc::new(watcher), last_found: 0 });
        slot
    }

    /// Removes the watcher in that slot, and every key that has no watcher left.
    pub fn remove(&mut self, slot: usize) {
        let Some(Entry { watcher, .. }) = self.watchers.try_remove(slot) else { return };
        watcher.send_queue.leave();
        self.remove_listener(&watcher);
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

    fn remove_listener(&mut self, watcher: &Watcher) {
        let Some(listeners) = &mut self.listeners else { return };
        for key in watcher.viewer.keys() {
            let Some(users) = listeners.get_mut(key) else { continue };
            if let Some(watchers) = users.get_mut(&watcher.viewer.user) {
                *watchers -= 1;
                if *watchers == 0 {
                    users.remove(&watcher.viewer.user);
                }
            }
            if users.is_empty() {
                listeners.remove(key);
            }
        }
    }

    /// Returns the watchers of `fields` that the audience includes, each once: field by field, key
    /// by key, and in the order of their slots.
    #[must_use]
    pub fn matching(&mut self, fields: &[Arc<str>], audience: &Audience) -> Vec<Arc<Watcher>> {
        self.lookups += 1;
        let mut matching = Vec::new();
        for field in fields {
            let Some(keys) = self.fields.get(field) else { continue };
            let audience = audience.of(field);
            for &slot in audience.keys().iter().filter_map(|key| keys.get(key)).flatten() {
                let Some(entry) = self.watchers.get_mut(slot) else { continue };
                if mem::replace(&mut entry.last_found, self.lookups) < self.lookups
                    && !audience.excludes(&entry.watcher.viewer.user)
                {
                    matching.push(entry.watcher.clone());
                }
            }
        }
        matching
    }

    /// Returns every watcher, in no particular order.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Watcher>> {
        self.watchers.iter().map(|(_, entry)| &entry.watcher)
    }

    /// Returns the number of watchers.
    #[must_use]
    pub fn len(&self) -> usize {
        self.watchers.len()
    }

    /// Returns whether there is no watcher.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.watchers.is_empty()
    }

    /// Returns the number of keys that have watchers, over all fields.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.fields.values().map(HashMap::len).sum()
    }
}
