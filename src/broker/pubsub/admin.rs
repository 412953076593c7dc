//! What a pod may do to topics and subscriptions: create, seek and delete its own feeds.
//!
//! Each call is tried once and bounded; whoever calls has its own way of trying again. Nothing here asks whether a thing
//! exists before it makes it: administrative calls have a small quota.

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

use super::Settings;
use crate::broker::MIN_RETENTION;

/// How long one call may take. Google's own calls take a second at most.
const CALL_TIMEOUT: Duration = Duration::from_secs(8);

/// The longest that Pub/Sub lets the id of a subscription be, in characters.
pub(super) const MAX_NAME: usize = 255;

/// The least that Pub/Sub lets pass before it deletes a subscription that nobody uses: the last net under a leaked feed.
const EXPIRATION: Duration = Duration::from_secs(24 * 60 * 60);

/// What one pull may hold up before a message comes again. A stream says less: [`super::feed`].
const ACK_DEADLINE_SECONDS: i32 = 60;

/// The value of the label `app` on every feed, by which they are told from other subscriptions.
const APP: &str = "pubsub-relay";

/// Why there is no feed. The text says what to do about it.
#[derive(Debug, Error)]
pub enum AdminError {
    /// There is no such topic. On Google it is not ours to make.
    #[error(
        "topic {0} does not exist: create it (terraform apply does) with message retention, or correct RELAY_BROKER"
    )]
    NoTopic(String),
    /// The pod's identity may not.
    #[error("permission denied to {call}: grant the pod's identity the role that terraform defines")]
    Denied {
        /// What was refused.
        call: &'static str,
        /// Google's word.
        source: Box<Error>,
    },
    /// No answer in time.
    #[error("Pub/Sub at {endpoint} does not answer")]
    Silent {
        /// Where it was expected.
        endpoint: String,
    },
    /// Nobody is there, or something else went wrong.
    #[error("cannot {call} at {endpoint}")]
    Failed {
        /// What failed.
        call: &'static str,
        /// Where it was tried.
        endpoint: String,
        /// Why.
        source: Box<Error>,
    },
}

impl AdminError {
    /// Whether it was nobody who said no: then nothing else will be answered either.
    #[must_use]
    pub fn is_away(&self) -> bool {
        match self {
            Self::Silent { .. } => true,
            Self::Failed { source, .. } => source.status().is_none(),
            Self::NoTopic(_) | Self::Denied { .. } => false,
        }
    }

    /// Whether the call was not even made, for want of credentials.
    #[must_use]
    pub fn is_anonymous(&self) -> bool {
        matches!(self, Self::Failed { source, .. } if source.is_authentication())
    }
}

/// A feed that was created.
pub(super) struct NewFeed {
    /// Whether it could be set back. If not, it is an emulator's: that gives a new feed all that the topic retains, and may
    /// leave out what is published while it is being created (one in ten feeds, at a hundred events a second).
    pub(super) is_whole: bool,
    /// Whether the topic retains what was published before the feed was there.
    pub(super) reaches_back: bool,
}

/// What a project holds.
pub(super) struct Listing {
    /// How many subscriptions, also those that are no feeds.
    pub(super) subscriptions: usize,
    /// The feeds of all pods, of other topics too.
    pub(super) feeds: Vec<String>,
}

/// The administrative side of one pod.
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

    /// How far back a feed reaches.
    pub(super) const fn replay_window(&self) -> Duration {
        self.settings.replay_window
    }

    /// A name for a feed of this pod, which no life of any feed had before.
    pub(super) fn new_name(&self) -> String {
        format!("{}{}", self.prefix(), incarnation())
    }

    /// Creates a feed under this new name, set back to `since`. On an emulator, which starts empty, the topic is created as
    /// well if it is missing. After an error the feed may be there all the same.
    pub(super) async fn create_feed(&self, name: &str, since: SystemTime) -> Result<NewFeed, AdminError> {
        let retention = self.settings.replay_window.max(MIN_RETENTION);
        let create = || {
            self.create_subscription(name, retention, |feed| {
                feed.set_enable_message_ordering(true).set_ack_deadline_seconds(ACK_DEADLINE_SECONDS)
            })
        };
        let feed = match create().await {
            Err(AdminError::NoTopic(_)) if self.settings.emulator.is_some() => {
                self.create_topic(retention).await?;
                create().await?
            }
            result => result?,
        };
        let is_whole = self.seek(name, since).await?;
        let retained = match feed.topic_message_retention_duration {
            // An emulator does not say so here. Not to know costs a needless gap at most.
            None if self.settings.emulator.is_some() => self.retention().await.unwrap_or_default(),
            retained => retained.and_then(|it| it.try_into().ok()).unwrap_or_default(),
        };
        Ok(NewFeed { is_whole, reaches_back: !retained.is_zero() })
    }

    /// How long the topic retains its messages; zero if it does not.
    pub(super) async fn retention(&self) -> Result<Duration, AdminError> {
        let get = self.topics.get_topic().set_topic(self.topic());
        let topic = self.or_no_topic(self.call("get the topic", get.send()).await)?;
        Ok(topic.message_retention_duration.and_then(|it| it.try_into().ok()).unwrap_or_default())
    }

    /// Deletes the feed, if it is still there, and says whether it was. What is left over is tried again by whoever made
    /// it, or is the janitor's, or expires.
    pub(super) async fn delete_feed(&self, name: &str) -> Result<bool, AdminError> {
        let deleted = self.delete(name).await;
        match &deleted {
            Ok(true) => tracing::info!(feed = name, "feed deleted"),
            Ok(false) => {}
            Err(error) => tracing::warn!(feed = name, %error, "feed left behind"),
        }
        deleted
    }

    /// The same without a word in the log.
    pub(super) async fn delete(&self, name: &str) -> Result<bool, AdminError> {
        let delete = self.subscriptions.delete_subscription().set_subscription(name).send();
        match self.call("delete a feed", delete).await {
            Err(error) if code(&error) == Some(Code::NotFound) => Ok(false),
            deleted => deleted.map(|()| true),
        }
    }

    /// Whose feed of our topic this is, and when it was created, by that pod's clock, if the name says so; `None` for any
    /// other name.
    pub(super) fn owner<'a>(&self, name: &'a str) -> Option<(&'a str, Option<SystemTime>)> {
        let Settings { project, topic, .. } = &self.settings;
        let rest = name.strip_prefix(&format!("projects/{project}/subscriptions/{topic}."))?;
        // A name with more dots is a feed of a topic whose name begins with ours and a dot.
        let (pod, incarnation) = rest
            .split_once('.')
            .filter(|(pod, incarnation)| !pod.is_empty() && !incarnation.contains('.'))?;
        let created = || {
            let (millis, _) = incarnation.split_once('-')?;
            let since = Duration::from_millis(u64::from_str_radix(millis, 16).ok()?);
            SystemTime::UNIX_EPOCH.checked_add(since)
        };
        Some((pod, created()))
    }

    /// The feeds of this very pod, of earlier lives too.
    pub(super) async fn own_feeds(&self) -> Result<Vec<String>, AdminError> {
        let (mut feeds, prefix) = (self.list().await?.feeds, self.prefix());
        feeds.retain(|feed| feed.strip_prefix(&prefix).is_some_and(|incarnation| !incarnation.contains('.')));
        Ok(feeds)
    }

    /// All subscriptions of the project.
    pub(super) async fn list(&self) -> Result<Listing, AdminError> {
        let project = format!("projects/{}", self.settings.project);
        let list = async {
            let mut pages =
                self.subscriptions.list_subscriptions().set_project(project).set_page_size(1_000).by_item();
            let mut listing = Listing { subscriptions: 0, feeds: Vec::new() };
            while let Some(subscription) = pages.next().await {
                let subscription = subscription?;
                listing.subscriptions += 1;
                if subscription.labels.get("app").is_some_and(|app| app == APP) {
                    listing.feeds.push(subscription.name);
                }
            }
            Ok(listing)
        };
        self.call("list subscriptions", list).await
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

    /// Creates a subscription that is told for a feed of this pod, with what `shape` gives it.
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
        self.or_no_topic(self.call("create a feed", shape(create).send()).await)
    }

    /// For calls that find nothing only if there is no topic.
    fn or_no_topic<T>(&self, answer: Result<T, AdminError>) -> Result<T, AdminError> {
        answer.map_err(|error| match code(&error) {
            Some(Code::NotFound) => AdminError::NoTopic(self.topic()),
            _ => error,
        })
    }

    /// Sets the feed back, and says whether that could be done.
    pub(super) async fn seek(&self, name: &str, since: SystemTime) -> Result<bool, AdminError> {
        // Out of range only before the year 1 or after 9999: then there is nothing to go back to.
        let Ok(time) = wkt::Timestamp::try_from(since) else { return Ok(true) };
        let seek = self.subscriptions.seek().set_subscription(name).set_time(time);
        match self.call("seek a feed", seek.send()).await {
            // The emulator seeks no ordered subscription, and gives a new one all that the topic retains, unasked.
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
        let endpoint =
            || self.settings.emulator.clone().unwrap_or_else(|| "pubsub.googleapis.com".to_owned());
        match timeout(CALL_TIMEOUT, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) if error.status().is_some_and(|status| status.code == Code::PermissionDenied) => {
                Err(AdminError::Denied { call, source: error.into() })
            }
            Ok(Err(error)) => Err(AdminError::Failed { call, endpoint: endpoint(), source: error.into() }),
            Err(_) => Err(AdminError::Silent { endpoint: endpoint() }),
        }
    }

    pub(super) fn topic(&self) -> String {
        self.settings.topic_name()
    }

    /// What the names of all feeds of this pod begin with. A pod's name has no dot, so no other pod's do.
    fn prefix(&self) -> String {
        let Settings { project, topic, pod, .. } = &self.settings;
        format!("projects/{project}/subscriptions/{topic}.{pod}.")
    }
}

/// What no life of any feed had before: the time, and enough chance for two in the same millisecond.
pub(super) fn incarnation() -> String {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    format!("{:x}-{:08x}", since.as_millis(), rand::random::<u32>())
}

pub(super) fn code(error: &AdminError) -> Option<Code> {
    match error {
        AdminError::Failed { source, .. } => source.status().map(|status| status.code),
        _ => None,
    }
}

fn duration(duration: Duration) -> wkt::Duration {
    wkt::Duration::clamp(duration.as_secs().try_into().unwrap_or(i64::MAX), 0)
}
