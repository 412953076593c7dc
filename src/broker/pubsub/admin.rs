//! [`Admin`]: creates, seeks and deletes a pod's own feeds.
//!
//! Each call is tried once and bounded in time; its caller decides how to try again. No call may
//! ask whether a resource exists before creating it, since administrative calls have a small quota.

use std::{
    future::Future,
    time::{Duration, SystemTime},
};

use google_cloud_gax::{error::rpc::Code, paginator::ItemPaginator as _};
use google_cloud_pubsub::{
    Error,
    builder::subscription_admin::CreateSubscription,
    client::{SubscriptionAdmin, TopicAdmin},
    model::{ExpirationPolicy, Subscription},
};
use google_cloud_wkt as wkt;
use thiserror::Error;
use tokio::time::timeout;

use super::{
    cause::{Cause, Reached},
    settings::{LIMITS, Settings, generation},
};

/// Longest time that one call may take; then it fails with [`AdminError::Failed`]. Google's own
/// calls take a second at most.
const CALL_TIMEOUT: Duration = Duration::from_secs(8);

/// Idle time after which Pub/Sub deletes a subscription: the least it accepts. It is the last
/// safeguard against a leaked feed.
const EXPIRATION: Duration = Duration::from_secs(24 * 60 * 60);

/// Time after which Pub/Sub delivers a message again to a plain pull. A stream sets a shorter one:
/// [`super::feed`].
const ACK_DEADLINE_SECONDS: i32 = 60;

/// Most feeds of a pod at any time: the next one, and the last one until that is open.
const MAX_FEEDS: usize = 2;

/// Value of the label `app` on every feed, by which feeds differ from other subscriptions.
const APP: &str = "pubsub-relay";

/// Why there is no feed. The text tells the operator what to do about it.
#[derive(Debug, Error)]
pub enum AdminError {
    /// There is no such topic. On Google's service a pod does not create it.
    #[error(
        "topic {0} does not exist: create it (terraform apply does) with message retention, or correct the broker's URL"
    )]
    NoTopic(String),
    /// The pod's identity lacks a permission.
    #[error("{cause}")]
    Denied {
        /// Call that was refused.
        call: &'static str,
        /// Cause, with its cure.
        cause: Cause,
    },
    /// The endpoint cannot be reached, or the call failed in another way.
    #[error("{0}")]
    Failed(Cause),
}

impl AdminError {
    /// Returns whether the endpoint did not answer at all. Then no other call will be answered
    /// either.
    #[must_use]
    pub fn is_away(&self) -> bool {
        matches!(self, Self::Failed(cause) if !matches!(cause.reached, Reached::Service(_)))
    }

    /// Returns whether the call may have had its effect all the same. A refusal proves that it had
    /// none, unless the service itself is in trouble.
    pub(super) fn may_have_worked(&self) -> bool {
        use Code::{Aborted, Cancelled, DeadlineExceeded, Internal, Unavailable, Unknown};
        let Self::Failed(cause) = self else { return false };
        match cause.reached {
            Reached::Nothing | Reached::NoConnection => false,
            Reached::Service(code) => {
                matches!(code, Aborted | Cancelled | DeadlineExceeded | Internal | Unavailable | Unknown)
            }
            Reached::Unknown => true,
        }
    }
}

/// Failure to create a feed.
pub(super) struct NoFeed {
    pub(super) error: AdminError,
    /// Whether the feed may exist all the same. If not, there is nothing to delete.
    pub(super) may_exist: bool,
}

/// Result of creating a feed.
pub(super) struct NewFeed {
    /// Whether the feed could be sought back. If not, it is an emulator's. An emulator gives a new
    /// feed all that the topic retains. But it may leave out events published during the feed's
    /// creation (one feed in ten, at 100 events a second).
    pub(super) is_whole: bool,
    /// Whether the topic retains messages from before the feed's creation.
    pub(super) reaches_back: bool,
}

/// Subscriptions of a project.
pub(super) struct Listing {
    /// Number of all subscriptions, also those that are no feeds.
    pub(super) subscriptions: usize,
    /// Names of the feeds of all pods, of other topics too.
    pub(super) feeds: Vec<String>,
}

/// Administrative calls of one pod.
#[derive(Clone, Debug)]
pub struct Admin {
    topics: TopicAdmin,
    subscriptions: SubscriptionAdmin,
    settings: Settings,
}

impl Admin {
    pub(super) const fn new(
        topics: TopicAdmin,
        subscriptions: SubscriptionAdmin,
        settings: Settings,
    ) -> Self {
        Self { topics, subscriptions, settings }
    }

    /// Returns how many feeds that are to be deleted may remain while another one is created. An
    /// emulator's generation needs two feeds, so that it leaves no room.
    pub(super) const fn spare_feeds(&self) -> usize {
        if self.settings.emulator.is_some() { 0 } else { MAX_FEEDS - 1 }
    }

    /// Returns how far back a feed reaches.
    pub(super) const fn replay_window(&self) -> Duration {
        self.settings.replay_window
    }

    /// Returns a name for a feed of this pod, which no earlier generation of any feed had.
    pub(super) fn new_name(&self) -> String {
        format!("{}{}", self.prefix(), generation())
    }

    /// Creates a feed under this new name, sought back to `since`. On an emulator, which starts
    /// empty, it creates a missing topic as well.
    pub(super) async fn create_feed(&self, name: &str, since: SystemTime) -> Result<NewFeed, NoFeed> {
        let feed = self.create_unsought(name).await.map_err(|error| {
            let may_exist = error.may_have_worked();
            NoFeed { error, may_exist }
        })?;
        let is_whole = self.seek(name, since).await.map_err(|error| NoFeed { error, may_exist: true })?;
        let retained = match feed.topic_message_retention_duration {
            // An emulator does not report it here. If it stays unknown, clients get a needless gap
            // notice at most.
            None if self.settings.emulator.is_some() => self.retention().await.unwrap_or_default(),
            retained => retained.and_then(|it| it.try_into().ok()).unwrap_or_default(),
        };
        Ok(NewFeed { is_whole, reaches_back: !retained.is_zero() })
    }

    /// Creates a feed that begins now.
    async fn create_unsought(&self, name: &str) -> Result<Subscription, AdminError> {
        let retention = self.settings.replay_window.max(LIMITS.least_retention);
        let create = || {
            self.create_subscription(name, retention, |feed| {
                feed.set_enable_message_ordering(true).set_ack_deadline_seconds(ACK_DEADLINE_SECONDS)
            })
        };
        match create().await {
            Err(AdminError::NoTopic(_)) if self.settings.emulator.is_some() => {
                self.create_topic(retention).await?;
                create().await
            }
            result => result,
        }
    }

    /// Returns how long the topic retains its messages; zero if it does not.
    pub(super) async fn retention(&self) -> Result<Duration, AdminError> {
        let get = self.topics.get_topic().set_topic(self.topic());
        let topic = self.not_found_as_no_topic(self.call("get the topic", get.send()).await)?;
        Ok(topic.message_retention_duration.and_then(|it| it.try_into().ok()).unwrap_or_default())
    }

    /// Deletes the feed. Returns whether it still existed. A feed that is left over is deleted by
    /// its creator's next try or by the janitor, or it expires.
    pub(super) async fn delete_feed(&self, name: &str) -> Result<bool, AdminError> {
        let deleted = self.delete(name).await;
        match &deleted {
            Ok(true) => tracing::info!(feed = name, "feed deleted"),
            Ok(false) => {}
            // The feed may not exist either, and its pod logs the outage itself.
            Err(error) if error.is_away() => tracing::debug!(feed = name, %error, "feed not deleted"),
            Err(error) => tracing::warn!(feed = name, %error, "feed left behind"),
        }
        deleted
    }

    /// Deletes the feed like [`delete_feed`](Self::delete_feed), but logs nothing.
    pub(super) async fn delete(&self, name: &str) -> Result<bool, AdminError> {
        let delete = self.subscriptions.delete_subscription().set_subscription(name).send();
        match self.call("delete a feed", delete).await {
            Err(error) if code(&error) == Some(Code::NotFound) => Ok(false),
            deleted => deleted.map(|()| true),
        }
    }

    /// Returns the pod of a feed of this topic, and the feed's time of creation by that pod's
    /// clock. The time is `None` if the name does not contain it. The result is `None` for any
    /// other name.
    pub(super) fn owner<'a>(&self, name: &'a str) -> Option<(&'a str, Option<SystemTime>)> {
        let Settings { project, topic, .. } = &self.settings;
        let rest = name.strip_prefix(&format!("projects/{project}/subscriptions/{topic}."))?;
        // A name with more dots belongs to another topic, named like this one plus a dot and more.
        let (pod, generation) =
            rest.split_once('.').filter(|(pod, generation)| !pod.is_empty() && !generation.contains('.'))?;
        let created = || {
            let (millis, _) = generation.split_once('-')?;
            let since = Duration::from_millis(u64::from_str_radix(millis, 16).ok()?);
            SystemTime::UNIX_EPOCH.checked_add(since)
        };
        Some((pod, created()))
    }

    /// Returns the feeds of this pod, those of earlier generations too.
    pub(super) async fn own_feeds(&self) -> Result<Vec<String>, AdminError> {
        let (mut feeds, prefix) = (self.list().await?.feeds, self.prefix());
        feeds.retain(|feed| feed.strip_prefix(&prefix).is_some_and(|generation| !generation.contains('.')));
        Ok(feeds)
    }

    /// Lists all subscriptions of the project.
    pub(super) async fn list(&self) -> Result<Listing, AdminError> {
        let project = format!("projects/{}", self.settings.project);
        let list = self.subscriptions.list_subscriptions().set_project(project).set_page_size(1_000);
        let mut pages = list.by_item();
        let mut listing = Listing { subscriptions: 0, feeds: Vec::new() };
        // The bound is that of each page: thousands of subscriptions take many pages.
        let mut next =
            async || self.call("list subscriptions", async { pages.next().await.transpose() }).await;
        while let Some(subscription) = next().await? {
            listing.subscriptions += 1;
            if subscription.labels.get("app").is_some_and(|app| app == APP) {
                listing.feeds.push(subscription.name);
            }
        }
        Ok(listing)
    }

    async fn create_topic(&self, retention: Duration) -> Result<(), AdminError> {
        let create = self
            .topics
            .create_topic()
            .set_name(self.topic())
            .set_message_retention_duration(duration(retention));
        match self.call("create the topic", create.send()).await {
            Err(error) if code(&error) == Some(Code::AlreadyExists) => Ok(()),
            result => result.map(drop),
        }
    }

    /// Creates a subscription that counts as a feed of this pod, with the properties that `shape`
    /// adds.
    pub(super) async fn create_subscription(
        &self,
        name: &str,
        retention: Duration,
        shape: impl FnOnce(CreateSubscription) -> CreateSubscription,
    ) -> Result<Subscription, AdminError> {
        let create = self
            .subscriptions
            .create_subscription()
            .set_name(name)
            .set_topic(self.topic())
            .set_labels([("app", APP), ("pod", &self.settings.pod)])
            .set_message_retention_duration(duration(retention))
            .set_expiration_policy(ExpirationPolicy::new().set_ttl(duration(EXPIRATION)));
        self.not_found_as_no_topic(self.call("create a feed", shape(create).send()).await)
    }

    /// Turns "not found" into [`AdminError::NoTopic`], for calls that find nothing only without a
    /// topic.
    fn not_found_as_no_topic<T>(&self, answer: Result<T, AdminError>) -> Result<T, AdminError> {
        answer.map_err(|error| match code(&error) {
            Some(Code::NotFound) => AdminError::NoTopic(self.topic()),
            _ => error,
        })
    }

    /// Seeks the feed back to `since`. Returns whether that was possible.
    pub(super) async fn seek(&self, name: &str, since: SystemTime) -> Result<bool, AdminError> {
        // Out of range only before the year 1 or after 9999: then there is nothing to seek back to.
        let Ok(time) = wkt::Timestamp::try_from(since) else { return Ok(true) };
        let seek = self.subscriptions.seek().set_subscription(name).set_time(time);
        match self.call("seek a feed", seek.send()).await {
            // The emulator cannot seek an ordered subscription, but gives a new one all that the
            // topic retains.
            Err(error) if self.settings.emulator.is_some() && code(&error) == Some(Code::Unimplemented) => {
                Ok(false)
            }
            result => result.map(|_| true),
        }
    }

    pub(super) async fn call<T>(
        &self,
        call: &'static str,
        answer: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, AdminError> {
        let cause = match timeout(CALL_TIMEOUT, answer).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => Cause::of(call, &self.settings, &error),
            Err(_) => Cause::silent(&self.settings),
        };
        let cause = cause.through_proxy(&self.settings);
        Err(match cause.reached {
            Reached::Service(Code::PermissionDenied) => AdminError::Denied { call, cause },
            _ => AdminError::Failed(cause),
        })
    }

    pub(super) fn topic(&self) -> String {
        self.settings.topic_name()
    }

    /// Returns the prefix of the names of all feeds of this pod. A pod's name has no dot, so no
    /// other pod's feeds have the prefix.
    fn prefix(&self) -> String {
        let Settings { project, topic, pod, .. } = &self.settings;
        format!("projects/{project}/subscriptions/{topic}.{pod}.")
    }
}

pub(super) fn code(error: &AdminError) -> Option<Code> {
    match error {
        AdminError::Failed(Cause { reached: Reached::Service(code), .. }) => Some(*code),
        _ => None,
    }
}

fn duration(duration: Duration) -> wkt::Duration {
    wkt::Duration::clamp(duration.as_secs().try_into().unwrap_or(i64::MAX), 0)
}
