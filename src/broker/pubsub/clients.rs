//! [`Clients`]: Google's clients for one pod, of the service or of the emulator.
//!
//! A feed that stalls gets new clients, with new connections. Creating clients must never need the
//! network.

use google_cloud_gax::{client_builder, retry_policy::NeverRetry};
use google_cloud_pubsub::client;
use thiserror::Error;

use super::{admin::Admin, settings::Settings};

/// Why there is no client. The network is not the cause: no connection is made yet.
#[derive(Debug, Error)]
#[error("cannot set up the Pub/Sub client: are there application default credentials?")]
pub struct ConnectError(#[from] client_builder::Error);

/// Clients of the feed and of the janitor.
#[derive(Clone)]
pub(super) struct Clients {
    pub(super) settings: Settings,
    pub(super) admin: Admin,
    pub(super) subscriber: client::Subscriber,
}

impl Clients {
    pub(super) async fn connect(settings: Settings) -> Result<Self, ConnectError> {
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

    /// Creates the same clients with connections of their own.
    pub(super) async fn reconnect(&self) -> Result<Self, ConnectError> {
        Self::connect(self.settings.clone()).await
    }
}
