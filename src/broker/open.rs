//! [`BrokerUrl`]: the only place that maps a URL to an adapter.
//!
//! A URL of an adapter that is not compiled in must be refused with the name of the Cargo feature.

use std::{sync::Arc, time::Duration};

use thiserror::Error;

#[cfg(feature = "postgres")]
use super::postgres;
#[cfg(feature = "pubsub")]
use super::pubsub;
#[cfg(feature = "rabbitmq")]
use super::rabbitmq;
use super::{Broker, Limits, memory, server::Server};

/// A broker, chosen by its URL: `memory:`, `pubsub://PROJECT/TOPIC`, `postgres://HOST/DATABASE` or
/// `amqp[s]://HOST/VHOST`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BrokerUrl {
    /// A topic inside this process, which no other process can reach.
    Memory,
    /// A topic of Cloud Pub/Sub.
    #[cfg(feature = "pubsub")]
    PubSub(pubsub::Topic),
    /// A topic in a PostgreSQL database.
    #[cfg(feature = "postgres")]
    Postgres(postgres::Topic),
    /// A stream of RabbitMQ.
    #[cfg(feature = "rabbitmq")]
    RabbitMq(rabbitmq::Topic),
}

/// Why a text is not the URL of a broker. The text completes a sentence that begins with the
/// setting's name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct BrokerUrlError(String);

impl BrokerUrl {
    /// Parses a URL.
    ///
    /// ```
    /// use pubsub_relay::broker::open::BrokerUrl;
    ///
    /// assert_eq!(BrokerUrl::parse("memory:"), Ok(BrokerUrl::Memory));
    /// assert!(BrokerUrl::parse("unknown://").is_err());
    /// ```
    ///
    /// # Errors
    /// [`BrokerUrlError`] for an unknown scheme, an illegal name, or an adapter that is not
    /// compiled in.
    pub fn parse(url: &str) -> Result<Self, BrokerUrlError> {
        if url == "memory:" {
            return Ok(Self::Memory);
        }
        if let Some(topic) = url.strip_prefix("pubsub://") {
            return pubsub(topic).map_err(BrokerUrlError);
        }
        if let Some(topic) = url.strip_prefix("postgres://").or_else(|| url.strip_prefix("postgresql://")) {
            return postgres(topic).map_err(BrokerUrlError);
        }
        for (scheme, tls) in [("amqp://", false), ("amqps://", true)] {
            if let Some(stream) = url.strip_prefix(scheme) {
                return rabbitmq(stream, tls).map_err(BrokerUrlError);
            }
        }
        Err(BrokerUrlError(
            "is not a broker: write memory:, pubsub://PROJECT/TOPIC, postgres://HOST/DATABASE or \
             amqp[s]://HOST/VHOST"
                .to_owned(),
        ))
    }

    /// Returns the limits of the broker.
    #[must_use]
    pub const fn limits(&self) -> Limits {
        match self {
            Self::Memory => memory::LIMITS,
            #[cfg(feature = "pubsub")]
            Self::PubSub(_) => pubsub::LIMITS,
            #[cfg(feature = "postgres")]
            Self::Postgres(_) => postgres::LIMITS,
            #[cfg(feature = "rabbitmq")]
            Self::RabbitMq(_) => rabbitmq::LIMITS,
        }
    }

    /// Returns the server of the broker, which takes a login; `None` for a broker without one.
    pub const fn server(&mut self) -> Option<&mut Server> {
        match self {
            #[cfg(feature = "postgres")]
            Self::Postgres(topic) => Some(&mut topic.server),
            #[cfg(feature = "rabbitmq")]
            Self::RabbitMq(topic) => Some(&mut topic.server),
            _ => None,
        }
    }

    /// Opens the broker. A topic in memory keeps events for `retention`, at most `bytes` of them.
    #[must_use]
    pub fn open(self, retention: Duration, bytes: usize) -> Arc<dyn Broker> {
        match self {
            Self::Memory => Arc::new(memory::Topic::new(retention, bytes)),
            #[cfg(feature = "pubsub")]
            Self::PubSub(topic) => Arc::new(topic),
            #[cfg(feature = "postgres")]
            Self::Postgres(topic) => Arc::new(topic),
            #[cfg(feature = "rabbitmq")]
            Self::RabbitMq(topic) => Arc::new(topic),
        }
    }
}

#[cfg(feature = "pubsub")]
fn pubsub(topic: &str) -> Result<BrokerUrl, String> {
    pubsub::Topic::parse(topic).map(BrokerUrl::PubSub)
}

#[cfg(not(feature = "pubsub"))]
fn pubsub(_topic: &str) -> Result<BrokerUrl, String> {
    Err("names Pub/Sub, which this build lacks: enable the Cargo feature `pubsub`".to_owned())
}

#[cfg(feature = "postgres")]
fn postgres(topic: &str) -> Result<BrokerUrl, String> {
    postgres::Topic::parse(topic).map(BrokerUrl::Postgres)
}

#[cfg(not(feature = "postgres"))]
fn postgres(_topic: &str) -> Result<BrokerUrl, String> {
    Err("names PostgreSQL, which this build lacks: enable the Cargo feature `postgres`".to_owned())
}

#[cfg(feature = "rabbitmq")]
fn rabbitmq(stream: &str, tls: bool) -> Result<BrokerUrl, String> {
    rabbitmq::Topic::parse(stream, tls).map(BrokerUrl::RabbitMq)
}

#[cfg(not(feature = "rabbitmq"))]
fn rabbitmq(_stream: &str, _tls: bool) -> Result<BrokerUrl, String> {
    Err("names RabbitMQ, which this build lacks: enable the Cargo feature `rabbitmq`".to_owned())
}
