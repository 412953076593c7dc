//! Publishes a mutation's event and, once the topic has acknowledged it, applies it to this pod's
//! state.
//!
//! So the author of a mutation reads at once what it wrote. It must never touch the hub: watchers
//! receive the event when it comes back from the topic, on this pod as on every other.

use std::{sync::Arc, time::Duration};

use async_graphql::Context;
use opentelemetry::{
    KeyValue,
    metrics::{BoundCounter, Counter, Histogram, Meter},
};
use serde::Serialize;
use tokio::time::Instant;
use tracing::Instrument as _;

use super::{
    error::{Code, Error},
    receipt::Receipt,
    viewer::viewer,
};
use crate::{
    broker::{Publish, PublishError},
    budget::Rates,
    clock::TopicClock,
    cursor::Written,
    domain::{Domain, Fact, Unreadable},
    event::Event,
    telemetry::{
        self, LATENCY_BUCKETS, Refusals, Seldom,
        traces::{self, Messaging},
    },
};

/// Value of the metric attribute `outcome` for a publish that succeeds.
const ACKNOWLEDGED: &str = "acknowledged";

/// Least time between two log lines about events that were refused for the same cause.
const REFUSALS_EVERY: Duration = Duration::from_secs(10);

/// Test events that the operators of a pod may publish each second. Four seconds' worth of them may
/// come at once; a further one is refused.
const TEST_EVENTS: u64 = 2;

/// Publisher of the events of mutations. Each pod has one, in the data of each of its requests.
pub struct EventPublisher {
    publisher: Arc<dyn Publish>,
    pub(super) domain: Arc<dyn Domain>,
    pub(super) messaging: Messaging,
    pub(super) source: Arc<str>,
    publishes: Counter<u64>,
    /// Those that the topic acknowledged, which is the rule: counting them looks no label up.
    acknowledged: BoundCounter<u64>,
    duration: Histogram<f64>,
    refusals: Seldom,
    rates: Arc<Rates>,
    /// Rate of test events.
    pub(super) test_rate: Rates,
    clock: TopicClock,
    limits: Refusals,
}

impl EventPublisher {
    /// Creates the event publisher of a pod.
    pub fn new(
        publisher: Arc<dyn Publish>,
        domain: Arc<dyn Domain>,
        messaging: Messaging,
        meter: &Meter,
    ) -> Self {
        let publishes = telemetry::counter_by(
            meter,
            "relay.publishes",
            "Events handed to the topic, by outcome.",
            "outcome",
            PublishError::REASONS.into_iter().chain([ACKNOWLEDGED]),
        );
        let acknowledged = publishes.bind(&[KeyValue::new("outcome", ACKNOWLEDGED)]);
        Self {
            publisher,
            domain,
            source: format!("/pods/{}", messaging.pod).into(),
            messaging,
            publishes,
            acknowledged,
            refusals: Seldom::new(REFUSALS_EVERY),
            duration: meter
                .f64_histogram("relay.publish.duration")
                .with_unit("s")
                .with_boundaries(LATENCY_BUCKETS.to_vec())
                .with_description("Time until the topic acknowledged an event, or did not.")
                .build(),
            rates: Arc::default(),
            test_rate: Rates::new(Some(TEST_EVENTS), None),
            clock: TopicClock::default(),
            limits: Refusals::new(meter),
        }
    }

    /// Refuses events of a user who publishes more than these rates allow. Without a call there is
    /// no limit.
    #[must_use]
    pub fn with_rates(mut self, rates: Arc<Rates>) -> Self {
        self.rates = rates;
        self
    }

    /// Takes the times of acknowledgements from this clock, instead of the machine's.
    #[must_use]
    pub fn with_clock(mut self, clock: TopicClock) -> Self {
        self.clock = clock;
        self
    }

    /// Creates an event of this pod, not yet published.
    #[must_use]
    pub fn event(&self, kind: &str, author: Arc<str>, data: Vec<u8>) -> Event {
        Event::new(self.source.clone(), kind, Some(author), data.into())
    }

    /// Publishes an event. Once the topic has acknowledged it, the domain's state on this pod shows
    /// it: `read` gives what the domain made of it. The receipt of the request then has the event.
    ///
    /// # Errors
    /// `PUBLISH_FAILED` within [`crate::broker::PUBLISH_TIMEOUT`]: this pod's state is then as
    /// before. `RATE_LIMITED` if the author publishes more than it may; nothing is published.
    pub async fn commit(
        &self,
        mut event: Event,
        read: impl FnOnce(&Event) -> Result<Fact, Unreadable> + Send,
        receipt: &Receipt,
    ) -> Result<(), Error> {
        if let Some(author) = &event.author {
            self.rates.take(author, event.data.len()).map_err(|wait| {
                self.limits.count("event_rate");
                Error::rate_limited(wait)
            })?;
        }
        self.publish(&mut event).await.map_err(|error| {
            let (pod, event, cause) = (&*self.messaging.pod, &*event.id, error.to_string());
            tracing::debug!(pod, event, error = cause, "event refused");
            if let Some(count) = self.refusals.count(&cause) {
                tracing::warn!(pod, event, error = cause, count, "publishing failed");
            }
            Error::new(Code::PublishFailed, "the event could not be published; try again")
        })?;
        tracing::debug!(event = &*event.id, kind = &*event.kind, "event published");
        let (source, id) = (event.source.clone(), event.id.clone());
        receipt.note(&event, &Written { time: self.clock.now(), source, id }, &self.messaging.topic);
        match read(&event) {
            Ok(fact) => self.domain.apply(&event, &fact),
            Err(error) => {
                tracing::error!(kind = &*event.kind, %error, "the domain does not read what it published");
            }
        }
        Ok(())
    }

    async fn publish(&self, event: &mut Event) -> Result<(), PublishError> {
        let span = self.messaging.publish(&event.id, &event.kind);
        event.trace = traces::traceparent(&span);
        let started = Instant::now();
        let published = self.publisher.publish(event).instrument(span.clone()).await;
        self.duration.record(started.elapsed().as_secs_f64(), &[]);
        match published.as_ref().map_err(PublishError::reason) {
            Ok(()) => self.acknowledged.add(1),
            Err(reason) => {
                self.publishes.add(1, &[KeyValue::new("outcome", reason)]);
                traces::fail(&span, reason);
            }
        }
        published
    }
}

/// Publishes an event of this kind, with the viewer as its author and `data` as JSON.
///
/// Returns once the topic has acknowledged the event and the domain's state on this pod shows it.
/// So the author reads what it wrote.
///
/// # Errors
/// `PUBLISH_FAILED` within [`crate::broker::PUBLISH_TIMEOUT`]: this pod's state is then as before.
/// `RATE_LIMITED` if the viewer publishes more than it may; nothing is published.
/// `UNAUTHENTICATED` without a viewer. `INTERNAL` if the data has no JSON form.
pub async fn publish<T: Serialize + Sync>(ctx: &Context<'_>, kind: &str, data: &T) -> Result<(), Error> {
    let author = viewer(ctx)?.user.clone();
    let internal = |text: &'static str| Error::new(Code::Internal, text);
    let event_publisher =
        ctx.data_opt::<Arc<EventPublisher>>().ok_or_else(|| internal("this request cannot publish"))?;
    let data = serde_json::to_vec(data).map_err(|_| internal("the data has no JSON form"))?;
    let event = event_publisher.event(kind, author, data);
    let receipt = ctx.data_opt::<Arc<Receipt>>().cloned().unwrap_or_default();
    event_publisher.commit(event, |event| event_publisher.domain.read(event), &receipt).await
}
