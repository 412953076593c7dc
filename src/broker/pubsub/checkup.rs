//! What `relay doctor` asks of Pub/Sub: the topic, permissions, feeds, and a trial feed of its own.
//!
//! It reports facts; what they mean is [`crate::cli::doctor`]'s to say. It must never change anything but its trial feed, which
//! is named like a pod's: should the process die, the janitor of any pod deletes it.

use std::time::{Duration, SystemTime};

use google_cloud_gax::{error::rpc::Code, retry_policy::NeverRetry};
use google_cloud_pubsub::{client::SchemaService, subscriber::ShutdownBehavior};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::timeout,
};

use super::{
    Clients, ConnectError, Settings,
    admin::{AdminError, code},
    feed::{CLOSE_TIMEOUT, reader::Reader},
};
use crate::{
    broker::{MIN_RETENTION, Received},
    event::{Event, HEARTBEAT},
};

/// How many messages wait to be looked at.
const QUEUE: usize = 64;

/// One who asks, and leaves everything as it was.
pub struct Checkup {
    clients: Clients,
    /// Its client alone has the calls of IAM, and they take the names of topics and subscriptions.
    policies: SchemaService,
}

/// What a project holds.
pub struct Inventory {
    /// All subscriptions, also those that are no feeds.
    pub subscriptions: usize,
    /// The feeds of our topic.
    pub feeds: Vec<FoundFeed>,
}

/// Somebody's feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundFeed {
    /// Its full name.
    pub name: String,
    /// Whose it is.
    pub pod: String,
    /// Since when, by that pod's clock; 1970 if its name does not say.
    pub created: SystemTime,
}

impl Checkup {
    /// Sets up the clients. Needs no network.
    ///
    /// # Errors
    /// If there are no credentials for Google's service.
    pub async fn connect(settings: Settings) -> Result<Self, ConnectError> {
        let mut policies = SchemaService::builder().with_retry_policy(NeverRetry);
        if let Some((endpoint, nobody)) = settings.stand_in() {
            policies = policies.with_endpoint(endpoint).with_credentials(nobody);
        }
        Ok(Self { policies: policies.build().await?, clients: Clients::connect(settings).await? })
    }

    /// How long the topic retains its messages; zero if it does not.
    ///
    /// # Errors
    /// [`AdminError::NoTopic`] if there is none.
    pub async fn retention(&self) -> Result<Duration, AdminError> {
        self.clients.admin.retention().await
    }

    /// Which of these permissions on the topic we do not have; `None` where there is no IAM to ask.
    ///
    /// # Errors
    /// If nobody answers.
    pub async fn lacks_on_topic<'a>(
        &self,
        permissions: &[&'a str],
    ) -> Result<Option<Vec<&'a str>>, AdminError> {
        self.lacks(&self.clients.admin.topic(), permissions).await
    }

    /// The same on a subscription.
    ///
    /// # Errors
    /// If nobody answers.
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

    /// All subscriptions of the project, and the feeds among them.
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

    /// A name for a trial feed, which is new each time.
    #[must_use]
    pub fn trial(&self) -> String {
        self.clients.admin.new_name()
    }

    /// Creates the trial feed, and sets it back to `since`. It gets heartbeats only, and in no order, since even the emulator
    /// seeks such a feed.
    ///
    /// # Errors
    /// If a pod's would fail as well. The feed may be there all the same.
    pub async fn open(&self, trial: &str, since: SystemTime) -> Result<(), AdminError> {
        let admin = &self.clients.admin;
        let heartbeats = format!("attributes.\"ce-type\" = \"{HEARTBEAT}\"");
        admin.create_subscription(trial, MIN_RETENTION, |feed| feed.set_filter(heartbeats)).await?;
        admin.seek(trial, since).await.map(drop)
    }

    /// Shows the heartbeats of the topic to `is_enough`, until it says so or the time is over.
    pub async fn listen(&self, trial: &str, limit: Duration, is_enough: impl FnMut(&Event) -> bool) {
        let subscriber = &self.clients.subscriber;
        let stream =
            subscriber.subscribe(trial).set_shutdown_behavior(ShutdownBehavior::NackImmediately).build();
        let shutdown = stream.shutdown_token();
        let (sender, events) = mpsc::channel(QUEUE);
        // Alone in its task, as in a pod's feed.
        let mut reader = JoinSet::new();
        reader.spawn(Reader::only(stream, watch::Sender::new(None)).run(sender));
        // An error says that the time is over.
        timeout(limit, hear(events, is_enough)).await.ok();
        timeout(CLOSE_TIMEOUT, shutdown.shutdown()).await.ok();
    }

    /// Deletes the trial feed, if it is there.
    ///
    /// # Errors
    /// If it may still be there.
    pub async fn close(&self, trial: &str) -> Result<(), AdminError> {
        self.clients.admin.delete(trial).await.map(drop)
    }
}

async fn hear(mut events: mpsc::Receiver<Received>, mut is_enough: impl FnMut(&Event) -> bool) {
    while let Some(received) = events.recv().await {
        received.ack.ack();
        // An emulator stores the filter and gives everything.
        if let Ok(event) = received.event
            && *event.kind == *HEARTBEAT
            && is_enough(&event)
        {
            return;
        }
    }
}
