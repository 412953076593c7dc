//! The sockets that have not become a connection: how many there may be, and how long each may be silent.
//!
//! The head of a request may take a few seconds, whichever it is on its socket; between two requests a socket may be idle for
//! longer than balancers keep one, so that no request meets a socket that is being closed. One look at all of them each second
//! sees to that: a request costs no timer. When all places are taken, who has been idle for longest gives up its own. It must
//! never cut off a request that is being run.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use slab::Slab;
use tokio::{
    sync::Notify,
    time::{Instant, interval, timeout},
};

/// How long the head of a request may take, from its first byte; that of a socket's first request, from the beginning.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a socket may be idle between two requests: Google's balancers keep one for 600 s, and want to be the first to
/// close it.
const IDLE_TIMEOUT: Duration = Duration::from_secs(620);

/// Between two looks at all sockets.
const PERIOD: Duration = Duration::from_secs(1);

/// Between two tries to find a place when nobody is idle.
const BREATH: Duration = Duration::from_millis(200);

/// What a socket waits for.
#[derive(Clone, Copy, Debug)]
enum Turn {
    /// The rest of a head.
    Head(Instant),
    /// The answer to a request.
    Busy,
    /// A request.
    Idle(Instant),
    /// To be closed: its place is wanted.
    Leaving,
}

/// Whose turn it is on one socket, as its reads, writes and answers tell.
#[derive(Debug)]
pub(super) struct Turns {
    now: Mutex<Turn>,
    over: Notify,
}

impl Turns {
    fn new() -> Self {
        Self { now: Mutex::new(Turn::Head(Instant::now())), over: Notify::new() }
    }

    fn now(&self) -> MutexGuard<'_, Turn> {
        // Nothing panics while it is held.
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something was read.
    pub(super) fn heard(&self) {
        let mut now = self.now();
        if matches!(*now, Turn::Idle(_) | Turn::Leaving) {
            *now = Turn::Head(Instant::now());
        }
    }

    /// A head was complete.
    pub(super) fn asked(&self) {
        *self.now() = Turn::Busy;
    }

    /// The answer is known.
    pub(super) fn answered(&self) {
        *self.now() = Turn::Idle(Instant::now());
    }

    /// Something of an answer was written. What was read since it was known can be the end of its request's body.
    pub(super) fn wrote(&self) {
        let mut now = self.now();
        if matches!(*now, Turn::Head(_) | Turn::Idle(_)) {
            *now = Turn::Idle(Instant::now());
        }
    }

    /// Whether the socket has been waiting for too long.
    pub(super) fn is_late(&self) -> bool {
        match *self.now() {
            Turn::Head(since) => since.elapsed() > HEAD_TIMEOUT,
            Turn::Idle(since) => since.elapsed() > IDLE_TIMEOUT,
            Turn::Busy | Turn::Leaving => false,
        }
    }

    /// Waits until the socket is to be closed: at once if it is late, else as soon as nobody waits for an answer.
    pub(super) async fn over(&self) {
        self.over.notified().await;
    }

    fn idle_since(&self) -> Option<Instant> {
        match *self.now() {
            Turn::Idle(since) => Some(since),
            _ => None,
        }
    }
}

/// All the sockets that one listener has accepted and that are no connection.
pub(super) struct PendingSockets {
    most: usize,
    turns: Mutex<Slab<Arc<Turns>>>,
    left: Notify,
}

impl PendingSockets {
    /// None yet, and never more than `most`.
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, turns: Mutex::default(), left: Notify::new() })
    }

    fn turns(&self) -> MutexGuard<'_, Slab<Arc<Turns>>> {
        // Nothing panics while it is held.
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for another, as soon as there is one.
    pub(super) async fn enter(self: &Arc<Self>) -> Place {
        loop {
            if let Some(place) = self.try_enter() {
                return place;
            }
            self.make_room();
            let _ = timeout(BREATH, self.left.notified()).await;
        }
    }

    fn try_enter(self: &Arc<Self>) -> Option<Place> {
        let mut all = self.turns();
        if all.len() >= self.most {
            return None;
        }
        let turns = Arc::new(Turns::new());
        let slot = all.insert(turns.clone());
        Some(Place { pending: self.clone(), slot, turns })
    }

    fn make_room(&self) {
        let all = self.turns();
        let idle = all.iter().filter_map(|(_, turns)| Some((turns.idle_since()?, turns)));
        if let Some((_, longest)) = idle.min_by_key(|(since, _)| *since) {
            *longest.now() = Turn::Leaving;
            longest.over.notify_one();
        }
    }

    /// Ends those that are late, for ever.
    pub(super) async fn watch(&self) {
        let mut looks = interval(PERIOD);
        loop {
            looks.tick().await;
            for (_, turns) in self.turns().iter().filter(|(_, turns)| turns.is_late()) {
                turns.over.notify_one();
            }
        }
    }
}

/// The place of one socket, free again when it is dropped.
pub(super) struct Place {
    pending: Arc<PendingSockets>,
    slot: usize,
    pub(super) turns: Arc<Turns>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.pending.turns().try_remove(self.slot);
        self.pending.left.notify_one();
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place").field("slot", &self.slot).finish_non_exhaustive()
    }
}
