//! Formats of log lines: text for people, or the JSON that Cloud Logging reads.
//!
//! The names of the fields are those of
//! <https://cloud.google.com/logging/docs/agent/logging/configuration#special-fields>. With them
//! Cloud Logging shows the severity of a line, and shows the line with its trace. A line must never
//! span two lines of output.

use std::{
    fmt::{self, Debug, Display},
    time::SystemTime,
};

use opentelemetry::{Context, trace::TraceContextExt as _};
use serde_json::{Map, Value, json};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    registry::LookupSpan,
};

use crate::rfc3339;

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
}

impl CloudLogging {
    pub(super) const fn new(project: Option<String>) -> Self {
        Self { project }
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
            .event_format(CloudLogging::new(Some("p".to_owned())));
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
