//! [`PendingSockets`]: limits how many sockets may be no connection yet, and how long each may be
//! silent.
//!
//! The head of every request on a socket may take a few seconds. Between two requests a socket may
//! be idle longer than load balancers keep one. So no request meets a socket that is being closed.
//! One check of all sockets each second enforces both times: a request costs no timer. When all
//! places are taken, a silent socket is closed at once: idle, or with a head or a body that does
//! not come. It is the one that has been silent longest of the user or the address with the most
//! sockets. A request that is running must never be cut off.

use std::{
    cmp::Reverse,
    collections::HashMap,
    fmt,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::http::HeaderMap;
use slab::Slab;
use tokio::{
    sync::Notify,
    time::{Instant, interval, timeout},
};

use super::{bounds::Bounds, proxies::client_block};
use crate::budget::{Charge, account_of};

/// How long the head of a request may take, from its first byte. For the first request of a socket
/// it counts from the accept. Then the socket is closed.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a socket may be idle between two requests before it is closed. Google's load balancers
/// keep one for 600 s and must be the first to close it.
const IDLE_TIMEOUT: Duration = Duration::from_secs(620);

/// Bytes that a head may have without a charge: its place stands for them. Few heads have more.
const FREE_HEAD_BYTES: usize = 4 << 10;

/// Time between two checks of all sockets.
const CHECK_PERIOD: Duration = Duration::from_secs(1);

/// Longest time between two tries to find a place while a request runs on every socket.
const PLACE_RETRY_DELAY: Duration = Duration::from_millis(200);

/// State of a pending socket: what it waits for.
#[derive(Clone, Copy, Debug)]
enum State {
    /// The rest of a head, since this time.
    ReadingHead(Instant),
    /// The rest of a body, since this time.
    ReadingBody(Instant),
    /// The answer to a request.
    Answering,
    /// The next request, since this time.
    Idle(Instant),
    /// Its end: another socket needs the place.
    Closing,
}

/// What a socket counts for when places are short.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Owner {
    /// The user of its last request. An idle socket of a user is not one of many at its address.
    User(Arc<str>),
    /// The client of the request that runs, else the peer.
    Address(IpAddr),
}

/// Head of a request: its bytes, and their charge once they are more than every head may have.
#[derive(Debug, Default)]
struct Head {
    bytes: usize,
    charge: Option<Charge>,
}

/// Activity on one socket: its state, updated by its reads, writes and answers.
#[derive(Debug)]
pub(super) struct Activity {
    state: Mutex<State>,
    close: Notify,
    bounds: Bounds,
    peer: IpAddr,
    owner: Mutex<Owner>,
    account: Arc<str>,
    /// The head that is being read, or that waits for its answer.
    head: Mutex<Head>,
    is_refused: AtomicBool,
}

impl Activity {
    fn new(bounds: Bounds, peer: SocketAddr) -> Self {
        let address = peer.ip().to_canonical();
        // Many clients share a trusted proxy: until their heads are read, each socket is one.
        let account = match bounds.trusted.has(address) {
            true => format!("\0{peer}").into(),
            false => account_of(client_block(address)),
        };
        Self {
            state: Mutex::new(State::ReadingHead(Instant::now())),
            close: Notify::new(),
            bounds,
            peer: address,
            owner: Mutex::new(Owner::Address(client_block(address))),
            account,
            head: Mutex::default(),
            is_refused: AtomicBool::new(false),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        crate::lock::lock(&self.state)
    }

    /// Records that bytes were read. On an idle socket they are the beginning of a head. Those of a
    /// head are charged. Returns `false` if there is no room for them: the request is refused.
    pub(super) fn on_read(&self, bytes: usize) -> bool {
        let mut state = self.state();
        if matches!(*state, State::Idle(_) | State::Closing) {
            *state = State::ReadingHead(Instant::now());
        }
        if !matches!(*state, State::ReadingHead(_)) {
            return true;
        }
        drop(state);
        let mut head = crate::lock::lock(&self.head);
        head.bytes += bytes;
        let charged = head.bytes;
        let has_room = match &mut head.charge {
            _ if charged <= FREE_HEAD_BYTES => true,
            Some(charge) => charge.resize(charged),
            None => {
                head.charge = self.bounds.requests.try_charge(&self.account, charged);
                head.charge.is_some()
            }
        };
        if !has_room {
            self.bounds.refusals.count("requests");
            self.is_refused.store(true, Ordering::Relaxed);
            *head = Head::default();
        }
        has_room
    }

    /// Reports whether a head was refused for want of room.
    pub(super) fn is_refused(&self) -> bool {
        self.is_refused.load(Ordering::Relaxed)
    }

    /// Returns the address of the client that sends a request with these headers; of IPv6 its /64.
    pub(super) fn client(&self, headers: &HeaderMap) -> IpAddr {
        client_block(self.bounds.trusted.client(self.peer, headers))
    }

    /// Records that the head of a request of this client is complete.
    pub(super) fn on_request(&self, client: IpAddr) {
        *self.state() = State::Answering;
        *crate::lock::lock(&self.owner) = Owner::Address(client);
    }

    /// Records that the request that runs is of this user.
    pub(super) fn on_user(&self, user: &Arc<str>) {
        *crate::lock::lock(&self.owner) = Owner::User(user.clone());
    }

    /// Records that a body is being read and its next part has not come.
    pub(super) fn on_body_awaited(&self) {
        let mut state = self.state();
        if matches!(*state, State::Answering) {
            *state = State::ReadingBody(Instant::now());
        }
    }

    /// Records that a part of a body was read, which is not the last.
    pub(super) fn on_body_read(&self) {
        let mut state = self.state();
        if matches!(*state, State::ReadingBody(_)) {
            *state = State::ReadingBody(Instant::now());
        }
    }

    /// Records that a body is complete. Its request is running from now on, even if the socket was
    /// about to be closed.
    pub(super) fn on_body_end(&self) {
        *self.state() = State::Answering;
    }

    /// Records that the answer is known.
    pub(super) fn on_answer(&self) {
        *self.state() = State::Idle(Instant::now());
        let mut owner = crate::lock::lock(&self.owner);
        // Many clients share the sockets of a trusted proxy.
        if matches!(*owner, Owner::Address(_)) || self.bounds.trusted.has(self.peer) {
            *owner = Owner::Address(client_block(self.peer));
        }
        drop(owner);
        *crate::lock::lock(&self.head) = Head::default();
    }

    /// Records that a part of an answer was written. The socket is idle from now on. What was read
    /// since the answer was known can be the end of the request's body.
    pub(super) fn on_write(&self) {
        let mut state = self.state();
        if matches!(*state, State::ReadingHead(_) | State::Idle(_)) {
            *state = State::Idle(Instant::now());
        }
    }

    /// Reports whether the socket has waited for too long.
    fn is_late(&self) -> bool {
        match *self.state() {
            State::ReadingHead(since) => since.elapsed() > HEAD_TIMEOUT,
            State::Idle(since) => since.elapsed() > IDLE_TIMEOUT,
            State::ReadingBody(_) | State::Answering | State::Closing => false,
        }
    }

    /// Reports whether the socket ends at once, since nothing is running on it.
    pub(super) fn may_end(&self) -> bool {
        let is_closing = matches!(*self.state(), State::Closing);
        is_closing || self.is_late()
    }

    /// Waits until the socket has to be closed: at once if it [may end](Self::may_end), else after
    /// the answer under way.
    pub(super) async fn close_requested(&self) {
        self.close.notified().await;
    }

    /// Returns since when the socket has been silent; `None` if a request is running on it.
    fn silent_since(&self) -> Option<Instant> {
        match *self.state() {
            State::ReadingHead(since) | State::ReadingBody(since) | State::Idle(since) => Some(since),
            State::Answering | State::Closing => None,
        }
    }
}

/// Pending sockets of one listener: accepted, but no connection yet.
pub(super) struct PendingSockets {
    places: usize,
    bounds: Bounds,
    sockets: Mutex<Slab<Arc<Activity>>>,
    freed: Notify,
}

impl PendingSockets {
    /// Creates an empty set with this many places.
    pub(super) fn new(places: usize, bounds: Bounds) -> Arc<Self> {
        Arc::new(Self { places, bounds, sockets: Mutex::default(), freed: Notify::new() })
    }

    fn sockets(&self) -> MutexGuard<'_, Slab<Arc<Activity>>> {
        crate::lock::lock(&self.sockets)
    }

    /// Waits for a free place and takes it for a socket from this address. While there is none, it
    /// closes a silent socket.
    pub(super) async fn enter(self: &Arc<Self>, address: SocketAddr) -> Place {
        loop {
            if let Some(place) = self.try_enter(address) {
                return place;
            }
            self.close_longest_silent();
            let _ = timeout(PLACE_RETRY_DELAY, self.freed.notified()).await;
        }
    }

    fn try_enter(self: &Arc<Self>, address: SocketAddr) -> Option<Place> {
        let mut all = self.sockets();
        if all.len() >= self.places {
            return None;
        }
        let activity = Arc::new(Activity::new(self.bounds.clone(), address));
        let slot = all.insert(activity.clone());
        Some(Place { pending: self.clone(), slot, activity })
    }

    fn close_longest_silent(&self) {
        let all = self.sockets();
        // Requests change the owners meanwhile, so each is read once.
        let owned = all.iter().map(|(_, socket)| (crate::lock::lock(&socket.owner).clone(), socket));
        let owned: Vec<_> = owned.collect();
        let mut counts = HashMap::<_, usize>::new();
        for (owner, _) in &owned {
            *counts.entry(owner).or_default() += 1;
        }
        let silent = owned.iter().filter_map(|(owner, socket)| {
            let since = socket.silent_since()?;
            Some(((counts.get(owner).copied(), Reverse(since)), socket))
        });
        if let Some((_, longest)) = silent.max_by_key(|(order, _)| *order) {
            *longest.state() = State::Closing;
            longest.close.notify_one();
        }
    }

    /// Asks late sockets to close, once a second. It never returns.
    pub(super) async fn close_late(&self) {
        let mut checks = interval(CHECK_PERIOD);
        loop {
            checks.tick().await;
            for (_, socket) in self.sockets().iter().filter(|(_, socket)| socket.is_late()) {
                socket.close.notify_one();
            }
        }
    }
}

/// Place of one pending socket. Dropping it frees the place.
pub(super) struct Place {
    pending: Arc<PendingSockets>,
    slot: usize,
    pub(super) activity: Arc<Activity>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.pending.sockets().try_remove(self.slot);
        self.pending.freed.notify_one();
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place").field("slot", &self.slot).finish_non_exhaustive()
    }
}
