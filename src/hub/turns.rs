//! [`Turns`]: results for users with many distinct operations, made beside the relay loop.
//!
//! The relay loop makes the results of an event that most users share. A user whose operations
//! would hold it up gets its results here: one task takes a turn of each such user after the other.
//! Each user has its events in their order. A user that falls behind is ended: it must never miss
//! an event silently, nor delay another user.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    mem,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use futures_util::future::BoxFuture;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tracing::Span;

use super::{relayed::Relayed, send_queue::Overflow, watcher::Watcher};
use crate::{
    budget::{Charge, Pool},
    lock::lock,
};

/// Most executions for one event that a user may add to the relay loop. An operation that several
/// users share counts as a part of one for each of them.
const LOOP_SHARE: u8 = 8;

/// How far behind a user may fall. Then its connections end, and their clients resume.
const PATIENCE: Duration = Duration::from_secs(5);

/// Bytes of a turn besides its watchers. The window has the event.
const OVERHEAD: usize = 1_024;

/// Users that have turns to come.
#[derive(Default)]
pub(super) struct Turns {
    state: Mutex<State>,
    /// The task that runs the turns, while there are any.
    tasks: TaskTracker,
}

#[derive(Default)]
struct State {
    /// Events that wait for a user, the oldest first. A user whose last turn runs has an empty
    /// queue, since later events must wait for that turn.
    by_user: HashMap<Arc<str>, VecDeque<Turn>>,
    /// Users whose turn is next. Only the user whose turn runs is missing.
    order: VecDeque<Arc<str>>,
    /// Whether a task runs the turns.
    is_running: bool,
}

/// Watchers of one user that still wait for one event.
pub(super) struct Turn {
    pub(super) relayed: Arc<Relayed>,
    /// Watchers that share an operation stand together. The last ones are next.
    watchers: Vec<Arc<Watcher>>,
    since: Instant,
    pub(super) span: Span,
    _charge: Charge,
}

impl Drop for Turn {
    /// Ends the connections whose watchers would miss the event.
    fn drop(&mut self) {
        end(&self.watchers);
    }
}

fn end(watchers: &[Arc<Watcher>]) {
    for watcher in watchers {
        watcher.send_queue.end(Overflow::Behind);
    }
}

/// Watchers of one operation.
pub(super) type Sharing<'a> = &'a [Arc<Watcher>];

impl Turns {
    /// Takes out the watchers of the users that must wait for their turn: those with too many
    /// operations for this event, and those that have not had an earlier event yet.
    pub(super) fn take<'a>(&self, sharing: &[Sharing<'a>]) -> HashMap<&'a Arc<str>, Vec<Arc<Watcher>>> {
        let mut waiting = HashMap::new();
        let state = self.state();
        if sharing.len() <= usize::from(LOOP_SHARE) && state.by_user.is_empty() {
            return waiting;
        }
        let busy = busy(sharing);
        for watcher in sharing.iter().copied().flatten() {
            let user = &watcher.viewer.user;
            if busy.contains(user) || state.by_user.contains_key(user) {
                waiting.entry(user).or_insert_with(Vec::new).push(watcher.clone());
            }
        }
        waiting
    }

    /// Adds a turn of this user for its watchers of the event. Without room for it, all that waits
    /// for the user is dropped, and the connections concerned end.
    pub(super) fn add(&self, user: &Arc<str>, turn: Option<Turn>) {
        let mut state = self.state();
        let State { by_user, order, .. } = &mut *state;
        let turns = match by_user.get_mut(user) {
            Some(turns) => turns,
            None if turn.is_none() => return,
            None => {
                order.push_back(user.clone());
                by_user.entry(user.clone()).or_default()
            }
        };
        match turn {
            Some(turn) => turns.push_back(turn),
            None => turns.clear(),
        }
    }

    /// Starts the next turn, after those of users that are too far behind were dropped.
    pub(super) fn next(&self) -> Option<(Arc<str>, Turn)> {
        let mut state = self.state();
        while let Some(user) = state.order.pop_front() {
            let turns = state.by_user.get_mut(&user);
            let is_late = |turn: &Turn| turn.since.elapsed() >= PATIENCE;
            match turns.and_then(|turns| turns.pop_front().filter(|turn| !is_late(turn))) {
                Some(turn) => return Some((user, turn)),
                None => drop(state.by_user.remove(&user)),
            }
        }
        state.is_running = false;
        None
    }

    /// Ends a turn. What is left of it comes first when it is the user's turn again.
    pub(super) fn put_back(&self, user: Arc<str>, turn: Turn) {
        let mut state = self.state();
        let State { by_user, order, .. } = &mut *state;
        let Some(turns) = by_user.get_mut(&user) else { return };
        if !turn.is_over() {
            turns.push_front(turn);
        }
        if turns.is_empty() {
            by_user.remove(&user);
        } else {
            order.push_back(user);
        }
    }

    /// Spawns the task that runs the turns, unless it runs or there are none.
    pub(super) fn start(&self, run: impl FnOnce() -> BoxFuture<'static, ()>) {
        let mut state = self.state();
        if !state.order.is_empty() && !mem::replace(&mut state.is_running, true) {
            self.tasks.spawn(run());
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// Returns the users whose operations are too many for the relay loop.
fn busy<'a>(sharing: &[Sharing<'a>]) -> HashSet<&'a Arc<str>> {
    // For each user, the executions that it adds, and a mark of the last group that it was seen in.
    let mut loads: HashMap<&Arc<str>, (f64, usize)> = HashMap::new();
    if sharing.len() <= usize::from(LOOP_SHARE) {
        return HashSet::new();
    }
    for (number, group) in (1..).step_by(2).zip(sharing) {
        let mut users = 0_u32;
        for watcher in *group {
            let (_, mark) = loads.entry(&watcher.viewer.user).or_default();
            users += u32::from(mem::replace(mark, number) != number);
        }
        for watcher in *group {
            if let Some((load, mark)) = loads.get_mut(&watcher.viewer.user)
                && *mark == number
            {
                (*load, *mark) = (*load + 1.0 / f64::from(users), number + 1);
            }
        }
    }
    loads.into_iter().filter(|(_, (load, _))| *load > f64::from(LOOP_SHARE)).map(|(user, _)| user).collect()
}

impl Turn {
    /// Creates a turn for the event, unless the user's share has no room for it.
    pub(super) fn new(
        relayed: &Arc<Relayed>,
        watchers: Vec<Arc<Watcher>>,
        pool: &Pool,
        user: &Arc<str>,
    ) -> Option<Self> {
        let bytes = OVERHEAD + mem::size_of::<Arc<Watcher>>() * watchers.len();
        let Some(charge) = pool.try_charge(user, bytes) else {
            end(&watchers);
            return None;
        };
        let (relayed, since, span) = (relayed.clone(), Instant::now(), Span::current());
        Some(Self { relayed, watchers, since, span, _charge: charge })
    }

    /// Returns whether no watcher waits any more.
    pub(super) const fn is_over(&self) -> bool {
        self.watchers.is_empty()
    }

    /// Ends the connections of the watchers that still wait.
    pub(super) fn end(&mut self) {
        end(&mem::take(&mut self.watchers));
    }

    /// Returns the watchers of the operation that is next.
    pub(super) fn sharing(&self) -> Sharing<'_> {
        &self.watchers[self.last_operation()..]
    }

    /// Ends the part of the turn that [`Self::sharing`] returned.
    pub(super) fn advance(&mut self) {
        self.watchers.truncate(self.last_operation());
    }

    /// Returns where the watchers of the last operation begin.
    fn last_operation(&self) -> usize {
        let address = |watcher: &Arc<Watcher>| watcher.operation_address();
        let last = self.watchers.last().map(address);
        let other = self.watchers.iter().rposition(|watcher| Some(address(watcher)) != last);
        other.map_or(0, |other| other + 1)
    }
}

#[cfg(test)]
mod tests;
