//! Counts in the log what begins: one line for each second in which anything began.
//!
//! A line for each connection and each mutation would drown the others; level `debug` has them. A
//! quiet second must never have a line.

use std::time::Duration;

use tokio::{select, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::web::AppState;

/// Time that one line counts.
const EVERY: Duration = Duration::from_secs(1);

/// Logs what begins until `stop` is cancelled, with the rest then.
pub(super) async fn log(pod: &str, app: &AppState, stop: &CancellationToken) {
    let mut before = [0; 2];
    while !stop.is_cancelled() {
        select! {
            () = sleep(EVERY) => {}
            () = stop.cancelled() => {}
        }
        let now = [app.connections.begun(), app.engine.mutations()];
        let [connections, mutations] = [now[0] - before[0], now[1] - before[1]];
        if now != before {
            tracing::info!(pod, connections, mutations, "connections and mutations began");
        }
        before = now;
    }
}
