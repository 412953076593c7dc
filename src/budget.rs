//! [`Budget`]: the ledger of what a pod holds for its clients.
//!
//! Memory is charged before it is spent: to an account of its user and to a [`Pool`] of the pod. A
//! [`Charge`] releases it. So one user can use up its own share and never that of the others, and a
//! pod's memory has a bound that follows from one setting. It must never cost a delivery anything.

pub mod memory;
mod pool;
mod rate;

use std::{net::IpAddr, sync::Arc};

use opentelemetry::{KeyValue, metrics::Meter};

pub use self::{
    pool::{Charge, Exhausted, Pool, SharedCharge},
    rate::Rates,
};

/// Settings of the ledger.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Bytes that are divided into pools; default 768 MiB.
    pub memory: usize,
    /// Bytes of the largest answer to a query or mutation; default 4 MiB. A larger answer becomes
    /// `RESULT_TOO_LARGE`.
    pub answer_bytes: usize,
    /// Events that one user may publish each second; default 50. Four seconds of them may come at
    /// once. A further one is refused with `RATE_LIMITED`. `None`: no limit.
    pub user_event_rate: Option<u64>,
    /// Bytes of events that one user may publish each second; default 32 KiB. 64 seconds of them
    /// may come at once. A further event is refused with `RATE_LIMITED`. `None`: no limit.
    pub user_event_bytes: Option<u64>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            memory: memory::DEFAULT,
            answer_bytes: 4 << 20,
            user_event_rate: Some(50),
            user_event_bytes: Some(32 << 10),
        }
    }
}

impl Settings {
    /// Returns the most memory that a pod takes with these settings, a replay window and a
    /// feed that keep so many bytes, and this many connections. `docs/OPERATIONS.md` has the sum.
    #[must_use]
    pub const fn most(&self, kept: usize, connections: usize) -> usize {
        let pools = self.memory / REQUESTS + self.memory / ANSWERS + self.memory / OPERATIONS;
        let charged = pools + self.memory / QUEUES;
        let of_connections = connections.saturating_mul(CONNECTION_BYTES);
        charged.saturating_add(kept).saturating_add(of_connections).saturating_add(FIXED_BYTES)
    }

    /// Returns a warning if a container of `limit` bytes has less memory than a pod may take with
    /// these settings, a replay window and a feed that keep so many bytes, and this many
    /// connections.
    #[must_use]
    pub fn warning(&self, kept: usize, connections: usize, limit: Option<usize>) -> Option<String> {
        let (most, limit, mib) = (self.most(kept, connections), limit?, |bytes: usize| bytes >> 20);
        (limit < most).then(|| {
            format!(
                "the container has {} MiB, and with these settings the pod may take {} MiB: lower RELAY_MEMORY, \
                 RELAY_REPLAY_BYTES or RELAY_MAX_CONNECTIONS",
                mib(limit),
                mib(most)
            )
        })
    }
}

/// Most bytes of a connection that are not charged: its own, and results that it is about to write.
const CONNECTION_BYTES: usize = 8 << 10;

/// Most bytes of everything else: 180 MiB. `docs/OPERATIONS.md` lists it.
const FIXED_BYTES: usize = 180 << 20;

/// Part of the memory for requests, as a divisor: heads, bodies, unfinished messages, and tokens
/// held before `connection_init`.
const REQUESTS: usize = 8;

/// Largest share that one user or address has of the pool of requests, as a divisor.
const REQUESTS_OF_USER: usize = 16;

/// Bytes of the largest request. One user may hold one, whatever the memory.
const LARGEST_REQUEST: usize = 4 << 20;

/// Most requests over HTTP that one user may have running: a quarter of the places of sockets that
/// are no connection. A request that runs keeps its place, so that users would shut out others.
const RUNNING_OF_USER: usize = 256;

/// Part of the memory for answers, as a divisor: those being made, and those not yet written.
const ANSWERS: usize = 4;

/// Largest share that one user has of the pool of answers, as a divisor.
const ANSWERS_OF_USER: usize = 8;

/// Part of the memory for distinct operations and kept documents, as a divisor.
const OPERATIONS: usize = 8;

/// Largest share that one user has of the pool of operations, as a divisor.
const OPERATIONS_OF_USER: usize = 16;

/// Most distinct operations of one user. Each is charged at least its part of the user's share.
const MAX_OPERATIONS_OF_USER: usize = 1_000;

/// Part of the memory for what waits for connections, as a divisor.
const QUEUES: usize = 4;

/// Largest share that one user has of that pool, as a divisor.
const QUEUES_OF_USER: usize = 8;

/// Send queues that the least share of a user has room for: what one connection may hold.
const LEAST_QUEUES: usize = 8;

/// Least share of a user, in bytes. A replay must have room, however small send queues are.
const LEAST_QUEUES_OF_USER: usize = 512 << 10;

/// Bytes of the send queue of one connection, by default.
const QUEUE_BYTES: usize = 256 << 10;

/// Pools of one pod. Clones share them.
#[derive(Clone, Debug)]
pub struct Budget {
    /// Bytes of the largest answer.
    pub answer_bytes: usize,
    /// Pool of the requests that have not run: heads, bodies, unfinished messages, tokens.
    pub requests: Pool,
    /// Bytes of the largest result of an event: as many as a send queue has.
    pub result_bytes: usize,
    /// Pool of the answers that are being made or are not yet written.
    pub answers: Pool,
    /// Pool of the distinct operations that have watchers, and of the documents that are kept.
    pub operations: Pool,
    /// One place for each user, for work on a document that is not kept.
    pub documents: Pool,
    /// Places of the requests over HTTP that run.
    pub running: Pool,
    /// Pool of what waits for connections.
    pub queues: Pool,
    /// Rates of the events that users publish.
    pub rates: Arc<Rates>,
}

impl Budget {
    /// Creates the ledger of a pod, with nothing charged. The send queue of a connection has
    /// `queue_bytes`.
    #[must_use]
    pub fn new(settings: Settings, queue_bytes: usize) -> Self {
        let Settings { memory, answer_bytes, user_event_rate, user_event_bytes } = settings;
        let pool = memory / REQUESTS;
        let share = (pool / REQUESTS_OF_USER).max(LARGEST_REQUEST);
        let requests = Pool::new("requests", pool.max(share), share);
        let pool = memory / ANSWERS;
        // A user may hold one answer, whatever the memory.
        let share = (pool / ANSWERS_OF_USER).max(answer_bytes);
        let rates = Rates::new(user_event_rate, user_event_bytes).into();
        let answers = Pool::new("answers", pool.max(share), share);
        let pool = memory / OPERATIONS;
        let operations = Pool::new("operations", pool, pool / OPERATIONS_OF_USER);
        let pool = memory / QUEUES;
        let least = queue_bytes.saturating_mul(LEAST_QUEUES).max(LEAST_QUEUES_OF_USER);
        let queues = Pool::new("queues", pool, (pool / QUEUES_OF_USER).max(least));
        let (result_bytes, documents) = (queue_bytes, Pool::of_turns("documents"));
        let running = Pool::new("running", usize::MAX, RUNNING_OF_USER);
        Self { answer_bytes, result_bytes, requests, answers, operations, documents, running, queues, rates }
    }

    /// Registers the metrics of all pools.
    pub fn observe(&self, meter: &Meter) {
        let gauge = |name, description, value: fn(&Pool) -> usize| {
            let pools = self.pools();
            let gauge = meter.u64_observable_gauge(name).with_unit("By").with_description(description);
            gauge
                .with_callback(move |gauge| {
                    for pool in &*pools {
                        gauge.observe(value(pool) as u64, &[KeyValue::new("pool", pool.name())]);
                    }
                })
                .build();
        };
        gauge("relay.budget.used", "Bytes that are charged to a pool of the ledger.", Pool::used);
        gauge("relay.budget.limit", "Bytes that a pool of the ledger has.", Pool::limit);
    }

    fn pools(&self) -> Arc<[Pool]> {
        [&self.requests, &self.answers, &self.operations, &self.queues].map(Clone::clone).into()
    }

    /// Charges a distinct operation of this many bytes to the user.
    ///
    /// # Errors
    /// The user's share, or the pool, has no room for it.
    pub fn charge_operation(&self, user: &Arc<str>, bytes: usize) -> Result<Charge, Exhausted> {
        let least = self.operations.share() / MAX_OPERATIONS_OF_USER;
        self.operations.enter(user, bytes.max(least))
    }
}

/// Returns the account of an anonymous peer, which no user's name can equal.
#[must_use]
pub fn account_of(address: IpAddr) -> Arc<str> {
    format!("\0{address}").into()
}

impl Default for Budget {
    fn default() -> Self {
        Self::new(Settings::default(), QUEUE_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_above_container_are_reported() {
        let settings = Settings { memory: 768 << 20, ..Settings::default() };
        // The manifests.
        assert_eq!(settings.warning(84 << 20, 20_000, Some(1 << 30)), None);
        assert_eq!(settings.warning(84 << 20, 20_000, None), None);
        let text = settings.warning(84 << 20, 20_000, Some(512 << 20)).unwrap();
        assert!(text.contains("512 MiB") && text.contains("996 MiB"), "{text}");
        assert!(settings.warning(276 << 20, 20_000, Some(1 << 30)).is_some());
        assert!(settings.warning(84 << 20, 50_000, Some(1 << 30)).is_some());
    }

    #[test]
    fn user_holds_one_answer_at_least() {
        let settings = Settings { memory: 16 << 20, answer_bytes: 8 << 20, ..Settings::default() };
        let budget = Budget::new(settings, 256 << 10);
        assert!(budget.answers.try_charge(&"a".into(), 8 << 20).is_some());
        assert!(budget.requests.try_charge(&"a".into(), LARGEST_REQUEST).is_some());
    }
}
