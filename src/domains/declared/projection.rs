//! [`Projection`]: the latest value for each key, as the events of the feed give it.
//!
//! The topic orders events per author only, so pods may receive the events of two authors in
//! different order. All pods agree nevertheless: the last event by the topic's clock wins, not the
//! last to arrive (`docs/decisions/0002-last-published-wins.md`). The state is bounded in time and
//! in bytes. It must never wait for anything.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    mem,
    ops::Bound,
    sync::{Arc, RwLock, RwLockReadGuard},
    time::{Duration, SystemTime},
};

use super::row::Row;
use crate::event::Event;

/// Most bytes that all values of a type take together: room for about 25,000 of a usual size.
/// Beyond it the values of the author with most bytes are forgotten, oldest first.
const MAX_BYTES: usize = 16 << 20;

/// Bytes of a version besides its value: places in the maps, and allocations.
const OVERHEAD: usize = 512;

/// Time for which a provisional version overrides the topic, if its own event never comes back. It
/// is longer than the way to the topic and back takes.
const PROVISIONAL_KEPT: Duration = Duration::from_secs(60);

/// Time for which the id of an event from the feed is remembered. The event's acknowledgement may
/// reach its mutation only afterwards, but within [`crate::broker::PUBLISH_TIMEOUT`]. Twice that is
/// safe.
const ARRIVAL_KEPT: Duration = Duration::from_secs(10);

/// Values of a page.
const PAGE: usize = 256;

/// Most ids that are remembered: enough for that time at 10,000 events a second. Beyond it the
/// oldest are forgotten.
const MAX_ARRIVALS: usize = 100_000;

/// Values of one type.
#[derive(Debug)]
pub struct Projection {
    state: RwLock<State>,
    retention: Duration,
    max_bytes: usize,
}

#[derive(Debug, Default)]
struct State {
    /// Entries by key.
    entries: BTreeMap<Arc<str>, Entry>,
    /// What the entries of each author take.
    shares: HashMap<Author, Share>,
    /// Bytes of each author. The last one holds most.
    by_bytes: BTreeSet<(usize, Author)>,
    /// Time of each author's oldest entry. The first one is forgotten first.
    by_oldest: BTreeSet<(SystemTime, Author)>,
    bytes: usize,
    is_overfull: bool,
    arrivals: Arrivals,
}

/// Author of an event; `None` if a foreign publisher names none.
type Author = Option<Arc<str>>;

/// Entries of one author.
#[derive(Debug, Default)]
struct Share {
    bytes: usize,
    /// Time of each entry's last event, and the key.
    by_age: BTreeSet<(SystemTime, Arc<str>)>,
}

/// What an entry counts as.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    author: Author,
    time: SystemTime,
    bytes: usize,
}

/// Value of one key. It has at least one version.
#[derive(Debug, Default)]
struct Entry {
    /// The last version that came through the feed, by the topic's clock.
    settled: Option<Version>,
    /// This pod's own last version, acknowledged but not yet back from the topic. It shows until
    /// then.
    provisional: Option<Version>,
}

#[derive(Debug)]
struct Version {
    time: SystemTime,
    event: Arc<str>,
    author: Author,
    row: Arc<Row>,
    bytes: usize,
}

impl Projection {
    /// Creates an empty state. It keeps each value for `retention` after the value's last event.
    #[must_use]
    pub fn new(retention: Duration) -> Self {
        Self { state: RwLock::default(), retention, max_bytes: MAX_BYTES }
    }

    /// Applies an event with its value, where `now` is the time by the topic's clock. An event
    /// without a published time is this pod's own, not yet back from the topic. Neither the order
    /// of calls nor repeats change what shows in the end.
    pub fn apply(&self, event: &Event, key: &Arc<str>, row: Arc<Row>, now: SystemTime) {
        let bytes = OVERHEAD + row.bytes();
        let (id, author) = (event.identity(), event.author.clone());
        let mut state = crate::lock::write(&self.state);
        match event.published {
            Some(time) => {
                state.arrivals.insert(id.clone(), now);
                state.settle(key, Version { time, event: id, author, row, bytes });
            }
            // The event came back before its acknowledgement, so the feed's version stands.
            None if state.arrivals.contains(&id) => {}
            None => state.anticipate(key, Version { time: now, event: id, author, row, bytes }),
        }
        state.forget(self.oldest(now), self.max_bytes);
    }

    /// Returns the value of this key.
    #[must_use]
    pub fn get(&self, key: &str, now: SystemTime) -> Option<Arc<Row>> {
        self.read().entries.get(key).and_then(|entry| entry.showing(self.oldest(now))).cloned()
    }

    /// Returns some values in the order of their keys' bytes, the same on every pod, and the key
    /// that the next page begins behind. Events wait only until a page is copied.
    #[must_use]
    pub fn page(&self, after: Option<&str>, now: SystemTime) -> (Vec<Arc<Row>>, Option<Arc<str>>) {
        let oldest = self.oldest(now);
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let (state, mut last) = (self.read(), None);
        let entries = state.entries.range::<str, _>((from, Bound::Unbounded)).take(PAGE).enumerate();
        let rows = entries.filter_map(|(place, (key, entry))| {
            last = (place + 1 == PAGE).then(|| key.clone());
            entry.showing(oldest).cloned()
        });
        let rows = rows.collect();
        (rows, last)
    }

    /// Returns the time before which a last event is forgotten.
    fn oldest(&self, now: SystemTime) -> SystemTime {
        now.checked_sub(self.retention).unwrap_or(SystemTime::UNIX_EPOCH)
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        crate::lock::read(&self.state)
    }
}

impl State {
    fn settle(&mut self, key: &Arc<str>, version: Version) {
        self.change(key, version, |entry, version| {
            entry.provisional.take_if(|provisional| provisional.yields_to(&version));
            if entry.settled.as_ref().is_none_or(|settled| settled.order() < version.order()) {
                entry.settled = Some(version);
            }
        });
    }

    fn anticipate(&mut self, key: &Arc<str>, version: Version) {
        self.change(key, version, |entry, version| entry.provisional = Some(version));
    }

    /// Changes the entry of a key, and keeps the counts right.
    fn change(&mut self, key: &Arc<str>, version: Version, change: impl FnOnce(&mut Entry, Version)) {
        let entry = self.entries.entry(key.clone()).or_default();
        let before = entry.place();
        change(entry, version);
        let after = entry.place();
        self.count(key, before.as_ref(), after.as_ref());
    }

    fn remove(&mut self, key: &Arc<str>) {
        if let Some(entry) = self.entries.remove(key) {
            self.count(key, entry.place().as_ref(), None);
        }
    }

    /// Counts an entry as `after` instead of `before`.
    fn count(&mut self, key: &Arc<str>, before: Option<&Place>, after: Option<&Place>) {
        let (from, to) = (before.map(|place| &place.author), after.map(|place| &place.author));
        if from == to {
            self.update(from, |share| share.replace(key, before, after));
        } else {
            self.update(from, |share| share.replace(key, before, None));
            self.update(to, |share| share.replace(key, None, after));
        }
    }

    /// Changes the share of an author, if there is one.
    fn update(&mut self, author: Option<&Author>, change: impl FnOnce(&mut Share)) {
        let Some(author) = author else { return };
        let share = self.shares.entry(author.clone()).or_default();
        let (bytes, oldest) = (share.bytes, share.oldest());
        change(share);
        self.bytes = self.bytes - bytes + share.bytes;
        let (of_bytes, of_oldest) = (share.bytes, share.oldest());
        if of_oldest.is_none() {
            self.shares.remove(author);
        }
        if oldest != of_oldest {
            oldest.map(|oldest| self.by_oldest.remove(&(oldest, author.clone())));
            of_oldest.map(|oldest| self.by_oldest.insert((oldest, author.clone())));
        }
        if bytes != of_bytes {
            self.by_bytes.remove(&(bytes, author.clone()));
            of_oldest.map(|_| self.by_bytes.insert((of_bytes, author.clone())));
        }
    }

    /// Returns the key of the author's oldest entry.
    fn oldest_of(&self, author: &Author) -> Option<Arc<str>> {
        let (_, key) = self.shares.get(author)?.by_age.first()?;
        Some(key.clone())
    }

    /// Drops the entries with a last event before `oldest`. While all take more than `max_bytes`,
    /// drops the oldest of the author who holds most: one author never displaces the others.
    fn forget(&mut self, oldest: SystemTime, max_bytes: usize) {
        while let Some((_, author)) = self.by_oldest.first().filter(|(last, _)| *last < oldest)
            && let Some(key) = self.oldest_of(author)
        {
            self.remove(&key);
        }
        while self.bytes > max_bytes {
            if !mem::replace(&mut self.is_overfull, true) {
                tracing::warn!(
                    max_bytes,
                    "too many values; the oldest of the largest author are forgotten before their time"
                );
            }
            let largest = self.by_bytes.last().and_then(|(_, author)| self.oldest_of(author));
            let Some(key) = largest else { return };
            self.remove(&key);
        }
    }
}

impl Share {
    /// Counts an entry as `after` instead of `before`.
    fn replace(&mut self, key: &Arc<str>, before: Option<&Place>, after: Option<&Place>) {
        let bytes = |place: Option<&Place>| place.map_or(0, |place| place.bytes);
        self.bytes = self.bytes - bytes(before) + bytes(after);
        let time = |place: Option<&Place>| place.map(|place| place.time);
        if time(before) != time(after) {
            time(before).map(|time| self.by_age.remove(&(time, key.clone())));
            time(after).map(|time| self.by_age.insert((time, key.clone())));
        }
    }

    /// Returns the time of the oldest entry; `None` without entries.
    fn oldest(&self) -> Option<SystemTime> {
        self.by_age.first().map(|(time, _)| *time)
    }
}

impl Entry {
    /// Returns what the entry counts as; `None` without a version.
    fn place(&self) -> Option<Place> {
        let last = self.last()?;
        Some(Place { author: last.author.clone(), time: last.time, bytes: self.bytes() })
    }

    fn showing(&self, oldest: SystemTime) -> Option<&Arc<Row>> {
        let version = self.provisional.as_ref().or(self.settled.as_ref())?;
        self.last().is_some_and(|last| last.time >= oldest).then_some(&version.row)
    }

    fn last(&self) -> Option<&Version> {
        self.versions().max_by_key(|version| version.time)
    }

    fn bytes(&self) -> usize {
        self.versions().map(|version| version.bytes).sum()
    }

    fn versions(&self) -> impl Iterator<Item = &Version> {
        self.settled.iter().chain(&self.provisional)
    }
}

impl Version {
    /// Returns the rank of the version; the highest wins. The topic's clock may be coarse, so the
    /// event's id decides between equal times.
    fn order(&self) -> (SystemTime, &str) {
        (self.time, &self.event)
    }

    /// Returns whether a provisional version gives way to `settled`: it has come back as this one,
    /// or it can no longer be on its way.
    fn yields_to(&self, settled: &Self) -> bool {
        self.event == settled.event || self.time + PROVISIONAL_KEPT < settled.time
    }
}

/// Ids of the events that came through the feed lately.
#[derive(Debug, Default)]
struct Arrivals {
    ids: HashSet<Arc<str>>,
    order: VecDeque<(SystemTime, Arc<str>)>,
}

impl Arrivals {
    fn insert(&mut self, id: Arc<str>, now: SystemTime) {
        while let Some((since, oldest)) = self.order.front() {
            if *since + ARRIVAL_KEPT > now && self.order.len() < MAX_ARRIVALS {
                break;
            }
            self.ids.remove(oldest);
            self.order.pop_front();
        }
        if self.ids.insert(id.clone()) {
            self.order.push_back((now, id));
        }
    }

    fn contains(&self, id: &str) -> bool {
        self.ids.contains(id)
    }
}

#[cfg(test)]
mod tests;
