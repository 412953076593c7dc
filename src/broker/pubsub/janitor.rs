//! [`Janitor`]: deletes the feeds of pods that are gone. Pub/Sub would keep thousands of them for a
//! day.
//!
//! Every live pod runs one, at random times. Before each deletion it checks again that the feed is
//! an orphan. It must never touch anything but feeds of this topic. A pod that loses its feed by
//! mistake opens another one and loses no event.

use std::{collections::HashMap, error::Error, time::SystemTime};

use async_trait::async_trait;

use super::{
    admin::{Admin, AdminError},
    clients::Clients,
};
use crate::broker::{Cleanup, IsOrphan, Swept};

/// Most feeds that one sweep deletes. The others wait for the next sweep.
const MAX_DELETIONS: usize = 20;

/// Janitor of one pod: deletes orphaned feeds.
pub struct Janitor {
    clients: Clients,
    undated: Undated,
}

/// Feeds without a creation time in their names, with the time at which each was first seen.
#[derive(Default)]
struct Undated(HashMap<String, SystemTime>);

/// Feed of this pod's topic.
#[derive(Debug, PartialEq, Eq)]
struct Feed {
    name: String,
    pod: String,
    /// Time of creation by its pod's clock, or else of its first sighting by this pod's clock.
    created: SystemTime,
}

impl Janitor {
    pub(super) fn new(clients: Clients) -> Self {
        Self { clients, undated: Undated::default() }
    }

    /// Sweeps all feeds once, and deletes up to [`MAX_DELETIONS`] orphans.
    async fn try_sweep(&mut self, is_orphan: &IsOrphan<'_>) -> Result<Swept, AdminError> {
        let admin = &self.clients.admin;
        let feeds = self.undated.date(admin, admin.list().await?.feeds, SystemTime::now());
        let is_orphaned = |feed: &Feed| is_orphan(&feed.pod, feed.created);
        let (mut orphans, living): (Vec<Feed>, Vec<Feed>) = feeds.into_iter().partition(is_orphaned);
        // Two pods that sweep at the same time begin with different orphans.
        rand::seq::SliceRandom::shuffle(&mut *orphans, &mut rand::rng());
        let mut deleted = 0;
        for feed in orphans.iter().take(MAX_DELETIONS) {
            // The pod may have sent a heartbeat since.
            if is_orphaned(feed) {
                deleted += u64::from(admin.delete_feed(&feed.name).await.unwrap_or(false));
            }
        }
        Ok(Swept { living: living.len(), orphaned: orphans.len(), deleted })
    }
}

#[async_trait]
impl Cleanup for Janitor {
    async fn sweep(&mut self, is_orphan: &IsOrphan<'_>) -> Result<Swept, Box<dyn Error + Send + Sync>> {
        let swept = self.try_sweep(is_orphan).await;
        // The connection may be the cause.
        if swept.is_err()
            && let Ok(clients) = self.clients.reconnect().await
        {
            self.clients = clients;
        }
        Ok(swept?)
    }
}

impl Undated {
    /// Returns the feeds of this pod's topic among these names, with their times of creation. A
    /// feed without one counts from its first sighting.
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
        // Feeds that are gone are forgotten.
        self.0 = known;
        feeds
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::broker::pubsub::Settings;

    async fn admin() -> Admin {
        let settings = Settings {
            project: "p-1".to_owned(),
            topic: "events".to_owned(),
            pod: "pod".to_owned(),
            emulator: Some("127.0.0.1:1".to_owned()),
            endpoint: None,
            proxy: None,
            replay_window: Duration::from_secs(600),
        };
        let access = settings.access().unwrap();
        Clients::connect(settings, access).await.unwrap().admin
    }

    #[tokio::test]
    async fn undated_feed_ages_from_its_first_sighting() {
        let (admin, mut undated) = (admin().await, Undated::default());
        let at = |second| SystemTime::UNIX_EPOCH + Duration::from_secs(second);
        let name = |feed: &str| format!("projects/p-1/subscriptions/{feed}");
        let of = |feed: &str, created| Feed { name: name(feed), pod: "ghost".to_owned(), created };
        let others = ["events.nobody", "other.ghost.1", "events.us.ghost.3e8-ab"];
        let names =
            || [&["events.ghost.1", "events.ghost.3e8-ab"][..], &others].concat().into_iter().map(name);
        let expected = [of("events.ghost.1", at(100)), of("events.ghost.3e8-ab", at(1))];
        assert_eq!(undated.date(&admin, names().collect(), at(100)), expected);
        assert_eq!(undated.date(&admin, names().collect(), at(400)), expected, "its age does not start anew");
        assert!(undated.date(&admin, Vec::new(), at(500)).is_empty());
        assert!(undated.0.is_empty(), "feeds that are gone are forgotten");
    }
}
