//! The janitor: makes the broker's adapter do the upkeep of the topic.
//!
//! With Pub/Sub that is the deletion of the feeds of dead pods, with a log that of old events.
//! Every pod runs one, so that no pod is special, and each works at random times. It must never
//! decide which feed is an orphan: the membership does. A pod that loses its feed by mistake opens
//! another generation and loses no event.

use std::time::Duration;

use opentelemetry::{KeyValue, metrics::Meter};
use tokio::time::sleep;

use crate::{
    broker::{Cleanup, IsOrphan, Swept, Trim, Upkeep},
    telemetry,
};

/// Shortest time between two sweeps of a pod, and longest between two trims. At one sweep a minute,
/// the administrative calls of a thousand pods stay far below every quota.
const INTERVAL: Duration = Duration::from_secs(60);

/// Does the upkeep until the future is dropped. `every` is the time for which orphans may stay.
pub(super) async fn run(upkeep: Upkeep, every: Duration, is_orphan: &IsOrphan<'_>, meter: &Meter) {
    match upkeep {
        Upkeep::Feeds(cleanup) => sweep(cleanup, every, is_orphan, meter).await,
        Upkeep::Log(log) => trim(log, meter).await,
    }
}

/// Deletes the feeds of dead pods.
async fn sweep(mut cleanup: Box<dyn Cleanup>, every: Duration, is_orphan: &IsOrphan<'_>, meter: &Meter) {
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

/// Deletes old events.
async fn trim(mut log: Box<dyn Trim>, meter: &Meter) {
    let trimmed = telemetry::counter(
        meter,
        "relay.log.trimmed",
        "Old events that this pod deleted from the topic's log.",
    );
    loop {
        // Random, so that pods that start together do not trim together.
        sleep(INTERVAL.mul_f64(rand::random_range(0.5..1.0))).await;
        match log.trim().await {
            Ok(count) => trimmed.add(count, &[]),
            Err(error) => tracing::warn!(%error, "old events not deleted"),
        }
    }
}
