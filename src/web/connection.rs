//! [`Connections`]: the open connections of a pod, the limits on their number, and the reasons of
//! their ends.
//!
//! Connections per address are limited here too, by `Count` with the numbers of [`Limits`]. The
//! [`Place`] of a connection counts it, so that no way out of a handler forgets to count it out.

mod end;
mod instruments;
mod moved;
mod registry;
mod transport;

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use opentelemetry::metrics::Meter;
use tokio::time::{Instant, sleep_until};
use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};

pub use self::{
    end::End,
    registry::{Entry, Stay},
    transport::Transport,
};
use self::{instruments::Instruments, registry::Registry};
use super::server::Peer;
use crate::{
    clock::TopicClock,
    hub::{Delivery, Overflow, SendQueue},
    membership::Moves,
    presence::{Presence, Visit},
    revocations::Credentials,
};

/// Open connections of one pod.
pub struct Connections {
    count: Arc<Count>,
    drain: Arc<DrainSignal>,
    tasks: TaskTracker,
    instruments: Arc<Instruments>,
    registry: Arc<Registry>,
    clock: TopicClock,
    /// Announcements on the topic; `None`: they are off.
    presence: Option<Presence>,
}

/// Limits on the connections of one pod, per address as well; [`Connections::enter`] enforces them.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at a time. A further one is refused with [`End::Full`].
    pub connections: usize,
    /// Connections from one address at a time; 0: no limit. A further one is refused with
    /// [`End::Crowded`].
    pub connections_per_address: usize,
    /// Time for which the registry keeps the last ends of each user's connections, for `/debug`;
    /// `None`: it keeps neither ends nor cursors.
    pub keeps: Option<Duration>,
}

/// Signal that ends all connections. Each ends at its own moment within `spread`, so that their
/// clients do not reconnect all at once.
struct DrainSignal {
    requested: CancellationToken,
    began: OnceLock<Instant>,
    spread: Duration,
}

/// Count of open connections, in all and per address. This is where connections per address are
/// limited.
struct Count {
    limit: usize,
    /// 0: no limit.
    limit_per_address: usize,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    all: usize,
    /// Connections that have begun since the pod's start.
    begun: u64,
    /// Kept only if the number per address is limited. An address without connections has no entry.
    by_address: HashMap<IpAddr, usize>,
}

impl Count {
    /// Counts a connection in, unless it would exceed a limit. Returns the address if it was
    /// counted.
    fn enter(&self, address: Option<IpAddr>) -> Result<Option<IpAddr>, End> {
        let mut open = crate::lock::lock(&self.open);
        let address = address.filter(|_| self.limit_per_address > 0);
        let same = address.and_then(|address| open.by_address.get(&address)).copied().unwrap_or_default();
        if open.all >= self.limit {
            return Err(End::Full);
        }
        if address.is_some() && same >= self.limit_per_address {
            return Err(End::Crowded);
        }
        open.all += 1;
        open.begun += 1;
        open.by_address.extend(address.map(|address| (address, same + 1)));
        Ok(address)
    }

    /// Counts a connection out. `address` is what `enter` returned.
    fn leave(&self, address: Option<IpAddr>) {
        let mut open = crate::lock::lock(&self.open);
        open.all -= 1;
        if let Some(address) = address
            && let Some(count) = open.by_address.get_mut(&address)
        {
            *count -= 1;
            if *count == 0 {
                open.by_address.remove(&address);
            }
        }
    }
}

impl Connections {
    /// Creates the set of connections of a pod. They end within `spread` once `drain` is cancelled.
    #[must_use]
    pub fn new(limits: Limits, drain: CancellationToken, spread: Duration, meter: &Meter) -> Self {
        let drain = Arc::new(DrainSignal { requested: drain, began: OnceLock::new(), spread });
        let instruments = Instruments::new(meter);
        let limit = limits.connections as u64;
        meter
            .u64_observable_gauge("relay.connections.limit")
            .with_description("Connections that this pod may have.")
            .with_callback(move |gauge| gauge.observe(limit, &[]))
            .build();
        let count = Arc::new(Count {
            limit: limits.connections,
            limit_per_address: limits.connections_per_address,
            open: Mutex::default(),
        });
        let registry = Arc::new(Registry::new(limits.keeps));
        registry.observe(meter);
        let (instruments, clock) = (Arc::new(instruments), TopicClock::default());
        Self { count, drain, tasks: TaskTracker::new(), instruments, registry, clock, presence: None }
    }

    /// Measures latencies by the topic's clock.
    #[must_use]
    pub fn with_clock(mut self, clock: TopicClock) -> Self {
        self.clock = clock;
        self
    }

    /// Announces connections on the topic.
    #[must_use]
    pub fn with_presence(mut self, presence: Presence) -> Self {
        self.presence = Some(presence);
        self
    }

    /// Counts a new connection in, or returns the end that it meets at once. `peer` is the peer of
    /// the request; without it the limit per address does not apply.
    ///
    /// # Errors
    /// [`End::Full`] or [`End::Crowded`] at a limit, [`End::Drained`] if the pod drains.
    pub fn enter(&self, transport: Transport, peer: Option<&Peer>) -> Result<Guard, End> {
        let place = self.place(transport, peer)?;
        let mut guard = self.reserve(transport);
        guard.occupy(place);
        Ok(guard)
    }

    /// Takes a place among the pod's connections, or returns the end that the connection meets at
    /// once. `peer` is the peer of the request; without it the limit per address does not apply.
    ///
    /// # Errors
    /// [`End::Full`] or [`End::Crowded`] at a limit, [`End::Drained`] if the pod drains.
    pub fn place(&self, transport: Transport, peer: Option<&Peer>) -> Result<Place, End> {
        let entered = match self.drain.requested.is_cancelled() {
            true => Err(End::Drained),
            false => self.count.enter(peer.map(Peer::address)),
        };
        let address = entered.inspect_err(|end| self.instruments.end(transport, end))?;
        self.instruments.connections.add(1, &[transport.label()]);
        tracing::debug!(transport = transport.name(), "connection began");
        Ok(Place { count: self.count.clone(), address, instruments: self.instruments.clone(), transport })
    }

    /// Creates the guard of a connection that is not counted until it [occupies](Guard::occupy) a
    /// place.
    #[must_use]
    pub fn reserve(&self, transport: Transport) -> Guard {
        Guard {
            place: None,
            instruments: self.instruments.clone(),
            registry: self.registry.clone(),
            clock: self.clock.clone(),
            slot: None,
            transport,
            end: End::Lost,
            deliveries: AtomicU64::new(0),
            since: Instant::now(),
            drain: self.drain.clone(),
            drain_moment: rand::random(),
            visit: self.presence.as_ref().map(|presence| Box::new(presence.visit(transport.name()))),
            _counted: self.tasks.token(),
        }
    }

    /// Returns the topic's clock.
    #[must_use]
    pub const fn clock(&self) -> &TopicClock {
        &self.clock
    }

    /// Reports whether new connections are refused because the pod drains.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.drain.requested.is_cancelled()
    }

    /// Returns the number of open connections.
    #[must_use]
    pub fn count(&self) -> usize {
        crate::lock::lock(&self.count.open).all
    }

    /// Returns how many connections have begun since the pod's start.
    #[must_use]
    pub fn begun(&self) -> u64 {
        crate::lock::lock(&self.count.open).begun
    }

    /// Counts a limit that was reached in another way than by the end of a connection.
    pub fn refuse(&self, limit: &'static str) {
        self.instruments.refusals.count(limit);
    }

    /// Returns the number of connections in the registry, and the first `most` of them.
    #[must_use]
    pub fn entries(&self, most: usize) -> (usize, Vec<Entry>) {
        self.registry.first(most)
    }

    /// Ends the connections whose credentials are refused. Returns their number.
    pub fn end_refused(&self, refusal: impl Fn(&Credentials) -> Option<Overflow>) -> usize {
        self.registry.end_refused(refusal)
    }

    /// Returns the number of open connections of each transport, in the order of
    /// [`Transport::ALL`].
    #[must_use]
    pub fn by_transport(&self) -> [u64; Transport::ALL.len()] {
        self.registry.by_transport()
    }

    /// Returns the user's open connections with watchers, and then those that have ended lately,
    /// the newest first; `most` of each at most.
    #[must_use]
    pub fn stays(&self, user: &str, most: usize) -> Vec<Stay> {
        self.registry.stays(user, most)
    }

    /// Ends one connection, so that its client connects again. Returns `false` if there is none.
    pub fn move_one(&self) -> bool {
        self.registry.move_one()
    }

    /// Returns how many connections were moved, and how many of them have come back.
    #[must_use]
    pub fn moves(&self) -> Moves {
        self.registry.moves()
    }

    /// Forgets the moved connections.
    pub fn forget_moves(&self) {
        self.registry.forget_moves();
    }

    /// Refuses new connections and ends the open ones, each at its own moment.
    pub fn drain(&self) {
        self.drain.began.get_or_init(Instant::now);
        self.drain.requested.cancel();
        self.tasks.close();
    }

    /// Returns the tracker of the connections' tasks, so that a drain can wait for them. Each
    /// [`Guard`] counts as one task.
    #[must_use]
    pub const fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }
}

/// Longest lifetime of a connection: one year, also if its token does not expire.
const MAX_LIFETIME: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Returns when a connection must end if its token expires at `time`.
pub(super) fn expiry(time: Option<SystemTime>) -> Instant {
    let lifetime = time.map(|time| time.duration_since(SystemTime::now()).unwrap_or_default());
    Instant::now() + lifetime.unwrap_or(MAX_LIFETIME).min(MAX_LIFETIME)
}

/// Place of one connection among those of the pod. Dropping it frees the place.
pub struct Place {
    count: Arc<Count>,
    address: Option<IpAddr>,
    instruments: Arc<Instruments>,
    transport: Transport,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.count.leave(self.address);
        self.instruments.connections.add(-1, &[self.transport.label()]);
    }
}

/// Guard of one open connection, which ends when the guard is dropped.
pub struct Guard {
    /// `None`: the connection is reserved and has no client yet.
    place: Option<Place>,
    instruments: Arc<Instruments>,
    registry: Arc<Registry>,
    clock: TopicClock,
    slot: Option<usize>,
    transport: Transport,
    end: End,
    since: Instant,
    /// Number of deliveries written to the socket.
    deliveries: AtomicU64,
    drain: Arc<DrainSignal>,
    /// When in a drain the connection ends, as a fraction of the spread. Drawn once, since each
    /// event polls the drain anew.
    drain_moment: f32,
    /// What is announced on the topic; `None`: nothing.
    visit: Option<Box<Visit>>,
    _counted: TaskTrackerToken,
}

impl Guard {
    /// Adds the connection to the registry, with its send queue.
    pub fn attach(&mut self, send_queue: Arc<SendQueue>) {
        self.slot = Some(self.registry.insert(self.transport, send_queue));
    }

    /// Stores the credentials of the connection's token, in place of those of an earlier one. Ends
    /// the connection if they are refused by now.
    pub fn identify(
        &mut self,
        credentials: Arc<Credentials>,
        refusal: impl Fn(&Credentials) -> Option<Overflow>,
    ) {
        if let Some(visit) = &mut self.visit {
            visit.identify(&credentials.user);
        }
        self.registry.identify(self.slot, credentials, refusal);
    }

    /// Counts the connection from now on.
    pub fn occupy(&mut self, place: Place) {
        (self.place, self.since) = (Some(place), Instant::now());
        if let Some(visit) = &mut self.visit {
            visit.count();
        }
    }

    /// Records why the connection ends. Without a call the reason is [`End::Lost`].
    pub fn end(mut self, end: End) {
        self.end = end;
    }

    /// Waits until the pod drains and this connection's own moment in the drain has come.
    pub fn drained(&self) -> impl Future<Output = ()> + use<> {
        let (drain, moment) = (self.drain.clone(), self.drain_moment);
        async move {
            drain.requested.cancelled().await;
            let began = *drain.began.get_or_init(Instant::now);
            // Boxed: only a connection that is drained needs room for the timer.
            Box::pin(sleep_until(began + drain.spread.mul_f32(moment))).await;
        }
    }

    /// Reports whether the pod drains. It costs less than polling [`drained`](Self::drained) each
    /// time.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.drain.began.get().is_some()
    }

    /// Counts deliveries that were written to the socket together. Only the latency of the one that
    /// waited longest is recorded. For each delivery, the clock and the histogram would cost a
    /// tenth of its write.
    pub fn delivered(&self, deliveries: &[Delivery]) {
        let published = deliveries.iter().find_map(|delivery| delivery.result.published);
        let latency = published.map(|published| self.clock.age(published));
        let bytes = deliveries.iter().map(|delivery| delivery.result.payload.len()).sum();
        self.instruments.record_write(self.transport, deliveries.len(), bytes, latency);
        self.deliveries.fetch_add(deliveries.len() as u64, Ordering::Relaxed);
        self.registry.delivered(self.slot, deliveries.last());
        for trace in deliveries.iter().filter_map(|delivery| delivery.result.trace.as_ref()) {
            trace.delivered(self.transport.name());
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(slot) = self.slot {
            self.registry.remove(slot, &self.end);
        }
        if self.place.is_none() {
            return;
        }
        if let Some(visit) = &self.visit {
            visit.end(self.end.reason());
        }
        self.instruments.end(self.transport, &self.end);
        let (reason, seconds) = (self.end.reason(), self.since.elapsed().as_secs_f64());
        let deliveries = *self.deliveries.get_mut();
        tracing::info!(transport = self.transport.name(), reason, seconds, deliveries, "connection ended");
    }
}
