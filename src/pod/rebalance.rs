//! Rebalancing: ends some connections of a pod that has more than others after the membership has
//! grown.
//!
//! The decision is the membership's ([`Balancer`]). Here the ends are spread evenly over the time
//! of a round, so that clients do not connect again all at once. Nothing may end while the pod is
//! not ready.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::{
    health::Health,
    membership::{Balancer, View},
    web::{AppState, Connections},
};

/// Heartbeat intervals of one round: the counts of all members are newer than the last round.
const INTERVALS: u32 = 2;

/// Largest jitter of a move, as a share of the distance between two moves of a round.
const JITTER: f64 = 0.2;

/// Least distance between two moves, as a share of their even distance. A pod that was held up
/// catches up at 1.25 times the even rate, and never all at once. Its round may take longer then.
const LEAST: f64 = 0.8;

/// Runs rounds until `stop`.
pub(super) async fn run(app: Arc<AppState>, stop: CancellationToken) {
    stop.run_until_cancelled(Rebalancing::new(&app.health, &app.connections).run()).await;
}

/// Rounds of one pod.
struct Rebalancing<'a> {
    health: &'a Health,
    connections: &'a Connections,
    balancer: Balancer,
    /// Place of this pod's moves between two even ones, so that no two pods move in step.
    offset: f64,
}

impl<'a> Rebalancing<'a> {
    fn new(health: &'a Health, connections: &'a Connections) -> Self {
        let offset = rand::random_range(0.0..1.0 - JITTER);
        Self { health, connections, balancer: Balancer::default(), offset }
    }

    async fn run(&mut self) {
        loop {
            self.round().await;
        }
    }

    async fn round(&mut self) {
        let (began, interval) = (Instant::now(), self.health.membership().interval());
        let (time, view) = (interval * INTERVALS, self.view());
        let moves = self.connections.moves();
        let count = view.map_or(0, |view| self.balancer.round(view, moves, interval, began));
        if count > 0 {
            tracing::info!(count, "connections move: this pod has more than others");
            self.move_evenly(count, began, time, view).await;
        } else {
            self.connections.forget_moves();
        }
        sleep_until(began + time).await;
    }

    /// Moves connections at even distances over the time of a round. Stops as soon as the members
    /// are not those of the round's begin.
    async fn move_evenly(&self, count: u64, began: Instant, time: Duration, view: Option<View>) {
        let distance = time.div_f64(count as f64);
        let mut earliest = began;
        for n in 0..count {
            let place = n as f64 + self.offset + rand::random_range(0.0..JITTER);
            sleep_until(earliest.max(began + distance.mul_f64(place))).await;
            if !self.is_as_before(view) || !self.connections.move_one() {
                break;
            }
            earliest = Instant::now() + distance.mul_f64(LEAST);
        }
    }

    /// Returns the members as this pod sees them now. It is calm only if this pod itself is ready.
    fn view(&self) -> Option<View> {
        let readiness = self.health.readiness();
        let mut view = self.health.membership().view(self.connections.count())?;
        view.is_calm &= readiness.ready && !readiness.degraded;
        Some(view)
    }

    /// Reports whether the members are the same as when the round began, and still calm.
    fn is_as_before(&self, before: Option<View>) -> bool {
        self.view().zip(before).is_some_and(|(now, before)| now.is_calm && now.members == before.members)
    }
}

#[cfg(test)]
mod tests;
