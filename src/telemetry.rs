//! Logs, traces and metrics: how they leave the process. What is measured belongs to the module that measures it.
//!
//! Each pod has its own meter, so that the pods of one `relay cluster` do not add up into one another. Nothing here may hold
//! up an event: a collector that is slow or away costs spans, which are counted, and points, and nothing else.

pub mod logs;
pub mod metrics;
pub mod process;
pub mod traces;

use std::{
    fmt::Display,
    io::{self, IsTerminal as _},
    thread,
    time::Duration,
};

use opentelemetry::{Key, KeyValue};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    resource::{
        EnvResourceDetector, ResourceDetector as _, SdkProvidedResourceDetector, TelemetryResourceDetector,
    },
};
use thiserror::Error;
use tokio::{sync::oneshot, time::timeout};
use tracing_subscriber::{
    EnvFilter, Layer as _, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

pub use self::{
    logs::LogFormat,
    metrics::{LATENCY_BUCKETS, Metrics, PROMETHEUS_TEXT, Refusals},
    traces::Traces,
};

/// The name of this service in traces and metrics, unless `OTEL_SERVICE_NAME` gives another.
const SERVICE: &str = "pubsub-relay";

/// What the process tells of itself, and how.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Which log lines are written: a filter of `tracing-subscriber`.
    pub log: String,
    /// How they look.
    pub log_format: LogFormat,
    /// The Google Cloud project whose traces the lines name.
    pub project: Option<String>,
    /// Whether spans are exported by OTLP. The standard's `OTEL_*` variables, which its library reads, say where to and how.
    pub export_traces: bool,
}

/// Why the process cannot tell of itself.
#[derive(Debug, Error)]
pub enum TelemetryError {
    /// The log filter does not parse.
    #[error("log filter: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// The log output was set up before.
    #[error("logs are set up already")]
    Logs(#[from] tracing_subscriber::util::TryInitError),
    /// The metrics cannot be registered.
    #[error("metrics: {0}")]
    Metrics(String),
    /// An `OTEL_*` variable does not work.
    #[error("OTLP exporter: {0}: check the OTEL_EXPORTER_OTLP_ variables")]
    Otlp(#[from] opentelemetry_otlp::ExporterBuildError),
}

impl TelemetryError {
    fn metrics(error: impl Display) -> Self {
        Self::Metrics(error.to_string())
    }
}

/// Sends log lines to standard error and spans to the collector, for the rest of the process. Runs inside a runtime.
///
/// # Errors
/// If the filter does not parse, if an exporter cannot be built, or on a second call.
pub fn init(settings: &Settings) -> Result<Traces, TelemetryError> {
    let filter = EnvFilter::try_new(&settings.log)?;
    let lines = fmt::layer().with_writer(io::stderr).with_ansi(io::stderr().is_terminal());
    let lines = match settings.log_format {
        LogFormat::Text => lines.with_target(false).with_filter(filter).boxed(),
        LogFormat::Json => {
            lines.event_format(logs::CloudLogging::new(settings.project.clone())).with_filter(filter).boxed()
        }
    };
    let traces = if settings.export_traces { Traces::export()? } else { Traces::off() };
    tracing_subscriber::registry().with(traces.layer()).with(lines).try_init()?;
    Ok(traces)
}

/// Whether the collector took all that waited; dropped, nobody asks.
type Flushed = oneshot::Receiver<OTelSdkResult>;

/// Flushes on a thread of its own: the library blocks, and a runtime waits for its own threads at its end.
fn flush_apart(blocking: impl FnOnce() -> OTelSdkResult + Send + 'static) -> Flushed {
    let (flushed, waits) = oneshot::channel();
    // An error says that nobody asks.
    thread::spawn(move || drop(flushed.send(blocking())));
    waits
}

/// Exports what waits of a pod's metrics and of the process's spans, side by side, for as long as `limit`: a collector
/// that does not answer in time costs what it would have been told. Nothing is measured by these metrics from then on.
pub async fn flush(limit: Duration, metrics: &Metrics, traces: &Traces) {
    let both = async { tokio::join!(metrics.flush(), traces.flush()) };
    let flushed = timeout(limit, both).await;
    if !matches!(flushed, Ok((Ok(Ok(())), Ok(Ok(()))))) {
        tracing::warn!(?flushed, "telemetry not flushed");
    }
}

/// What tells this pod's figures from those of others. `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` win.
fn resource(pod: Option<&str>) -> Resource {
    let ours = Resource::builder_empty()
        .with_service_name(SERVICE)
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_attributes(pod.map(|pod| KeyValue::new("service.instance.id", pod.to_owned())))
        .with_detectors(&[Box::new(TelemetryResourceDetector), Box::new(EnvResourceDetector::new())]);
    // The library makes up a name where the variables give none.
    let name = SdkProvidedResourceDetector.detect().get(&Key::new("service.name"));
    match name.filter(|name| !name.as_str().starts_with("unknown_service")) {
        Some(name) => ours.with_service_name(name).build(),
        None => ours.build(),
    }
}
