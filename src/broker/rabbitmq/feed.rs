//! Feed of a pod's own consumer of the stream, kept open through every failure.
//!
//! There is one way to recover from every failure, including a reader's report that nothing comes
//! ([`Reopen`](crate::broker::Reopen)). A new generation has a new connection, and begins before
//! the newest event seen. The reader drops repeats. A consumer has no name and no group, so it ends
//! with its connection and leaves nothing behind. It must never acknowledge to a queue that is no
//! stream: that would take the message from others.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::StreamExt as _;
use lapin::{Acker, Consumer, options::BasicAckOptions, types::AMQPValue};
use tokio::{
    select,
    time::{Instant, timeout},
};
use uuid::Uuid;

use super::{
    cause::Cause,
    client::{Access, Client},
    message,
    stream::{Retention, consume, declare},
    topic::PREFETCH,
};
use crate::broker::{
    Ack, Order, Received,
    kept_feed::{Controls, KeptFeed},
};

/// Most messages that wait for the relay. At the limit the reader waits.
const QUEUE: usize = 64;

/// Number of messages that are acknowledged together. The acknowledgement only makes room for more.
const ACK_EVERY: usize = 4;

/// Time without a message after which the rest is acknowledged. RabbitMQ ends a consumer that keeps
/// one for 30 minutes.
const IDLE: Duration = Duration::from_secs(1);

/// How far before the newest event seen a new generation begins. The stream is sought by the
/// broker's clock, in whole seconds, and the event's time may be by another clock.
const MARGIN: Duration = Duration::from_secs(30);

/// Pause between two tries. A pod must be back within 10 s of a repair.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(2));

/// Opens the feed of one pod.
pub(super) fn open(access: Access, window: Duration) -> KeptFeed {
    let (feed, controls) = KeptFeed::new(QUEUE, BACKOFF);
    let keeper = Keeper { access, window, controls, newest: None, hole: None, is_warned: false };
    feed.kept_by(keeper.run())
}

/// Task behind a feed.
struct Keeper {
    access: Access,
    window: Duration,
    controls: Controls,
    /// Newest time of publishing that came through, and when it came.
    newest: Option<(SystemTime, Instant)>,
    /// Offsets around a hole in the stream that ended a generation.
    hole: Option<(u64, u64)>,
    is_warned: bool,
}

impl Keeper {
    async fn run(mut self) {
        let stop = self.controls.stop.clone();
        while !stop.is_cancelled() {
            let newest = self.newest;
            let Some(opened) = stop.run_until_cancelled(self.open()).await else { break };
            let why = match opened {
                Ok((client, consumer)) => {
                    let why = self.run_generation(consumer).await;
                    client.close().await;
                    why
                }
                Err(cause) => cause.to_string(),
            };
            if stop.is_cancelled() {
                break;
            }
            self.controls.report(why);
            if self.newest > newest {
                self.controls.succeed();
            }
            self.controls.pause().await;
        }
        self.controls.close();
    }

    /// Connects, makes sure that the stream exists, and consumes it.
    async fn open(&mut self) -> Result<(Client, Consumer), Cause> {
        let topic = &self.access.topic;
        let client = Client::connect(&self.access, "feed").await?;
        let retention = declare(&client, topic, self.window).await?;
        self.controls.set_reaches_back(retention == Retention::Window);
        let consumer = consume(&client, topic, self.since(), PREFETCH).await?;
        Ok((client, consumer))
    }

    /// Returns from where a generation reads. The first one begins a window ago by the broker's
    /// clock. A later one begins before the newest event that came through, so that this event must
    /// come once more ([`crate::membership`] relies on that).
    fn since(&self) -> AMQPValue {
        let Some((newest, came)) = self.newest else {
            return AMQPValue::LongString(format!("{}s", self.window.as_secs()).into());
        };
        let before = |time: SystemTime, span| time.checked_sub(span).unwrap_or(SystemTime::UNIX_EPOCH);
        let since = before(newest + came.elapsed(), self.window).max(before(newest, MARGIN));
        let since = since.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        AMQPValue::Timestamp(since.as_secs())
    }

    /// Runs one generation of the feed until it fails or is stopped. Returns the reason of its end.
    async fn run_generation(&mut self, consumer: Consumer) -> String {
        let Access { topic, pod, .. } = &self.access;
        let generation: Arc<str> = format!("{}.{pod}.{}", topic.stream, Uuid::now_v7().simple()).into();
        tracing::info!(feed = &*generation, "feed open");
        self.controls.open(generation.clone());
        let (reopen, stop) = (self.controls.reopen.clone(), self.controls.stop.clone());
        let why = select! {
            why = self.read(consumer) => why,
            () = reopen.asked(&generation) => "nothing came through it".to_owned(),
            () = stop.cancelled() => "stopped".to_owned(),
        };
        self.controls.end(&why);
        why
    }

    /// Hands on all that comes. Returns the reason of the end.
    async fn read(&mut self, mut consumer: Consumer) -> String {
        let mut last: Option<u64> = None;
        let mut unacknowledged: Option<(usize, Acker)> = None;
        loop {
            let delivery = match timeout(IDLE, consumer.next()).await {
                Ok(Some(Ok(delivery))) => delivery,
                Ok(Some(Err(error))) => return Cause::of(&self.access.topic, &error).to_string(),
                Ok(None) => {
                    return format!("RabbitMQ ended the feed: was {} deleted?", self.access.topic.stream);
                }
                Err(_) => {
                    acknowledge(&mut unacknowledged).await;
                    continue;
                }
            };
            let acker = delivery.acker.clone();
            let message = message::decode(delivery, SystemTime::now());
            let Some(offset) = message.offset else {
                return format!("the queue {} is no stream: delete it", self.access.topic.stream);
            };
            if let Some(hole) = last.map(|last| (last, offset)).filter(|(last, offset)| last + 1 < *offset)
                && self.hole != Some(hole)
            {
                // Retention has overtaken this reader, unless the next generation finds it as well.
                self.hole = Some(hole);
                return format!("the stream goes on at {offset} after {}", hole.0);
            }
            last = Some(offset);
            self.judge(message.is_stamped);
            let published = message.event.as_ref().ok().and_then(|event| event.published);
            let received =
                Received { event: message.event, message_id: offset.to_string(), ack: Ack::none() };
            if self.controls.events.send(received).await.is_err() {
                return "the relay no longer reads".to_owned();
            }
            self.newest = self.newest.max(published.map(|published| (published, Instant::now())));
            let count = unacknowledged.as_ref().map_or(0, |(count, _)| *count) + 1;
            unacknowledged = Some((count, acker));
            if count >= ACK_EVERY {
                acknowledge(&mut unacknowledged).await;
            }
        }
    }

    /// Takes the order of the feed from a message. A broker that does not stamp leaves the order of
    /// times to the clocks of publishers.
    fn judge(&mut self, is_stamped: bool) {
        self.controls.set_order(if is_stamped { Order::Total } else { Order::Lanes });
        if !is_stamped && !self.is_warned {
            self.is_warned = true;
            let cure = "see docs/RABBITMQ.md";
            tracing::warn!(
                cure,
                "the broker does not stamp: publishers' clocks decide what clients can resume"
            );
        }
    }
}

/// Acknowledges all that was handed on.
async fn acknowledge(unacknowledged: &mut Option<(usize, Acker)>) {
    if let Some((_, last)) = unacknowledged.take() {
        // An error means that the connection has ended, which the consumer reports.
        last.ack(BasicAckOptions { multiple: true }).await.ok();
    }
}
