//! Logs, traces and metrics: how they leave the process. What is measured belongs to the module that measures it.
//!
//! Each pod has its own meter, so that the pods of one `relay cluster` do not add up into one another. Nothing here may hold
//! up an event: a collector that is slow or away costs spans, which are counted, and points, and nothing else.

mod export;
#[doc(hidden)]
pub mod logs;
#[doc(hidden)]
pub mod metrics;
#[doc(hidden)]
pub mod process;
#[doc(hidden)]
pub mod traces;

use std::{
    io::{self, IsTerminal as _},
    time::Duration,
};

use tokio::time::timeout;
use tracing_subscriber::{
    EnvFilter, Layer as _, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

#[doc(hidden)]
pub use self::metrics::{LATENCY_BUCKETS, Metrics, PROMETHEUS_TEXT, Refusals, counter, counter_by};
#[doc(inline)]
pub use self::{export::TelemetryError, logs::LogFormat, traces::Traces};

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

/// Exports what waits of a pod's metrics and of the process's spans, side by side, for as long as `limit`: a collector
/// that does not answer in time costs what it would have been told. Nothing is measured by these metrics from then on.
#[doc(hidden)]
pub async fn flush(limit: Duration, metrics: &Metrics, traces: &Traces) {
    let both = async { tokio::join!(metrics.flush(), traces.flush()) };
    let flushed = timeout(limit, both).await;
    if !matches!(flushed, Ok((Ok(Ok(())), Ok(Ok(()))))) {
        tracing::warn!(?flushed, "telemetry not flushed");
    }
}
