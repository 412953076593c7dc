//! Parts that the export of traces and of metrics share: the resource, the errors, and flushing.
//!
//! OpenTelemetry's library blocks while it flushes. It must never block a thread of the runtime.

use std::{
    fmt::Display,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use opentelemetry::{Key, KeyValue};
use opentelemetry_otlp::MetricExporter;
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    metrics::{Temporality, data::ResourceMetrics, exporter::PushMetricExporter},
    resource::{
        EnvResourceDetector, ResourceDetector as _, SdkProvidedResourceDetector, TelemetryResourceDetector,
    },
};
use thiserror::Error;
use tokio::sync::oneshot;

/// Name of this service in traces and metrics, unless `OTEL_SERVICE_NAME` gives another one.
pub(super) const SERVICE: &str = "pubsub-relay";

/// Why logs, traces or metrics cannot be set up.
#[derive(Debug, Error)]
pub enum TelemetryError {
    /// The log filter does not parse.
    #[error("log filter: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// The log output has been set up before.
    #[error("logs are set up already")]
    Logs(#[from] tracing_subscriber::util::TryInitError),
    /// The metrics cannot be registered.
    #[error("metrics: {0}")]
    Metrics(String),
    /// The exporter does not accept an `OTEL_*` variable.
    #[error("OTLP exporter: {0}: check the OTEL_EXPORTER_OTLP_ variables")]
    Otlp(#[from] opentelemetry_otlp::ExporterBuildError),
}

impl TelemetryError {
    pub(super) fn metrics(error: impl Display) -> Self {
        Self::Metrics(error.to_string())
    }
}

/// Outage of a collector, which is logged once, and again when it is over.
#[derive(Debug, Default)]
pub(super) struct Outage(AtomicBool);

impl Outage {
    /// Notes the outcome of one export of this signal. `pod` is set if it is of one pod only.
    pub(super) fn note(&self, signal: &str, pod: Option<&str>, exported: &OTelSdkResult) {
        let was_out = self.0.swap(exported.is_err(), Ordering::Relaxed);
        match exported {
            Err(error) if !was_out => {
                let cure = "check OTEL_EXPORTER_OTLP_ENDPOINT and OTEL_EXPORTER_OTLP_PROTOCOL";
                tracing::warn!(pod, signal, %error, cure, "telemetry not exported; repeats are not logged");
            }
            Ok(()) if was_out => tracing::info!(pod, signal, "telemetry exported again"),
            _ => {}
        }
    }
}

/// Exporter of metrics whose outages are logged.
pub(super) struct Watched {
    pub(super) inner: MetricExporter,
    pub(super) pod: String,
    pub(super) outage: Outage,
}

impl PushMetricExporter for Watched {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        let exported = self.inner.export(metrics).await;
        self.outage.note("metrics", Some(&self.pod), &exported);
        exported
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn temporality(&self) -> Temporality {
        self.inner.temporality()
    }
}

/// Future that resolves when the flush is over, with its result. It may be dropped.
pub(super) type Flushed = oneshot::Receiver<OTelSdkResult>;

/// Flushes on a new thread, because the library blocks. A blocking thread of the runtime would
/// delay the runtime's end.
pub(super) fn flush_apart(blocking: impl FnOnce() -> OTelSdkResult + Send + 'static) -> Flushed {
    let (sender, flushed) = oneshot::channel();
    // An error means that the receiver was dropped.
    thread::spawn(move || drop(sender.send(blocking())));
    flushed
}

/// Returns the attributes by which the telemetry of this pod differs from that of others.
/// `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` win.
pub(super) fn resource(pod: Option<&str>) -> Resource {
    let ours = Resource::builder_empty()
        .with_service_name(SERVICE)
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_attributes(pod.map(|pod| KeyValue::new("service.instance.id", pod.to_owned())))
        .with_detectors(&[Box::new(TelemetryResourceDetector), Box::new(EnvResourceDetector::new())]);
    // The library invents a name if the variables give none.
    let name = SdkProvidedResourceDetector.detect().get(&Key::new("service.name"));
    match name.filter(|name| !name.as_str().starts_with("unknown_service")) {
        Some(name) => ours.with_service_name(name).build(),
        None => ours.build(),
    }
}
