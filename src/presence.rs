//! [`Presence`]: connect and disconnect events on the topic, for other programs.
//!
//! A connection is announced once its token was checked, and again when it ends. The topic carries
//! these events to every pod, so their number is bounded: what waits is published at a pace that
//! all pods share, and what finds no room is counted in a later event. No pod may act on these
//! events, and no client or domain may see one. A connection must never wait for them.

use std::{
    mem,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use futures_util::future::join_all;
use opentelemetry::{
    KeyValue,
    metrics::{Counter, Meter},
};
use serde::Serialize;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    broker::Publish,
    event::{Event, PODS},
    telemetry,
};

/// Types of the events.
const CONNECTED: &str = "relay.connected.v1";
const DISCONNECTED: &str = "relay.disconnected.v1";

/// Beginnings of the types of these events in all releases.
const KINDS: [&str; 2] = ["relay.connected.", "relay.disconnected."];

/// Most events a second of all pods together. Each pod receives all of them.
const RATE: f64 = 500.0;

/// Most events of a pod that wait for their turn. Further ones are omitted and counted.
const MAX_WAITING: usize = 4_096;

/// Most events that are published together.
const BATCH: usize = 64;

/// Longest time in which a pod that ends publishes what waits, without the pace. It is shorter than
/// a step of a drain, which would be cut off.
const FLUSH: Duration = Duration::from_secs(3);

/// Outcomes, as labels of metrics.
const PUBLISHED: &str = "published";
const FAILED: &str = "failed";
const OMITTED: &str = "omitted";

/// Announcements of one pod's connections. Clones share them.
#[derive(Clone)]
pub struct Presence(Arc<Shared>);

struct Shared {
    waiting: mpsc::Sender<Notice>,
    /// Events that were omitted since the last event that reports them.
    omitted: AtomicU64,
    outcomes: Counter<u64>,
}

/// Events that wait to be published.
pub struct Waiting(mpsc::Receiver<Notice>);

/// What a connection has announced.
pub struct Visit {
    presence: Presence,
    transport: &'static str,
    /// User of the token; `None` until it is checked.
    user: Option<Arc<str>>,
    /// Whether the connection counts as one: it has a client.
    is_counted: bool,
    /// Id and beginning of what was announced.
    announced: Option<(Uuid, Instant)>,
}

/// Event that waits to be published.
struct Notice {
    time: SystemTime,
    user: Arc<str>,
    transport: &'static str,
    connection: Uuid,
    /// Reason and duration of a connection that has ended.
    end: Option<(&'static str, Duration)>,
}

/// Data of an event.
#[derive(Serialize)]
struct Data<'a> {
    user: &'a str,
    pod: &'a str,
    transport: &'a str,
    connection: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    /// In seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    duration: Option<f64>,
    /// Events of this pod that are missing before this one.
    #[serde(skip_serializing_if = "is_zero")]
    omitted: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_zero(omitted: &u64) -> bool {
    *omitted == 0
}

/// Returns whether an event is a connect or a disconnect event, of any release. Pods drop them.
#[must_use]
pub fn is_announcement(event: &Event) -> bool {
    KINDS.iter().any(|kinds| event.kind.starts_with(kinds))
}

impl Presence {
    /// Creates the announcements of a pod, and the events that [`Waiting::run`] publishes.
    #[must_use]
    pub fn new(meter: &Meter) -> (Self, Waiting) {
        let (waiting, receiver) = mpsc::channel(MAX_WAITING);
        let outcomes = telemetry::counter_by(
            meter,
            "relay.connection.events",
            "Connect and disconnect events, by outcome.",
            "outcome",
            [PUBLISHED, FAILED, OMITTED],
        );
        (Self(Arc::new(Shared { waiting, omitted: AtomicU64::new(0), outcomes })), Waiting(receiver))
    }

    /// Creates the announcements of a connection over this transport, which has no user yet.
    #[must_use]
    pub fn visit(&self, transport: &'static str) -> Visit {
        Visit { presence: self.clone(), transport, user: None, is_counted: false, announced: None }
    }

    fn announce(&self, notice: Notice) {
        if self.0.waiting.try_send(notice).is_err() {
            self.omit(1, OMITTED);
        }
    }

    /// Counts an event that the topic does not have, with the events that it would have reported.
    fn omit(&self, events: u64, outcome: &'static str) {
        self.0.omitted.fetch_add(events, Ordering::Relaxed);
        self.count(outcome);
    }

    fn count(&self, outcome: &'static str) {
        self.0.outcomes.add(1, &[KeyValue::new("outcome", outcome)]);
    }

    /// Publishes these events together, in their order. The first one reports what was omitted.
    async fn publish(&self, pod: &str, publisher: &dyn Publish, notices: Vec<Notice>) {
        let mut omitted = self.0.omitted.swap(0, Ordering::Relaxed);
        let publishing = notices.into_iter().map(|notice| {
            let omitted = mem::take(&mut omitted);
            let event = notice.event(pod, omitted);
            async move {
                match publisher.publish(&event).await {
                    Ok(()) => self.count(PUBLISHED),
                    Err(error) => {
                        tracing::debug!(%error, "connection event not published");
                        self.omit(omitted + 1, FAILED);
                    }
                }
            }
        });
        join_all(publishing).await;
    }
}

impl Visit {
    /// Notes the user of the connection's token. Later calls change nothing.
    pub fn identify(&mut self, user: &Arc<str>) {
        self.user.get_or_insert_with(|| user.clone());
        self.announce();
    }

    /// Notes that the connection has a client.
    pub fn count(&mut self) {
        self.is_counted = true;
        self.announce();
    }

    fn announce(&mut self) {
        if let (Some(user), true, None) = (&self.user, self.is_counted, &self.announced) {
            let connection = Uuid::now_v7();
            self.presence.announce(self.notice(user, connection, None));
            self.announced = Some((connection, Instant::now()));
        }
    }

    /// Announces the end of a connection for this reason, if its beginning was announced.
    pub fn end(&self, reason: &'static str) {
        if let (Some(user), Some((connection, began))) = (&self.user, self.announced) {
            self.presence.announce(self.notice(user, connection, Some((reason, began.elapsed()))));
        }
    }

    fn notice(&self, user: &Arc<str>, connection: Uuid, end: Option<(&'static str, Duration)>) -> Notice {
        Notice { time: SystemTime::now(), user: user.clone(), transport: self.transport, connection, end }
    }
}

impl Notice {
    fn event(&self, pod: &str, omitted: u64) -> Event {
        let Self { time, user, transport, connection, end } = self;
        let data = Data {
            user,
            pod,
            transport,
            connection: connection.to_string(),
            reason: end.map(|(reason, _)| reason),
            duration: end.map(|(_, duration)| duration.as_secs_f64()),
            omitted,
        };
        let data = serde_json::to_vec(&data).expect("names and numbers have a JSON form");
        let kind = if end.is_some() { DISCONNECTED } else { CONNECTED };
        Event { time: *time, ..Event::new(format!("{PODS}{pod}").into(), kind, None, data.into()) }
    }
}

/// Returns how long a pod pauses after this many events, so that all pods together keep to the
/// rate.
fn pause(events: usize, pods: u64) -> Duration {
    Duration::from_secs_f64(events as f64 * pods.max(1) as f64 / RATE)
}

impl Waiting {
    /// Publishes the events of a pod at its share of the pace, until `stop`. Then it publishes what
    /// waits, for [`FLUSH`] at most. `pods` returns the number of live pods.
    pub async fn run(
        self,
        presence: &Presence,
        pod: &str,
        publisher: &dyn Publish,
        pods: impl Fn() -> u64,
        stop: &CancellationToken,
    ) {
        let Self(mut waiting) = self;
        let mut batch = Vec::with_capacity(BATCH);
        // Not cancelled while it publishes, which would lose a batch.
        while let Some(1..) = stop.run_until_cancelled(waiting.recv_many(&mut batch, BATCH)).await {
            let next = Instant::now() + pause(batch.len(), pods());
            presence.publish(pod, publisher, mem::take(&mut batch)).await;
            stop.run_until_cancelled(sleep_until(next)).await;
        }
        waiting.close();
        let flush = async {
            while waiting.recv_many(&mut batch, BATCH).await > 0 {
                presence.publish(pod, publisher, mem::take(&mut batch)).await;
            }
        };
        if timeout(FLUSH, flush).await.is_err() {
            tracing::warn!(left = waiting.len(), "connection events were left out: the topic is too slow");
        }
    }
}

#[cfg(test)]
mod tests;
