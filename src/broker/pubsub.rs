//! Google Cloud Pub/Sub, or its emulator, behind the ports of [`crate::broker`].
//!
//! Nothing outside this folder may use Google's crates. Google's client does not read
//! `PUBSUB_EMULATOR_HOST`. Here an emulator is a setting, so that no test reaches the real service
//! by accident.

pub mod admin;
pub mod cause;
pub mod checkup;
mod clients;
mod credentials;
pub mod feed;
pub mod janitor;
mod probe;
pub mod publisher;
mod settings;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

use self::clients::Clients;
pub use self::{
    checkup::Checkup,
    clients::ConnectError,
    janitor::Janitor,
    publisher::Publisher,
    settings::{LIMITS, Settings},
};
use crate::broker::{self, Broker, Connected, Limits, Upkeep, kept_feed::KeptFeed};

/// A topic of Cloud Pub/Sub, or of its emulator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// The project's id.
    pub project: String,
    /// The topic's id.
    pub id: String,
    /// The `host:port` of an emulator; `None`: Google's service, with application default
    /// credentials.
    pub emulator: Option<String>,
    /// URL of another endpoint of Google's service, such as a region's; `None`: the global one.
    pub endpoint: Option<String>,
    /// The `host:port` of the HTTP proxy through which this process asks the endpoint, for the
    /// texts of errors. Only administrative calls pass through it.
    pub proxy: Option<String>,
}

impl Topic {
    /// Parses `PROJECT/TOPIC`, of Google's service.
    ///
    /// # Errors
    /// A text that names what is illegal. It completes a sentence that begins with the setting's
    /// name.
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
        let (project, id) = (project.to_owned(), topic.to_owned());
        Ok(Self { project, id, emulator: None, endpoint: None, proxy: None })
    }

    /// Returns the settings of one pod on this topic.
    #[must_use]
    pub fn settings(&self, pod: &str, replay_window: Duration) -> Settings {
        let Self { project, id, emulator, endpoint, proxy } = self.clone();
        Settings { project, topic: id, pod: pod.to_owned(), emulator, endpoint, proxy, replay_window }
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

    fn settle(&self) -> Duration {
        // An emulator brings its backlog without a pause. The service's seek is only eventually
        // complete.
        Duration::from_millis(if self.emulator.is_some() { 200 } else { 2_000 })
    }

    fn check_pod(&self, pod: &str) -> Result<(), String> {
        let longest = Settings::longest_topic(pod);
        if self.id.len() <= longest {
            return Ok(());
        }
        Err(format!(
            "has too long a topic: a feed is <topic>.<pod>.<generation> in 255 characters, so that this pod's name leaves \
             {longest}"
        ))
    }

    async fn connect(&self, pod: &str, window: Duration) -> Result<Connected, broker::ConnectError> {
        let pubsub = PubSub::connect(self.settings(pod, window)).await.map_err(broker::ConnectError::new)?;
        let (feed, upkeep) = (Box::new(pubsub.open_feed()), Upkeep::Feeds(Box::new(pubsub.janitor())));
        Ok(Connected { publisher: pubsub.publisher(), feed, upkeep: Some(upkeep) })
    }
}

/// Google Cloud Pub/Sub for one pod.
pub struct PubSub {
    clients: Clients,
    publisher: Arc<Publisher>,
}

impl PubSub {
    /// Connects the clients. It needs no network: the feed reports a broker that cannot be reached.
    ///
    /// # Errors
    /// [`ConnectError`], if there are no credentials for Google's service.
    pub async fn connect(settings: Settings) -> Result<Self, ConnectError> {
        let access = settings.access()?;
        let clients = Clients::connect(settings.clone(), access.clone()).await?;
        let publisher = Arc::new(Publisher::connect(settings, access).await?);
        Ok(Self { clients, publisher })
    }

    /// Returns the publisher to the topic.
    #[must_use]
    pub fn publisher(&self) -> Arc<Publisher> {
        self.publisher.clone()
    }

    /// Opens a new feed. It connects by itself, again after each outage, until it is closed.
    #[must_use]
    pub fn open_feed(&self) -> KeptFeed {
        feed::open(self.clients.clone())
    }

    /// Returns a janitor, which deletes the feeds of dead pods.
    #[must_use]
    pub fn janitor(&self) -> Janitor {
        Janitor::new(self.clients.clone())
    }
}
