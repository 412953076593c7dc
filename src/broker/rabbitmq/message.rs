//! Events as messages of RabbitMQ, and their time of publishing.
//!
//! The attributes are headers with the names of CloudEvents' AMQP binding. The time of publishing
//! is the broker's stamp. A broker that does not stamp leaves only the event's own time, by the
//! publisher's clock.

use std::time::{Duration, SystemTime};

use lapin::{
    BasicProperties,
    message::Delivery,
    types::{AMQPValue, FieldTable},
};

use crate::{
    event::{
        Event,
        cloudevent::{self, Undecodable},
    },
    rfc3339,
};

/// Header of the broker's stamp, in milliseconds since 1970.
const STAMP: &str = "timestamp_in_ms";

/// Header of the position in the stream.
const OFFSET: &str = "x-stream-offset";

/// Beginnings of the names of an attribute's header: as written, and as also read.
const PREFIXES: [&str; 3] = ["cloudEvents:", "cloudEvents_", "ce-"];

/// Name of the trace in [`cloudevent`], and of its header.
const TRACE: (&str, &str) = ("googclient_traceparent", "ce-traceparent");

const CONTENT_TYPE: &str = "content-type";

/// How far the event's own time may be ahead of this pod's clock. Cursors allow for 5 s.
const AHEAD: Duration = Duration::from_secs(4);

/// Delivery mode of a message that is kept on disk.
const PERSISTENT: u8 = 2;

/// Returns the properties of the message that carries the event.
pub(super) fn encode(event: &Event) -> BasicProperties {
    let mut headers = FieldTable::default();
    let mut properties = BasicProperties::default().with_delivery_mode(PERSISTENT);
    for (name, value) in cloudevent::encode(event) {
        let name = if name == TRACE.0 { TRACE.1 } else { &name };
        match name.strip_prefix("ce-") {
            Some(attribute) => {
                let header = format!("{}{attribute}", PREFIXES[0]);
                headers.insert(header.into(), AMQPValue::LongString(value.into()));
            }
            None => properties = properties.with_content_type(value.into()),
        }
    }
    properties.with_headers(headers)
}

/// What one delivery of the stream holds.
pub(super) struct Message {
    /// Position in the stream; `None` if the queue is no stream.
    pub(super) offset: Option<u64>,
    /// Whether the broker has stamped the message.
    pub(super) is_stamped: bool,
    pub(super) event: Result<Event, Undecodable>,
}

/// Reads a delivery. `now` is this pod's time.
pub(super) fn decode(delivery: Delivery, now: SystemTime) -> Message {
    let headers = delivery.properties.headers().as_ref();
    let header = |name: &str| headers.and_then(|headers| headers.inner().get(name));
    let offset = header(OFFSET).and_then(number);
    let stamp = header(STAMP).and_then(number);
    let attribute = |name: &str| {
        let name = if name == TRACE.0 { TRACE.1 } else { name };
        let attribute = name.strip_prefix("ce-")?;
        PREFIXES.iter().find_map(|prefix| header(&format!("{prefix}{attribute}")))
    };
    // The binding writes a time as a timestamp, in seconds.
    let time = match attribute("ce-time") {
        Some(AMQPValue::Timestamp(seconds)) => {
            SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(*seconds)).and_then(rfc3339::write)
        }
        _ => None,
    };
    let text = |name: &str| match name {
        CONTENT_TYPE => delivery.properties.content_type().as_ref().map(|text| text.as_str()),
        "ce-time" if time.is_some() => time.as_deref(),
        name => attribute(name).and_then(text),
    };
    let published = stamp.and_then(|stamp| at(stamp, offset));
    let event = cloudevent::decode(text, delivery.data.into(), published);
    let event = match published {
        Some(_) => event,
        None => event.and_then(|event| by_own_time(event, offset, now)),
    };
    Message { offset, is_stamped: stamp.is_some(), event }
}

/// Takes the event's own time as its time of publishing.
fn by_own_time(mut event: Event, offset: Option<u64>, now: SystemTime) -> Result<Event, Undecodable> {
    let since = event.time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    // An event without a time is one of 1970.
    if since.is_zero() || event.time > now + AHEAD {
        return Err(Undecodable::Time);
    }
    event.published = u64::try_from(since.as_millis()).ok().and_then(|ms| at(ms, offset));
    Ok(event)
}

/// Returns the time of publishing: the same on every pod, distinct, and growing with the offset
/// within a millisecond.
fn at(ms: u64, offset: Option<u64>) -> Option<SystemTime> {
    let nanos = Duration::from_nanos(offset.unwrap_or_default() % 1_000_000);
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(ms) + nanos)
}

fn number(value: &AMQPValue) -> Option<u64> {
    match value {
        AMQPValue::LongLongInt(number) => u64::try_from(*number).ok(),
        AMQPValue::LongInt(number) => u64::try_from(*number).ok(),
        AMQPValue::LongUInt(number) => Some((*number).into()),
        AMQPValue::Timestamp(number) => Some(*number),
        _ => None,
    }
}

fn text(value: &AMQPValue) -> Option<&str> {
    match value {
        AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok(),
        AMQPValue::ShortString(text) => Some(text.as_str()),
        _ => None,
    }
}
