//! [`Markers`]: what the window keeps of the events that it removed for want of room.
//!
//! A replay that needs a removed event has a gap if the event was for its viewer, and goes on for
//! any other viewer. A marker has the keys of the removed events of one second, as hashes. Two keys
//! may have the same hash: a gap too many is possible, one too few is not.

use std::{
    collections::{BTreeMap, HashSet},
    hash::{BuildHasher as _, RandomState},
    time::{Duration, SystemTime},
};

use crate::{audience::Viewer, hub::relayed::Relayed};

/// Cost of one hash, in bytes.
const HASH_BYTES: usize = 12;

/// Cost of a marker besides its hashes, in bytes.
const OVERHEAD: usize = 128;

/// Markers of the removed events, by the second of their publication.
#[derive(Default)]
pub(super) struct Markers {
    by_second: BTreeMap<u64, Marker>,
    hasher: RandomState,
    hashes: usize,
    /// Number of events that were removed.
    removed: u64,
}

#[derive(Default)]
struct Marker {
    /// Hashes of fields with their keys.
    hashes: HashSet<u32>,
    /// Number of the event that was removed last.
    removed: u64,
    /// Highest arrival number of its events.
    arrival: u64,
}

/// Returns the second of a publication.
pub(super) fn second(published: SystemTime) -> u64 {
    published.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

impl Markers {
    /// Adds a removed event with this arrival number.
    pub(super) fn insert(&mut self, relayed: &Relayed, arrival: u64) {
        self.removed += 1;
        let marker = self.by_second.entry(second(relayed.position.published)).or_default();
        (marker.removed, marker.arrival) = (self.removed, marker.arrival.max(arrival));
        for field in &relayed.fields {
            for key in relayed.audience.of(field).keys() {
                let hash = self.hasher.hash_one((&**field, &**key)) as u32;
                self.hashes += usize::from(marker.hashes.insert(hash));
            }
        }
    }

    /// Returns the number of events that were removed so far.
    pub(super) const fn removed(&self) -> u64 {
        self.removed
    }

    /// Returns whether an event for this viewer may have been removed, after the removal number
    /// `known`. `is_needed` selects markers by the second and the highest arrival number of their
    /// events.
    pub(super) fn concern(
        &self,
        field: &str,
        viewer: &Viewer,
        known: u64,
        is_needed: impl Fn(u64, u64) -> bool,
    ) -> bool {
        if self.removed == known {
            return false;
        }
        let needed = self
            .by_second
            .iter()
            .filter(|(second, marker)| marker.removed > known && is_needed(**second, marker.arrival));
        let keys = viewer.interests.keys().iter();
        let hashes: Vec<_> = keys.map(|key| self.hasher.hash_one((field, &**key)) as u32).collect();
        let mut needed = needed.map(|(_, marker)| marker);
        needed.any(|marker| hashes.iter().any(|hash| marker.hashes.contains(hash)))
    }

    /// Removes the oldest marker, if it ends before this moment; any with `None`. Returns the end
    /// of its second.
    pub(super) fn remove_oldest(&mut self, before: Option<SystemTime>) -> Option<SystemTime> {
        let oldest = self.by_second.first_entry()?;
        let end = SystemTime::UNIX_EPOCH + Duration::from_secs(oldest.key() + 1);
        if before.is_some_and(|before| end > before) {
            return None;
        }
        self.hashes -= oldest.remove().hashes.len();
        Some(end)
    }

    /// Returns the bytes that they take.
    pub(super) fn bytes(&self) -> usize {
        self.by_second.len() * OVERHEAD + self.hashes * HASH_BYTES
    }
}
