//! Publisher of events to the stream, over one channel whose messages the broker confirms.
//!
//! RabbitMQ also confirms what it cannot route. So each message is `mandatory`, and one that comes
//! back is not acknowledged. After a confirm that does not come, the connection is given up with
//! all that waits on it: else an event of the new connection could overtake one of the old.

use std::{pin::Pin, time::Duration};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use lapin::{
    BasicProperties, Channel, Confirmation, PublisherConfirm,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};
use tokio::{
    select,
    sync::mpsc,
    time::{Instant, timeout_at},
};

use super::{
    cause::Cause,
    client::{Access, Client},
    message,
    topic::{LIMITS, Topic},
};
use crate::broker::{
    PUBLISH_TIMEOUT, PublishError,
    task_publisher::{Job, TaskPublisher},
};

/// Pause after a failed connection, during which calls fail at once.
const PAUSE: Duration = Duration::from_millis(250);

/// Starts the publisher of one pod. It connects at the first event, and again when a connection
/// ends.
pub(super) fn start(access: Access) -> TaskPublisher {
    TaskPublisher::start(LIMITS, |waiting| Task { access, failed: None }.run(waiting))
}

fn unavailable(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> PublishError {
    PublishError::Unavailable(why.into())
}

/// Task that publishes.
struct Task {
    access: Access,
    /// Last failure to connect, and its time.
    failed: Option<(Cause, Instant)>,
}

/// Connection in use, and the confirms that have not come yet.
struct Live {
    client: Client,
    channel: Channel,
    confirms: FuturesUnordered<Waiting>,
}

/// Wait for a confirm. Its output is whether the connection is sound.
type Waiting = Pin<Box<dyn Future<Output = bool> + Send>>;

impl Task {
    async fn run(mut self, mut queue: mpsc::Receiver<Job>) {
        let mut live: Option<Live> = None;
        loop {
            let confirmed = async {
                match &mut live {
                    Some(live) if !live.confirms.is_empty() => live.confirms.next().await,
                    _ => std::future::pending().await,
                }
            };
            select! {
                is_sound = confirmed => {
                    if is_sound == Some(false) {
                        live = None;
                    }
                }
                job = queue.recv() => {
                    let Some(job) = job else { return };
                    live = self.publish(live.take(), job).await;
                }
            }
        }
    }

    /// Publishes one event. Returns the connection, unless it has to be made anew.
    async fn publish(&mut self, live: Option<Live>, job: Job) -> Option<Live> {
        // Its author has got an error already, and may have gone on.
        if Instant::now() >= job.deadline {
            job.answer.send(Err(PublishError::TimedOut)).ok();
            return live;
        }
        let live = match live.filter(|live| live.channel.status().connected()) {
            Some(live) => live,
            None => match self.connect(job.deadline).await {
                Ok(live) => live,
                Err(cause) => {
                    job.answer.send(Err(unavailable(cause))).ok();
                    return None;
                }
            },
        };
        let (options, stream) =
            (BasicPublishOptions { mandatory: true, ..Default::default() }, &self.access.topic.stream);
        let properties: BasicProperties = message::encode(&job.event);
        let published = live.channel.basic_publish(
            "".into(),
            stream.as_str().into(),
            options,
            &job.event.data,
            properties,
        );
        match timeout_at(job.deadline, published).await {
            Ok(Ok(confirm)) => {
                let is_blocked = live.client.is_blocked();
                live.confirms.push(Box::pin(settle(self.access.topic.clone(), job, confirm, is_blocked)));
                Some(live)
            }
            Ok(Err(error)) => {
                job.answer.send(Err(unavailable(Cause::of(&self.access.topic, &error)))).ok();
                None
            }
            Err(_) => {
                job.answer.send(Err(PublishError::TimedOut)).ok();
                None
            }
        }
    }

    async fn connect(&mut self, deadline: Instant) -> Result<Live, Cause> {
        if let Some((cause, at)) = &self.failed
            && at.elapsed() < PAUSE
        {
            return Err(cause.clone());
        }
        let connecting = async {
            let client = Client::connect(&self.access, "publisher").await?;
            let channel = client.channel().await?;
            client.step(channel.confirm_select(ConfirmSelectOptions::default())).await?;
            Ok(Live { client, channel, confirms: FuturesUnordered::new() })
        };
        let connected = timeout_at(deadline, connecting).await;
        let connected =
            connected.unwrap_or_else(|_| Err(Cause::silence(&self.access.topic, PUBLISH_TIMEOUT)));
        self.failed = connected.as_ref().err().map(|cause: &Cause| (cause.clone(), Instant::now()));
        connected
    }
}

/// Waits for the confirm and answers the caller. Returns whether the connection is sound.
async fn settle(topic: Topic, job: Job, confirm: PublisherConfirm, is_blocked: bool) -> bool {
    let Job { deadline, answer: caller, .. } = job;
    let (answer, is_sound) = match timeout_at(deadline, confirm).await {
        Ok(Ok(Confirmation::Ack(None))) => (Ok(()), true),
        Ok(Ok(Confirmation::Ack(Some(_)) | Confirmation::Nack(Some(_)))) => {
            let text = format!("RabbitMQ has no stream {} in {}: see /readyz", topic.stream, topic.vhost);
            (Err(unavailable(text)), true)
        }
        Ok(Ok(Confirmation::Nack(None) | Confirmation::NotRequested)) => {
            (Err(unavailable("RabbitMQ could not store the event: see its log")), true)
        }
        Ok(Err(error)) => (Err(unavailable(Cause::of(&topic, &error))), false),
        Err(_) if is_blocked => {
            (Err(unavailable("RabbitMQ takes nothing, since it lacks memory or disk: see its alarms")), false)
        }
        Err(_) => (Err(PublishError::TimedOut), false),
    };
    caller.send(answer).ok();
    is_sound
}
