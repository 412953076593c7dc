//! [`Window`]: the recent events that a pod keeps for replay.
//!
//! Events are kept in the order that all pods agree on: published time, then id. So a position
//! means the same on every pod. They are also kept in order of arrival. So a replay does not miss
//! an event that arrives after the replay has passed its position. The window is bounded in time
//! and in bytes. An event that is removed for want of room leaves a marker. The window is plain
//! data without a lock; [`crate::hub::Hub`] guards it.

mod authors;
mod markers;

use std::{
    collections::BTreeMap,
    mem,
    ops::Bound,
    sync::Arc,
    time::{Duration, SystemTime},
};

use self::{
    authors::Authors,
    markers::{Markers, second},
};
use super::relayed::Relayed;
use crate::{
    audience::Viewer,
    cursor::{ClientCursor, Cursor, Source},
};

/// Approximate cost of an event besides its data and its keys, in bytes: its texts and its entries
/// in the window.
const OVERHEAD: usize = 1_024;

/// Cost of a key besides its text, in bytes.
pub const KEY_OVERHEAD: usize = 32;

/// How far before its cursor a replay must reach: 5 s, else the client gets a gap notice. Pods
/// receive the events of different authors in different order. Events that the pod which wrote the
/// cursor had not received yet may stand before the cursor.
pub const MARGIN: Duration = Duration::from_secs(5);

/// How far before the cursor of a result a replay begins: 15 s, or less if the window has less.
/// Messages that were on their way to a pod when its stream broke come again after ten seconds.
/// Meanwhile other authors' events, and cursors with them, go on. Events that the client already
/// has are sent again.
pub const REPEAT: Duration = Duration::from_secs(15);

/// Part of the window's bytes that markers may take, as a divisor. Beyond it the window ends behind
/// the oldest.
const MARKERS: usize = 8;

/// Limit of one step of a replay: at most 256 events. A step also ends with the event that exceeds
/// 64 KiB of data.
const MAX_BATCH: (usize, usize) = (256, 64 << 10);

/// Bounds of a window.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// How far back the window reaches from the newest event. Older events are removed.
    pub span: Duration,
    /// Bytes that events and markers may take. Beyond this size the oldest events of the author
    /// with the most bytes are removed.
    pub bytes: usize,
}

/// Replay window of one pod.
pub struct Window {
    bounds: Bounds,
    by_position: BTreeMap<Cursor, (u64, Arc<Relayed>)>,
    by_arrival: BTreeMap<u64, Cursor>,
    arrivals: u64,
    authors: Authors,
    markers: Markers,
    /// Bytes of the events.
    bytes: usize,
    /// No event published at or after this moment is missing, but for those with a marker.
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
    /// Number of removed events whose markers were looked at.
    removed: u64,
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
        Self {
            bounds,
            by_position,
            by_arrival,
            arrivals: 0,
            authors: Authors::default(),
            markers: Markers::default(),
            bytes: 0,
            complete_since,
            last_removed: 0,
            head,
        }
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

    /// Inserts the event unless it is already there. Removes events that are too old, and turns
    /// events into markers while there is no room.
    pub fn insert(&mut self, relayed: Arc<Relayed>) {
        let position = relayed.position.clone();
        self.advance(&position);
        if self.by_position.contains_key(&position) {
            return;
        }
        self.arrivals += 1;
        let bytes = size(&relayed);
        self.bytes += bytes;
        self.authors.insert(&relayed, bytes);
        self.by_arrival.insert(self.arrivals, position.clone());
        self.by_position.insert(position, (self.arrivals, relayed));
        let horizon = self.head.published.checked_sub(self.bounds.span).unwrap_or(SystemTime::UNIX_EPOCH);
        while let Some(position) = self.by_position.keys().next().filter(|oldest| oldest.published < horizon)
        {
            let position = position.clone();
            if let Some((arrival, _)) = self.remove(&position) {
                self.last_removed = self.last_removed.max(arrival);
            }
        }
        self.complete_since = self.complete_since.max(horizon);
        while self.markers.remove_oldest(Some(horizon)).is_some() {}
        self.make_room();
    }

    /// Turns events into markers until there is room. Too many markers end the window behind the
    /// oldest.
    fn make_room(&mut self) {
        while self.bytes + self.markers.bytes() > self.bounds.bytes {
            let Some(position) = self.authors.oldest_of_largest().cloned() else { break };
            if let Some((arrival, relayed)) = self.remove(&position) {
                self.markers.insert(&relayed, arrival);
            }
            while self.markers.bytes() > self.bounds.bytes / MARKERS
                && let Some(end) = self.markers.remove_oldest(None)
            {
                self.complete_since = self.complete_since.max(end);
            }
        }
    }

    /// Removes an event. Returns its arrival number with it.
    fn remove(&mut self, position: &Cursor) -> Option<(u64, Arc<Relayed>)> {
        let (arrival, relayed) = self.by_position.remove(position)?;
        let bytes = size(&relayed);
        self.by_arrival.remove(&arrival);
        self.authors.remove(&relayed, bytes);
        self.bytes -= bytes;
        Some((arrival, relayed))
    }

    /// Returns whether a replay may need an event for this viewer that was removed for want of
    /// room.
    pub fn misses(&self, progress: &mut Progress, field: &str, viewer: &Viewer) -> bool {
        let known = mem::replace(&mut progress.removed, self.markers.removed());
        let Progress { needs, position, arrival: reached, .. } = progress;
        let position = position.as_ref().map(|position| second(position.published));
        self.markers.concern(field, viewer, known, |of, arrival| {
            of >= second(*needs) && (arrival > *reached || position.is_some_and(|position| of >= position))
        })
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
        let (began, arrival) = (self.arrivals, self.arrivals);
        Ok(Progress { from, needs, began, position, arrival, removed: 0 })
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

    /// Returns the time for which events are kept, if they fit.
    #[must_use]
    pub const fn span_kept(&self) -> Duration {
        self.bounds.span
    }

    /// Returns the time from the oldest to the newest event.
    #[must_use]
    pub fn span(&self) -> Duration {
        let oldest = self.by_position.first_key_value().map(|(oldest, _)| oldest.published);
        let newest = self.by_position.last_key_value().map(|(newest, _)| newest.published);
        newest.zip(oldest).and_then(|(newest, oldest)| newest.duration_since(oldest).ok()).unwrap_or_default()
    }

    /// Returns the bytes that events and markers take.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes + self.markers.bytes()
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
    use crate::{
        audience::{Audience, Interests},
        event::Event,
    };

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
        let mut window = window(3);
        for second in 10..13 {
            window.insert(relayed(second, &second.to_string()));
        }
        let mut waiting = window.replay(&after(15, "")).unwrap();
        let mut through = waiting.clone();
        assert_eq!(ids(&window, &mut through), ["10", "11", "12"]);
        window.insert(relayed(14, "14"));
        assert_eq!(window.next(&mut waiting).err(), Some(OutOfReach));
        assert_eq!(ids(&window, &mut through), ["14"], "it had passed the removed event");
    }

    /// Returns an event of this author for this key.
    fn written(second: u64, author: &str, key: &str) -> Arc<Relayed> {
        let mut relayed = Arc::into_inner(relayed(second, &format!("{author}{second}"))).unwrap();
        relayed.event.author = Some(author.into());
        relayed.audience = Audience::new([key.into()], None);
        relayed.into()
    }

    fn viewer(key: &str) -> Viewer {
        Viewer::new("viewer", Interests::new([key.into()]))
    }

    #[test]
    fn flood_displaces_only_its_author() {
        let mut window = window(600);
        window.bounds.bytes = 60 * 1_300;
        window.insert(written(10, "honest", "home"));
        let mut begun = window.replay(&after(15, "")).unwrap();
        assert!(!window.misses(&mut begun, "f", &viewer("elsewhere")));
        for second in 11..100 {
            window.insert(written(second, "flood", "elsewhere"));
        }
        window.insert(written(100, "honest", "home"));
        assert!(window.bytes() <= window.bounds.bytes, "{}", window.bytes());
        let replay = || window.replay(&after(15, "")).unwrap();
        let all = ids(&window, &mut replay());
        assert_eq!((&*all[0], all.last().map(|id| &**id)), ("honest10", Some("honest100")));
        assert!((40..70).contains(&all.len()), "{all:?}");
        assert!(window.misses(&mut begun, "f", &viewer("elsewhere")), "of a replay that has begun");
        for (field, key, is_missing) in
            [("f", "elsewhere", true), ("f", "home", false), ("g", "elsewhere", false)]
        {
            assert_eq!(window.misses(&mut replay(), field, &viewer(key)), is_missing, "{field} {key}");
        }
        let mut later = window.replay(&after(98, "")).unwrap();
        assert!(!window.misses(&mut later, "f", &viewer("elsewhere")), "it needs none of them");
    }

    #[test]
    fn replay_misses_nothing_that_it_has_passed() {
        let mut window = window(600);
        window.insert(written(10, "flood", "key"));
        let mut through = window.replay(&after(15, "")).unwrap();
        let mut behind = through.clone();
        assert_eq!(ids(&window, &mut through), ["flood10"]);
        window.insert(written(11, "flood", "key"));
        let mut before = through.clone();
        assert_eq!(ids(&window, &mut through), ["flood11"]);
        window.bounds.bytes = 2 * 1_300;
        window.insert(written(12, "flood", "other"));
        window.insert(written(13, "flood", "other"));
        for (progress, is_missing) in [(&mut through, false), (&mut before, true), (&mut behind, true)] {
            assert_eq!(window.misses(progress, "f", &viewer("key")), is_missing);
        }
    }

    #[test]
    fn late_arrival_that_was_removed_is_missing() {
        let mut window = window(600);
        window.insert(written(50, "honest", "home"));
        window.insert(written(52, "honest", "home"));
        let mut progress = window.replay(&after(15, "")).unwrap();
        assert!(!window.misses(&mut progress, "f", &viewer("key")));
        progress.position = Some(after(50, "honest50"));
        window.insert(written(20, "flood", "key"));
        window.insert(written(21, "flood", "other"));
        window.bounds.bytes = 3_700;
        window.insert(written(53, "flood", "other"));
        assert!(window.misses(&mut progress, "f", &viewer("key")));
        assert!(!window.misses(&mut progress, "f", &viewer("home")));
    }

    #[test]
    fn markers_are_bounded() {
        let mut window = window(100_000);
        window.bounds.bytes = 40 * 1_300;
        for second in 10..1_000 {
            window.insert(written(second, "flood", "elsewhere"));
            assert!(window.bytes() <= window.bounds.bytes, "{}", window.bytes());
            assert!(window.markers.bytes() <= window.bounds.bytes / MARKERS, "{}", window.markers.bytes());
        }
        assert_eq!(window.replay(&after(500, "")).unwrap_err(), OutOfReach);
        assert!(window.len() > 20 && window.replay(window.head()).is_ok());
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
