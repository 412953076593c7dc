//! PostgreSQL behind the ports of [`crate::broker`]: the topic is one table.
//!
//! **Order.** A position is a time in microseconds. A transaction that writes events holds the lock
//! of the topic from the stamp until its commit is visible. So positions become visible in their
//! order, and a reader that asks for what is beyond its last position misses nothing. A sequence
//! alone would not do: its numbers become visible in the order of the commits.
//!
//! **Wake-up.** A note (`NOTIFY`) only wakes readers; a poll every second is the proof that the
//! server answers. Other programs publish by the outbox table ([`schema`]). Nothing outside this
//! folder may use PostgreSQL's crates.

mod cause;
pub mod checkup;
mod feed;
mod publisher;
mod row;
pub mod schema;
mod session;
mod settings;
mod trimmer;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

pub use self::{
    cause::Cause,
    checkup::Checkup,
    settings::{LIMITS, TOPIC, Topic},
    trimmer::Trimmer,
};
use self::{session::Access, settings::EXTRA_RETENTION};
use super::{
    Broker, ConnectError, Connected, Limits, Upkeep, kept_feed::KeptFeed, task_publisher::TaskPublisher,
};

impl Topic {
    /// Connects one pod. It needs no network: the feed reports a server that cannot be reached.
    ///
    /// # Errors
    /// If there is no certificate authority that can be used.
    pub fn open(&self, pod: &str, window: Duration) -> Result<Postgres, ConnectError> {
        Ok(Postgres { access: Access::new(self.clone(), pod)?, window })
    }
}

#[async_trait]
impl Broker for Topic {
    fn topic(&self) -> String {
        self.full_name()
    }

    fn system(&self) -> &'static str {
        "postgresql"
    }

    fn limits(&self) -> Limits {
        LIMITS
    }

    async fn connect(&self, pod: &str, window: Duration) -> Result<Connected, ConnectError> {
        let postgres = self.open(pod, window)?;
        let upkeep = Upkeep::Log(Box::new(postgres.trimmer()));
        Ok(Connected {
            publisher: Arc::new(postgres.publisher()),
            feed: Box::new(postgres.open_feed()),
            upkeep: Some(upkeep),
        })
    }
}

/// PostgreSQL for one pod.
pub struct Postgres {
    access: Access,
    window: Duration,
}

impl Postgres {
    /// Starts a publisher to the topic.
    #[must_use]
    pub fn publisher(&self) -> TaskPublisher {
        publisher::start(self.access.clone())
    }

    /// Opens a new feed. It connects by itself, again after each outage, until it is closed.
    #[must_use]
    pub fn open_feed(&self) -> KeptFeed {
        feed::open(self.access.clone(), self.window)
    }

    /// Returns a trimmer, which deletes old events.
    #[must_use]
    pub fn trimmer(&self) -> Trimmer {
        Trimmer::new(self.access.clone(), self.window + EXTRA_RETENTION)
    }
}
