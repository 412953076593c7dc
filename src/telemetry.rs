//! Logs and metrics: how they leave the process. What is measured belongs to the module that measures it.
//!
//! Each pod has its own meter, so that the pods of one `relay cluster` do not add up into one another.

use std::{
    fmt::Display,
    io::{self, IsTerminal as _},
};

use opentelemetry::metrics::{Meter, MeterProvider as _};
use opentelemetry_sdk::{Resource, metrics::SdkMeterProvider};
use prometheus::{Encoder as _, Registry, TextEncoder};
use thiserror::Error;
use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _};

/// The media type of [`Metrics::text`].
pub const PROMETHEUS_TEXT: &str = prometheus::TEXT_FORMAT;

/// Bucket bounds of latencies, in seconds: from one frame on loopback to the 5 s after which a publish gives up.
pub const LATENCY_BUCKETS: [f64; 13] =
    [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
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
}

impl TelemetryError {
    fn metrics(error: impl Display) -> Self {
        Self::Metrics(error.to_string())
    }
}

/// Sends log lines that pass `filter` to standard error, for the rest of the process.
///
/// # Errors
/// If the filter does not parse, or on a second call.
pub fn init_logs(filter: &str, format: LogFormat) -> Result<(), TelemetryError> {
    let registry = tracing_subscriber::registry().with(EnvFilter::try_new(filter)?);
    let lines = fmt::layer().with_writer(io::stderr).with_ansi(io::stderr().is_terminal());
    match format {
        LogFormat::Text => registry.with(lines.with_target(false)).try_init()?,
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).try_init()?,
    }
    Ok(())
}

/// The metrics of one pod.
#[derive(Clone, Debug)]
pub struct Metrics {
    provider: SdkMeterProvider,
    registry: Registry,
}

impl Metrics {
    /// An empty set of instruments.
    ///
    /// # Errors
    /// If the exporter cannot be registered.
    pub fn new() -> Result<Self, TelemetryError> {
        let registry = Registry::new();
        let exporter = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .scope_info_enabled(false)
            .without_target_info()
            .build()
            .map_err(TelemetryError::metrics)?;
        let provider = SdkMeterProvider::builder()
            .with_resource(Resource::builder().with_service_name("pubsub-relay").build())
            .with_reader(exporter)
            .build();
        Ok(Self { provider, registry })
    }

    /// Where modules register their instruments.
    #[must_use]
    pub fn meter(&self) -> Meter {
        self.provider.meter("pubsub-relay")
    }

    /// All of them in Prometheus' text format.
    ///
    /// # Errors
    /// If an instrument cannot be written.
    pub fn text(&self) -> Result<Vec<u8>, TelemetryError> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text).map_err(TelemetryError::metrics)?;
        Ok(text)
    }
}
