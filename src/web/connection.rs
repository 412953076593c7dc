//! Connections: who is there, how many may be, and why each ended.
//!
//! A connection is counted by its [`Guard`], so that no way out of a handler forgets to uncount it.

mod end;
mod instruments;
mod registry;
mod transport;

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use opentelemetry::{KeyValue, metrics::Meter};
use tokio::time::{Instant, sleep_until};
use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};

pub use self::{end::End, registry::Entry, transport::Transport};
use self::{instruments::Instruments, registry::Registry};
use super::server::Peer;
use crate::hub::{Delivery, SendQueue};

/// The connections of one pod.
pub struct Connections {
    count: Arc<Count>,
    drain: Arc<DrainSignal>,
    tasks: TaskTracker,
    instruments: Arc<Instruments>,
    registry: Arc<Registry>,
}

/// Bounds on the connections of one pod, and what is kept of each.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at a time. A further one is refused with [`End::Full`].
    pub connections: usize,
    /// Connections from one address at a time; 0: no limit. A further one is refused with [`End::Crowded`].
    pub connections_per_address: usize,
    /// Whether the registry keeps the last cursor of each connection, for `/debug/connections`.
    pub keeps_cursors: bool,
}

/// The end of all connections: each at its own moment, so that their clients do not come back all at once.
struct DrainSignal {
    asked: CancellationToken,
    began: OnceLock<Instant>,
    spread: Duration,
}

/// How many there are, and how many there may be.
struct Count {
    limit: usize,
    /// 0: any number.
    limit_per_address: usize,
    present: Mutex<Present>,
}

#[derive(Default)]
struct Present {
    all: usize,
    /// Only kept if it is bounded; an address without connections is not in it.
    by_address: HashMap<IpAddr, usize>,
}

impl Count {
    fn enter(&self, address: Option<IpAddr>) -> Result<Option<IpAddr>, End> {
        let mut present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        let address = address.filter(|_| self.limit_per_address > 0);
        let same = address.and_then(|address| present.by_address.get(&address)).copied().unwrap_or_default();
        if present.all >= self.limit {
            return Err(End::Full);
        }
        if address.is_some() && same >= self.limit_per_address {
            return Err(End::Crowded);
        }
        present.all += 1;
        present.by_address.extend(address.map(|address| (address, same + 1)));
        Ok(address)
    }

    fn leave(&self, address: Option<IpAddr>) {
        let mut present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        present.all -= 1;
        if let Some(address) = address
            && let Some(count) = present.by_address.get_mut(&address)
        {
            *count -= 1;
            if *count == 0 {
                present.by_address.remove(&address);
            }
        }
    }
}

impl Connections {
    /// Creates the set of connections of a pod. They end within `spread` once `drain` is cancelled.
    #[must_use]
    pub fn new(limits: Limits, drain: CancellationToken, spread: Duration, meter: &Meter) -> Self {
        let drain = Arc::new(DrainSignal { asked: drain, began: OnceLock::new(), spread });
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
            present: Mutex::default(),
        });
        let registry = Arc::new(Registry::new(limits.keeps_cursors));
        registry.observe(meter);
        Self { count, drain, tasks: TaskTracker::new(), instruments: Arc::new(instruments), registry }
    }

    /// Counts a new connection in, or returns the end that it meets at once. The peer is that of its request.
    ///
    /// # Errors
    /// [`End::Full`], [`End::Crowded`] or [`End::Drained`].
    pub fn enter(&self, transport: Transport, peer: Option<&Peer>) -> Result<Guard, End> {
        let labels = [KeyValue::new("transport", transport.name())];
        let entered = match self.drain.asked.is_cancelled() {
            true => Err(End::Drained),
            false => self.count.enter(peer.map(Peer::address)),
        };
        let address = entered.inspect_err(|end| self.instruments.end(&labels, end))?;
        self.instruments.connections.add(1, &labels);
        Ok(Guard {
            count: self.count.clone(),
            address,
            instruments: self.instruments.clone(),
            registry: self.registry.clone(),
            slot: None,
            transport,
            labels,
            end: End::Lost,
            deliveries: AtomicU64::new(0),
            since: Instant::now(),
            drain: self.drain.clone(),
            moment: rand::random(),
            _counted: self.tasks.token(),
        })
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count.present.lock().unwrap_or_else(PoisonError::into_inner).all
    }

    /// Counts a limit that was hit otherwise than by a connection's end.
    pub fn refuse(&self, limit: &'static str) {
        self.instruments.refusals.count(limit);
    }

    /// How many are on the registry, and the first of them.
    #[must_use]
    pub fn entries(&self, most: usize) -> (usize, Vec<Entry>) {
        self.registry.first(most)
    }

    /// Refuses new connections and asks those that are there to end, each at its own moment.
    pub fn drain(&self) {
        self.drain.began.get_or_init(Instant::now);
        self.drain.asked.cancel();
        self.tasks.close();
    }

    /// Where the tasks of connections run, so that a drain can wait for them. Each [`Guard`] counts as one.
    #[must_use]
    pub const fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }
}

/// Longer than any connection lives.
const FAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// When a connection must end whose token expires then, if it does.
pub(super) fn expiry(time: Option<SystemTime>) -> Instant {
    let life = time.map(|time| time.duration_since(SystemTime::now()).unwrap_or_default());
    Instant::now() + life.unwrap_or(FAR).min(FAR)
}

/// One connection that counts, until it is dropped.
pub struct Guard {
    count: Arc<Count>,
    address: Option<IpAddr>,
    instruments: Arc<Instruments>,
    registry: Arc<Registry>,
    slot: Option<usize>,
    transport: Transport,
    labels: [KeyValue; 1],
    end: End,
    since: Instant,
    /// How many events it was told of.
    deliveries: AtomicU64,
    drain: Arc<DrainSignal>,
    /// When in a drain it ends, as a part of the whole: drawn once, or every event would draw anew.
    moment: f32,
    _counted: TaskTrackerToken,
}

impl Guard {
    /// Puts the connection on the registry, with the queue of what it is told.
    pub fn attach(&mut self, send_queue: Arc<SendQueue>) {
        self.slot = Some(self.registry.insert(self.transport, send_queue));
    }

    /// Says why the connection ends. Without a word it was lost.
    pub fn end(mut self, end: End) {
        self.end = end;
    }

    /// Waits until the pod drains and this connection's own moment in the drain has come.
    pub fn drained(&self) -> impl Future<Output = ()> + use<> {
        let (drain, moment) = (self.drain.clone(), self.moment);
        async move {
            drain.asked.cancelled().await;
            let began = *drain.began.get_or_init(Instant::now);
            // The timer is made when it is needed: a connection in peace has no room for it.
            Box::pin(sleep_until(began + drain.spread.mul_f32(moment))).await;
        }
    }

    /// Whether the pod drains, for whom asking [`drained`](Self::drained) each time costs too much.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.drain.began.get().is_some()
    }

    /// Counts deliveries that were written to the socket together. They count by the one that waited longest: a look at
    /// the clock and the histogram for each would cost a tenth of its write.
    pub fn delivered(&self, deliveries: &[Delivery]) {
        let published = deliveries.iter().find_map(|delivery| delivery.result.published);
        let latency = published.map(|published| published.elapsed().unwrap_or_default());
        let bytes = deliveries.iter().map(|delivery| delivery.result.payload.len()).sum();
        self.instruments.wrote(self.transport, deliveries.len(), bytes, latency);
        self.deliveries.fetch_add(deliveries.len() as u64, Ordering::Relaxed);
        self.registry.delivered(self.slot, deliveries.last());
        for trace in deliveries.iter().filter_map(|delivery| delivery.result.trace.as_ref()) {
            trace.delivered(self.transport.name());
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.count.leave(self.address);
        if let Some(slot) = self.slot {
            self.registry.remove(slot);
        }
        self.instruments.connections.add(-1, &self.labels);
        self.instruments.end(&self.labels, &self.end);
        let (reason, seconds) = (self.end.reason(), self.since.elapsed().as_secs_f64());
        let deliveries = *self.deliveries.get_mut();
        tracing::info!(transport = self.transport.name(), reason, seconds, deliveries, "connection ended");
    }
}
