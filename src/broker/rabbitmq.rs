//! RabbitMQ behind the ports of [`crate::broker`]: one durable stream queue over AMQP 0.9.1.
//!
//! A stream is a log: each pod reads all of it, from any time on, and no reader takes anything from
//! another. So nothing of a pod is left behind at the broker. Nothing outside this folder may use
//! the client's crate.

mod cause;
pub mod checkup;
mod client;
mod feed;
mod message;
mod publisher;
mod stream;
mod topic;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

use self::client::Access;
pub use self::{
    cause::Cause,
    checkup::Checkup,
    topic::{LIMITS, Topic},
};
use crate::broker::{Broker, ConnectError, Connected, Limits};

#[async_trait]
impl Broker for Topic {
    fn topic(&self) -> String {
        self.name()
    }

    fn system(&self) -> &'static str {
        "rabbitmq"
    }

    fn limits(&self) -> Limits {
        LIMITS
    }

    async fn connect(&self, pod: &str, window: Duration) -> Result<Connected, ConnectError> {
        let access = Access::new(self.clone(), pod)?;
        let publisher = Arc::new(publisher::start(access.clone()));
        let feed = Box::new(feed::open(access, window));
        Ok(Connected { publisher, feed, upkeep: None })
    }
}
