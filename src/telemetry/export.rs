//! What traces and metrics share on their way out: the resource, the errors, and flushing.

use std::{fmt::Display, thread};

use opentelemetry::{Key, KeyValue};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    resource::{
        EnvResourceDetector, ResourceDetector as _, SdkProvidedResourceDetector, TelemetryResourceDetector,
    },
};
use thiserror::Error;
use tokio::sync::oneshot;

/// The name of this service in traces and metrics, unless `OTEL_SERVICE_NAME` gives another.
pub(super) const SERVICE: &str = "pubsub-relay";

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
    pub(super) fn metrics(error: impl Display) -> Self {
        Self::Metrics(error.to_string())
    }
}

/// Whether the collector took all that waited; dropped, nobody asks.
pub(super) type Flushed = oneshot::Receiver<OTelSdkResult>;

/// Flushes on a thread of its own: the library blocks, and a runtime waits for its own threads at its end.
pub(super) fn flush_apart(blocking: impl FnOnce() -> OTelSdkResult + Send + 'static) -> Flushed {
    let (flushed, waits) = oneshot::channel();
    // An error says that nobody asks.
    thread::spawn(move || drop(flushed.send(blocking())));
    waits
}

/// What tells this pod's figures from those of others. `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` win.
pub(super) fn resource(pod: Option<&str>) -> Resource {
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
