//! All the waits of a pod's end, in their order.
//!
//! Not ready → [`Drain::delay`] → no new connections, and each there is ends at its own moment within [`Drain::spread`] →
//! feed deleted → publishing and telemetry flushed. [`Drain::deadline`] cuts it off. The numbers are in one table of `docs/OPERATIONS.md`.
//! It must never end a connection with `complete`, or its client would not come back.

use std::time::Duration;

use tokio::{
    join,
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::Pod;
use crate::telemetry;

/// How long a pod may take to put away its feed, and then to flush publisher and telemetry, once its connections have ended.
/// Both are kept even past the deadline: a feed that is left behind costs the fleet more than these seconds.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

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

impl Pod {
    /// Stops the pod: connections are asked to come back elsewhere, the feed is deleted, publishing and telemetry are
    /// flushed. Dropped before it is done, the pod stops at once.
    pub async fn drain(self) -> Drained {
        let Drain { delay, deadline, .. } = self.stop.drain;
        let deadline = Instant::now() + deadline;
        self.stop.unready.cancel();
        timeout_at(deadline, sleep(delay)).await.ok();
        let connections = &self.site.connections;
        connections.drain();
        let left = timeout_at(deadline, connections.tasks().wait()).await;
        self.stop.feed.cancel();
        self.tasks.close();
        let closed = timeout(CLOSE_TIMEOUT, self.tasks.wait()).await;
        let (flushed, ()) = join!(
            timeout(CLOSE_TIMEOUT, self.publisher.flush()),
            telemetry::flush(CLOSE_TIMEOUT, &self.site.metrics, &self.traces),
        );
        if let (Ok(()), Ok(()), Ok(())) = (&left, &flushed, &closed) {
            tracing::info!("pod drained");
            return Drained::Cleanly;
        }
        let [ended, publisher, feed] = [left, flushed, closed].map(|step| step.is_ok());
        let connections = connections.count();
        tracing::warn!(ended, connections, publisher, feed, "drain cut off");
        Drained::CutOff
    }
}
