//! [`Metrics`]: instruments of one pod, read as Prometheus' text and, if there is a collector,
//! pushed by OTLP.
//!
//! Each pod has a registry of its own, because one process may run several pods. A label must never
//! hold an id, or text from a client.

use opentelemetry::{
    KeyValue,
    metrics::{Counter, Meter, MeterProvider as _},
};
use opentelemetry_otlp::MetricExporter;
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider};
use prometheus::{Encoder as _, Registry, TextEncoder};

use super::{
    export::{Flushed, Outage, SERVICE, TelemetryError, Watched, flush_apart, resource},
    logs, process,
};

/// Media type of [`Metrics::text`].
pub const PROMETHEUS_TEXT: &str = prometheus::TEXT_FORMAT;

/// Bucket bounds of latencies, in seconds. They reach from one frame on loopback to the 5 s after
/// which a publish gives up.
pub const LATENCY_BUCKETS: [f64; 13] =
    [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];

/// Builds a counter that shows zero from the start. Without that data point, a reader of the metric
/// misses the first increase.
#[must_use]
pub fn counter(meter: &Meter, name: &'static str, description: &'static str) -> Counter<u64> {
    let counter = meter.u64_counter(name).with_description(description).build();
    counter.add(0, &[]);
    counter
}

/// Builds a counter that shows zero from the start for each of these values of its label.
pub fn counter_by(
    meter: &Meter,
    name: &'static str,
    description: &'static str,
    label: &'static str,
    values: impl IntoIterator<Item = &'static str>,
) -> Counter<u64> {
    let counter = meter.u64_counter(name).with_description(description).build();
    for value in values {
        counter.add(0, &[KeyValue::new(label, value)]);
    }
    counter
}

/// Counter of refusals because of a limit, for all limits of a pod.
#[derive(Clone, Debug)]
pub struct Refusals(Counter<u64>);

impl Refusals {
    /// Registers the counter. All calls with the same meter count into the same metric.
    #[must_use]
    pub fn new(meter: &Meter) -> Self {
        let counter = meter.u64_counter("relay.refusals");
        Self(counter.with_description("What was refused or ended because of a limit, by limit.").build())
    }

    /// Counts one refusal. `limit` is one of a few fixed names, never text from a client.
    pub fn count(&self, limit: &'static str) {
        self.0.add(1, &[KeyValue::new("limit", limit)]);
    }
}

/// Metrics of one pod. Dropping them starts a last push in the background. The end of the process
/// may cut it off.
#[derive(Debug)]
pub struct Metrics {
    provider: SdkMeterProvider,
    registry: Registry,
}

impl Metrics {
    /// Creates the metrics with the instruments of the process. Each module adds its own. Must be
    /// called inside a runtime.
    ///
    /// # Errors
    /// If an exporter cannot be set up.
    pub fn new(pod: &str, export: bool) -> Result<Self, TelemetryError> {
        let registry = Registry::new();
        let exporter = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .scope_info_enabled(false)
            .without_target_info()
            .build()
            .map_err(TelemetryError::metrics)?;
        let mut provider =
            SdkMeterProvider::builder().with_resource(resource(Some(pod))).with_reader(exporter);
        if export {
            let inner = MetricExporter::builder().build()?;
            let exporter = Watched { inner, pod: pod.to_owned(), outage: Outage::default() };
            provider = provider.with_reader(PeriodicReader::builder(exporter).build());
        }
        let metrics = Self { provider: provider.build(), registry };
        process::observe(&metrics.meter());
        logs::observe(&metrics.meter());
        Ok(metrics)
    }

    /// Returns the meter with which modules register their instruments.
    #[must_use]
    pub fn meter(&self) -> Meter {
        self.provider.meter(SERVICE)
    }

    /// Returns all metrics in Prometheus' text format.
    ///
    /// # Errors
    /// If an instrument cannot be written.
    pub fn text(&self) -> Result<Vec<u8>, TelemetryError> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text).map_err(TelemetryError::metrics)?;
        Ok(text)
    }

    /// Pushes what was not pushed yet. Nothing is pushed afterwards.
    pub(super) fn flush(&self) -> Flushed {
        let provider = self.provider.clone();
        flush_apart(move || provider.shutdown())
    }
}

impl Drop for Metrics {
    fn drop(&mut self) {
        // Otherwise the library would push on the thread that drops it, and block that thread for
        // seconds.
        drop(self.flush());
    }
}
