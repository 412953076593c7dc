//! Formats of log lines: text for people, or the JSON that Cloud Logging reads.
//!
//! The names of the fields are those of
//! <https://cloud.google.com/logging/docs/agent/logging/configuration#special-fields>. With them
//! Cloud Logging shows the severity of a line, and shows the line with its trace. A line must never
//! span two lines of output, and writing one must never block a task.

use std::{
    fmt::{self, Debug, Display},
    io,
    sync::{Mutex, OnceLock, mpsc},
    thread,
    time::{Duration, SystemTime},
};

use opentelemetry::{Context, metrics::Meter, trace::TraceContextExt as _};
use serde_json::{Map, Value, json};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    registry::LookupSpan,
};

use crate::{lock::lock, rfc3339};

/// Lines that may wait until standard error takes them: about 4 MB. Further ones are dropped and
/// counted.
const MAX_WAITING_LINES: usize = 16_384;

/// How long the end of a process waits until the last lines are written.
const LAST_LINES_TIMEOUT: Duration = Duration::from_secs(2);

/// Count of dropped lines; unset before [`writer`].
static DROPPED: OnceLock<ErrorCounter> = OnceLock::new();

/// Guard of the thread that writes log lines, until [`flush`] takes it.
static WRITER: Mutex<Option<WorkerGuard>> = Mutex::new(None);

/// Starts the thread that writes log lines to standard error. Returns what hands them to it.
pub(super) fn writer() -> NonBlocking {
    let writer = NonBlockingBuilder::default().buffered_lines_limit(MAX_WAITING_LINES).thread_name("log");
    let (writer, guard) = writer.finish(io::stderr());
    DROPPED.get_or_init(|| writer.error_counter());
    *lock(&WRITER) = Some(guard);
    writer
}

/// Writes the log lines that wait, within two seconds. Later lines are lost: call it right before
/// the process ends.
pub fn flush() {
    let guard = lock(&WRITER).take();
    let (sender, flushed) = mpsc::channel::<()>();
    // On a thread, since the guard complains on standard output, which may be the full pipe.
    thread::spawn(move || {
        drop(guard);
        drop(sender);
    });
    let _ = flushed.recv_timeout(LAST_LINES_TIMEOUT);
}

/// Registers the metric of dropped lines.
pub(super) fn observe(meter: &Meter) {
    meter
        .u64_observable_counter("relay.log.dropped")
        .with_description("Log lines of this process that standard error did not take in time.")
        .with_callback(|counter| {
            counter.observe(DROPPED.get().map_or(0, |dropped| dropped.dropped_lines() as u64), &[]);
        })
        .build();
}

/// Format of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Text for people.
    #[default]
    Text,
    /// One JSON object a line, with Cloud Logging's field names.
    Json,
}

/// Formatter for [`LogFormat::Json`].
pub(super) struct CloudLogging {
    project: Option<String>,
    names_threads: bool,
}

impl CloudLogging {
    pub(super) const fn new(project: Option<String>, names_threads: bool) -> Self {
        Self { project, names_threads }
    }

    /// Adds the current trace to the line, if there is one.
    fn trace(&self, line: &mut Map<String, Value>) {
        let context = Context::current();
        let span = context.span();
        let span = span.span_context();
        if !span.is_valid() {
            return;
        }
        let trace = match &self.project {
            Some(project) => format!("projects/{project}/traces/{}", span.trace_id()),
            None => span.trace_id().to_string(),
        };
        line.insert("logging.googleapis.com/trace".to_owned(), trace.into());
        line.insert("logging.googleapis.com/spanId".to_owned(), span.span_id().to_string().into());
        line.insert("logging.googleapis.com/trace_sampled".to_owned(), span.is_sampled().into());
    }
}

impl<S, N> FormatEvent<S, N> for CloudLogging
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = Fields::default();
        event.record(&mut line);
        let mut line = line.0;
        let metadata = event.metadata();
        line.insert("severity".to_owned(), severity(*metadata.level()).into());
        line.insert("time".to_owned(), rfc3339::write(SystemTime::now()).into());
        line.insert("logging.googleapis.com/labels".to_owned(), json!({ "target": metadata.target() }));
        if let Some(pod) = thread::current().name().filter(|_| self.names_threads) {
            line.entry("pod").or_insert_with(|| pod.into());
        }
        self.trace(&mut line);
        writeln!(writer, "{}", Value::Object(line))
    }
}

/// Returns Cloud Logging's name of the level. Cloud Logging has no trace level.
const fn severity(level: Level) -> &'static str {
    match level {
        Level::ERROR => "ERROR",
        Level::WARN => "WARNING",
        Level::INFO => "INFO",
        Level::DEBUG | Level::TRACE => "DEBUG",
    }
}

/// Fields of one line. The message is the field `message`.
#[derive(Default)]
struct Fields(Map<String, Value>);

impl Fields {
    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn put_text(&mut self, field: &Field, value: impl Display) {
        self.put(field, value.to_string());
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.put_text(field, format_args!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{self, Write},
        sync::{Arc, Mutex},
    };

    use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};
    use tracing_subscriber::{fmt, layer::SubscriberExt as _};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Returns the line that `write` logs. Asserts that it is one line.
    fn logged(write: impl FnOnce()) -> Value {
        let lines = Lines::default();
        let writer = lines.clone();
        let layer = fmt::layer()
            .with_writer(move || writer.clone())
            .event_format(CloudLogging::new(Some("p".to_owned()), false));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), write);
        let lines = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        assert_eq!(lines.matches('\n').count(), 1, "one line: {lines}");
        serde_json::from_str(&lines).unwrap()
    }

    #[test]
    fn line_has_fields_of_cloud_logging() {
        let error = io::Error::other("line\nbreak");
        let line = logged(|| tracing::warn!(pod = "a", n = 3_u64, ok = true, %error, "something happened"));
        let time = line["time"].as_str().unwrap();
        assert!(rfc3339::parse(time).is_some(), "{time}");
        assert_eq!(
            line,
            json!({
                "severity": "WARNING", "message": "something happened", "time": time, "pod": "a", "n": 3, "ok": true,
                "error": "line\nbreak",
                "logging.googleapis.com/labels": {"target": "pubsub_relay::telemetry::logs::tests"},
            })
        );
    }

    #[test]
    fn line_names_current_trace() {
        let span = SpanContext::new(
            TraceId::from(0xabc),
            SpanId::from(0xdef),
            TraceFlags::SAMPLED,
            true,
            TraceState::NONE,
        );
        let context = Context::new().with_remote_span_context(span);
        let line = logged(|| {
            let _entered = context.attach();
            tracing::info!("inside");
        });
        assert_eq!(line["logging.googleapis.com/trace"], format!("projects/p/traces/{:032x}", 0xabc));
        assert_eq!(line["logging.googleapis.com/spanId"], format!("{:016x}", 0xdef));
    }
}
