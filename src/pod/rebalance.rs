//! Rebalancing: ends some connections of a pod that has more than others after the membership has
//! grown.
//!
//! The decision is the membership's ([`Balancer`]). Here the ends are spread over the time of a
//! round, so that clients do not connect again all at once. Nothing may end while the pod is not
//! ready.

use std::sync::Arc;

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::{
    membership::{Balancer, View},
    web::AppState,
};

/// Heartbeat intervals of one round: the counts of all members are newer than the last round.
const INTERVALS: u32 = 2;

/// Runs rounds until `stop`.
pub(super) async fn run(app: Arc<AppState>, stop: CancellationToken) {
    stop.run_until_cancelled(async {
        let mut balancer = Balancer::default();
        loop {
            round(&app, &mut balancer).await;
        }
    })
    .await;
}

async fn round(app: &AppState, balancer: &mut Balancer) {
    let membership = app.health.membership();
    let (began, interval) = (Instant::now(), membership.interval());
    let (time, view) = (interval * INTERVALS, view(app));
    let moves = app.connections.moves();
    let count = view.map_or(0, |view| balancer.round(view, moves, interval, began));
    if count > 0 {
        tracing::info!(count, "connections move: this pod has more than others");
    } else {
        app.connections.forget_moves();
    }
    for n in 0..count {
        let part = (n as f64 + rand::random_range(0.0..1.0)) / count as f64;
        sleep_until(began + time.mul_f64(part)).await;
        if !is_as_before(app, view) || !app.connections.move_one() {
            break;
        }
    }
    sleep_until(began + time).await;
}

/// Returns the members as this pod sees them now. It is calm only if this pod itself is ready.
fn view(app: &AppState) -> Option<View> {
    let readiness = app.health.readiness();
    let mut view = app.health.membership().view(app.connections.count())?;
    view.is_calm &= readiness.ready && !readiness.degraded;
    Some(view)
}

/// Reports whether the members are the same as when the round began, and still calm.
fn is_as_before(app: &AppState, before: Option<View>) -> bool {
    view(app).zip(before).is_some_and(|(now, before)| now.is_calm && now.members == before.members)
}
