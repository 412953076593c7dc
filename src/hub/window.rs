//! [`Window`]: the recent events that a pod keeps for replay.
//!
//! Events are kept in the order that all pods agree on: published time, then id. So a position
//! means the same on every pod. They are also kept in order of arrival. So a replay does not miss
//! an event that arrives after the replay has passed its position. The window is bounded in time
//! and in bytes. It is plain data without a lock; [`crate::hub::Hub`] guards it.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::relayed::Relayed;
use crate::cursor::{ClientCursor, Cursor, Source};

/// Approximate cost of an event besides its data and its keys, in bytes: its texts and its entries
/// in the window.
const OVERHEAD: usize = 1_024;

/// Cost of a key besides its text, in bytes.
const KEY_OVERHEAD: usize = 32;

/// How far before its cursor a replay must reach: 5 s, else the client gets a gap notice. Pods
/// receive the events of different authors in different order. Events that the pod which wrote the
/// cursor had not received yet may stand before the cursor.
pub const MARGIN: Duration = Duration::from_secs(5);

/// How far before the cursor of a result a replay begins: 15 s, or less if the window has less.
/// Messages that were on their way to a pod when its stream broke come again after ten seconds.
/// Meanwhile other authors' events, and cursors with them, go on. Events that the client already
/// has are sent again.
pub const REPEAT: Duration = Duration::from_secs(15);

/// Limit of one step of a replay: at most 256 events. A step also ends with the event that exceeds
/// 64 KiB of data.
const MAX_BATCH: (usize, usize) = (256, 64 << 10);

/// Bounds of a window.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// How far back the window reaches from the newest event. Older events are removed.
    pub span: Duration,
    /// Bytes that the events may take. Beyond this size the oldest events are removed.
    pub bytes: usize,
}

/// Replay window of one pod.
pub struct Window {
    bounds: Bounds,
    by_position: BTreeMap<Cursor, (u64, Arc<Relayed>)>,
    by_arrival: BTreeMap<u64, Cursor>,
    arrivals: u64,
    bytes: usize,
    /// No event published at or after this moment is missing.
    complete_since: SystemTime,
    /// Highest arrival number that was removed. A replay that had not passed it has lost it.
    last_removed: u64,
    /// Position of the newest event, of whatever kind, that came through the feed.
    head: Cursor,
}

/// Progress of a replay.
#[derive(Clone, Debug)]
pub struct Progress {
    /// Events up to this position are not replayed, however late they arrive.
    from: Cursor,
    /// No event published at or after this moment may be missing.
    needs: SystemTime,
    /// Number of the last arrival when the replay began. Events up to it are replayed by position,
    /// later ones by arrival.
    began: u64,
    /// Position reached among the events replayed by position; `None` when all of them are done.
    position: Option<Cursor>,
    /// Arrival reached among the later events.
    arrival: u64,
}

/// The window no longer holds all events since the position, so the missed events cannot be
/// replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfReach;

impl Window {
    /// Creates an empty window that misses no event published since `complete_since`.
    #[must_use]
    pub fn new(bounds: Bounds, complete_since: SystemTime) -> Self {
        // The topic's clock counts, and only events show it.
        let head = Cursor { published: SystemTime::UNIX_EPOCH, event: Arc::default() };
        let (by_position, by_arrival) = (BTreeMap::new(), BTreeMap::new());
        Self { bounds, by_position, by_arrival, arrivals: 0, bytes: 0, complete_since, last_removed: 0, head }
    }

    /// Records that the feed has reached this position.
    pub fn advance(&mut self, position: &Cursor) {
        if self.head < *position {
            self.head = position.clone();
        }
    }

    /// Records that no event published since this moment is missing, but that earlier events may
    /// be.
    pub fn begin_at(&mut self, published: SystemTime) {
        // A cursor of this moment is valid, and its replay needs the margin before it. An event
        // that was lost within that margin is no loss for a cursor from after it. Cursors from
        // before the moment are out of reach.
        let begin = published.checked_sub(MARGIN).unwrap_or(SystemTime::UNIX_EPOCH);
        self.complete_since = self.complete_since.max(begin);
    }

    /// Records that no event published since this moment is missing, whatever was recorded before.
    pub fn start_at(&mut self, published: SystemTime) {
        self.complete_since = SystemTime::UNIX_EPOCH;
        self.begin_at(published);
    }

    /// Records that the history reaches back to this moment after all.
    pub fn reach_back(&mut self, published: SystemTime) {
        let begin = published.checked_sub(MARGIN).unwrap_or(SystemTime::UNIX_EPOCH);
        self.complete_since = self.complete_since.min(begin);
    }

    /// Records that events published before this position may be missing, for replays that have
    /// begun as well.
    pub fn lose(&mut self, position: &Cursor) {
        self.begin_at(position.published);
        self.advance(position);
        self.arrivals += 1;
        self.last_removed = self.arrivals;
    }

    /// Returns the newest position.
    #[must_use]
    pub const fn head(&self) -> &Cursor {
        &self.head
    }

    /// Inserts the event unless it is already there. Removes events that are too old or exceed the
    /// bound in bytes.
    pub fn insert(&mut self, relayed: Arc<Relayed>) {
        let position = relayed.position.clone();
        self.advance(&position);
        if self.by_position.contains_key(&position) {
            return;
        }
        self.arrivals += 1;
        self.bytes += size(&relayed);
        self.by_arrival.insert(self.arrivals, position.clone());
        self.by_position.insert(position, (self.arrivals, relayed));
        let horizon = self.head.published.checked_sub(self.bounds.span).unwrap_or(SystemTime::UNIX_EPOCH);
        while let Some(oldest) = self.by_position.first_entry() {
            if oldest.key().published >= horizon && self.bytes <= self.bounds.bytes {
                break;
            }
            let (position, (arrival, relayed)) = oldest.remove_entry();
            self.by_arrival.remove(&arrival);
            self.bytes -= size(&relayed);
            self.last_removed = self.last_removed.max(arrival);
            // Other events of the same moment may have been removed with it.
            self.complete_since = self.complete_since.max(position.published + Duration::from_nanos(1));
        }
        self.complete_since = self.complete_since.max(horizon);
    }

    /// Begins a replay of the events after the cursor of a result.
    ///
    /// # Errors
    /// Those of [`resume`](Self::resume).
    pub fn replay(&self, after: &Cursor) -> Result<Progress, OutOfReach> {
        self.resume(&after.clone().into())
    }

    /// Begins a replay of the events after the cursor. It begins [`REPEAT`] earlier for a result,
    /// [`MARGIN`] earlier for a query, and right behind the cursor of a connection's start.
    ///
    /// # Errors
    /// [`OutOfReach`] if the window does not reach back to the cursor less the margin ([`MARGIN`]).
    pub fn resume(&self, after: &ClientCursor) -> Result<Progress, OutOfReach> {
        let ClientCursor { cursor, source } = after;
        let before = |time| cursor.published.checked_sub(time).unwrap_or(SystemTime::UNIX_EPOCH);
        let needs = before(MARGIN);
        if needs < self.complete_since {
            return Err(OutOfReach);
        }
        let from = match source {
            Source::Result => Cursor { published: before(REPEAT), event: Arc::default() },
            Source::Query => Cursor { published: needs, event: Arc::default() },
            Source::Start => cursor.clone(),
        };
        let position = Some(from.clone());
        Ok(Progress { from, needs, began: self.arrivals, position, arrival: self.arrivals })
    }

    /// Returns the next events of a replay, a few hundred at most; none when the replay has caught
    /// up with the feed.
    ///
    /// # Errors
    /// [`OutOfReach`] if the window has moved past the replay.
    pub fn next(&self, progress: &mut Progress) -> Result<Vec<Arc<Relayed>>, OutOfReach> {
        if let Some(position) = &progress.position {
            if position.published.max(progress.needs) < self.complete_since {
                return Err(OutOfReach);
            }
            let later = self.by_position.range((Bound::Excluded(position), Bound::Unbounded));
            let old =
                later.filter(|(_, (arrival, _))| *arrival <= progress.began).map(|(_, (_, relayed))| relayed);
            let old = batch(old);
            progress.position = old.last().map(|last| last.position.clone());
            if !old.is_empty() {
                return Ok(old);
            }
        }
        if self.last_removed > progress.arrival {
            return Err(OutOfReach);
        }
        let later = self.by_arrival.range(progress.arrival + 1..);
        let new = later.filter(|(_, position)| **position > progress.from);
        let new =
            batch(new.filter_map(|(_, position)| self.by_position.get(position)).map(|(_, relayed)| relayed));
        let last = new.last().and_then(|last| self.by_position.get(&last.position));
        progress.arrival = last.map_or(self.arrivals, |(arrival, _)| *arrival);
        Ok(new)
    }

    /// Returns the number of events.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_position.len()
    }

    /// Returns whether there is no event.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_position.is_empty()
    }

    /// Returns the time from the oldest to the newest event.
    #[must_use]
    pub fn span(&self) -> Duration {
        let oldest = self.by_position.first_key_value().map(|(oldest, _)| oldest.published);
        let newest = self.by_position.last_key_value().map(|(newest, _)| newest.published);
        newest.zip(oldest).and_then(|(newest, oldest)| newest.duration_since(oldest).ok()).unwrap_or_default()
    }

    /// Returns the bytes that the events take.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }
}

fn size(relayed: &Relayed) -> usize {
    let (count, bytes) = relayed.audience.size();
    // The decoded payload takes about as much as the data.
    2 * relayed.event.data.len() + bytes + count * KEY_OVERHEAD + OVERHEAD
}

fn batch<'a>(events: impl Iterator<Item = &'a Arc<Relayed>>) -> Vec<Arc<Relayed>> {
    let (most, mut bytes) = MAX_BATCH;
    let mut taken = Vec::new();
    for relayed in events.take(most) {
        taken.push(relayed.clone());
        match bytes.checked_sub(relayed.event.data.len()) {
            Some(left) => bytes = left,
            None => break,
        }
    }
    taken
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{audience::Audience, event::Event};

    fn at(second: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + second)
    }

    fn relayed(second: u64, id: &str) -> Arc<Relayed> {
        let mut event = Event::new("/test".into(), "k", None, vec![b'x'; 100].into());
        (event.id, event.published) = (id.into(), Some(at(second)));
        let position = Cursor { published: at(second), event: id.into() };
        let (fields, cursor) = (vec!["f".into()], "".into());
        Arc::new(Relayed {
            event,
            position,
            cursor,
            fields,
            audience: Audience::none(),
            payload: Arc::new(()),
        })
    }

    fn window(span: u64) -> Window {
        Window::new(Bounds { span: Duration::from_secs(span), bytes: usize::MAX }, at(0))
    }

    fn after(second: u64, id: &str) -> Cursor {
        Cursor { published: at(second), event: id.into() }
    }

    fn ids(window: &Window, progress: &mut Progress) -> Vec<String> {
        let mut ids = Vec::new();
        loop {
            let batch = window.next(progress).unwrap();
            if batch.is_empty() {
                return ids;
            }
            ids.extend(batch.iter().map(|relayed| relayed.event.id.to_string()));
        }
    }

    #[test]
    fn replay_follows_publication_order_with_margin() {
        let mut window = window(600);
        for (second, id) in [(4, "a"), (22, "c"), (6, "b"), (30, "d")] {
            window.insert(relayed(second, id));
        }
        assert_eq!(ids(&window, &mut window.replay(&after(20, "x")).unwrap()), ["b", "c", "d"]);
    }

    #[test]
    fn replay_includes_late_arrivals() {
        let mut window = window(600);
        window.insert(relayed(20, "a"));
        window.insert(relayed(30, "c"));
        let mut progress = window.replay(&after(20, "")).unwrap();
        assert_eq!(window.next(&mut progress).unwrap().len(), 2);
        window.insert(relayed(25, "b"));
        assert_eq!(ids(&window, &mut progress), ["b"]);
        window.insert(relayed(26, "b2"));
        window.insert(relayed(24, "b1"));
        assert_eq!(ids(&window, &mut progress), ["b2", "b1"], "in order of arrival");
    }

    #[test]
    fn start_and_query_go_back_less_than_result() {
        let mut window = window(600);
        for (second, id) in [(30, "a"), (36, "b"), (40, "c"), (40, "d"), (41, "e")] {
            window.insert(relayed(second, id));
        }
        let begin = |window: &Window, source| {
            window.resume(&ClientCursor { cursor: after(40, "c"), source }).unwrap()
        };
        assert_eq!(ids(&window, &mut begin(&window, Source::Result)), ["a", "b", "c", "d", "e"]);
        assert_eq!(ids(&window, &mut begin(&window, Source::Query)), ["b", "c", "d", "e"]);
        let mut start = begin(&window, Source::Start);
        assert_eq!(ids(&window, &mut start), ["d", "e"]);
        window.insert(relayed(39, "late"));
        window.insert(relayed(42, "f"));
        assert_eq!(ids(&window, &mut start), ["f"], "what arrives late is from before the start");
    }

    #[test]
    fn window_drops_repeats() {
        let mut window = window(600);
        window.insert(relayed(20, "a"));
        window.insert(relayed(20, "a"));
        assert_eq!((window.len(), window.bytes()), (1, 200 + OVERHEAD));
    }

    #[test]
    fn cursor_older_than_window_is_out_of_reach() {
        let mut window = window(100);
        window.insert(relayed(50, "a"));
        assert!(window.replay(&after(5, "")).is_ok());
        assert_eq!(window.replay(&after(4, "")).unwrap_err(), OutOfReach, "the margin would be missing");
        window.insert(relayed(151, "b"));
        assert_eq!(window.len(), 1);
        assert!(window.replay(&after(56, "")).is_ok());
        assert_eq!(window.replay(&after(55, "")).unwrap_err(), OutOfReach);
    }

    #[test]
    fn missing_repeats_are_no_gap() {
        let mut window = window(100);
        for second in [50, 60, 64] {
            window.insert(relayed(second, &second.to_string()));
        }
        let mut progress = window.replay(&after(64, "64")).unwrap();
        window.insert(relayed(155, "155"));
        assert_eq!(ids(&window, &mut progress), ["60", "64", "155"]);
        window.insert(relayed(165, "165"));
        assert_eq!(ids(&window, &mut progress), ["165"]);
        let mut progress = window.replay(&after(72, "")).unwrap();
        assert_eq!(ids(&window, &mut progress), ["155", "165"]);
    }

    #[test]
    fn loss_leaves_only_later_cursors_resumable() {
        let mut window = window(600);
        window.insert(relayed(20, "a"));
        let mut through = window.replay(&after(20, "a")).unwrap();
        assert_eq!(ids(&window, &mut through), ["a"], "the margin repeats it");
        window.lose(&after(100, "heartbeat"));
        assert_eq!(window.next(&mut through).err(), Some(OutOfReach), "the replay was not live yet");
        assert_eq!(window.replay(&after(99, "")).unwrap_err(), OutOfReach);
        assert_eq!(*window.head(), after(100, "heartbeat"));
        let mut progress = window.replay(window.head()).unwrap();
        window.insert(relayed(101, "b"));
        assert_eq!(ids(&window, &mut progress), ["b"]);
    }

    #[test]
    fn window_reports_replay_that_it_overtakes() {
        let mut window = window(600);
        window.bounds.bytes = 3 * (200 + OVERHEAD);
        for second in 10..13 {
            window.insert(relayed(second, &second.to_string()));
        }
        let mut waiting = window.replay(&after(6, "")).unwrap();
        let mut through = waiting.clone();
        assert_eq!(ids(&window, &mut through), ["10", "11", "12"]);
        window.insert(relayed(13, "13"));
        assert_eq!(window.next(&mut waiting).err(), Some(OutOfReach));
        assert_eq!(ids(&window, &mut through), ["13"], "it had passed the removed event");
        assert_eq!(window.bytes(), 3 * (200 + OVERHEAD));
    }

    proptest! {
        /// Resumes a client on a second pod. Both pods get the same events, each in an order that
        /// is off by less than the margin. A client that leaves one pod at any moment and resumes
        /// on the other misses nothing. It gets no event older than a replay repeats.
        #[test]
        fn client_misses_nothing_on_another_pod(
            delays in prop::collection::vec((0u64..4, 0u64..4), 1..60),
            left in any::<prop::sample::Index>(),
            resumed in any::<prop::sample::Index>(),
        ) {
            let events: Vec<_> = (0..).zip(&delays).map(|(n, _)| relayed(100 + n, &format!("{n:03}"))).collect();
            let order = |delay: fn(&(u64, u64)) -> u64| {
                let mut order: Vec<usize> = (0..events.len()).collect();
                order.sort_by_key(|n| *n as u64 + delay(&delays[*n]));
                order
            };
            let (here, there) = (order(|delay| delay.0), order(|delay| delay.1));

            let seen = &here[..=left.index(here.len())];
            let cursor = &events[*seen.last().unwrap()].position;
            let mut window = window(600);
            let (before, during) = there.split_at(resumed.index(there.len() + 1));
            before.iter().for_each(|n| window.insert(events[*n].clone()));
            let mut progress = window.replay(cursor).unwrap();
            let mut got: Vec<String> = Vec::new();
            for n in during {
                got.extend(window.next(&mut progress).unwrap().iter().map(|relayed| relayed.event.id.to_string()));
                window.insert(events[*n].clone());
            }
            got.extend(ids(&window, &mut progress));

            let missing = (0..events.len()).filter(|n| !seen.contains(n) && !got.contains(&format!("{n:03}")));
            prop_assert_eq!(missing.count(), 0);
            let horizon = cursor.published - REPEAT;
            for id in &got {
                let event = &events[id.parse::<usize>().unwrap()];
                prop_assert!(event.position.published >= horizon, "{} is older than a replay repeats", id);
            }
            let distinct: std::collections::HashSet<_> = got.iter().collect();
            prop_assert_eq!(distinct.len(), got.len(), "no event comes twice on one connection");
        }
    }
}
