//! The janitor: deletes the feeds of pods that are gone, of which Pub/Sub would keep thousands for a day.
//!
//! Every living pod is one, at moments of its own, and each asks before each deletion whether the feed is an orphan still.
//! It must never touch what is not a feed of this topic. A pod whose feed is deleted wrongly all the same opens another one
//! and loses nothing.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use opentelemetry::{KeyValue, metrics::Meter};
use tokio::time::sleep;

use super::{
    Clients,
    admin::{Admin, AdminError},
};

/// Between two looks, at least: so many administrative calls a minute a pod are far below every quota, even for a thousand
/// pods.
const INTERVAL: Duration = Duration::from_secs(60);

/// What one look may delete.
const MOST: usize = 20;

/// Deletes orphaned feeds.
pub struct Janitor {
    clients: Clients,
    strange: Strange,
}

/// Feeds whose names do not say when they were created, and since when each is known.
#[derive(Default)]
struct Strange(HashMap<String, SystemTime>);

/// A feed of our topic.
#[derive(Debug, PartialEq, Eq)]
struct Feed {
    name: String,
    pod: String,
    /// By the clock of its pod, or else of ours.
    created: SystemTime,
}

/// What one look found and did.
struct Swept {
    living: usize,
    orphaned: usize,
    deleted: u64,
}

impl Janitor {
    pub(super) fn new(clients: Clients) -> Self {
        Self { clients, strange: Strange::default() }
    }

    /// Runs until it is dropped. `every` is how long orphans may stay, `is_orphan` says whether a feed of this pod, created
    /// then, is one.
    pub async fn run(mut self, every: Duration, is_orphan: impl Fn(&str, SystemTime) -> bool, meter: &Meter) {
        let deleted = meter
            .u64_counter("relay.feed.orphans.deleted")
            .with_description("Feeds of pods that are gone, deleted by this pod.")
            .build();
        let feeds = meter
            .u64_gauge("relay.feeds")
            .with_description("Feeds on the topic, of all pods, when this pod looked last.")
            .build();
        let show = |state, count: usize| feeds.record(count as u64, &[KeyValue::new("state", state)]);
        show("living", 0);
        show("orphaned", 0);
        deleted.add(0, &[]);
        loop {
            // A membership that started at once does not look at once.
            sleep(every.min(INTERVAL).mul_f64(rand::random_range(1.0..1.5))).await;
            match self.sweep(&is_orphan).await {
                Ok(swept) => {
                    show("living", swept.living);
                    show("orphaned", swept.orphaned);
                    deleted.add(swept.deleted, &[]);
                }
                Err(error) => {
                    tracing::warn!(%error, "orphans not looked for");
                    // Its connection may be what is wrong.
                    if let Ok(clients) = self.clients.again().await {
                        self.clients = clients;
                    }
                }
            }
        }
    }

    /// One look at all feeds.
    async fn sweep(&mut self, is_orphan: &impl Fn(&str, SystemTime) -> bool) -> Result<Swept, AdminError> {
        let admin = &self.clients.admin;
        let feeds = self.strange.date(admin, admin.list().await?.feeds, SystemTime::now());
        let is_orphaned = |feed: &Feed| is_orphan(&feed.pod, feed.created);
        let (mut orphans, living): (Vec<Feed>, Vec<Feed>) = feeds.into_iter().partition(is_orphaned);
        // Two pods that look at the same time begin at different ends.
        rand::seq::SliceRandom::shuffle(&mut *orphans, &mut rand::rng());
        let mut deleted = 0;
        for feed in orphans.iter().take(MOST) {
            // Its pod may have sent heartbeats since.
            if is_orphaned(feed) {
                deleted += u64::from(admin.delete_feed(&feed.name).await.unwrap_or(false));
            }
        }
        Ok(Swept { living: living.len(), orphaned: orphans.len(), deleted })
    }
}

impl Strange {
    /// The feeds of our topic among these names, with their times: one that has none is as old as our knowledge of it.
    fn date(&mut self, admin: &Admin, names: Vec<String>, now: SystemTime) -> Vec<Feed> {
        let mut known = HashMap::new();
        let dated = names.into_iter().filter_map(|name| {
            let (pod, created) = admin.owner(&name)?;
            let pod = pod.to_owned();
            let created = created.unwrap_or_else(|| {
                let since = self.0.get(&name).copied().unwrap_or(now);
                known.insert(name.clone(), since);
                since
            });
            Some(Feed { name, pod, created })
        });
        let feeds = dated.collect();
        // What is gone is forgotten.
        self.0 = known;
        feeds
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::pubsub::Settings;

    async fn admin() -> Admin {
        let settings = Settings {
            project: "p-1".to_owned(),
            topic: "events".to_owned(),
            pod: "pod".to_owned(),
            emulator: Some("127.0.0.1:1".to_owned()),
            replay_window: Duration::from_secs(600),
        };
        Clients::connect(settings).await.unwrap().admin
    }

    #[tokio::test]
    async fn a_feed_whose_name_tells_no_time_is_as_old_as_it_is_known() {
        let (admin, mut strange) = (admin().await, Strange::default());
        let at = |second| SystemTime::UNIX_EPOCH + Duration::from_secs(second);
        let name = |feed: &str| format!("projects/p-1/subscriptions/{feed}");
        let of = |feed: &str, created| Feed { name: name(feed), pod: "ghost".to_owned(), created };
        let others = ["events.nobody", "other.ghost.1", "events.us.ghost.3e8-ab"];
        let names =
            || [&["events.ghost.1", "events.ghost.3e8-ab"][..], &others].concat().into_iter().map(name);
        let expected = [of("events.ghost.1", at(100)), of("events.ghost.3e8-ab", at(1))];
        assert_eq!(strange.date(&admin, names().collect(), at(100)), expected);
        assert_eq!(strange.date(&admin, names().collect(), at(400)), expected, "it does not grow younger");
        assert!(strange.date(&admin, Vec::new(), at(500)).is_empty());
        assert!(strange.0.is_empty(), "what is gone is forgotten");
    }
}
