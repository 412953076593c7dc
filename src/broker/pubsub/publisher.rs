//! Events to the topic, each in its author's lane.
//!
//! What Pub/Sub would refuse is refused here first, since one bad message fails all that share its batch; and nothing waits
//! longer than the port allows, though the client would try for minutes.

use std::{
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
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

use super::{ConnectError, Settings};
use crate::{
    broker::{PUBLISH_TIMEOUT, Publish, PublishError, check},
    event::{Event, HEARTBEAT, cloudevent},
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
    let builder = client::Publisher::builder(settings.topic_name())
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
    current: Mutex<Current>,
    in_flight: Arc<Semaphore>,
    publishing: TaskTracker,
}

/// The client, and which one it is.
struct Current {
    number: u64,
    client: client::Publisher,
    /// It gave no answer: the next one who publishes makes a new one, since this one was kept waiting for long enough.
    is_silent: bool,
}

impl Publisher {
    pub(super) async fn connect(settings: Settings) -> Result<Self, ConnectError> {
        let current = Current { number: 0, client: builder(&settings).build().await?, is_silent: false };
        let in_flight = Semaphore::new(MAX_IN_FLIGHT).into();
        Ok(Self { settings, current: current.into(), in_flight, publishing: TaskTracker::new() })
    }

    /// The client, and which one it is. In the place of one that got no answer comes a new one, with a connection of its
    /// own: a connection that was cut off may look alive for many minutes.
    async fn client(&self) -> (u64, client::Publisher) {
        let is_silent = mem::take(&mut self.current().is_silent);
        if is_silent {
            match builder(&self.settings).build().await {
                Ok(client) => {
                    let mut current = self.current();
                    *current = Current { number: current.number + 1, client, is_silent: false };
                }
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "publisher not renewed")
                }
            }
        }
        let current = self.current();
        (current.number, current.client.clone())
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        // A client is put there whole.
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn silent(&self, number: u64) {
        let mut current = self.current();
        // Another one may have noticed it before.
        current.is_silent |= current.number == number;
    }
}

#[async_trait]
impl Publish for Publisher {
    async fn publish(&self, event: &Event) -> Result<(), PublishError> {
        check(event)?;
        let deadline = Instant::now() + PUBLISH_TIMEOUT;
        let place = timeout_at(deadline, self.in_flight.clone().acquire_owned()).await;
        let place = place.map_err(|_| PublishError::Overloaded)?;
        let lane = lane(event);
        traces::ordered_by(&lane);
        let message = Message::new()
            .set_data(event.data.clone())
            .set_attributes(cloudevent::encode(event))
            .set_ordering_key(lane);
        let (number, client) =
            timeout_at(deadline, self.client()).await.map_err(|_| PublishError::TimedOut)?;
        // Here, or the order of a lane would be that of tasks.
        let published = client.publish(message.clone());
        // A task: whoever waits for it may leave, but the client has the message until it is through with it.
        let publishing = self.publishing.spawn(async move {
            let _place = place;
            acknowledged(published, &client, message, deadline).await
        });
        let failure = match timeout_at(deadline, publishing).await {
            Ok(Ok(Ok(_message_id))) => return Ok(()),
            Ok(Ok(Err(error))) => failure(error),
            Ok(Err(panicked)) => PublishError::Unavailable(panicked.into()),
            Err(_) => PublishError::TimedOut,
        };
        if matches!(failure, PublishError::TimedOut) {
            self.silent(number);
        }
        Err(failure)
    }

    async fn flush(&self) {
        let client = self.current().client.clone();
        client.flush().await;
        // Those that a former client has, too.
        self.publishing.close();
        self.publishing.wait().await;
    }
}

/// Waits for the acknowledgement, and leaves the message's lane open whatever becomes of it.
async fn acknowledged(
    published: impl Future<Output = Result<String, ClientError>>,
    client: &client::Publisher,
    message: Message,
    deadline: Instant,
) -> Result<String, ClientError> {
    let lane = message.ordering_key.clone();
    let mut result = published.await;
    if let Err(ClientError::OrderingKeyPaused) = result {
        // An event before this one failed; it was told so, and is no reason to hold back the others of its lane.
        client.resume_publish(&lane);
        // But not if its author was told meanwhile that it failed, and may have gone on.
        if Instant::now() < deadline {
            result = client.publish(message).await;
        }
    }
    if result.is_err() {
        client.resume_publish(lane);
    }
    result
}

fn failure(error: ClientError) -> PublishError {
    match &error {
        ClientError::Rpc(cause) if cause.is_timeout() => PublishError::TimedOut,
        _ => PublishError::Unavailable(error.into()),
    }
}

/// Heartbeats have one lane for all pods: none waits behind an event, and a feed brings them in the order of the topic, so
/// that one which is missing before another is lost and not late ([`crate::membership`] relies on that).
fn lane(event: &Event) -> String {
    match &*event.kind {
        HEARTBEAT => "heartbeats".to_owned(),
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

    use super::*;

    async fn publisher(emulator: String) -> Publisher {
        let settings = Settings {
            project: "p-1".to_owned(),
            topic: "events".to_owned(),
            pod: "pod".to_owned(),
            emulator: Some(emulator),
            replay_window: Duration::from_secs(600),
        };
        Publisher::connect(settings).await.unwrap()
    }

    #[tokio::test]
    async fn a_topic_that_does_not_answer_is_given_up_in_time_and_asked_anew() {
        // Lets in whoever comes, and says nothing.
        let silence = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let publisher = publisher(silence.local_addr().unwrap().to_string()).await;
        let began = Instant::now();
        let event = Event::new("/test".into(), "k", None, "{}".into());
        assert!(matches!(publisher.publish(&event).await, Err(PublishError::TimedOut)));
        // The client's answer is due by then.
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        assert_eq!(publisher.current().number, 0, "nobody waited for a new one");
        let numbers = [publisher.client().await.0, publisher.client().await.0];
        assert_eq!(numbers, [1, 1]);
    }

    #[tokio::test]
    async fn who_leaves_does_not_make_room_for_what_the_client_still_has() {
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
    fn an_authors_lane_never_changes() {
        let lanes = ["", "1", "2", "3", "4", "/pods/a"].map(lane_of);
        assert_eq!(lanes, ["lane-37", "lane-60", "lane-21", "lane-34", "lane-35", "lane-46"]);
    }

    #[test]
    fn authors_spread_over_the_lanes() {
        let lanes: HashSet<String> = (0..1_000).map(|author| lane_of(&author.to_string())).collect();
        assert_eq!(lanes.len() as u64, LANES);
    }
}
