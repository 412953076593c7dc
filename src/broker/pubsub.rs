//! Google Cloud Pub/Sub, or its emulator, behind the ports of [`crate::broker`].
//!
//! The one place that knows Google's crates. Its client reads no `PUBSUB_EMULATOR_HOST`; here an emulator is a setting, so
//! that nobody reaches the real service by accident.

pub mod admin;
pub mod checkup;
pub mod feed;
pub mod janitor;
pub mod publisher;

use std::{sync::Arc, time::Duration};

use google_cloud_auth::credentials::{Credentials, anonymous};
use google_cloud_gax::{client_builder, retry_policy::NeverRetry};
use google_cloud_pubsub::client;
use thiserror::Error;

use self::admin::Admin;
pub use self::{checkup::Checkup, feed::PubSubFeed, janitor::Janitor, publisher::Publisher};

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
        if let Some((endpoint, nobody)) = settings.stand_in() {
            topics = topics.with_endpoint(&endpoint).with_credentials(nobody.clone());
            subscriptions = subscriptions.with_endpoint(&endpoint).with_credentials(nobody.clone());
            subscriber = subscriber.with_endpoint(&endpoint).with_credentials(nobody);
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

    /// The topic's full name.
    #[must_use]
    pub fn topic_name(&self) -> String {
        format!("projects/{}/topics/{}", self.project, self.topic)
    }

    /// Where the emulator is, and whom it takes us for.
    fn stand_in(&self) -> Option<(String, Credentials)> {
        let host = self.emulator.as_ref()?;
        Some((format!("http://{host}"), anonymous::Builder::new().build()))
    }
}
