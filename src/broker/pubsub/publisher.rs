//! [`Publisher`]: publishes events to the topic, each with its author's ordering key.
//!
//! It refuses first what Pub/Sub would refuse, since one bad message fails every message of its
//! batch. No call may wait longer than the port allows, though Google's client would retry for
//! minutes.

use std::{
    mem,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use google_cloud_gax::{exponential_backoff::ExponentialBackoffBuilder, retry_policy::RetryPolicyExt as _};
use google_cloud_pubsub::{
    builder::publisher::PublisherBuilder, client, error::PublishError as ClientError, model::Message,
    retry_policy::RetryableErrors,
};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout_at},
};
use tokio_util::task::TaskTracker;

use super::{
    cause::{Cause, Reached},
    clients::ConnectError,
    settings::{Access, LIMITS, Settings},
};
use crate::{
    broker::{PUBLISH_TIMEOUT, Publish, PublishError},
    event::{Event, HEARTBEAT, cloudevent},
    telemetry::traces,
};

/// Number of authors' ordering keys. Many authors share a key, since the client keeps a task and 10
/// KiB for each key ever used.
const ORDERING_KEYS: u64 = 64;

/// Most events that may wait for their acknowledgement at once. Beyond it a call waits for a place,
/// until its deadline.
const MAX_IN_FLIGHT: usize = 1_000;

fn builder(settings: &Settings, access: &Access) -> PublisherBuilder {
    let backoff = ExponentialBackoffBuilder::new()
        .with_initial_delay(Duration::from_millis(100))
        .with_maximum_delay(Duration::from_secs(1))
        .clamp();
    let builder = client::Publisher::builder(settings.topic_name())
        // No event waits for others; what comes while a batch of its key is in flight goes with the
        // next one.
        .set_delay_threshold(Duration::ZERO)
        .with_retry_policy(RetryableErrors.with_time_limit(PUBLISH_TIMEOUT))
        .with_backoff_policy(backoff)
        .with_credentials(access.credentials.clone());
    match &access.url {
        Some(url) => builder.with_endpoint(url),
        None => builder,
    }
}

/// Publisher of one pod to Pub/Sub.
pub struct Publisher {
    settings: Settings,
    access: Access,
    current: Mutex<Current>,
    in_flight: Arc<Semaphore>,
    publishing: TaskTracker,
}

/// Client in use.
struct Current {
    /// Number of the client, counted from zero.
    number: u64,
    client: client::Publisher,
    /// Whether the client got no answer from the service. Then the next call makes a new client:
    /// the present call has waited for long enough.
    is_broken: bool,
}

impl Publisher {
    pub(super) async fn connect(settings: Settings, access: Access) -> Result<Self, ConnectError> {
        let client = builder(&settings, &access).build().await?;
        let current = Current { number: 0, client, is_broken: false };
        let in_flight = Semaphore::new(MAX_IN_FLIGHT).into();
        Ok(Self { settings, access, current: current.into(), in_flight, publishing: TaskTracker::new() })
    }

    /// Returns the client and its number. Replaces a client that got no answer by a new one with a
    /// connection of its own. A connection that was cut off may look alive for many minutes.
    async fn client(&self) -> (u64, client::Publisher) {
        let is_broken = mem::take(&mut self.current().is_broken);
        if is_broken {
            match builder(&self.settings, &self.access).build().await {
                Ok(client) => {
                    let mut current = self.current();
                    *current = Current { number: current.number + 1, client, is_broken: false };
                }
                Err(error) => {
                    tracing::warn!(%error, "publisher not renewed");
                }
            }
        }
        let current = self.current();
        (current.number, current.client.clone())
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        // A client is replaced in one step, so a poisoned lock still guards a whole one.
        crate::lock::lock(&self.current)
    }

    fn mark_broken(&self, number: u64) {
        let mut current = self.current();
        // Another call may have replaced the client already.
        current.is_broken |= current.number == number;
    }
}

#[async_trait]
impl Publish for Publisher {
    async fn publish(&self, event: &Event) -> Result<(), PublishError> {
        LIMITS.check(event)?;
        let deadline = Instant::now() + PUBLISH_TIMEOUT;
        let place = timeout_at(deadline, self.in_flight.clone().acquire_owned()).await;
        let place = place.map_err(|_| PublishError::Overloaded)?;
        let ordering_key = ordering_key(event);
        traces::set_attribute("messaging.gcp_pubsub.message.ordering_key", &ordering_key);
        let message = Message::new()
            .set_data(event.data.clone())
            .set_attributes(cloudevent::encode(event))
            .set_ordering_key(ordering_key);
        let (number, client) =
            timeout_at(deadline, self.client()).await.map_err(|_| PublishError::TimedOut)?;
        // The call stands here, not in the task: else tasks would decide the order within a key.
        let published = client.publish(message.clone());
        // The task outlives a caller that cancels, since the client holds the message until it is
        // done with it.
        let publishing = self.publishing.spawn(async move {
            let _place = place;
            acknowledged(published, &client, message, deadline).await
        });
        let failure = match timeout_at(deadline, publishing).await {
            Ok(Ok(Ok(_message_id))) => return Ok(()),
            Ok(Ok(Err(ClientError::Rpc(error)))) => {
                // A refusal came over a sound connection.
                let cause = Cause::of("publish", &self.settings, &error);
                if !matches!(cause.reached, Reached::Service(_)) {
                    self.mark_broken(number);
                }
                return Err(match error.is_timeout() {
                    true => PublishError::TimedOut,
                    false => PublishError::Unavailable(cause.into()),
                });
            }
            Ok(Ok(Err(error))) => PublishError::Unavailable(error.into()),
            Ok(Err(panicked)) => PublishError::Unavailable(panicked.into()),
            Err(_) => PublishError::TimedOut,
        };
        self.mark_broken(number);
        Err(failure)
    }

    async fn flush(&self) {
        let client = self.current().client.clone();
        client.flush().await;
        // Events that a former client still has are waited for as well.
        self.publishing.close();
        self.publishing.wait().await;
    }
}

/// Waits for the acknowledgement, and leaves the message's ordering key open in every case.
async fn acknowledged(
    published: impl Future<Output = Result<String, ClientError>>,
    client: &client::Publisher,
    message: Message,
    deadline: Instant,
) -> Result<String, ClientError> {
    let ordering_key = message.ordering_key.clone();
    let mut result = published.await;
    if let Err(ClientError::OrderingKeyPaused) = result {
        // An earlier event of this key failed and its author got the error. That is no reason to
        // hold back the others of the key.
        client.resume_publish(&ordering_key);
        // Do not retry if the author has got an error for this event meanwhile, and may have gone
        // on.
        if Instant::now() < deadline {
            result = client.publish(message).await;
        }
    }
    if result.is_err() {
        client.resume_publish(ordering_key);
    }
    result
}

/// Returns the ordering key of an event. All heartbeats of all pods share one key. So none waits
/// behind an event, and feeds bring them in the topic's order: a heartbeat that is missing before
/// another one is lost and not late ([`crate::membership`] relies on that).
fn ordering_key(event: &Event) -> String {
    match &*event.kind {
        HEARTBEAT => "heartbeats".to_owned(),
        _ => authors_ordering_key(event.author.as_deref().unwrap_or(&event.source)),
    }
}

/// Returns the ordering key of an author: the same on every pod and in every release, by FNV-1a (64
/// bits).
fn authors_ordering_key(author: &str) -> String {
    let hash = author.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("lane-{:02}", hash % ORDERING_KEYS)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    async fn publisher(emulator: String) -> Publisher {
        let settings = Settings {
            project: "p-1".to_owned(),
            topic: "events".to_owned(),
            pod: "pod".to_owned(),
            emulator: Some(emulator),
            endpoint: None,
            proxy: None,
            replay_window: Duration::from_secs(600),
        };
        let access = settings.access().unwrap();
        Publisher::connect(settings, access).await.unwrap()
    }

    #[tokio::test]
    async fn silent_topic_times_out_and_gets_new_client() {
        // Accepts every connection and never answers.
        let silence = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let publisher = publisher(silence.local_addr().unwrap().to_string()).await;
        let began = Instant::now();
        let event = Event::new("/test".into(), "k", None, "{}".into());
        assert!(matches!(publisher.publish(&event).await, Err(PublishError::TimedOut)));
        // A client's answer is due within 5 s.
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        assert_eq!(publisher.current().number, 0, "no call has made a new client yet");
        let numbers = [publisher.client().await.0, publisher.client().await.0];
        assert_eq!(numbers, [1, 1]);
    }

    #[tokio::test]
    async fn cancelled_publish_still_occupies_its_place() {
        let silence = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let publisher = publisher(silence.local_addr().unwrap().to_string()).await;
        let event = Event::new("/test".into(), "k", None, "{}".into());
        let left = tokio::time::timeout(Duration::from_millis(50), publisher.publish(&event)).await;
        assert!(left.is_err());
        assert_eq!(publisher.in_flight.available_permits(), MAX_IN_FLIGHT - 1);
        publisher.flush().await;
        assert_eq!(publisher.in_flight.available_permits(), MAX_IN_FLIGHT);
    }

    #[test]
    fn authors_ordering_key_never_changes() {
        let keys = ["", "1", "2", "3", "4", "/pods/a"].map(authors_ordering_key);
        assert_eq!(keys, ["lane-37", "lane-60", "lane-21", "lane-34", "lane-35", "lane-46"]);
    }

    #[test]
    fn authors_spread_over_all_ordering_keys() {
        let keys: HashSet<String> =
            (0..1_000).map(|author| authors_ordering_key(&author.to_string())).collect();
        assert_eq!(keys.len() as u64, ORDERING_KEYS);
    }
}
