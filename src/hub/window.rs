//! [`Window`]: the recent events that a pod keeps for replay.
//!
//! Kept in the one order that all pods agree on (published time, then id), so that a position found on one pod means the
//! same on another; and in the order of arrival as well, so that an event that comes late is not missed by a replay that is
//! past its place. Bounded in time and in bytes. Plain data without a lock; [`crate::hub::Hub`] guards it.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::Relayed;
use crate::cursor::Cursor;

/// What an event costs besides its data and its keys, in bytes: its texts and its places here, roughly.
const OVERHEAD: usize = 1_024;

/// What a key costs besides its text, in bytes.
const KEY: usize = 32;

/// How far back from a cursor a replay has to reach: pods see the events of different authors in different order, and what the
/// one that wrote the cursor had not seen yet may stand before it.
pub const MARGIN: Duration = Duration::from_secs(5);

/// How far back it begins, if the window has as much. What was on its way to a pod when its stream broke comes again after ten
/// seconds, while what other authors wrote goes on, and cursors with it. What the client has already is repeated.
pub const REPEAT: Duration = Duration::from_secs(15);

/// How many events a replay looks at at once, and how many bytes of data it takes up: what one step of one client may cost.
const PORTION: (usize, usize) = (256, 64 << 10);

/// How much a window keeps.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// How far back it reaches.
    pub span: Duration,
    /// What its events may take, in bytes.
    pub bytes: usize,
}

/// The recent events of one pod.
pub struct Window {
    bounds: Bounds,
    by_position: BTreeMap<Cursor, (u64, Arc<Relayed>)>,
    by_arrival: BTreeMap<u64, Cursor>,
    arrivals: u64,
    bytes: usize,
    /// Nothing published from this moment on is missing.
    complete_since: SystemTime,
    /// The last arrival that is gone again; a replay that was not past it has lost it.
    last_gone: u64,
    /// The position of the newest event, of whatever kind, that came through the feed.
    head: Cursor,
}

/// Where a replay has come to.
#[derive(Clone, Debug)]
pub struct Progress {
    /// What was published before is no business of the client's, however late it arrives.
    from: SystemTime,
    /// What was published from here on must not be missing.
    needs: SystemTime,
    /// Events up to this arrival are replayed by position, later ones by arrival.
    began: u64,
    /// Where it is among the first; `None` when it is through with them.
    position: Option<Cursor>,
    /// Where it is among the others.
    arrival: u64,
}

/// The position is no longer within the window: what was missed cannot be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfReach;

impl Window {
    /// An empty window that misses nothing published since `complete_since`.
    #[must_use]
    pub fn new(bounds: Bounds, complete_since: SystemTime) -> Self {
        let head = Cursor { published: complete_since, event: Arc::default() };
        let (by_position, by_arrival) = (BTreeMap::new(), BTreeMap::new());
        Self { bounds, by_position, by_arrival, arrivals: 0, bytes: 0, complete_since, last_gone: 0, head }
    }

    /// Notes that the feed has come as far as this.
    pub fn advance(&mut self, position: &Cursor) {
        if self.head < *position {
            self.head = position.clone();
        }
    }

    /// Notes that nothing published since this moment is missing, and that what was before may be.
    pub fn begin_at(&mut self, published: SystemTime) {
        // A cursor of this moment is good, and its replay needs a margin before it. What lies in that margin and was lost
        // is no loss to a cursor from after it; and cursors from before do not get this far.
        let begin = published.checked_sub(MARGIN).unwrap_or(SystemTime::UNIX_EPOCH);
        self.complete_since = self.complete_since.max(begin);
    }

    /// Notes that what was published before this position may be missing, for replays that have begun as well.
    pub fn lose(&mut self, position: &Cursor) {
        self.begin_at(position.published);
        self.advance(position);
        self.arrivals += 1;
        self.last_gone = self.arrivals;
    }

    /// The newest position.
    #[must_use]
    pub const fn head(&self) -> &Cursor {
        &self.head
    }

    /// Keeps the event, unless it is there already, and lets go of what is too old or too much.
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
            self.last_gone = self.last_gone.max(arrival);
            // What stood at the same moment may be gone with it.
            self.complete_since = self.complete_since.max(position.published + Duration::from_nanos(1));
        }
        self.complete_since = self.complete_since.max(horizon);
    }

    /// Begins a replay of what came after the cursor.
    ///
    /// # Errors
    /// [`OutOfReach`] if the window does not reach back that far, margin included.
    pub fn replay(&self, after: &Cursor) -> Result<Progress, OutOfReach> {
        let [needs, from] = [MARGIN, REPEAT]
            .map(|margin| after.published.checked_sub(margin).unwrap_or(SystemTime::UNIX_EPOCH));
        if needs < self.complete_since {
            return Err(OutOfReach);
        }
        let position = Some(Cursor { published: from, event: Arc::default() });
        Ok(Progress { from, needs, began: self.arrivals, position, arrival: self.arrivals })
    }

    /// The next events of a replay, a few hundred at most; none when it has caught up with the feed.
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
            let old = portion(old);
            progress.position = old.last().map(|last| last.position.clone());
            if !old.is_empty() {
                return Ok(old);
            }
        }
        if self.last_gone > progress.arrival {
            return Err(OutOfReach);
        }
        let later = self.by_arrival.range(progress.arrival + 1..);
        let new = later.filter(|(_, position)| position.published >= progress.from);
        let new = portion(
            new.filter_map(|(_, position)| self.by_position.get(position)).map(|(_, relayed)| relayed),
        );
        let last = new.last().and_then(|last| self.by_position.get(&last.position));
        progress.arrival = last.map_or(self.arrivals, |(arrival, _)| *arrival);
        Ok(new)
    }

    /// How many events there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_position.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_position.is_empty()
    }

    /// From the oldest to the newest of them.
    #[must_use]
    pub fn span(&self) -> Duration {
        let oldest = self.by_position.first_key_value().map(|(oldest, _)| oldest.published);
        let newest = self.by_position.last_key_value().map(|(newest, _)| newest.published);
        newest.zip(oldest).and_then(|(newest, oldest)| newest.duration_since(oldest).ok()).unwrap_or_default()
    }

    /// What they take, in bytes.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }
}

fn size(relayed: &Relayed) -> usize {
    let keys: usize = relayed.audience.keys().iter().map(|key| key.len() + KEY).sum();
    // The data, and about as much again for what it was decoded to.
    2 * relayed.event.data.len() + keys + OVERHEAD
}

fn portion<'a>(events: impl Iterator<Item = &'a Arc<Relayed>>) -> Vec<Arc<Relayed>> {
    let (most, mut bytes) = PORTION;
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
        let (field, cursor) = ("f", "".into());
        Arc::new(Relayed {
            event,
            position,
            cursor,
            field,
            audience: Audience::nobody(),
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
            let portion = window.next(progress).unwrap();
            if portion.is_empty() {
                return ids;
            }
            ids.extend(portion.iter().map(|relayed| relayed.event.id.to_string()));
        }
    }

    #[test]
    fn a_replay_is_in_order_of_publication_with_a_margin() {
        let mut window = window(600);
        for (second, id) in [(4, "a"), (22, "c"), (6, "b"), (30, "d")] {
            window.insert(relayed(second, id));
        }
        assert_eq!(ids(&window, &mut window.replay(&after(20, "x")).unwrap()), ["b", "c", "d"]);
    }

    #[test]
    fn what_arrives_late_during_a_replay_is_not_missed() {
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
    fn a_repeat_never_enters_twice() {
        let mut window = window(600);
        window.insert(relayed(20, "a"));
        window.insert(relayed(20, "a"));
        assert_eq!((window.len(), window.bytes()), (1, 200 + OVERHEAD));
    }

    #[test]
    fn a_cursor_older_than_the_window_is_out_of_reach() {
        let mut window = window(100);
        window.insert(relayed(50, "a"));
        assert!(window.replay(&after(5, "")).is_ok());
        assert_eq!(window.replay(&after(4, "")).unwrap_err(), OutOfReach, "the margin would be");
        window.insert(relayed(151, "b"));
        assert_eq!(window.len(), 1);
        assert!(window.replay(&after(56, "")).is_ok());
        assert_eq!(window.replay(&after(55, "")).unwrap_err(), OutOfReach);
    }

    #[test]
    fn what_a_replay_could_repeat_and_the_window_has_no_more_is_no_gap() {
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
    fn after_a_loss_only_what_came_later_can_be_resumed() {
        let mut window = window(600);
        window.insert(relayed(20, "a"));
        let mut through = window.replay(&after(20, "a")).unwrap();
        assert_eq!(ids(&window, &mut through), ["a"], "the margin repeats it");
        window.lose(&after(100, "heartbeat"));
        assert_eq!(window.next(&mut through).err(), Some(OutOfReach), "it was not live yet");
        assert_eq!(window.replay(&after(99, "")).unwrap_err(), OutOfReach);
        assert_eq!(*window.head(), after(100, "heartbeat"));
        let mut progress = window.replay(window.head()).unwrap();
        window.insert(relayed(101, "b"));
        assert_eq!(ids(&window, &mut progress), ["b"]);
    }

    #[test]
    fn a_replay_that_the_window_overtakes_says_so() {
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
        assert_eq!(ids(&window, &mut through), ["13"], "what it had seen was no loss to it");
        assert_eq!(window.bytes(), 3 * (200 + OVERHEAD));
    }

    proptest! {
        /// Two pods get the same events, each in an order of its own that is off by less than the margin. A client that
        /// leaves one pod at any moment and resumes on the other misses nothing and is told nothing older than a replay repeats.
        #[test]
        fn resuming_on_another_pod_misses_nothing(
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
                prop_assert!(event.position.published >= horizon, "{} is no business of the client's", id);
            }
            let distinct: std::collections::HashSet<_> = got.iter().collect();
            prop_assert_eq!(distinct.len(), got.len(), "nothing comes twice on one connection");
        }
    }
}
