//! The spans from a mutation to the sockets of every pod, and their way through a message's attributes.
//!
//! One trace: the request, the publish inside it, and on every pod the processing of the event, which follows the publish
//! and links to it, with a few of its deliveries. Spans have a target of their own: no log filter turns them on or off, and
//! no other library's spans are exported.

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

/// What tells our spans from all others.
const TARGET: &str = "relay.trace";

/// The name under which a context travels, in HTTP's headers and in a GraphQL request's extensions.
pub const TRACEPARENT: &str = "traceparent";

/// What `OTEL_TRACES_SAMPLER` says, if spans are exported at all.
static SAMPLER: OnceLock<Box<dyn ShouldSample>> = OnceLock::new();

/// The way of spans to a collector. Clones are the same way.
#[derive(Clone, Debug)]
pub struct Traces {
    provider: Option<SdkTracerProvider>,
    counts: Arc<Counts>,
}

impl Traces {
    /// No spans: what would make them costs next to nothing.
    #[must_use]
    pub fn off() -> Self {
        Self { provider: None, counts: Arc::default() }
    }

    /// Spans go where `OTEL_EXPORTER_OTLP_*` say, sampled as `OTEL_TRACES_SAMPLER` says, through a queue as large as
    /// `OTEL_BSP_MAX_QUEUE_SIZE` says: what does not fit is dropped.
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

    /// What turns our spans into the collector's.
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

    /// Shows what became of the spans.
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

    /// Exports what waits.
    pub(super) fn flush(&self) -> Flushed {
        let provider = self.provider.clone();
        flush_apart(move || provider.map_or(Ok(()), |provider| provider.force_flush()))
    }
}

/// The span of a query or mutation (`kind`) on this pod, under the client's own span if it named one.
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

/// What all messaging spans of one pod have in common.
#[derive(Clone, Debug)]
pub struct Messaging {
    /// The pod's name.
    pub pod: Arc<str>,
    /// The broker's name: `messaging.system`.
    pub system: &'static str,
    /// The topic's full name.
    pub topic: Arc<str>,
}

impl Messaging {
    /// Returns the span of an event's publishing, inside the mutation's.
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

    /// Returns the span of an event's processing on one pod, out of its feed. It follows the publish, on whichever pod that
    /// was, and links to it.
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

/// Sets an attribute of the current span that only one broker has.
pub fn set_attribute(name: &'static str, value: &str) {
    Span::current().set_attribute(name, value.to_owned());
}

/// Which pod a span is of: in the span's context, for those who follow it without knowing.
struct Pod(Arc<str>);

/// How many deliveries of one event on one pod have a span: one shows the way, and an event may have thousands.
const MAX_DELIVERIES: u32 = 8;

/// The span that the deliveries of an event follow.
#[derive(Debug)]
pub struct Trace {
    parent: SpanContext,
    pod: Option<Arc<str>>,
    dispatched: SystemTime,
    left: AtomicU32,
}

impl Trace {
    /// `None` if there is no span, or if it is not sampled.
    #[must_use]
    pub fn of_current_span() -> Option<Box<Self>> {
        Context::map_current(|context| {
            let parent = context.span().span_context().clone();
            let pod = || context.get::<Pod>().map(|pod| pod.0.clone());
            let (dispatched, left) = (SystemTime::now(), AtomicU32::new(MAX_DELIVERIES));
            parent.is_sampled().then(|| Box::new(Self { parent, pod: pod(), dispatched, left }))
        })
    }

    /// A delivery is on its socket.
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

/// Says how an operation or a publish failed.
pub fn fail(span: &Span, error: &'static str) {
    span.record("error.type", error);
    span.set_status(opentelemetry::trace::Status::error(error));
}

/// The context of a request whose client named this span as its own: what is traced by nobody here is carried on in it.
#[must_use]
pub fn client(traceparent: Option<&str>) -> Context {
    let context = Context::new();
    match traceparent.and_then(remote) {
        Some(client) => context.with_remote_span_context(client),
        None => context,
    }
}

/// The W3C `traceparent` to be carried along: of the span or, where none is made because there is no collector or nobody
/// wants it, of the context around it, so that this pod does not break the client's trace. `None` without either.
#[must_use]
pub fn traceparent(span: &Span) -> Option<Arc<str>> {
    let mut carrier = Carrier(None);
    let own = Some(span.context()).filter(|context| context.has_active_span());
    TraceContextPropagator::new().inject_context(&own.unwrap_or_else(Context::current), &mut carrier);
    carrier.0.map(Into::into)
}

/// Whether a span that follows this one would be sampled. Asked first, since one that is made in vain costs microseconds;
/// without a parent the sampler wants to see it.
fn is_wanted(parent: &Context) -> bool {
    let span = parent.span();
    let trace = span.span_context().trace_id();
    let Some(sampler) = SAMPLER.get().filter(|_| span.span_context().is_valid()) else { return true };
    let sampling = sampler.should_sample(Some(parent), trace, "", &SpanKind::Internal, &[], &[]);
    sampling.decision == SamplingDecision::RecordAndSample
}

fn follow(span: &Span, parent: Context) {
    // Fails only for a span that has begun or without a layer that makes spans: then there is nothing to follow.
    let _ = span.set_parent(parent);
}

fn remote(traceparent: &str) -> Option<SpanContext> {
    let carrier = Carrier(Some(traceparent.to_owned()));
    let context = TraceContextPropagator::new().extract_with_context(&Context::new(), &carrier);
    Some(context.span().span_context().clone()).filter(SpanContext::is_valid)
}

/// Has room for a [`TRACEPARENT`] and nothing else.
struct Carrier(Option<String>);

impl Injector for Carrier {
    fn set(&mut self, key: &str, value: String) {
        if key == TRACEPARENT {
            self.0 = Some(value);
        }
    }
}

impl Extractor for Carrier {
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
    fn one_trace_goes_from_the_client_over_the_publish_to_every_pod() {
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
    fn without_a_collector_there_are_no_spans_and_only_the_clients_is_carried() {
        let subscriber = tracing_subscriber::registry().with(Traces::off().layer());
        tracing::subscriber::with_default(subscriber, || {
            let carried = || traceparent(&messaging().publish("e", "k"));
            assert_eq!(carried(), None);
            let _inside = client(Some(CLIENT)).attach();
            assert_eq!(carried().as_deref(), Some(CLIENT));
        });
    }

    #[test]
    fn what_the_client_does_not_trace_costs_no_spans_and_stays_untraced() {
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
    fn a_traceparent_that_is_none_is_ignored() {
        assert!(remote(CLIENT).is_some());
        for text in ["", "00", "00-0-0-01", "00-00000000000000000000000000000000-b7ad6b7169203331-01", "💥"]
        {
            assert!(remote(text).is_none(), "{text}");
        }
    }
}
