//! Spans of one trace, from a mutation to the sockets of every pod.
//!
//! The trace has the request, the publish inside it, and on every pod the processing of the event.
//! The processing follows the publish and links to it, and has a few of the deliveries. The context
//! travels in the message's attributes. Spans have a target of their own, so log filters do not
//! affect them. The spans of other libraries must never be exported.

mod counted;

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::SystemTime,
};

use opentelemetry::{
    Context, KeyValue,
    metrics::Meter,
    propagation::{Extractor, Injector, TextMapPropagator as _},
    trace::{Span as _, SpanContext, SpanKind, TraceContextExt as _, Tracer as _, TracerProvider as _},
};
use opentelemetry_sdk::{
    propagation::TraceContextPropagator,
    trace::{BatchSpanProcessor, Config, SamplingDecision, SdkTracerProvider, ShouldSample},
};
use tracing::{Span, Subscriber, field::Empty, trace_span};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::{Layer, filter::filter_fn, registry::LookupSpan};

use self::counted::{Counted, Counts};
use super::export::{Flushed, SERVICE, TelemetryError, flush_apart, resource};

/// Target of our spans, by which they differ from all others.
const TARGET: &str = "relay.trace";

/// Name of the context in HTTP headers and in the extensions of a GraphQL request.
pub const TRACEPARENT: &str = "traceparent";

/// Sampler of `OTEL_TRACES_SAMPLER`; unset if spans are not exported.
static SAMPLER: OnceLock<Box<dyn ShouldSample>> = OnceLock::new();

/// Export of spans to a collector. Clones share it.
#[derive(Clone, Debug)]
pub struct Traces {
    provider: Option<SdkTracerProvider>,
    counts: Arc<Counts>,
}

impl Traces {
    /// Returns an export that makes no spans. Then a place in the code that would make one costs
    /// almost nothing.
    #[must_use]
    pub fn off() -> Self {
        Self { provider: None, counts: Arc::default() }
    }

    /// Creates the export. The endpoint comes from `OTEL_EXPORTER_OTLP_*`, the sampler from
    /// `OTEL_TRACES_SAMPLER`. The queue holds `OTEL_BSP_MAX_QUEUE_SIZE` spans, 2,048 by default;
    /// further spans are dropped.
    ///
    /// # Errors
    /// If an exporter cannot be built from these variables.
    pub(super) fn export() -> Result<Self, TelemetryError> {
        let counts = Arc::<Counts>::default();
        let exporter =
            Counted { inner: opentelemetry_otlp::SpanExporter::builder().build()?, counts: counts.clone() };
        let processor =
            Counted { inner: BatchSpanProcessor::builder(exporter).build(), counts: counts.clone() };
        let provider =
            SdkTracerProvider::builder().with_resource(resource(None)).with_span_processor(processor).build();
        SAMPLER.get_or_init(|| Config::default().sampler);
        opentelemetry::global::set_tracer_provider(provider.clone());
        Ok(Self { provider: Some(provider), counts })
    }

    /// Returns the layer that turns our spans into OpenTelemetry's.
    pub(super) fn layer<S>(&self) -> impl Layer<S> + use<S>
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        self.provider.as_ref().map(|provider| {
            tracing_opentelemetry::layer()
                .with_tracer(provider.tracer(SERVICE))
                .with_location(false)
                .with_threads(false)
                .with_target(false)
                .with_tracked_inactivity(false)
                .with_filter(filter_fn(|metadata| metadata.target() == TARGET))
        })
    }

    /// Registers the metric of the spans' outcomes.
    pub fn observe(&self, meter: &Meter) {
        let counts = self.counts.clone();
        meter
            .u64_observable_counter("relay.telemetry.spans")
            .with_description("Spans of this process, by outcome.")
            .with_callback(move |counter| {
                for (outcome, count) in
                    [("ended", &counts.ended), ("exported", &counts.exported), ("failed", &counts.failed)]
                {
                    let outcome = KeyValue::new("outcome", outcome);
                    counter.observe(count.load(Ordering::Relaxed), &[outcome]);
                }
            })
            .build();
    }

    /// Exports the spans that wait.
    pub(super) fn flush(&self) -> Flushed {
        let provider = self.provider.clone();
        flush_apart(move || provider.map_or(Ok(()), |provider| provider.force_flush()))
    }
}

/// Returns the span of a query or mutation (`kind`) on this pod. Its parent is the client's span,
/// if the client sent one.
#[must_use]
pub fn operation(pod: &str, kind: &'static str, name: Option<&str>, client: Option<&str>) -> Span {
    let parent = self::client(client);
    if !is_wanted(&parent) {
        return Span::none();
    }
    let span = trace_span!(
        target: TARGET, parent: None, "operation",
        otel.name = kind, otel.kind = "server", relay.pod = pod,
        graphql.operation.type = kind, graphql.operation.name = name, error.type = Empty,
    );
    follow(&span, parent);
    span
}

/// Attributes that all messaging spans of one pod share.
#[derive(Clone, Debug)]
pub struct Messaging {
    /// Name of the pod.
    pub pod: Arc<str>,
    /// Name of the broker: `messaging.system`.
    pub system: &'static str,
    /// Full name of the topic.
    pub topic: Arc<str>,
}

impl Messaging {
    /// Returns the span of an event's publish, inside the span of the mutation.
    #[must_use]
    pub fn publish(&self, event: &str, kind: &str) -> Span {
        if !Context::map_current(is_wanted) {
            return Span::none();
        }
        let Self { pod, system, topic } = self;
        trace_span!(
            target: TARGET, "publish",
            otel.name = "publish", otel.kind = "producer", relay.pod = &**pod,
            messaging.system = system, messaging.operation.name = "publish",
            messaging.operation.type = "send", messaging.destination.name = &**topic,
            messaging.message.id = event, relay.event.kind = kind, error.type = Empty,
        )
    }

    /// Returns the span in which one pod processes an event from its feed. Its parent is the span
    /// of the publish, perhaps on another pod; it also links to that span.
    #[must_use]
    pub fn process(&self, feed: Option<&str>, event: &str, kind: &str, publish: Option<&str>) -> Span {
        let Self { pod, system, topic } = self;
        let parent = client(publish);
        if !is_wanted(&parent) {
            return Span::none();
        }
        let span = trace_span!(
            target: TARGET, parent: None, "process",
            otel.name = "process", otel.kind = "consumer", relay.pod = &**pod,
            messaging.system = system, messaging.operation.name = "process",
            messaging.operation.type = "process", messaging.destination.name = &**topic,
            messaging.destination.subscription.name = feed, messaging.message.id = event,
            relay.event.kind = kind, relay.watchers = Empty,
        );
        if !span.is_disabled() {
            let publish = parent.span().span_context().clone();
            follow(&span, parent.with_value(Pod(pod.clone())));
            if publish.is_valid() {
                span.add_link(publish);
            }
        }
        span
    }
}

/// Sets an attribute of the current span, for attributes that only one broker has.
pub fn set_attribute(name: &'static str, value: &str) {
    Span::current().set_attribute(name, value.to_owned());
}

/// Pod of a span, kept in the span's context for the spans that follow it.
struct Pod(Arc<str>);

/// Most deliveries of one event on one pod that have a span; further ones have none. A few show the
/// path, and an event may have thousands.
const MAX_DELIVERIES: u32 = 8;

/// Parent of the spans of an event's deliveries.
#[derive(Debug)]
pub struct Trace {
    parent: SpanContext,
    pod: Option<Arc<str>>,
    dispatched: SystemTime,
    left: AtomicU32,
}

impl Trace {
    /// Returns the current span as a parent; `None` if there is no span, or it is not sampled.
    #[must_use]
    pub fn of_current_span() -> Option<Box<Self>> {
        Context::map_current(|context| {
            let parent = context.span().span_context().clone();
            let pod = || context.get::<Pod>().map(|pod| pod.0.clone());
            let (dispatched, left) = (SystemTime::now(), AtomicU32::new(MAX_DELIVERIES));
            parent.is_sampled().then(|| Box::new(Self { parent, pod: pod(), dispatched, left }))
        })
    }

    /// Makes the span of a delivery that was written to its socket, for the first eight deliveries.
    pub fn delivered(&self, transport: &str) {
        let take = |left: u32| left.checked_sub(1);
        if self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_err() {
            return;
        }
        let tracer = opentelemetry::global::tracer(SERVICE);
        let pod = self.pod.as_ref().map(|pod| KeyValue::new("relay.pod", pod.clone()));
        let transport = KeyValue::new("relay.transport", transport.to_owned());
        let span = tracer
            .span_builder("deliver")
            .with_start_time(self.dispatched)
            .with_attributes(pod.into_iter().chain([transport]));
        span.start_with_context(&tracer, &Context::new().with_remote_span_context(self.parent.clone())).end();
    }
}

/// Marks the span of an operation or a publish as failed, with this kind of error.
pub fn fail(span: &Span, error: &'static str) {
    span.record("error.type", error);
    span.set_status(opentelemetry::trace::Status::error(error));
}

/// Returns the context of a request with this `traceparent`. A pod without traces passes it on.
#[must_use]
pub fn client(traceparent: Option<&str>) -> Context {
    let context = Context::new();
    match traceparent.and_then(remote) {
        Some(client) => context.with_remote_span_context(client),
        None => context,
    }
}

/// Returns the W3C `traceparent` to pass on. It is that of the span. There is no span without a
/// collector or if the span is not sampled. Then it is that of the current context, so that this
/// pod does not break the client's trace. `None` without either.
#[must_use]
pub fn traceparent(span: &Span) -> Option<Arc<str>> {
    let mut header = Header(None);
    let own = Some(span.context()).filter(|context| context.has_active_span());
    TraceContextPropagator::new().inject_context(&own.unwrap_or_else(Context::current), &mut header);
    header.0.map(Into::into)
}

/// Returns whether a span with this parent would be sampled. It is asked first, because a span that
/// is made in vain costs microseconds. Without a valid parent it returns `true`, and the sampler
/// decides later.
fn is_wanted(parent: &Context) -> bool {
    let span = parent.span();
    let trace = span.span_context().trace_id();
    let Some(sampler) = SAMPLER.get().filter(|_| span.span_context().is_valid()) else { return true };
    let sampling = sampler.should_sample(Some(parent), trace, "", &SpanKind::Internal, &[], &[]);
    sampling.decision == SamplingDecision::RecordAndSample
}

/// Sets the parent of a span.
fn follow(span: &Span, parent: Context) {
    // Fails only if the span has begun, or if no layer makes spans. Then no parent is needed.
    let _ = span.set_parent(parent);
}

/// Parses a `traceparent`; `None` if it is not valid.
fn remote(traceparent: &str) -> Option<SpanContext> {
    let header = Header(Some(traceparent.to_owned()));
    let context = TraceContextPropagator::new().extract_with_context(&Context::new(), &header);
    Some(context.span().span_context().clone()).filter(SpanContext::is_valid)
}

/// Holder of a [`TRACEPARENT`] that ignores all other names.
struct Header(Option<String>);

impl Injector for Header {
    fn set(&mut self, key: &str, value: String) {
        if key == TRACEPARENT {
            self.0 = Some(value);
        }
    }
}

impl Extractor for Header {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.as_deref().filter(|_| key == TRACEPARENT)
    }

    fn keys(&self) -> Vec<&str> {
        vec![TRACEPARENT]
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use opentelemetry_sdk::{
        error::OTelSdkResult,
        trace::{SpanData, SpanExporter},
    };
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    fn messaging() -> Messaging {
        Messaging { pod: "a".into(), system: "memory", topic: "t".into() }
    }

    const CLIENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[derive(Clone, Debug, Default)]
    struct Kept(Arc<Mutex<Vec<SpanData>>>);

    impl SpanExporter for Kept {
        async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
            self.0.lock().unwrap().extend(batch);
            Ok(())
        }
    }

    #[test]
    fn one_trace_spans_client_publish_and_every_pod() {
        let exporter = Kept::default();
        let provider = SdkTracerProvider::builder().with_simple_exporter(exporter.clone()).build();
        let traces = Traces { provider: Some(provider), counts: Arc::default() };
        tracing::subscriber::with_default(tracing_subscriber::registry().with(traces.layer()), || {
            let mutation = operation("a", "mutation", None, Some(CLIENT)).entered();
            let publish = messaging().publish("e", "k");
            let carried = traceparent(&publish);
            drop((publish, mutation));
            for pod in ["a", "b"] {
                Messaging { pod: pod.into(), ..messaging() }
                    .process(None, "e", "k", carried.as_deref())
                    .record("relay.watchers", 2);
            }
        });
        let spans = exporter.0.lock().unwrap().clone();
        let [publish, mutation, a, b] = &spans[..] else { panic!("{spans:?}") };
        assert_eq!(mutation.parent_span_id.to_string(), "b7ad6b7169203331");
        assert_eq!(publish.parent_span_id, mutation.span_context.span_id());
        for process in [a, b] {
            assert_eq!(process.parent_span_id, publish.span_context.span_id());
            assert_eq!(process.links.len(), 1);
            assert_eq!(process.links[0].span_context.span_id(), publish.span_context.span_id());
        }
        for span in &spans {
            assert_eq!(span.span_context.trace_id().to_string(), "0af7651916cd43dd8448eb211c80319c");
        }
    }

    #[test]
    fn pod_without_collector_passes_traceparent_on() {
        let subscriber = tracing_subscriber::registry().with(Traces::off().layer());
        tracing::subscriber::with_default(subscriber, || {
            let carried = || traceparent(&messaging().publish("e", "k"));
            assert_eq!(carried(), None);
            let _inside = client(Some(CLIENT)).attach();
            assert_eq!(carried().as_deref(), Some(CLIENT));
        });
    }

    #[test]
    fn unsampled_request_makes_no_spans() {
        SAMPLER.get_or_init(|| Config::default().sampler);
        let provider = SdkTracerProvider::builder().with_simple_exporter(Kept::default()).build();
        let traces = Traces { provider: Some(provider), counts: Arc::default() };
        tracing::subscriber::with_default(tracing_subscriber::registry().with(traces.layer()), || {
            let untraced = CLIENT.replace("-01", "-00");
            assert!(operation("a", "mutation", None, Some(&untraced)).is_none());
            let _inside = client(Some(&untraced)).attach();
            let publish = messaging().publish("e", "k");
            assert!(publish.is_none());
            assert_eq!(traceparent(&publish).as_deref(), Some(&*untraced));
            assert!(messaging().process(None, "e", "k", Some(&untraced)).is_none());
            assert!(!operation("a", "mutation", None, Some(CLIENT)).is_none());
        });
    }

    #[test]
    fn invalid_traceparent_is_ignored() {
        assert!(remote(CLIENT).is_some());
        for text in ["", "00", "00-0-0-01", "00-00000000000000000000000000000000-b7ad6b7169203331-01", "💥"]
        {
            assert!(remote(text).is_none(), "{text}");
        }
    }
}
