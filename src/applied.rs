//! [`Applied`]: the events that this pod has applied lately, and the requests that wait for one.
//!
//! The relay drops an event that is here, and adds each event once queries and the replay window
//! show it. A request that must see an event waits until the event is here. Looking an event up
//! must cost no more than that: no request ever waits for the relay's work.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    hash::{BuildHasher as _, RandomState},
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, SystemTime},
};

use tokio::{sync::watch, time::Instant};

use crate::{cursor::Written, lock::lock};

/// Most events that are remembered: a whole 10-minute window at 1,000 events a second, in about
/// 60 MiB. Beyond it the oldest are forgotten.
pub const MAX_EVENTS: usize = 600_000;

/// Recent events, each by a hash of its source and id. Clones share the same events.
#[derive(Clone, Debug)]
pub struct Applied(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Time for which an event is remembered.
    window: Duration,
    began: Instant,
    /// Random, so that no publisher can make an event that is taken for another one.
    keys: [RandomState; 2],
    state: Mutex<State>,
}

/// Hash of an event's source and id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EventKey(u128);

#[derive(Debug, Default)]
struct State {
    events: HashSet<EventKey>,
    /// In the order of their arrival.
    order: VecDeque<Entry>,
    /// Requests that wait, by the event that they wait for. A sender that is dropped wakes them.
    waiting: HashMap<EventKey, watch::Sender<()>>,
    reach: Reach,
}

/// How far back the events of this pod reach. Times are those of the topic.
#[derive(Debug, Default)]
struct Reach {
    /// No event published since this moment is missing; `None` before the feed has caught up first.
    begin: Option<SystemTime>,
    /// Time until which older events may still come.
    history_until: Option<Instant>,
    /// Latest time of publishing among the events that were forgotten.
    forgotten: Option<SystemTime>,
    /// While the feed catches up, what it had reached before; `None` if it has caught up.
    held: Option<Option<SystemTime>>,
}

/// Event in the order of arrival: 32 bytes, since there are many.
#[derive(Debug)]
struct Entry {
    event: EventKey,
    /// Milliseconds from the start of the pod to the arrival.
    arrived: u64,
    /// Milliseconds from 1970 to the publishing, rounded up.
    published: u64,
}

impl Applied {
    /// Creates an empty set that remembers an event for this time.
    #[must_use]
    pub fn new(window: Duration) -> Self {
        let state = State { reach: Reach { held: Some(None), ..Reach::default() }, ..State::default() };
        let (keys, state) = (Default::default(), Mutex::new(state));
        Self(Arc::new(Shared { window, began: Instant::now(), keys, state }))
    }

    /// Returns the key of an event.
    #[must_use]
    pub fn key(&self, source: &str, id: &str) -> EventKey {
        let [high, low] = self.0.keys.each_ref().map(|key| u128::from(key.hash_one((source, id))));
        EventKey(high << 64 | low)
    }

    /// Returns the time for which an event is remembered.
    #[must_use]
    pub fn window(&self) -> Duration {
        self.0.window
    }

    /// Returns whether the event is remembered. Forgets the events whose time has passed.
    #[must_use]
    pub fn has(&self, event: EventKey) -> bool {
        let arrived = self.arrived(Instant::now());
        let mut state = self.state();
        while state.order.front().is_some_and(|oldest| self.is_past(oldest, arrived)) {
            state.forget();
        }
        state.events.contains(&event)
    }

    /// Adds an event that queries and the replay window show, and wakes the requests that wait for
    /// it.
    pub fn insert(&self, event: EventKey, published: Option<SystemTime>) {
        let arrived = self.arrived(Instant::now());
        let mut state = self.state();
        if state.order.len() >= MAX_EVENTS {
            state.forget();
        }
        if state.events.insert(event) {
            state.order.push_back(Entry { event, arrived, published: published.map_or(0, millis) });
        }
        state.waiting.remove(&event);
    }

    /// Records that no event published since this moment is missing.
    pub fn begin_at(&self, published: SystemTime) {
        self.state().reach.begin = Some(published);
    }

    /// Records that until this moment older events may still come.
    pub fn expect_history(&self, until: Instant) {
        self.state().reach.history_until = Some(until);
    }

    /// Sets whether the feed has brought everything that was published before it was opened. What
    /// is forgotten while it has not, proves nothing: events of that time may still come.
    pub fn set_caught_up(&self, is_caught_up: bool) {
        let reach = &mut self.state().reach;
        match (is_caught_up, reach.held) {
            (true, _) => reach.held = None,
            (false, Some(_)) => {}
            (false, None) => reach.held = Some(reach.now()),
        }
    }

    /// Returns whether a request may run that must see this event. Either the event is applied, or
    /// it is older than what the feed reaches back to.
    #[must_use]
    pub fn shows(&self, written: &Written) -> bool {
        let event = self.key(&written.source, &written.id);
        self.state().shows(event, written.time)
    }

    /// Waits until a request may run that must see this event, as [`shows`](Self::shows) says.
    pub async fn wait(&self, written: &Written) {
        let event = self.key(&written.source, &written.id);
        let receiver = {
            let mut state = self.state();
            if state.shows(event, written.time) {
                return;
            }
            state.waiting.entry(event).or_default().subscribe()
        };
        let mut waiter = Waiter { applied: self, event, receiver: Some(receiver) };
        if let Some(receiver) = &mut waiter.receiver {
            // The only change is the end of its sender.
            let _ = receiver.changed().await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0.state)
    }

    fn arrived(&self, now: Instant) -> u64 {
        u64::try_from(now.duration_since(self.0.began).as_millis()).unwrap_or(u64::MAX)
    }

    fn is_past(&self, entry: &Entry, now: u64) -> bool {
        u128::from(now - entry.arrived) >= self.0.window.as_millis()
    }
}

impl State {
    /// Forgets the oldest event.
    fn forget(&mut self) {
        let Some(oldest) = self.order.pop_front() else { return };
        self.events.remove(&oldest.event);
        let published = SystemTime::UNIX_EPOCH + Duration::from_millis(oldest.published);
        self.reach.forgotten = self.reach.forgotten.max(Some(published));
    }

    fn shows(&self, event: EventKey, time: SystemTime) -> bool {
        self.events.contains(&event) || self.reach.now().is_some_and(|reach| time < reach)
    }
}

impl Reach {
    /// Returns the time such that an older event has come and was forgotten, or never comes.
    fn now(&self) -> Option<SystemTime> {
        match (self.held, self.history_until) {
            (Some(held), _) => held,
            (None, Some(until)) if Instant::now() < until => self.forgotten,
            _ => self.begin.max(self.forgotten),
        }
    }
}

/// Place of one request that waits.
struct Waiter<'a> {
    applied: &'a Applied,
    event: EventKey,
    receiver: Option<watch::Receiver<()>>,
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let mut state = self.applied.state();
        self.receiver = None;
        if state.waiting.get(&self.event).is_some_and(|sender| sender.receiver_count() == 0) {
            state.waiting.remove(&self.event);
        }
    }
}

fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos().div_ceil(1_000_000)).unwrap_or_default()
}

#[cfg(test)]
mod tests;
