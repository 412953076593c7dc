//! All the waits of a pod's end, in their order.
//!
//! Not ready → [`Drain::delay`] → no new connections, and each there is ends at its own moment within [`Drain::spread`] →
//! feed deleted → publishing and telemetry flushed. [`Drain::deadline`] cuts it off. The numbers are in one table of `docs/OPERATIONS.md`.
//! It must never end a connection with `complete`, or its client would not come back.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    broker::Publish,
    telemetry::{self, Metrics, Traces},
    web::{Connections, server::LAST_REQUEST},
};

/// How long a pod may take to put away its feed, and then to flush its publisher, once its connections have ended.
/// Both are kept even past the deadline: a feed that is left behind costs the membership more than these seconds.
pub const CLOSE_STEP_TIMEOUT: Duration = Duration::from_secs(5);

const _: () =
    assert!(LAST_REQUEST.as_millis() < CLOSE_STEP_TIMEOUT.as_millis(), "a straggler would cut off a drain");

/// How long traces and metrics, together, may take to be sent after that.
pub const TELEMETRY_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest that a pod lives on after its deadline, which its grace must have room for: feed, publisher, telemetry.
pub const AFTER_DEADLINE: Duration =
    Duration::from_secs(2 * CLOSE_STEP_TIMEOUT.as_secs() + TELEMETRY_TIMEOUT.as_secs());

/// How a pod ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    /// How long it goes on as before, though not ready: until the balancer has noticed.
    pub delay: Duration,
    /// Over how long its connections end.
    pub spread: Duration,
    /// The longest that both may take together.
    pub deadline: Duration,
}

impl Drain {
    /// Whether its deadline comes before all its connections have had their moment.
    #[must_use]
    pub fn is_cut_short(&self) -> bool {
        self.delay + self.spread >= self.deadline
    }
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// Every connection ended and the feed was put away.
    Cleanly,
    /// Something took too long and was cut off.
    CutOff,
}

/// What a pod's end is told to, in the order in which it is.
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
    pub(super) connections: &'a Connections,
    pub(super) tasks: &'a TaskTracker,
    pub(super) publisher: &'a dyn Publish,
    pub(super) metrics: &'a Metrics,
    pub(super) traces: &'a Traces,
}

/// Ends these parts in their order.
pub(super) async fn run(parts: Parts<'_>) -> Drained {
    let Parts { stop, connections, tasks, publisher, metrics, traces } = parts;
    let deadline = Instant::now() + stop.drain.deadline;
    stop.unready.cancel();
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
