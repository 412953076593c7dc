//! [`Checkup`]: what `relay doctor` asks of Pub/Sub: the topic, permissions, feeds, and a trial
//! feed of its own.
//!
//! It reports facts, and the command judges them. It must never change anything but its trial feed,
//! and publish nothing but a heartbeat that makes no member.
//! That feed is named like a pod's, so the janitor of any pod deletes it if the process dies.

use std::time::{Duration, SystemTime};

use google_cloud_gax::{error::rpc::Code, retry_policy::NeverRetry};
use google_cloud_pubsub::{client::SchemaService, subscriber::ShutdownBehavior};
use tokio::{sync::watch, task::JoinSet, time::timeout};

use super::{
    admin::{AdminError, code},
    cause::Cause,
    clients::{Clients, ConnectError},
    feed::{STREAM_END_TIMEOUT, reader::Reader},
    publisher::Publisher,
    settings::{LIMITS, Settings},
};
use crate::{
    broker::{
        Publish as _, PublishError,
        queue::{self, queue},
    },
    event::{Event, HEARTBEATS},
};

/// Most messages that wait to be checked. At the limit the reader waits.
const QUEUE: usize = 64;

/// Checkup of one topic. It leaves everything as it was.
pub struct Checkup {
    clients: Clients,
    /// Client for the calls of IAM. Only this client has them, and they accept the names of topics
    /// and subscriptions.
    policies: SchemaService,
}

/// Subscriptions of a project.
pub struct Inventory {
    /// Number of all subscriptions, also those that are no feeds.
    pub subscriptions: usize,
    /// Feeds of the topic.
    pub feeds: Vec<FoundFeed>,
}

/// Feed found in the project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundFeed {
    /// Full name of the feed.
    pub name: String,
    /// Name of the pod that created it.
    pub pod: String,
    /// Time of creation by that pod's clock; 1970 if the feed's name does not contain it.
    pub created: SystemTime,
}

impl Checkup {
    /// Creates the clients. Needs no network.
    ///
    /// # Errors
    /// If there are no credentials for Google's service.
    pub async fn connect(settings: Settings) -> Result<Self, ConnectError> {
        let access = settings.access()?;
        let policies = SchemaService::builder().with_retry_policy(NeverRetry);
        let mut policies = policies.with_credentials(access.credentials.clone());
        if let Some(url) = &access.url {
            policies = policies.with_endpoint(url);
        }
        Ok(Self { policies: policies.build().await?, clients: Clients::connect(settings, access).await? })
    }

    /// Returns how long the topic retains its messages; zero if it does not.
    ///
    /// # Errors
    /// [`AdminError::NoTopic`] if there is no such topic, or another [`AdminError`] if the call
    /// fails.
    pub async fn retention(&self) -> Result<Duration, AdminError> {
        self.clients.admin.retention().await
    }

    /// Returns which of these permissions on the topic are missing; `None` where there is no IAM to
    /// ask.
    ///
    /// # Errors
    /// If the call fails.
    pub async fn lacks_on_topic<'a>(
        &self,
        permissions: &[&'a str],
    ) -> Result<Option<Vec<&'a str>>, AdminError> {
        self.lacks(&self.clients.admin.topic(), permissions).await
    }

    /// Returns which of these permissions on a subscription are missing; `None` where there is no
    /// IAM to ask.
    ///
    /// # Errors
    /// If the call fails.
    pub async fn lacks<'a>(
        &self,
        resource: &str,
        permissions: &[&'a str],
    ) -> Result<Option<Vec<&'a str>>, AdminError> {
        let test = self.policies.test_iam_permissions().set_resource(resource);
        let test = test.set_permissions(permissions.iter().copied());
        match self.clients.admin.call("test permissions", test.send()).await {
            Err(error) if code(&error) == Some(Code::Unimplemented) => Ok(None),
            answer => {
                let granted = answer?.permissions;
                let is_lacking = |permission: &&str| !granted.iter().any(|granted| granted == permission);
                Ok(Some(permissions.iter().copied().filter(is_lacking).collect()))
            }
        }
    }

    /// Lists all subscriptions of the project, and the feeds among them.
    ///
    /// # Errors
    /// If they cannot be listed.
    pub async fn inventory(&self) -> Result<Inventory, AdminError> {
        let admin = &self.clients.admin;
        let listing = admin.list().await?;
        let found = |name: String| {
            let (pod, created) = admin.owner(&name)?;
            let (pod, created) = (pod.to_owned(), created.unwrap_or(SystemTime::UNIX_EPOCH));
            Some(FoundFeed { name, pod, created })
        };
        let feeds = listing.feeds.into_iter().filter_map(found).collect();
        Ok(Inventory { subscriptions: listing.subscriptions, feeds })
    }

    /// Returns a name for a trial feed, which is new each time.
    #[must_use]
    pub fn trial(&self) -> String {
        self.clients.admin.new_name()
    }

    /// Creates the trial feed, and seeks it back to `since`. It gets heartbeats only and is
    /// unordered, since even the emulator can seek such a feed.
    ///
    /// # Errors
    /// If the same calls of a pod would fail as well. The feed may exist all the same.
    pub async fn create_trial(&self, trial: &str, since: SystemTime) -> Result<(), AdminError> {
        let admin = &self.clients.admin;
        let heartbeats = format!("attributes.\"ce-type\" = \"{HEARTBEATS}\"");
        admin.create_subscription(trial, LIMITS.least_retention, |feed| feed.set_filter(heartbeats)).await?;
        admin.seek(trial, since).await.map(drop)
    }

    /// Passes the heartbeats of the topic to `is_enough`, until that returns `true` or `limit` is
    /// over.
    pub async fn listen(&self, trial: &str, limit: Duration, is_enough: impl FnMut(&Event) -> bool) {
        let subscriber = &self.clients.subscriber;
        let stream =
            subscriber.subscribe(trial).set_shutdown_behavior(ShutdownBehavior::NackImmediately).build();
        let shutdown = stream.shutdown_token();
        let (sender, events) = queue(QUEUE);
        // Alone in its task, as in a pod's feed.
        let mut reader = JoinSet::new();
        reader
            .spawn(Reader::only(stream, self.clients.settings.clone(), watch::Sender::new(None)).run(sender));
        // An error means that the time is over.
        timeout(limit, receive(events, is_enough)).await.ok();
        timeout(STREAM_END_TIMEOUT, shutdown.shutdown()).await.ok();
    }

    /// Publishes an event, as a pod does.
    ///
    /// # Errors
    /// If a pod could not publish it either.
    pub async fn publish(&self, event: &Event) -> Result<(), PublishError> {
        let Clients { settings, access, .. } = &self.clients;
        let publisher = Publisher::connect(settings.clone(), access.clone()).await;
        publisher.map_err(|error| PublishError::Unavailable(error.into()))?.publish(event).await
    }

    /// Returns why the service refuses to send what the trial feed has; `None` if it does not. The
    /// trial feed must not be read any more.
    pub async fn refusal(&self, trial: &str) -> Option<Cause> {
        self.clients.probe(trial).await
    }

    /// Deletes the trial feed, if it exists.
    ///
    /// # Errors
    /// If it may still exist.
    pub async fn close(&self, trial: &str) -> Result<(), AdminError> {
        self.clients.admin.delete(trial).await.map(drop)
    }
}

async fn receive(mut events: queue::Receiver, mut is_enough: impl FnMut(&Event) -> bool) {
    while let Some(received) = events.recv().await {
        received.ack.ack();
        // An emulator stores the filter but ignores it.
        if let Ok(event) = received.event
            && event.kind.starts_with(HEARTBEATS)
            && is_enough(&event)
        {
            return;
        }
    }
}
