//! [`Clients`]: Google's clients for one pod, of the service or of the emulator.
//!
//! A feed that stalls gets new clients, with new connections. Creating clients must never need the
//! network.

use google_cloud_auth::build_errors;
use google_cloud_gax::{client_builder, retry_policy::NeverRetry};
use google_cloud_pubsub::client;
use thiserror::Error;

use super::{
    admin::Admin,
    cause::Cause,
    probe,
    settings::{Access, Settings},
};

/// Why there is no client. The network is not the cause: no connection is made yet.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct ConnectError(pub Cause);

impl From<client_builder::Error> for ConnectError {
    fn from(error: client_builder::Error) -> Self {
        Self(Cause::no_client(&error))
    }
}

impl From<build_errors::Error> for ConnectError {
    fn from(error: build_errors::Error) -> Self {
        Self(Cause::no_client(&error))
    }
}

/// Clients of the feed and of the janitor.
#[derive(Clone)]
pub(super) struct Clients {
    pub(super) settings: Settings,
    pub(super) access: Access,
    pub(super) admin: Admin,
    pub(super) subscriber: client::Subscriber,
}

impl Clients {
    pub(super) async fn connect(settings: Settings, access: Access) -> Result<Self, ConnectError> {
        let Access { url, credentials } = access.clone();
        let mut topics = client::TopicAdmin::builder().with_retry_policy(NeverRetry);
        let mut subscriptions = client::SubscriptionAdmin::builder().with_retry_policy(NeverRetry);
        let mut subscriber = client::Subscriber::builder();
        topics = topics.with_credentials(credentials.clone());
        subscriptions = subscriptions.with_credentials(credentials.clone());
        subscriber = subscriber.with_credentials(credentials);
        if let Some(url) = url {
            topics = topics.with_endpoint(&url);
            subscriptions = subscriptions.with_endpoint(&url);
            subscriber = subscriber.with_endpoint(url);
        }
        let admin = Admin::new(topics.build().await?, subscriptions.build().await?, settings.clone());
        Ok(Self { settings, access, admin, subscriber: subscriber.build().await? })
    }

    /// Returns why the service refuses the stream of this feed; `None` if it does not. The feed
    /// must not be read any more.
    pub(super) async fn probe(&self, feed: &str) -> Option<Cause> {
        probe::refusal(&self.settings, &self.access, feed).await
    }

    /// Creates the same clients with connections of their own.
    pub(super) async fn reconnect(&self) -> Result<Self, ConnectError> {
        Self::connect(self.settings.clone(), self.access.clone()).await
    }
}
