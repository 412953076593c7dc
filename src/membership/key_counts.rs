//! [`KeyCounts`]: how many viewers listen to keys, as a heartbeat carries it.
//!
//! A heartbeat names the keys that its pod's clients ask for, and counts the viewers of its own pod
//! for the keys that clients of any pod ask for. Up to 16 viewers of a key are told apart by a hash
//! of their ids, so that one who is connected to two pods counts once. Data that is out of bounds
//! is dropped, and the heartbeat counts nevertheless.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Deserializer, Serialize};

use crate::audience::Key;

/// Most keys that a pod asks for.
const MAX_ASKED: usize = 256;

/// Most keys that a heartbeat counts.
const MAX_COUNTED: usize = 1_024;

/// Longest key, in bytes: that of declared domains.
const MAX_KEY: usize = 512;

/// Most viewers of a key that are told apart.
pub const MAX_TOLD_APART: usize = 16;

/// Most viewers of a key that are believed: more than any pod holds.
const MAX_VIEWERS: u64 = 10_000_000;

/// Most bytes of counts in a heartbeat. With the keys that are asked for, there is still room for
/// the rest of the 64 KiB of a control event.
const MAX_BYTES: usize = 32 << 10;

/// Most bytes of the keys that a pod asks for.
const MAX_ASKED_BYTES: usize = 16 << 10;

/// Bits of the hash of a viewer: few enough to be exact as a number of JSON.
const HASH_BITS: u32 = 48;

/// Counts of one pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyCounts {
    /// Keys that clients of the pod ask for.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub asked: BTreeSet<Key>,
    /// Viewers of the pod who listen to a key.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub counted: BTreeMap<Key, Listeners>,
    /// Whether keys are missing in `counted` because there was no room.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_partial: bool,
}

/// Viewers of one pod who listen to a key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listeners {
    /// Number of them.
    #[serde(rename = "n")]
    pub count: u64,
    /// Hash of each of them; empty if there are more than [`MAX_TOLD_APART`].
    #[serde(rename = "of", default, skip_serializing_if = "BTreeSet::is_empty")]
    pub viewers: BTreeSet<u64>,
}

/// Reads counts. Those that cannot be read make no heartbeat unreadable.
pub(super) fn readable<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<KeyCounts>, D::Error> {
    let counts = serde_json::Value::deserialize(deserializer)?;
    Ok(serde_json::from_value(counts).ok().filter(KeyCounts::is_sound))
}

impl KeyCounts {
    /// Creates the counts of a pod whose clients ask for `asked`. Counts each of `keys` by
    /// `listeners`, as long as there is room.
    pub fn new(asked: BTreeSet<Key>, keys: &BTreeSet<Key>, listeners: impl Fn(&Key) -> Listeners) -> Self {
        let mut counts = Self { asked, ..Self::default() };
        let mut bytes = 0;
        for key in keys {
            let listeners = listeners(key);
            bytes += size(&(key, &listeners));
            if bytes > MAX_BYTES || counts.counted.len() == MAX_COUNTED {
                counts.is_partial = true;
                break;
            }
            counts.counted.insert(key.clone(), listeners);
        }
        counts
    }

    /// Returns whether nothing is asked and nothing counted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.asked.is_empty() && self.counted.is_empty() && !self.is_partial
    }

    /// Returns whether the keys that a pod asks for may be these.
    #[must_use]
    pub fn may_ask(asked: &BTreeSet<Key>) -> bool {
        asked.len() <= MAX_ASKED && asked.iter().map(size).sum::<usize>() <= MAX_ASKED_BYTES
    }

    /// Returns whether everything is within its bounds.
    fn is_sound(&self) -> bool {
        let is_key = |key: &Key| (1..=MAX_KEY).contains(&key.len());
        Self::may_ask(&self.asked)
            && self.counted.len() <= MAX_COUNTED
            && self.asked.iter().chain(self.counted.keys()).all(is_key)
            && self.counted.values().all(Listeners::is_sound)
    }
}

impl Listeners {
    /// Creates the count of these users who listen to the key.
    pub fn new<'u>(key: &str, count: usize, users: impl Iterator<Item = &'u str>) -> Self {
        let is_few = count <= MAX_TOLD_APART;
        let viewers = users.filter(|_| is_few).map(|user| hash(key, user)).collect();
        Self { count: count as u64, viewers }
    }

    fn is_sound(&self) -> bool {
        self.count <= MAX_VIEWERS && self.viewers.len() <= MAX_TOLD_APART
    }
}

/// Returns the number of viewers of all these pods. It is exact if each pod tells its viewers
/// apart. A pod that does not adds its number.
#[must_use]
pub fn total<'l>(pods: impl IntoIterator<Item = &'l Listeners>) -> u64 {
    let (mut apart, mut others) = (BTreeSet::<u64>::new(), 0);
    for Listeners { count, viewers } in pods {
        if viewers.is_empty() {
            others += count;
        } else {
            apart.extend(viewers);
        }
    }
    others + apart.len() as u64
}

/// Returns the bytes of a value as JSON.
fn size(value: &impl Serialize) -> usize {
    serde_json::to_vec(value).map_or(0, |json| json.len() + 1)
}

/// Returns the hash of a user who listens to a key: FNV-1a, which is the same on every pod and in
/// every release. It differs from key to key.
fn hash(key: &str, user: &str) -> u64 {
    let bytes = key.bytes().chain([0]).chain(user.bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    // The upper bits depend on every byte.
    hash >> (u64::BITS - HASH_BITS)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn listeners(key: &str, users: &[String]) -> Listeners {
        let distinct: BTreeSet<&str> = users.iter().map(String::as_str).collect();
        Listeners::new(key, distinct.len(), distinct.into_iter())
    }

    fn keys(count: usize, length: usize) -> BTreeSet<Key> {
        (0..count).map(|n| format!("{n:0length$}").into()).collect()
    }

    #[test]
    fn counts_keep_to_their_bytes() {
        let many: Vec<String> = (0..MAX_TOLD_APART).map(|n| n.to_string()).collect();
        let counts = KeyCounts::new(keys(256, 20), &keys(1_000, 500), |key| listeners(key, &many));
        assert!(counts.is_partial && counts.is_sound());
        assert!(size(&counts) < 56 << 10, "{}", size(&counts));
        let few = KeyCounts::new(BTreeSet::new(), &keys(10, 500), |key| listeners(key, &many));
        assert_eq!((few.counted.len(), few.is_partial), (10, false));
        assert!(!KeyCounts::may_ask(&keys(257, 1)) && !KeyCounts::may_ask(&keys(100, 500)));
    }

    #[test]
    fn counts_out_of_bounds_are_dropped() {
        let read = |json: &str| readable(&mut serde_json::Deserializer::from_str(json)).unwrap();
        let newer = KeyCounts { asked: keys(1, 1), ..KeyCounts::default() };
        assert_eq!(read(r#"{"asked":["0"],"later":1}"#), Some(newer));
        for json in [
            "7".to_owned(),
            r#"{"asked":[""]}"#.to_owned(),
            r#"{"counted":{"a":{"n":99999999}}}"#.to_owned(),
            r#"{"counted":{"a":{"n":-1}}}"#.to_owned(),
            format!(r#"{{"asked":["{}"]}}"#, "x".repeat(MAX_KEY + 1)),
            format!(r#"{{"counted":{{"a":{{"n":1,"of":{:?}}}}}}}"#, (0..17).collect::<Vec<_>>()),
        ] {
            assert_eq!(read(&json), None, "{json}");
        }
    }

    proptest! {
        /// Compares with the set of all users: exact while each pod tells its viewers apart, and
        /// never too small.
        #[test]
        fn total_agrees_with_set_of_users(
            pods in prop::collection::vec(prop::collection::vec(0u8..40, 0..30), 0..6),
        ) {
            let pods: Vec<Vec<String>> =
                pods.iter().map(|users| users.iter().map(u8::to_string).collect()).collect();
            let all: BTreeSet<&String> = pods.iter().flatten().collect();
            let counted: Vec<_> = pods.iter().map(|users| listeners("k", users)).collect();
            let total = total(&counted);
            if counted.iter().all(|pod| pod.count <= MAX_TOLD_APART as u64) {
                prop_assert_eq!(total, all.len() as u64);
            }
            prop_assert!(total >= all.len() as u64);
            prop_assert!(total <= counted.iter().map(|pod| pod.count).sum());
        }
    }
}
