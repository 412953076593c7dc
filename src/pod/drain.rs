//! Drains a pod: all the waits of its end, in their order.
//!
//! 1. The pod is not ready, for [`Drain::delay`]. Its heartbeat says so at once.
//! 2. It accepts no new connections. Each open one ends at its own moment within [`Drain::spread`].
//! 3. The feed is deleted.
//! 4. Publishing and telemetry are flushed.
//!
//! [`Drain::deadline`] cuts off steps 1 and 2. The numbers are in one table of
//! `docs/OPERATIONS.md`. A drain must never end a connection with `complete`, or its client would
//! not reconnect.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    broker::Publish,
    membership::Membership,
    telemetry::{self, Metrics, Traces},
    web::{Connections, server::LAST_REQUEST},
};

/// Longest time to delete the feed, and again to flush the publisher, once the connections have
/// ended. Both waits are kept even past the deadline: a feed that is left behind costs the members
/// more than these seconds.
pub const CLOSE_STEP_TIMEOUT: Duration = Duration::from_secs(5);

const _: () =
    assert!(LAST_REQUEST.as_millis() < CLOSE_STEP_TIMEOUT.as_millis(), "a straggler would cut off a drain");

/// Longest time to send traces and metrics, both together, after that.
pub const TELEMETRY_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest time that a pod runs after its deadline: feed, publisher, telemetry. The orchestrator's
/// grace period must have room for it.
pub const AFTER_DEADLINE: Duration =
    Duration::from_secs(2 * CLOSE_STEP_TIMEOUT.as_secs() + TELEMETRY_TIMEOUT.as_secs());

/// Waits of a pod's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    /// Time for which traffic is still served while `/readyz` returns 503, until the load balancer
    /// has removed the pod. Default of `relay`: 5 s.
    pub delay: Duration,
    /// Time over which the ends of the connections are spread. Default of `relay`: 20 s.
    pub spread: Duration,
    /// Longest time for both together. Default of `relay`: 45 s. At the limit, the drain continues
    /// without waiting for the remaining connections.
    pub deadline: Duration,
}

impl Drain {
    /// Returns whether the deadline may come before all connections have had their moment.
    #[must_use]
    pub fn is_cut_short(&self) -> bool {
        self.delay + self.spread >= self.deadline
    }
}

/// Result of a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// Every connection ended, the feed was deleted and the publisher flushed.
    Cleanly,
    /// A step took too long and was cut off.
    CutOff,
}

/// Signals of a pod's end, in their order.
pub(super) struct Stop {
    pub(super) drain: Drain,
    pub(super) unready: CancellationToken,
    pub(super) connections: CancellationToken,
    pub(super) feed: CancellationToken,
}

impl Stop {
    pub(super) fn new(drain: Drain) -> Self {
        let [unready, connections, feed] = std::array::from_fn(|_| CancellationToken::new());
        Self { drain, unready, connections, feed }
    }
}

/// The parts of a pod that a drain ends.
pub(super) struct Parts<'a> {
    pub(super) stop: &'a Stop,
    pub(super) membership: &'a Membership,
    pub(super) connections: &'a Connections,
    pub(super) tasks: &'a TaskTracker,
    pub(super) publisher: &'a dyn Publish,
    pub(super) metrics: &'a Metrics,
    pub(super) traces: &'a Traces,
}

/// Ends these parts in their order.
pub(super) async fn run(parts: Parts<'_>) -> Drained {
    let Parts { stop, membership, connections, tasks, publisher, metrics, traces } = parts;
    let deadline = Instant::now() + stop.drain.deadline;
    stop.unready.cancel();
    membership.tell();
    timeout_at(deadline, sleep(stop.drain.delay)).await.ok();
    connections.drain();
    let ended = timeout_at(deadline, connections.tasks().wait()).await.is_ok();
    stop.feed.cancel();
    tasks.close();
    let closed = timeout(CLOSE_STEP_TIMEOUT, tasks.wait()).await.is_ok();
    let flushed = timeout(CLOSE_STEP_TIMEOUT, publisher.flush()).await.is_ok();
    telemetry::flush(TELEMETRY_TIMEOUT, metrics, traces).await;
    if ended && flushed && closed {
        tracing::info!("pod drained");
        return Drained::Cleanly;
    }
    let connections = connections.count();
    tracing::warn!(ended, connections, publisher = flushed, feed = closed, "drain cut off");
    Drained::CutOff
}
