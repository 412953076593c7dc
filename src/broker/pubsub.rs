//! Google Cloud Pub/Sub, or its emulator, behind the ports of [`crate::broker`].
//!
//! The one place that knows Google's crates. Its client reads no `PUBSUB_EMULATOR_HOST`; here an emulator is a setting, so
//! that no test reaches the real service by accident.

pub mod admin;
pub mod checkup;
pub mod feed;
pub mod janitor;
pub mod publisher;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use google_cloud_auth::credentials::{Credentials, anonymous};
use google_cloud_gax::{client_builder, retry_policy::NeverRetry};
use google_cloud_pubsub::client;
use thiserror::Error;

use self::admin::Admin;
pub use self::{checkup::Checkup, feed::PubSubFeed, janitor::Janitor, publisher::Publisher};
use crate::broker::{self, Broker, Connected, Limits};

/// The limits of Pub/Sub. It takes 10,000,000 bytes of a message with its attributes and framing; a larger message fails
/// together with all that share its batch. It retains for 10 minutes at least.
pub const LIMITS: Limits = Limits { payload_bytes: 9_000_000, least_retention: Duration::from_secs(600) };

/// A topic of Cloud Pub/Sub, or of its emulator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// The project's id.
    pub project: String,
    /// The topic's id.
    pub id: String,
    /// The `host:port` of an emulator; `None`: Google's service, with application default credentials.
    pub emulator: Option<String>,
}

impl Topic {
    /// Reads `PROJECT/TOPIC`, of Google's service.
    ///
    /// # Errors
    /// What is illegal, as the end of a sentence that begins with the setting's name.
    pub fn parse(text: &str) -> Result<Self, String> {
        let Some((project, topic)) = text.split_once('/') else {
            return Err("is not a broker: write memory: or pubsub://PROJECT/TOPIC".to_owned());
        };
        // `example.com:project` is the id of a project in a domain's scope.
        let is_project =
            |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.' | ':');
        if !is_id(project, 63, is_project) {
            return Err("has no legal project: give 3 to 63 of a-z 0-9 - . : with a letter first".to_owned());
        }
        let is_topic = |c: char| c.is_ascii_alphanumeric() || "-_.~+%".contains(c);
        if !is_id(topic, 255, is_topic) || topic.starts_with("goog") {
            return Err(
                "has no legal topic: give 3 to 255 of A-Z a-z 0-9 - _ . ~ + % with a letter first, not goog"
                    .to_owned(),
            );
        }
        Ok(Self { project: project.to_owned(), id: topic.to_owned(), emulator: None })
    }

    /// Returns the settings of one pod on this topic.
    #[must_use]
    pub fn settings(&self, pod: &str, replay_window: Duration) -> Settings {
        let Self { project, id, emulator } = self.clone();
        Settings { project, topic: id, pod: pod.to_owned(), emulator, replay_window }
    }
}

fn is_id(id: &str, most: usize, is_legal: impl Fn(char) -> bool) -> bool {
    (3..=most).contains(&id.len())
        && id.starts_with(|c: char| c.is_ascii_alphabetic())
        && id.chars().all(is_legal)
}

#[async_trait]
impl Broker for Topic {
    fn topic(&self) -> String {
        format!("projects/{}/topics/{}", self.project, self.id)
    }

    fn system(&self) -> &'static str {
        "gcp_pubsub"
    }

    fn limits(&self) -> Limits {
        LIMITS
    }

    fn check_pod(&self, pod: &str) -> Result<(), String> {
        let longest = Settings::longest_topic(pod);
        if self.id.len() <= longest {
            return Ok(());
        }
        Err(format!(
            "has too long a topic: a feed is <topic>.<pod>.<incarnation> in 255 characters, so that this pod's name leaves \
             {longest}"
        ))
    }

    async fn connect(&self, pod: &str, window: Duration) -> Result<Connected, broker::ConnectError> {
        let pubsub = PubSub::connect(self.settings(pod, window)).await.map_err(broker::ConnectError::new)?;
        let (feed, cleanup) = (Box::new(pubsub.open_feed()), Box::new(pubsub.janitor()));
        Ok(Connected { publisher: pubsub.publisher(), feed, cleanup: Some(cleanup) })
    }
}

/// Which topic, and who listens to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The project's id.
    pub project: String,
    /// The topic's id.
    pub topic: String,
    /// The pod's name: part of its feeds' names, and how it knows those of its earlier lives.
    pub pod: String,
    /// The `host:port` of an emulator; `None`: Google's service, with application default credentials.
    pub emulator: Option<String>,
    /// How far back a new feed reaches.
    pub replay_window: Duration,
}

/// Why there is no client. It is not a matter of the network: no connection is made yet.
#[derive(Debug, Error)]
#[error("cannot set up the Pub/Sub client: are there application default credentials?")]
pub struct ConnectError(#[from] client_builder::Error);

/// Google Cloud Pub/Sub for one pod.
pub struct PubSub {
    clients: Clients,
    publisher: Arc<Publisher>,
}

impl PubSub {
    /// Sets up the clients. Needs no network: a broker that is away is found out by the feed.
    ///
    /// # Errors
    /// If there are no credentials for Google's service.
    pub async fn connect(settings: Settings) -> Result<Self, ConnectError> {
        let clients = Clients::connect(settings.clone()).await?;
        let publisher = Arc::new(Publisher::connect(settings).await?);
        Ok(Self { clients, publisher })
    }

    /// The way out.
    #[must_use]
    pub fn publisher(&self) -> Arc<Publisher> {
        self.publisher.clone()
    }

    /// The way in: a new feed, which opens by itself and stays open until it is closed.
    #[must_use]
    pub fn open_feed(&self) -> PubSubFeed {
        PubSubFeed::open(self.clients.clone())
    }

    /// What deletes the feeds of pods that are gone.
    #[must_use]
    pub fn janitor(&self) -> Janitor {
        Janitor::new(self.clients.clone())
    }
}

/// The clients of the way in.
#[derive(Clone)]
struct Clients {
    settings: Settings,
    admin: Admin,
    subscriber: client::Subscriber,
}

impl Clients {
    async fn connect(settings: Settings) -> Result<Self, ConnectError> {
        let mut topics = client::TopicAdmin::builder().with_retry_policy(NeverRetry);
        let mut subscriptions = client::SubscriptionAdmin::builder().with_retry_policy(NeverRetry);
        let mut subscriber = client::Subscriber::builder();
        if let Some((endpoint, anonymous)) = settings.emulator() {
            topics = topics.with_endpoint(&endpoint).with_credentials(anonymous.clone());
            subscriptions = subscriptions.with_endpoint(&endpoint).with_credentials(anonymous.clone());
            subscriber = subscriber.with_endpoint(&endpoint).with_credentials(anonymous);
        }
        let admin = Admin::new(topics.build().await?, subscriptions.build().await?, settings.clone());
        Ok(Self { settings, admin, subscriber: subscriber.build().await? })
    }

    /// The same with connections of their own.
    async fn again(&self) -> Result<Self, ConnectError> {
        Self::connect(self.settings.clone()).await
    }
}

impl Settings {
    /// The longest that a topic's id may be, in characters, for feeds of a pod of this name to have legal names.
    #[must_use]
    pub fn longest_topic(pod: &str) -> usize {
        admin::MAX_NAME - ".".len() * 2 - pod.len() - admin::incarnation().len()
    }

    /// Returns the full name of the topic.
    #[must_use]
    pub fn topic_name(&self) -> String {
        format!("projects/{}/topics/{}", self.project, self.topic)
    }

    /// Returns the endpoint and anonymous credentials of the emulator, if one is configured.
    fn emulator(&self) -> Option<(String, Credentials)> {
        let host = self.emulator.as_ref()?;
        Some((format!("http://{host}"), anonymous::Builder::new().build()))
    }
}
