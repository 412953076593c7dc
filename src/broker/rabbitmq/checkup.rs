//! [`Checkup`]: what `relay doctor` asks of RabbitMQ: the stream, the routing, and a trial event.
//!
//! It reports facts, and the command judges them. It must never create the stream: it publishes one
//! heartbeat that makes no member, and one message that no queue takes.

use std::time::{Duration, SystemTime};

use futures_util::StreamExt as _;
use lapin::{Consumer, options::BasicAckOptions, types::AMQPValue};
use tokio::time::timeout;

pub use super::stream::Retention;
use super::{
    cause::Cause,
    client::{Access, Client},
    message, publisher,
    stream::{consume, inspect},
    topic::Topic,
};
use crate::{
    broker::{Publish as _, PublishError},
    event::Event,
};

/// Longest wait for the trial event.
const RECEIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Most messages that wait while the trial event is looked for.
const PREFETCH: u16 = 128;

/// Checkup of one stream. Dropped, it leaves nothing but one event.
pub struct Checkup {
    access: Access,
    client: Client,
}

/// What became of the trial event.
pub struct Trial {
    /// Whether the stream took it.
    pub published: Result<(), PublishError>,
    /// How it came back; `None`: it was not published.
    pub received: Option<Result<Stamp, Cause>>,
}

/// Time that the broker gave the trial event.
#[derive(Clone, Copy, Debug)]
pub struct Stamp {
    /// Time of the broker; `None`: it does not stamp.
    pub theirs: Option<SystemTime>,
    /// Time of this machine at the same moment.
    pub ours: SystemTime,
}

impl Checkup {
    /// Connects.
    ///
    /// # Errors
    /// [`Cause`], as a pod would report it.
    pub async fn connect(topic: Topic, pod: &str) -> Result<Self, Cause> {
        let access = Access::new(topic, pod)
            .map_err(|error| Cause::new(error.to_string(), "correct RELAY_BROKER_CA_FILE"))?;
        let client = Client::connect(&access, "checkup").await?;
        Ok(Self { access, client })
    }

    /// Returns whether the stream retains the window; `None`: there is no stream.
    ///
    /// # Errors
    /// If the broker does not answer, or the queue is of no use to a pod.
    pub async fn stream(&self, window: Duration) -> Result<Option<Retention>, Cause> {
        inspect(&self.client, &self.access.topic, window).await
    }

    /// Publishes this event to a stream that does not exist. Returns whether the publisher noticed
    /// that no queue took it.
    pub async fn is_returned(&self, event: &Event) -> bool {
        let mut access = self.access.clone();
        access.topic.stream = format!("relay.nowhere.{}", event.id);
        publisher::start(access).publish(event).await.is_err()
    }

    /// Publishes this event and waits until it comes back.
    pub async fn trial(&self, event: &Event) -> Trial {
        let next = AMQPValue::LongString("next".into());
        let consumer = consume(&self.client, &self.access.topic, next, PREFETCH).await;
        let sent = SystemTime::now();
        let published = publisher::start(self.access.clone()).publish(event).await;
        // The broker read its clock about half-way between event and acknowledgement.
        let ours = sent + sent.elapsed().unwrap_or_default() / 2;
        let received = match (&published, consumer) {
            (Err(_), _) => None,
            (Ok(()), Err(cause)) => Some(Err(cause)),
            (Ok(()), Ok(consumer)) => {
                Some(match timeout(RECEIVE_TIMEOUT, self.find(consumer, event)).await {
                    Ok(found) => found.map(|theirs| Stamp { theirs, ours }),
                    Err(_) => Err(Cause::silence(&self.access.topic, RECEIVE_TIMEOUT)),
                })
            }
        };
        Trial { published, received }
    }

    /// Waits for this event. Returns the broker's stamp.
    async fn find(&self, mut consumer: Consumer, event: &Event) -> Result<Option<SystemTime>, Cause> {
        while let Some(delivery) = consumer.next().await {
            let delivery = delivery.map_err(|error| Cause::of(&self.access.topic, &error))?;
            let acker = delivery.acker.clone();
            let message = message::decode(delivery, SystemTime::now());
            if let Ok(found) = message.event
                && found.id == event.id
            {
                return Ok(found.published.filter(|_| message.is_stamped));
            }
            // An error means that the connection has ended, which the consumer reports.
            acker.ack(BasicAckOptions::default()).await.ok();
        }
        Err(Cause::new("RabbitMQ ended the consumer", "see the broker's log"))
    }
}
