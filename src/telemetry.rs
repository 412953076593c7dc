//! Logs, traces and metrics: how they leave the process. Each module registers its own instruments.
//!
//! Each pod has its own meter, so that the metrics of several pods in one `relay cluster` stay
//! apart. It must never delay an event. A collector that is slow or away costs only spans, which
//! are counted, and data points.

mod export;
#[doc(hidden)]
pub mod logs;
#[doc(hidden)]
pub mod metrics;
#[doc(hidden)]
pub mod process;
mod seldom;
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

#[doc(inline)]
pub use self::{
    export::TelemetryError,
    logs::{LogFormat, flush as flush_log},
    traces::Traces,
};
#[doc(hidden)]
pub use self::{
    metrics::{LATENCY_BUCKETS, Metrics, PROMETHEUS_TEXT, Refusals, counter, counter_by},
    seldom::Seldom,
};

/// Settings of logs and traces.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Log filter, in the syntax of `tracing-subscriber`.
    pub log: String,
    /// Format of log lines.
    pub log_format: LogFormat,
    /// Google Cloud project of the traces that log lines refer to; `None`: lines have the bare
    /// trace id.
    pub project: Option<String>,
    /// Whether each line names its thread. In a cluster that is the name of its pod.
    pub names_threads: bool,
    /// Whether spans are exported by OTLP. OpenTelemetry's library reads the endpoint and its
    /// options from the standard `OTEL_*` variables.
    pub export_traces: bool,
}

/// Sends log lines to standard error and spans to the collector, for the rest of the process. Must
/// be called inside a runtime. A thread writes the lines; [`flush_log`] waits for the last of them.
///
/// # Errors
/// If the filter does not parse, if an exporter cannot be built, or on a second call.
pub fn init(settings: &Settings) -> Result<Traces, TelemetryError> {
    let filter = EnvFilter::try_new(&settings.log)?;
    let lines = fmt::layer().with_writer(logs::writer()).with_ansi(io::stderr().is_terminal());
    let lines = lines.with_thread_names(settings.names_threads);
    let lines = match settings.log_format {
        LogFormat::Text => lines.with_target(false).with_filter(filter).boxed(),
        LogFormat::Json => {
            let format = logs::CloudLogging::new(settings.project.clone(), settings.names_threads);
            lines.event_format(format).with_filter(filter).boxed()
        }
    };
    let traces = if settings.export_traces { Traces::export()? } else { Traces::off() };
    tracing_subscriber::registry().with(traces.layer()).with(lines).try_init()?;
    Ok(traces)
}

/// Exports the waiting metrics of a pod and the waiting spans of the process, at the same time. If
/// the collector does not answer within `limit`, they are lost. The metrics must not be used
/// afterwards.
#[doc(hidden)]
pub async fn flush(limit: Duration, metrics: &Metrics, traces: &Traces) {
    let both = async { tokio::join!(metrics.flush(), traces.flush()) };
    let failure = match timeout(limit, both).await {
        Ok((metrics, traces)) => {
            let of = |signal: &str, flushed| match flushed {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(format!("{signal}: {error}")),
                Err(_) => Some(format!("{signal}: the flush failed")),
            };
            of("metrics", metrics).or_else(|| of("traces", traces))
        }
        Err(_) => Some("the collector did not answer in time".to_owned()),
    };
    if let Some(error) = failure {
        tracing::warn!(error, "telemetry not flushed");
    }
}
