//! Events to the topic, each in its author's lane.
//!
//! What Pub/Sub would refuse is refused here first, since one bad message fails all that share its batch; and nothing waits
//! longer than the port allows, though the client would try for minutes.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
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

use super::{ConnectError, Settings};
use crate::{
    broker::{MAX_DATA_BYTES, PUBLISH_TIMEOUT, Publish, PublishError},
    event::{Event, PULSE, cloudevent},
    telemetry::traces,
};

/// Ordering keys. The client keeps a task and 10 KiB for each key that it ever saw, so keys are lanes and not authors.
const LANES: u64 = 64;

/// Events that may wait for their acknowledgement at once.
const MAX_IN_FLIGHT: usize = 1_000;

fn builder(settings: &Settings) -> PublisherBuilder {
    let backoff = ExponentialBackoffBuilder::new()
        .with_initial_delay(Duration::from_millis(100))
        .with_maximum_delay(Duration::from_secs(1))
        .clamp();
    let topic = format!("projects/{}/topics/{}", settings.project, settings.topic);
    let builder = client::Publisher::builder(topic)
        // Nothing waits for company; what comes while a batch of its lane is on its way goes with the next one.
        .set_delay_threshold(Duration::ZERO)
        .with_retry_policy(RetryableErrors.with_time_limit(PUBLISH_TIMEOUT))
        .with_backoff_policy(backoff);
    match settings.stand_in() {
        Some((endpoint, nobody)) => builder.with_endpoint(endpoint).with_credentials(nobody),
        None => builder,
    }
}

/// A pod's way out to Pub/Sub.
pub struct Publisher {
    settings: Settings,
    client: Mutex<Client>,
    in_flight: Semaphore,
}

/// A client, and which one it is.
#[derive(Clone)]
struct Client {
    number: u64,
    client: client::Publisher,
}

impl Publisher {
    pub(super) async fn connect(settings: Settings) -> Result<Self, ConnectError> {
        let client = Mutex::new(Client { number: 0, client: builder(&settings).build().await? });
        Ok(Self { settings, client, in_flight: Semaphore::const_new(MAX_IN_FLIGHT) })
    }

    fn client(&self) -> Client {
        self.current().clone()
    }

    fn current(&self) -> MutexGuard<'_, Client> {
        // A client is put there whole.
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a new client, with a connection of its own, in the place of one that got no answer: a connection that was cut
    /// off may look alive for many minutes.
    async fn renew(&self, silent: u64) {
        if self.current().number != silent {
            return;
        }
        match builder(&self.settings).build().await {
            Ok(client) => {
                let mut current = self.current();
                if current.number == silent {
                    *current = Client { number: silent + 1, client };
                }
            }
            Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "publisher not renewed"),
        }
    }
}

#[async_trait]
impl Publish for Publisher {
    async fn publish(&self, event: &Event) -> Result<(), PublishError> {
        check(event)?;
        let deadline = Instant::now() + PUBLISH_TIMEOUT;
        let permit = timeout_at(deadline, self.in_flight.acquire()).await;
        let _permit = permit.map_err(|_| PublishError::Overloaded)?;
        let lane = lane(event);
        traces::ordered_by(&lane);
        let message = || {
            Message::new()
                .set_data(event.data.clone())
                .set_attributes(cloudevent::encode(event))
                .set_ordering_key(lane.clone())
        };
        let Client { number, client } = self.client();
        let mut result = timeout_at(deadline, client.publish(message())).await;
        if let Ok(Err(ClientError::OrderingKeyPaused)) = result {
            // An event before this one failed; it was told so, and is no reason to hold back the others of its lane.
            client.resume_publish(lane.as_str());
            result = timeout_at(deadline, client.publish(message())).await;
        }
        let failure = match result {
            Ok(Ok(_message_id)) => return Ok(()),
            Ok(Err(error)) => {
                client.resume_publish(lane.as_str());
                failure(error)
            }
            Err(_) => PublishError::TimedOut,
        };
        if matches!(failure, PublishError::TimedOut) {
            self.renew(number).await;
        }
        Err(failure)
    }

    async fn flush(&self) {
        let Client { client, .. } = self.client();
        client.flush().await;
    }
}

fn failure(error: ClientError) -> PublishError {
    match &error {
        ClientError::Rpc(cause) if cause.is_timeout() => PublishError::TimedOut,
        _ => PublishError::Unavailable(error.into()),
    }
}

fn check(event: &Event) -> Result<(), PublishError> {
    if event.data.is_empty() || event.data.len() > MAX_DATA_BYTES {
        return Err(PublishError::Invalid(format!("its data must have 1 to {MAX_DATA_BYTES} bytes")));
    }
    cloudevent::check(event).map_err(|error| PublishError::Invalid(error.to_string()))
}

/// Pulses have one lane for all pods: none waits behind an event, and a feed brings them in the order of the topic, so
/// that one which is missing before another is lost and not late ([`crate::fleet`] relies on that).
fn lane(event: &Event) -> String {
    match &*event.kind {
        PULSE => "pulses".to_owned(),
        _ => lane_of(event.author.as_deref().unwrap_or(&event.source)),
    }
}

/// The lane of an author: the same on every pod and in every release, by FNV-1a (64 bits).
fn lane_of(author: &str) -> String {
    let hash = author.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("lane-{:02}", hash % LANES)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use bytes::Bytes;

    use super::*;

    #[test]
    fn an_authors_lane_never_changes() {
        let lanes = ["", "1", "2", "3", "4", "/pods/a"].map(lane_of);
        assert_eq!(lanes, ["lane-37", "lane-60", "lane-21", "lane-34", "lane-35", "lane-46"]);
    }

    #[test]
    fn authors_spread_over_the_lanes() {
        let lanes: HashSet<String> = (0..1_000).map(|author| lane_of(&author.to_string())).collect();
        assert_eq!(lanes.len() as u64, LANES);
    }

    #[test]
    fn what_the_topic_would_refuse_is_refused_before() {
        let event = |data: Bytes| Event::new("/test".into(), "k", None, data);
        assert!(check(&event(vec![b'x'; MAX_DATA_BYTES].into())).is_ok());
        assert!(matches!(
            check(&event(vec![b'x'; MAX_DATA_BYTES + 1].into())),
            Err(PublishError::Invalid(_))
        ));
        assert!(matches!(check(&event(Bytes::new())), Err(PublishError::Invalid(_))));
        let mut long = event(Bytes::from_static(b"{}"));
        long.author = Some("x".repeat(1_025).into());
        assert!(matches!(check(&long), Err(PublishError::Invalid(_))));
    }
}
