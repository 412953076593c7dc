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
    client::{SubscriptionAdmin, TopicAdmin},
    model::ExpirationPolicy,
};
use google_cloud_wkt as wkt;
use thiserror::Error;
use tokio::time::timeout;

use super::Settings;

/// How long one call may take. Google's own calls take a second at most.
const CALL_TIMEOUT: Duration = Duration::from_secs(8);

/// The longest that Pub/Sub lets the id of a subscription be, in characters.
pub(super) const MAX_NAME: usize = 255;

/// The least that Pub/Sub retains, for a topic and for a subscription.
pub const MIN_RETENTION: Duration = Duration::from_secs(600);

/// The least that Pub/Sub lets pass before it deletes a subscription that nobody uses: the last net under a leaked feed.
pub(super) const EXPIRATION: Duration = Duration::from_secs(24 * 60 * 60);

/// What one pull may hold up before a message comes again.
const ACK_DEADLINE_SECONDS: i32 = 60;

/// The value of the label `app` on every feed, by which they are told from other subscriptions.
pub(super) const APP: &str = "pubsub-relay";

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
    pub(super) name: String,
    /// Whether it could be set back. If not, it is an emulator's: that gives a new feed all that the topic retains, and may
    /// leave out what is published while it is being created (one in ten feeds, at a hundred events a second).
    pub(super) is_whole: bool,
}

/// The administrative side of one pod.
#[derive(Clone, Debug)]
pub struct Admin {
    pub(super) topics: TopicAdmin,
    pub(super) subscriptions: SubscriptionAdmin,
    pub(super) settings: Settings,
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

    /// Creates a feed under a new name, set back to `since`. On an emulator, which starts empty, the topic is created as
    /// well if it is missing.
    pub(super) async fn create_feed(&self, since: SystemTime) -> Result<NewFeed, AdminError> {
        let name = format!("{}{}", self.prefix(), incarnation());
        match self.create_subscription(&name).await {
            Err(AdminError::NoTopic(_)) if self.settings.emulator.is_some() => {
                self.create_topic().await?;
                self.create_subscription(&name).await?;
            }
            result => result?,
        }
        match self.seek(&name, since).await {
            Ok(is_whole) => Ok(NewFeed { name, is_whole }),
            Err(error) => {
                self.delete_feed(&name).await;
                Err(error)
            }
        }
    }

    /// Deletes the feed, if it is still there, and says whether it was. What is left over is the janitor's, or expires.
    pub(super) async fn delete_feed(&self, name: &str) -> bool {
        let delete = self.subscriptions.delete_subscription().set_subscription(name).send();
        match self.call("delete a feed", delete).await {
            Ok(()) => tracing::info!(feed = name, "feed deleted"),
            Err(error) if code(&error) == Some(Code::NotFound) => return false,
            Err(error) => {
                tracing::warn!(feed = name, %error, "feed left behind");
                return false;
            }
        }
        true
    }

    /// Whose feed of our topic this is, and when it was created, by that pod's clock; `None` for any other name.
    pub(super) fn owner<'a>(&self, name: &'a str) -> Option<(&'a str, SystemTime)> {
        let Settings { project, topic, .. } = &self.settings;
        let rest = name.strip_prefix(&format!("projects/{project}/subscriptions/{topic}."))?;
        let (pod, incarnation) = rest.split_once('.')?;
        let (millis, _) = incarnation.split_once('-')?;
        let since = Duration::from_millis(u64::from_str_radix(millis, 16).ok()?);
        Some((pod, SystemTime::UNIX_EPOCH.checked_add(since)?)).filter(|(pod, _)| !pod.is_empty())
    }

    /// Deletes the feeds that an earlier life of this very pod left behind.
    pub(super) async fn delete_earlier_feeds(&self, current: &str) {
        match self.feeds().await {
            Ok(feeds) => {
                for feed in feeds.iter().filter(|feed| feed.starts_with(&self.prefix()) && *feed != current) {
                    self.delete_feed(feed).await;
                }
            }
            Err(error) => tracing::warn!(%error, "feeds of an earlier life are not looked for"),
        }
    }

    /// The feeds of all pods, of other topics too.
    pub(super) async fn feeds(&self) -> Result<Vec<String>, AdminError> {
        let project = format!("projects/{}", self.settings.project);
        let list = async {
            let mut pages =
                self.subscriptions.list_subscriptions().set_project(project).set_page_size(1_000).by_item();
            let mut feeds = Vec::new();
            while let Some(subscription) = pages.next().await {
                let subscription = subscription?;
                if subscription.labels.get("app").is_some_and(|app| app == APP) {
                    feeds.push(subscription.name);
                }
            }
            Ok(feeds)
        };
        self.call("list subscriptions", list).await
    }

    async fn create_topic(&self) -> Result<(), AdminError> {
        let retention = self.settings.replay_window.max(MIN_RETENTION);
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

    async fn create_subscription(&self, name: &str) -> Result<(), AdminError> {
        let create = self
            .subscriptions
            .create_subscription()
            .set_name(name)
            .set_topic(self.topic())
            .set_labels([("app", APP), ("pod", &self.settings.pod)])
            .set_message_retention_duration(duration(self.settings.replay_window.max(MIN_RETENTION)))
            .set_expiration_policy(ExpirationPolicy::new().set_ttl(duration(EXPIRATION)))
            .set_enable_message_ordering(true)
            .set_ack_deadline_seconds(ACK_DEADLINE_SECONDS);
        match self.call("create a feed", create.send()).await {
            Err(error) if code(&error) == Some(Code::NotFound) => Err(AdminError::NoTopic(self.topic())),
            result => result.map(drop),
        }
    }

    async fn seek(&self, name: &str, since: SystemTime) -> Result<bool, AdminError> {
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
        format!("projects/{}/topics/{}", self.settings.project, self.settings.topic)
    }

    /// What the names of all feeds of this pod begin with. A pod's name has no dot, so no other pod's do.
    pub(super) fn prefix(&self) -> String {
        let Settings { project, topic, pod, .. } = &self.settings;
        format!("projects/{project}/subscriptions/{topic}.{pod}.")
    }
}

/// A name that no life of any feed had before: the time, and enough chance for two in the same millisecond.
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

pub(super) fn duration(duration: Duration) -> wkt::Duration {
    wkt::Duration::clamp(duration.as_secs().try_into().unwrap_or(i64::MAX), 0)
}
