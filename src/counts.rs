//! [`Counts`]: how many viewers listen to a key, over all pods.
//!
//! This pod's own viewers are counted by the hub, and those of other pods by their heartbeats. A
//! key is counted while a client of any pod asks for it: a query asks for some time, a subscription
//! while it runs. A count must never be given that is known to be incomplete. Who may ask for a key
//! is decided before, by the domain.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard},
};

use opentelemetry::metrics::Meter;
use slab::Slab;
use thiserror::Error;
use tokio::time::{Instant, sleep};

use crate::{
    audience::Key,
    hub::{Delivery, Hub, Rendered, SendQueue},
    lock::lock,
    membership::{KeyCounts, Listeners, MAX_TOLD_APART, Membership, total},
    telemetry::Refusals,
};

/// Most keys that a user asks for on this pod at a time.
const MAX_OF_USER: usize = 16;

/// Most subscriptions of a user to counts on this pod at a time. Each is looked at ten times a
/// heartbeat interval.
const MAX_WATCHERS_OF_USER: usize = 256;

/// Most users who ask on this pod at a time.
const MAX_USERS: usize = 10_000;

/// Heartbeat intervals for which a query keeps its key counted.
const KEPT: u32 = 6;

/// Heartbeat intervals after which a pod that does not report a key has no viewer for it. By then
/// each pod has heard that the key is asked for, and has sent a heartbeat.
const PENDING: f64 = 2.5;

/// Part of a heartbeat interval after which subscriptions are given a changed count. With the time
/// for which the counts of a crashed pod stand, it takes less than two intervals.
const LOOK: f64 = 0.1;

/// Name of all limits here in the metric of refusals.
const LIMIT: &str = "counts";

/// Counts of one pod's clients. Clones share them.
#[derive(Clone)]
pub struct Counts(Arc<Shared>);

struct Shared {
    hub: Hub,
    membership: Membership,
    refusals: Refusals,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Keys that each user asks for.
    by_user: HashMap<Arc<str>, HashMap<Key, Hold>>,
    asked: HashMap<Key, Asked>,
    watchers: Slab<Watcher>,
}

/// Request of a user for a key.
struct Hold {
    /// Time until which a query keeps it.
    until: Instant,
    /// Subscriptions that keep it.
    watchers: usize,
}

/// Key that users of this pod ask for.
struct Asked {
    since: Instant,
    /// Number of these users.
    users: usize,
}

/// Subscription of a count.
struct Watcher {
    user: Arc<str>,
    key: Key,
    /// Number of the operation on its connection.
    id: u64,
    /// Name of the root field in results.
    response_key: Arc<str>,
    send_queue: Arc<SendQueue>,
    /// Last result.
    last: Option<u64>,
}

/// Guard of a subscription of a count: dropping it ends the subscription.
pub struct Counting {
    counts: Counts,
    slot: usize,
}

/// A limit on what is asked for.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum TooMany {
    /// The user asks for as many keys as it may.
    #[error("you ask for the counts of {MAX_OF_USER} keys, as many as you may; end some first")]
    OfUser,
    /// The user has as many subscriptions as it may.
    #[error("you have {MAX_WATCHERS_OF_USER} subscriptions to counts, as many as you may; end some first")]
    Subscriptions,
    /// All users of this pod ask for as many keys as they may.
    #[error("this pod counts as many keys as it may; try again later")]
    OfPod,
}

impl Counts {
    /// Creates counts that nothing asks for, and registers their metrics.
    #[must_use]
    pub fn new(hub: Hub, membership: Membership, meter: &Meter) -> Self {
        let refusals = Refusals::new(meter);
        let counts = Self(Arc::new(Shared { hub, membership, refusals, state: Mutex::default() }));
        let observed = counts.clone();
        meter
            .u64_observable_gauge("relay.counts.keys")
            .with_description("Keys whose viewers clients of this pod count.")
            .with_callback(move |gauge| gauge.observe(observed.state().asked.len() as u64, &[]))
            .build();
        counts
    }

    /// Lets the hub keep the viewers of each key from now on, and heartbeats carry counts.
    #[must_use]
    pub fn begin(self) -> Self {
        self.0.hub.count_listeners();
        // The membership must not keep the counts in memory.
        let reported = Arc::downgrade(&self.0);
        self.0.membership.report_counts(move || Some(Self(reported.upgrade()?).report()));
        self
    }

    /// Returns how many viewers listen to the key; `None` if that is not known yet. Asks all pods
    /// for the key from now on, for some time.
    ///
    /// # Errors
    /// [`TooMany`] keys are asked for.
    pub fn ask(&self, user: &Arc<str>, key: &Key) -> Result<Option<u64>, TooMany> {
        let mut state = self.state();
        let until = Instant::now() + self.0.membership.interval() * KEPT;
        let hold = self.hold(&mut state, user, key).inspect_err(|_| self.0.refusals.count(LIMIT))?;
        hold.until = hold.until.max(until);
        Ok(self.count(&state, key))
    }

    /// Subscribes to the count of a key. The first result comes when the count is known, and
    /// another one whenever it has changed, at most ten in a heartbeat interval. Results go to the
    /// send queue, marked with `id`.
    ///
    /// # Errors
    /// [`TooMany`] keys are asked for.
    pub fn watch(
        &self,
        user: &Arc<str>,
        key: Key,
        response_key: &str,
        send_queue: Arc<SendQueue>,
        id: u64,
    ) -> Result<Counting, TooMany> {
        let mut state = self.state();
        let held = state.by_user.get(user).into_iter().flat_map(HashMap::values);
        let hold = match held.map(|hold| hold.watchers).sum::<usize>() {
            MAX_WATCHERS_OF_USER.. => Err(TooMany::Subscriptions),
            _ => self.hold(&mut state, user, &key),
        };
        hold.inspect_err(|_| self.0.refusals.count(LIMIT))?.watchers += 1;
        let (user, response_key) = (user.clone(), response_key.into());
        let mut watcher = Watcher { user, key, id, response_key, send_queue, last: None };
        if let Some(count) = self.count(&state, &watcher.key) {
            watcher.give(count, self.result(&watcher.response_key, count));
        }
        Ok(Counting { counts: self.clone(), slot: state.watchers.insert(watcher) })
    }

    /// Gives changed counts to their subscriptions. Runs until it is dropped.
    pub async fn run(&self) {
        loop {
            sleep(self.0.membership.interval().mul_f64(LOOK)).await;
            self.look();
        }
    }

    fn look(&self) {
        let mut state = self.state();
        state.forget(Instant::now());
        let watched: BTreeSet<Key> = state.watchers.iter().map(|(_, watcher)| watcher.key.clone()).collect();
        let count = |key: Key| self.count(&state, &key).map(|count| (key, count));
        let known: HashMap<Key, u64> = watched.into_iter().filter_map(count).collect();
        // Many watch the same key, and share its result.
        let mut results = HashMap::new();
        for (_, watcher) in &mut state.watchers {
            if let Some(&count) = known.get(&watcher.key).filter(|count| watcher.last != Some(**count)) {
                let name = &watcher.response_key;
                let result = results.entry((name.clone(), count)).or_insert_with(|| self.result(name, count));
                watcher.give(count, result.clone());
            }
        }
    }

    /// Makes the result of a count under this name.
    fn result(&self, response_key: &str, count: u64) -> Arc<Rendered> {
        // A name of GraphQL has nothing to escape.
        let payload = format!("{{\"data\":{{\"{response_key}\":{count}}}}}");
        Arc::new(self.0.hub.result(payload.into()))
    }

    /// Notes that a user asks for a key.
    fn hold<'s>(&self, state: &'s mut State, user: &Arc<str>, key: &Key) -> Result<&'s mut Hold, TooMany> {
        let now = Instant::now();
        if !state.by_user.get(user).is_some_and(|keys| keys.contains_key(key)) {
            state.check(user, key)?;
            match state.asked.get_mut(key) {
                Some(asked) => asked.users += 1,
                None => {
                    state.asked.insert(key.clone(), Asked { since: now, users: 1 });
                    self.0.membership.hasten();
                }
            }
        }
        let hold = state.by_user.entry(user.clone()).or_default().entry(key.clone());
        Ok(hold.or_insert(Hold { until: now, watchers: 0 }))
    }

    /// Returns how many viewers listen to the key; `None` if a pod has not reported it yet.
    fn count(&self, state: &State, key: &Key) -> Option<u64> {
        let Shared { hub, membership, .. } = &*self.0;
        let since = state.asked.get(key)?.since;
        let is_pending = since.elapsed() < membership.interval().mul_f64(PENDING);
        if !membership.knows_members() {
            return None;
        }
        let own = own(hub, key);
        membership.with_counts(|others| {
            let mut pods = vec![&own];
            for counts in others {
                match counts.and_then(|counts| counts.counted.get(key)) {
                    Some(listeners) => pods.push(listeners),
                    None if is_pending || counts.is_some_and(|counts| counts.is_partial) => return None,
                    None => {}
                }
            }
            Some(total(pods))
        })
    }

    /// Returns what a heartbeat of this pod carries.
    fn report(&self) -> KeyCounts {
        let Shared { hub, membership, .. } = &*self.0;
        let asked: BTreeSet<Key> = self.state().asked.keys().cloned().collect();
        let mut keys = asked.clone();
        membership.with_counts(|others| {
            others.flatten().for_each(|counts| keys.extend(counts.asked.iter().cloned()));
        });
        KeyCounts::new(asked, &keys, |key| own(hub, key))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0.state)
    }
}

/// Returns the viewers of this pod who listen to the key.
fn own(hub: &Hub, key: &Key) -> Listeners {
    let (count, users) = hub.listeners(key, MAX_TOLD_APART);
    Listeners::new(key, count, users.iter().map(|user| &**user))
}

impl State {
    /// Checks whether the user may ask for another key.
    fn check(&self, user: &Arc<str>, key: &Key) -> Result<(), TooMany> {
        let of_user = self.by_user.get(user).map_or(0, HashMap::len);
        if of_user >= MAX_OF_USER {
            return Err(TooMany::OfUser);
        }
        let has_room = || {
            let asked: BTreeSet<Key> = self.asked.keys().chain([key]).cloned().collect();
            KeyCounts::may_ask(&asked)
        };
        let is_full = of_user == 0 && self.by_user.len() >= MAX_USERS;
        if is_full || !self.asked.contains_key(key) && !has_room() {
            return Err(TooMany::OfPod);
        }
        Ok(())
    }

    /// Forgets what no subscription and no late query asks for.
    fn forget(&mut self, now: Instant) {
        let Self { by_user, asked, .. } = self;
        by_user.retain(|_, keys| {
            keys.retain(|key, hold| {
                let is_held = hold.watchers > 0 || now < hold.until;
                if !is_held && let Some(asked_by) = asked.get_mut(key) {
                    asked_by.users -= 1;
                    if asked_by.users == 0 {
                        asked.remove(key);
                    }
                }
                is_held
            });
            !keys.is_empty()
        });
    }
}

impl Watcher {
    /// Queues the result of a count.
    fn give(&mut self, count: u64, result: Arc<Rendered>) {
        self.send_queue.push(Delivery { watcher: self.id, result });
        self.last = Some(count);
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        let mut state = self.counts.state();
        let watcher = state.watchers.remove(self.slot);
        let hold = state.by_user.get_mut(&watcher.user).and_then(|keys| keys.get_mut(&watcher.key));
        if let Some(hold) = hold {
            hold.watchers -= 1;
        }
    }
}

#[cfg(test)]
mod tests;
