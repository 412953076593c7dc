//! The janitor: makes the broker's adapter delete the feeds of dead pods.
//!
//! Every pod runs one, so that no pod is special, and each sweeps at random times. It must never
//! decide which feed is an orphan: the membership does. A pod that loses its feed by mistake opens
//! another generation and loses no event.

use std::time::Duration;

use opentelemetry::{KeyValue, metrics::Meter};
use tokio::time::sleep;

use crate::{
    broker::{Cleanup, IsOrphan, Swept},
    telemetry,
};

/// Shortest time between two sweeps of a pod. At one sweep a minute, the administrative calls of a
/// thousand pods stay far below every quota.
const INTERVAL: Duration = Duration::from_secs(60);

/// Sweeps until the future is dropped. `every` is the time for which orphans may stay.
pub(super) async fn run(
    mut cleanup: Box<dyn Cleanup>,
    every: Duration,
    is_orphan: &IsOrphan<'_>,
    meter: &Meter,
) {
    let deleted = telemetry::counter(
        meter,
        "relay.feed.orphans.deleted",
        "Feeds of pods that are gone, deleted by this pod.",
    );
    let feeds = meter
        .u64_gauge("relay.feeds")
        .with_description("Feeds on the topic, of all pods, when this pod looked last.")
        .build();
    let record = |Swept { living, orphaned, deleted: count }| {
        feeds.record(living as u64, &[KeyValue::new("state", "living")]);
        feeds.record(orphaned as u64, &[KeyValue::new("state", "orphaned")]);
        deleted.add(count, &[]);
    };
    record(Swept::default());
    loop {
        // Random, so that pods that start together do not sweep together.
        sleep(every.min(INTERVAL).mul_f64(rand::random_range(1.0..1.5))).await;
        match cleanup.sweep(is_orphan).await {
            Ok(swept) => record(swept),
            Err(error) => tracing::warn!(%error, "orphans not looked for"),
        }
    }
}
