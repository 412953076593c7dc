//! Events as messages of RabbitMQ, and their time of publishing.
//!
//! The attributes are headers with the names of CloudEvents' AMQP binding. The time of publishing
//! is the broker's stamp. A broker that does not stamp leaves only the event's own time, by the
//! publisher's clock.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use lapin::{
    BasicProperties,
    message::Delivery,
    types::{AMQPValue, FieldTable},
};

use crate::{
    event::{
        Event, Foreign,
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

/// Last millisecond of a second.
const LAST_MILLISECOND: Duration = Duration::from_millis(999);

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
    let event = cloudevent::decode_or_keep(text, delivery.data.into(), published, |data| {
        foreign(&delivery.properties, data, published, offset, now)
    });
    let event = match published {
        Some(_) => event,
        None => event.and_then(|event| by_own_time(event, offset, now)),
    };
    Message { offset, is_stamped: stamp.is_some(), event }
}

/// Takes the event's own time as its time of publishing.
fn by_own_time(mut event: Event, offset: Option<u64>, now: SystemTime) -> Result<Event, Undecodable> {
    event.published = Some(own_time(event.time, offset, now).ok_or(Undecodable::Time)?);
    Ok(event)
}

/// Returns the time of publishing by the publisher's clock; `None` if that cannot be.
fn own_time(time: SystemTime, offset: Option<u64>, now: SystemTime) -> Option<SystemTime> {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    // An event without a time is one of 1970.
    if since.is_zero() || time > now + AHEAD {
        return None;
    }
    u64::try_from(since.as_millis()).ok().and_then(|ms| at(ms, offset))
}

/// Returns a message without CloudEvents. Its attributes are its headers, as far as they are plain
/// values, and properties that no header has the name of. Without a stamp its time of publishing is
/// the end of the second that the property `timestamp` has: no client may resume behind it.
fn foreign(
    properties: &BasicProperties,
    data: Bytes,
    published: Option<SystemTime>,
    offset: Option<u64>,
    now: SystemTime,
) -> Foreign {
    let named = [
        (CONTENT_TYPE, properties.content_type()),
        ("message-id", properties.message_id()),
        ("type", properties.kind()),
        ("app-id", properties.app_id()),
    ];
    let named = named.into_iter().filter_map(|(name, text)| Some((name, text.as_ref()?.to_string())));
    let mut attributes: BTreeMap<_, _> = named.map(|(name, text)| (name.to_owned(), text)).collect();
    let headers = properties.headers().iter().flat_map(|headers| headers.inner());
    attributes.extend(headers.filter_map(|(name, value)| Some((name.to_string(), plain(value)?))));
    let published = published.or_else(|| {
        let sent = Duration::from_secs((*properties.timestamp())?).checked_add(LAST_MILLISECOND)?;
        own_time(SystemTime::UNIX_EPOCH.checked_add(sent)?, offset, now)
    });
    Foreign { attributes, data, published, message_id: offset.unwrap_or_default().to_string() }
}

/// Returns the text of a plain value: a text, a whole number or a boolean.
fn plain(value: &AMQPValue) -> Option<String> {
    match value {
        AMQPValue::Boolean(flag) => Some(flag.to_string()),
        value => text(value).map(str::to_owned).or_else(|| number(value).map(|number| number.to_string())),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_and_properties_are_attributes() {
        let mut headers = FieldTable::default();
        headers.insert("eventType".into(), AMQPValue::LongString("order.placed".into()));
        headers.insert("userId".into(), AMQPValue::LongInt(7));
        headers.insert("isTest".into(), AMQPValue::Boolean(false));
        headers.insert("x-stream-offset".into(), AMQPValue::LongLongInt(3));
        headers.insert("app-id".into(), AMQPValue::LongString("header".into()));
        headers.insert("tags".into(), AMQPValue::FieldTable(FieldTable::default()));
        let properties = BasicProperties::default()
            .with_message_id("m-1".into())
            .with_type("ignored".into())
            .with_app_id("property".into())
            .with_timestamp(1_764_000_000)
            .with_headers(headers);
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_764_000_001);
        let message = foreign(&properties, "{}".into(), None, Some(3), now);
        let expected = [
            ("app-id", "header"),
            ("eventType", "order.placed"),
            ("isTest", "false"),
            ("message-id", "m-1"),
            ("type", "ignored"),
            ("userId", "7"),
            ("x-stream-offset", "3"),
        ];
        assert_eq!(message.attributes, expected.map(|(name, value)| (name.into(), value.into())).into());
        assert_eq!(message.message_id, "3");
        assert_eq!(message.published, at(1_764_000_000_999, Some(3)), "the end of its second");
        let early = SystemTime::UNIX_EPOCH + Duration::from_secs(1_763_999_990);
        assert_eq!(foreign(&properties, "{}".into(), None, Some(3), early).published, None, "ahead");
        let stamped = Some(early);
        assert_eq!(foreign(&properties, "{}".into(), stamped, Some(3), now).published, stamped);
    }
}
