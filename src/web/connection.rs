//! Connections: who is there, how many may be, and why each ended.
//!
//! A connection is counted by its [`Guard`], so that no way out of a handler forgets to uncount it.

mod roll;

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use opentelemetry::{
    KeyValue,
    metrics::{Counter, Histogram, Meter, UpDownCounter},
};
use tokio::time::{Instant, sleep_until};
use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};

pub use self::roll::Entry;
use self::roll::{Roll, TRANSPORTS};
use super::{Settings, serve::Peer, ws::protocol::Close};
use crate::{
    hub::{Delivery, Outbox},
    telemetry::{LATENCY_BUCKETS, Refusals},
};

/// Why a connection ended. The first reason counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The client left in good order.
    Left,
    /// The transport broke.
    Lost,
    /// The client did not answer our pings.
    Dead,
    /// The client broke the protocol, or was refused by it.
    Refused(Close),
    /// A message over the limit.
    TooBig,
    /// Text that is not UTF-8, or a frame that is not one.
    Malformed(u16),
    /// Its token expired; it may come back with a fresh one.
    Expired,
    /// It did not read what was meant for it in time; it may come back.
    Slow,
    /// There was no room for it; it may come back.
    Full,
    /// There was no room for another from its address; it may come back.
    Crowded,
    /// The pod drains; it may come back, to another pod.
    Drained,
}

impl End {
    /// The reason as metrics and logs name it.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Left => "left",
            Self::Lost => "lost",
            Self::Dead => "dead",
            Self::Refused(close) => close.label(),
            Self::TooBig => "too_big",
            Self::Malformed(_) => "malformed",
            Self::Expired => "expired",
            Self::Slow => "slow",
            Self::Full => "full",
            Self::Crowded => "crowded",
            Self::Drained => "drained",
        }
    }

    /// The limit that was hit, if it was one.
    const fn limit(&self) -> Option<&'static str> {
        Some(match self {
            Self::Full => "connections",
            Self::Crowded => "connections_per_address",
            Self::TooBig => "message",
            Self::Slow => "queue",
            _ => return None,
        })
    }

    /// What a WebSocket's client is told, if there is anybody left to tell.
    #[must_use]
    pub fn close(&self) -> Option<Close> {
        Some(match self {
            Self::Left | Self::Lost | Self::Dead => return None,
            Self::Refused(close) => close.clone(),
            Self::TooBig => Close::new(1009, "message too big"),
            Self::Malformed(code) => Close::new(*code, "malformed frame"),
            Self::Expired => Close::new(4403, "token expired"),
            Self::Slow => Close::new(1013, "too slow"),
            Self::Full => Close::new(1013, "too many connections"),
            Self::Crowded => Close::new(1013, "too many connections from this address"),
            Self::Drained => Close::new(1012, "service restart"),
        })
    }
}

/// The connections of one pod.
pub struct Connections {
    count: Arc<Count>,
    drain: Arc<Drain>,
    tasks: TaskTracker,
    instruments: Arc<Instruments>,
    roll: Arc<Roll>,
}

/// The end of all connections: each at its own moment, so that their clients do not come back all at once.
struct Drain {
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

struct Instruments {
    connections: UpDownCounter<i64>,
    ends: Counter<u64>,
    deliveries: Counter<u64>,
    delivered: Counter<u64>,
    latency: Histogram<f64>,
    refusals: Refusals,
}

impl Connections {
    /// No connections yet; as many at once as the settings say, all asked to end within `spread` once `drain` is cancelled.
    #[must_use]
    pub fn new(settings: &Settings, drain: CancellationToken, spread: Duration, meter: &Meter) -> Self {
        let drain = Arc::new(Drain { asked: drain, began: OnceLock::new(), spread });
        let instruments = Instruments {
            connections: meter
                .i64_up_down_counter("relay.connections")
                .with_description("Connections now, by transport.")
                .build(),
            ends: meter
                .u64_counter("relay.connection.ends")
                .with_description("Connections that ended, by transport and reason.")
                .build(),
            deliveries: meter
                .u64_counter("relay.deliveries")
                .with_description("Events written to sockets, by transport.")
                .build(),
            delivered: meter
                .u64_counter("relay.delivered")
                .with_unit("By")
                .with_description(
                    "Results written to sockets, without what transports put around them, by transport.",
                )
                .build(),
            latency: meter
                .f64_histogram("relay.delivery.latency")
                .with_unit("s")
                .with_boundaries(LATENCY_BUCKETS.to_vec())
                .with_description(
                    "From the topic's acknowledgement of an event to its write to a socket, by write.",
                )
                .build(),
            refusals: Refusals::new(meter),
        };
        instruments.begin();
        let limit = settings.max_connections as u64;
        meter
            .u64_observable_gauge("relay.connections.limit")
            .with_description("Connections that this pod may have.")
            .with_callback(move |gauge| gauge.observe(limit, &[]))
            .build();
        let count = Arc::new(Count {
            limit: settings.max_connections,
            limit_per_address: settings.max_connections_per_address,
            present: Mutex::default(),
        });
        let roll = Arc::new(Roll::new(settings.debug_token.is_some()));
        roll.observe(meter);
        Self { count, drain, tasks: TaskTracker::new(), instruments: Arc::new(instruments), roll }
    }

    /// Counts a new connection in, or returns the end that it meets at once. The peer is that of its request.
    ///
    /// # Errors
    /// [`End::Full`], [`End::Crowded`] or [`End::Drained`].
    pub fn enter(&self, transport: &'static str, peer: Option<&Peer>) -> Result<Guard, End> {
        let transport = [KeyValue::new("transport", transport)];
        let entered = match self.drain.asked.is_cancelled() {
            true => Err(End::Drained),
            false => self.count.enter(peer.map(Peer::address)),
        };
        let address = entered.inspect_err(|end| self.instruments.end(&transport, end))?;
        self.instruments.connections.add(1, &transport);
        Ok(Guard {
            count: self.count.clone(),
            address,
            instruments: self.instruments.clone(),
            roll: self.roll.clone(),
            slot: None,
            transport,
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

    /// How many are on the roll, and the first of them.
    #[must_use]
    pub fn entries(&self, most: usize) -> (usize, Vec<Entry>) {
        self.roll.first(most)
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

impl Instruments {
    /// From the beginning: an autoscaler takes a gauge that does not exist for one that is broken, and the first increase of
    /// a counter would be none to whoever watches it.
    fn begin(&self) {
        for transport in TRANSPORTS {
            let transport = KeyValue::new("transport", transport);
            self.connections.add(0, std::slice::from_ref(&transport));
            self.deliveries.add(0, std::slice::from_ref(&transport));
            for end in [End::Lost, End::Dead, End::Slow, End::Full, End::Crowded] {
                self.ends.add(0, &[transport.clone(), KeyValue::new("reason", end.reason())]);
            }
        }
    }

    fn end(&self, transport: &[KeyValue; 1], end: &End) {
        self.ends.add(1, &[transport[0].clone(), KeyValue::new("reason", end.reason())]);
        if let Some(limit) = end.limit() {
            self.refusals.count(limit);
        }
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
    roll: Arc<Roll>,
    slot: Option<usize>,
    transport: [KeyValue; 1],
    end: End,
    since: Instant,
    /// How many events it was told of.
    deliveries: AtomicU64,
    drain: Arc<Drain>,
    /// When in a drain it ends, as a part of the whole: drawn once, or every event would draw anew.
    moment: f32,
    _counted: TaskTrackerToken,
}

impl Guard {
    /// Puts the connection on the roll, with the queue of what it is told.
    pub fn attach(&mut self, transport: &'static str, outbox: Arc<Outbox>) {
        self.slot = Some(self.roll.insert(transport, outbox));
    }

    /// Says why the connection ends. Without a word it was lost.
    pub fn end(mut self, end: End) {
        self.end = end;
    }

    /// Waits until the pod drains and this connection's own moment in the drain has come.
    pub async fn drained(&self) {
        self.drain.asked.cancelled().await;
        let began = *self.drain.began.get_or_init(Instant::now);
        // The timer is made when it is needed: a connection in peace has no room for it.
        Box::pin(sleep_until(began + self.drain.spread.mul_f32(self.moment))).await;
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
        if let Some(published) = published {
            let latency = published.elapsed().unwrap_or_default();
            self.instruments.latency.record(latency.as_secs_f64(), &self.transport);
        }
        let bytes: usize = deliveries.iter().map(|delivery| delivery.result.payload.len()).sum();
        self.instruments.deliveries.add(deliveries.len() as u64, &self.transport);
        self.instruments.delivered.add(bytes as u64, &self.transport);
        self.deliveries.fetch_add(deliveries.len() as u64, Ordering::Relaxed);
        self.roll.delivered(self.slot, deliveries.last());
        for trace in deliveries.iter().filter_map(|delivery| delivery.result.trace.as_ref()) {
            trace.delivered(self.transport[0].value.as_str().as_ref());
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.count.leave(self.address);
        if let Some(slot) = self.slot {
            self.roll.remove(slot);
        }
        self.instruments.connections.add(-1, &self.transport);
        self.instruments.end(&self.transport, &self.end);
        let (reason, seconds) = (self.end.reason(), self.since.elapsed().as_secs_f64());
        let deliveries = *self.deliveries.get_mut();
        tracing::info!(transport = %self.transport[0].value, reason, seconds, deliveries, "connection ended");
    }
}
