//! The janitor: deletes the feeds of pods that are gone, of which Pub/Sub would keep thousands for a day.
//!
//! Every living pod is one, at moments of its own, and each asks before each deletion whether the feed is an orphan still.
//! It must never touch what is not a feed of this topic. A pod whose feed is deleted wrongly all the same opens another one
//! and loses nothing.

use std::time::{Duration, SystemTime};

use opentelemetry::metrics::Meter;
use tokio::time::sleep;

use super::Clients;

/// Between two looks: so many administrative calls a minute a pod are far below every quota, even for a thousand pods.
const INTERVAL: Duration = Duration::from_secs(60);

/// What one look may delete.
const MOST: usize = 20;

/// Deletes orphaned feeds.
pub struct Janitor {
    clients: Clients,
}

impl Janitor {
    pub(super) const fn new(clients: Clients) -> Self {
        Self { clients }
    }

    /// Runs until it is dropped. `every` is how long orphans may stay, `is_orphan` says whether a feed of this pod, created
    /// then, is one.
    pub async fn run(self, every: Duration, is_orphan: impl Fn(&str, SystemTime) -> bool, meter: &Meter) {
        let deleted = meter
            .u64_counter("relay.feed.orphans.deleted")
            .with_description("Feeds of pods that are gone, deleted by this pod.")
            .build();
        deleted.add(0, &[]);
        let mut clients = self.clients;
        loop {
            // A fleet that started at once does not look at once.
            sleep(every.min(INTERVAL).mul_f64(rand::random_range(0.5..1.5))).await;
            match sweep(&clients, &is_orphan).await {
                Some(count) => deleted.add(count, &[]),
                // Its connection may be what is wrong.
                None => clients = clients.again().await.unwrap_or(clients),
            }
        }
    }
}

/// One look at all feeds; how many were deleted, or `None` if they cannot be seen.
async fn sweep(clients: &Clients, is_orphan: &impl Fn(&str, SystemTime) -> bool) -> Option<u64> {
    let admin = &clients.admin;
    let feeds = admin.feeds().await.inspect_err(|error| tracing::warn!(%error, "orphans not looked for"));
    let is_orphaned = |feed: &String| admin.owner(feed).is_some_and(|(pod, created)| is_orphan(pod, created));
    let mut orphans: Vec<String> = feeds.ok()?.into_iter().filter(|feed| is_orphaned(feed)).collect();
    // Two pods that look at the same time begin at different ends.
    rand::seq::SliceRandom::shuffle(&mut *orphans, &mut rand::rng());
    let mut deleted = 0;
    for feed in orphans.iter().take(MOST) {
        // Its pod may have pulsed since.
        if is_orphaned(feed) {
            deleted += u64::from(admin.delete_feed(feed).await);
        }
    }
    Some(deleted)
}
