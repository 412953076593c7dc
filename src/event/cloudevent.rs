//! Events as CloudEvents 1.0 over Pub/Sub. [`encode`] writes the binary mode: attributes beside the
//! data. [`decode`] also reads the structured mode: one JSON object that holds attributes and data.
//!
//! Other programs and other releases publish to the topic too. So [`decode`] requires no more than
//! CloudEvents does, and ignores unknown attributes. It must never panic, whatever arrives, and
//! must never interpret an event's data.

use std::{collections::BTreeMap, time::SystemTime};

use bytes::Bytes;
use serde::{Deserialize, Deserializer, de::IgnoredAny};
use serde_json::value::RawValue;
use thiserror::Error;

use crate::{
    event::{Event, Foreign},
    rfc3339,
};

pub(super) const SPEC_VERSION: &str = "ce-specversion";
pub(super) const ID: &str = "ce-id";
pub(super) const SOURCE: &str = "ce-source";
pub(super) const TYPE: &str = "ce-type";
const TIME: &str = "ce-time";
pub(super) const AUTHOR: &str = "ce-author";
pub(super) const CONTENT_TYPE: &str = "content-type";
/// Media type of a message in structured mode.
const STRUCTURED: &str = "application/cloudevents+json";
/// Begin of the media types of several events in one message.
const BATCH: &str = "application/cloudevents-batch";
/// Name under which Google's own clients carry a `traceparent`.
pub(super) const TRACE: &str = "googclient_traceparent";

/// Longest id, type and author, in bytes: they are kept for a whole window and compared for every
/// event.
const MAX_NAME_BYTES: usize = 256;

/// Longest source, in bytes: Pub/Sub's limit for the value of an attribute.
const MAX_SOURCE_BYTES: usize = 1_024;

/// Why a message holds no event. Such a message is acknowledged, counted with
/// [`Undecodable::reason`] and logged with its message id.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Undecodable {
    /// The message is not marked as a CloudEvent, neither in binary nor in structured mode.
    #[error("attribute specversion (ce-specversion) is missing")]
    NotCloudEvent,
    /// As [`Self::NotCloudEvent`], and it has no type (`ce-type`) either. The domain may have an
    /// envelope for it ([`foreign::event`](super::foreign::event)).
    #[error("attribute specversion (ce-specversion) is missing")]
    Foreign(Box<Foreign>),
    /// The message is a batch of events. A publisher must send each event as a message of its own.
    #[error("the message is a batch")]
    Batch,
    /// The data of a message in structured mode is not one JSON object with attributes as texts.
    #[error("the data is not a CloudEvent in JSON")]
    Structured,
    /// The event carries its data as `data_base64`. Only JSON as `data` is read.
    #[error("the event has data_base64")]
    DataBase64,
    /// It is a CloudEvent of another major version than 1.
    #[error("attribute specversion (ce-specversion) is not 1.x")]
    SpecVersion,
    /// Its id is missing, longer than 256 bytes, or holds control characters.
    #[error("attribute id (ce-id) is missing or out of bounds")]
    Id,
    /// Its source is missing, longer than 1,024 bytes, or holds control characters.
    #[error("attribute source (ce-source) is missing or out of bounds")]
    Source,
    /// Its type is missing, longer than 256 bytes, or holds control characters.
    #[error("attribute type (ce-type) is missing or out of bounds")]
    Type,
    /// Its time is not RFC 3339, or not in the years 1970 to 9999.
    #[error("time is not an RFC 3339 time from 1970 on")]
    Time,
    /// Its author is longer than 256 bytes or holds control characters.
    #[error("attribute author (ce-author) is out of bounds")]
    Author,
    /// The content type of its data is not JSON.
    #[error("content type is not JSON")]
    ContentType,
}

impl Undecodable {
    /// Returns the cause as a metric's label. The labels are stable.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::NotCloudEvent | Self::Foreign(_) => "not_cloudevent",
            Self::Batch => "batch",
            Self::Structured => "structured",
            Self::DataBase64 => "data_base64",
            Self::SpecVersion => "specversion",
            Self::Id => "id",
            Self::Source => "source",
            Self::Type => "type",
            Self::Time => "time",
            Self::Author => "author",
            Self::ContentType => "content_type",
        }
    }
}

/// Returns the attributes of the message that carries the event; its data is [`Event::data`]
/// unchanged.
///
/// No value is empty: it omits what is empty, a time outside RFC 3339 and a malformed trace. It
/// does not check bounds; [`check`] does.
#[must_use]
pub fn encode(event: &Event) -> BTreeMap<String, String> {
    let time = rfc3339::write(event.time);
    [
        (SPEC_VERSION, "1.0"),
        (ID, &event.id),
        (SOURCE, &event.source),
        (TYPE, &event.kind),
        (TIME, time.as_deref().unwrap_or_default()),
        (AUTHOR, event.author.as_deref().unwrap_or_default()),
        (CONTENT_TYPE, "application/json"),
        (TRACE, event.trace.as_deref().filter(|trace| is_traceparent(trace)).unwrap_or_default()),
    ]
    .into_iter()
    .filter(|(_, value)| !value.is_empty())
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .collect()
}

/// Returns the event in a message, in binary or structured mode. Takes the message's attributes by
/// name, its data, and the time at which the topic took it.
///
/// The attribute `content-type` decides on the mode. An empty attribute counts as absent. Without a
/// time the event happened when it was published, or in 1970 if that time is unknown too. A
/// malformed trace is dropped, since it says nothing about the event.
///
/// # Errors
/// [`Undecodable`] names the first attribute that cannot be accepted.
pub fn decode<'a>(
    attribute: impl Fn(&str) -> Option<&'a str>,
    data: Bytes,
    published: Option<SystemTime>,
) -> Result<Event, Undecodable> {
    let content_type = attribute(CONTENT_TYPE);
    match content_type.map(media_type).as_deref() {
        Some(STRUCTURED) => return decode_structured(&data, attribute(TRACE), published),
        Some(batch) if batch.starts_with(BATCH) => return Err(Undecodable::Batch),
        _ => {}
    }
    let version = non_empty(attribute(SPEC_VERSION)).ok_or(Undecodable::NotCloudEvent)?;
    let attributes = Attributes {
        version: Some(version),
        content_type,
        id: attribute(ID),
        source: attribute(SOURCE),
        kind: attribute(TYPE),
        time: attribute(TIME),
        author: attribute(AUTHOR),
        trace: attribute(TRACE),
    };
    attributes.event(data, published)
}

/// Decodes a message as [`decode`] does. A message without any mark of a CloudEvent is handed back
/// as [`Undecodable::Foreign`], as `message` makes it of the data.
///
/// # Errors
/// Those of [`decode`].
pub fn decode_or_keep<'a>(
    attribute: impl Fn(&str) -> Option<&'a str>,
    data: Bytes,
    published: Option<SystemTime>,
    message: impl FnOnce(Bytes) -> Foreign,
) -> Result<Event, Undecodable> {
    match decode(&attribute, data.clone(), published) {
        Err(Undecodable::NotCloudEvent) if non_empty(attribute(TYPE)).is_none() => {
            Err(Undecodable::Foreign(Box::new(message(data))))
        }
        decoded => decoded,
    }
}

/// Returns the event that the data of a message in structured mode holds. `trace` is the trace
/// beside the data, which counts if the event has none.
///
/// # Errors
/// [`Undecodable`]: the data is no event, or an attribute is out of bounds.
pub fn decode_structured(
    message: &Bytes,
    trace: Option<&str>,
    published: Option<SystemTime>,
) -> Result<Event, Undecodable> {
    // serde would take a list for an object whose values stand in order.
    let object = Some(message).filter(|message| message.trim_ascii_start().starts_with(b"{"));
    let whole = object.and_then(|object| serde_json::from_slice::<Structured<'_>>(object).ok());
    let whole = whole.ok_or(Undecodable::Structured)?;
    if whole.data_base64.is_some() {
        return Err(Undecodable::DataBase64);
    }
    let attributes = Attributes {
        version: whole.specversion.as_deref(),
        content_type: whole.datacontenttype.as_deref(),
        id: whole.id.as_deref(),
        source: whole.source.as_deref(),
        kind: whole.kind.as_deref(),
        time: whole.time.as_deref(),
        author: whole.author.as_deref(),
        trace: whole.traceparent.as_deref().or(trace),
    };
    let data = whole.data.map_or_else(Bytes::new, |data| message.slice_ref(data.get().as_bytes()));
    attributes.event(data, published)
}

/// Event in structured mode. An attribute that is null counts as absent.
#[derive(Deserialize)]
struct Structured<'a> {
    specversion: Option<String>,
    datacontenttype: Option<String>,
    id: Option<String>,
    source: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    time: Option<String>,
    author: Option<String>,
    traceparent: Option<String>,
    #[serde(default, borrow, deserialize_with = "present")]
    data: Option<&'a RawValue>,
    data_base64: Option<IgnoredAny>,
}

/// Reads data that is there, even if it is null.
fn present<'de, D: Deserializer<'de>>(json: D) -> Result<Option<&'de RawValue>, D::Error> {
    Deserialize::deserialize(json).map(Some)
}

/// Attributes of an event as texts, in whatever mode it came.
struct Attributes<'a> {
    version: Option<&'a str>,
    content_type: Option<&'a str>,
    id: Option<&'a str>,
    source: Option<&'a str>,
    kind: Option<&'a str>,
    time: Option<&'a str>,
    author: Option<&'a str>,
    trace: Option<&'a str>,
}

impl Attributes<'_> {
    /// Returns the event, if every attribute is within its bounds.
    fn event(self, data: Bytes, published: Option<SystemTime>) -> Result<Event, Undecodable> {
        let bounded = |value: Option<&str>, limit, error| {
            value.filter(|value| is_name(value, limit)).map(Into::into).ok_or(error)
        };
        if self.version.and_then(|version| version.split('.').next()) != Some("1") {
            return Err(Undecodable::SpecVersion);
        }
        if !non_empty(self.content_type).is_none_or(is_json) {
            return Err(Undecodable::ContentType);
        }
        Ok(Event {
            id: bounded(self.id, MAX_NAME_BYTES, Undecodable::Id)?,
            source: bounded(self.source, MAX_SOURCE_BYTES, Undecodable::Source)?,
            kind: bounded(self.kind, MAX_NAME_BYTES, Undecodable::Type)?,
            time: match non_empty(self.time) {
                Some(text) => rfc3339::parse(text).ok_or(Undecodable::Time)?,
                None => published.unwrap_or(SystemTime::UNIX_EPOCH),
            },
            author: match non_empty(self.author) {
                Some(author) => Some(bounded(Some(author), MAX_NAME_BYTES, Undecodable::Author)?),
                None => None,
            },
            data,
            trace: self.trace.filter(|trace| is_traceparent(trace)).map(Into::into),
            published,
        })
    }
}

/// Checks whether every reader will accept the event once it is published.
///
/// # Errors
/// The error that [`decode`] would return. Such an event must not be published.
pub fn check(event: &Event) -> Result<(), Undecodable> {
    if !is_name(&event.id, MAX_NAME_BYTES) {
        Err(Undecodable::Id)
    } else if !is_name(&event.source, MAX_SOURCE_BYTES) {
        Err(Undecodable::Source)
    } else if !is_name(&event.kind, MAX_NAME_BYTES) {
        Err(Undecodable::Type)
    } else if event.author.as_deref().is_some_and(|author| !is_bounded(author, MAX_NAME_BYTES)) {
        Err(Undecodable::Author)
    } else {
        Ok(())
    }
}

/// Returns the text unless it is empty, which counts as absent.
fn non_empty(text: Option<&str>) -> Option<&str> {
    text.filter(|text| !text.is_empty())
}

/// Returns whether the text may be the id, source or type of an event.
fn is_name(text: &str, limit: usize) -> bool {
    !text.is_empty() && is_bounded(text, limit)
}

/// Returns whether the value is at most `limit` bytes long and has no control characters.
/// CloudEvents forbids them, so headers and log lines need no further check.
fn is_bounded(value: &str, limit: usize) -> bool {
    value.len() <= limit && !value.chars().any(char::is_control)
}

/// Returns whether the content type is JSON. Excludes whole events: an envelope is no payload.
fn is_json(content_type: &str) -> bool {
    let media_type = media_type(content_type);
    media_type == "application/json"
        || (media_type.ends_with("+json") && !media_type.starts_with("application/cloudevents"))
}

/// Returns the media type of a content type in lower case, without its parameters.
fn media_type(content_type: &str) -> String {
    content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// Returns whether the text is a `traceparent` of W3C Trace Context:
/// `version-traceid-parentid-flags` in lower-case hex. A later version may continue after a dash.
fn is_traceparent(text: &str) -> bool {
    let mut parts = text.split('-');
    let mut hex = |digits: usize| {
        parts.next().filter(|part| {
            part.len() == digits && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        })
    };
    let is_set = |part: &str| part.bytes().any(|byte| byte != b'0');
    let (Some(version), Some(trace), Some(parent), Some(_flags)) = (hex(2), hex(32), hex(16), hex(2)) else {
        return false;
    };
    let ends = parts.next().is_none();
    version != "ff"
        && is_set(trace)
        && is_set(parent)
        && (ends || version != "00")
        && is_bounded(text, MAX_NAME_BYTES)
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::rfc3339::YEAR_10000;

    const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn whole() -> BTreeMap<String, String> {
        [
            (SPEC_VERSION, "1.0"),
            (ID, "a"),
            (SOURCE, "/pods/1"),
            (TYPE, "template.added.v1"),
            (TIME, "2026-01-02T03:04:05.000000006Z"),
            (AUTHOR, "3"),
            (CONTENT_TYPE, "application/json"),
            (TRACE, TRACEPARENT),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
    }

    fn read(attributes: &BTreeMap<String, String>) -> Result<Event, Undecodable> {
        let published = SystemTime::UNIX_EPOCH + Duration::from_secs(5);
        decode(|name| attributes.get(name).map(String::as_str), Bytes::from_static(b"{}"), Some(published))
    }

    /// Reads the complete event with one attribute changed; `None` removes the attribute.
    fn read_with(name: &str, value: Option<&str>) -> Result<Event, Undecodable> {
        let mut attributes = whole();
        match value {
            Some(value) => attributes.insert(name.to_owned(), value.to_owned()),
            None => attributes.remove(name),
        };
        read(&attributes)
    }

    #[test]
    fn attributes_have_stable_names() {
        let event = read(&whole()).unwrap();
        assert_eq!(encode(&event), whole());
    }

    #[test]
    fn each_fault_has_its_own_reason() {
        let long = "x".repeat(MAX_SOURCE_BYTES + 1);
        let cases = [
            (SPEC_VERSION, None, "not_cloudevent"),
            (SPEC_VERSION, Some(""), "not_cloudevent"),
            (SPEC_VERSION, Some("0.3"), "specversion"),
            (SPEC_VERSION, Some("10.0"), "specversion"),
            (ID, None, "id"),
            (ID, Some(""), "id"),
            (ID, Some("a\nb"), "id"),
            (ID, Some(&long), "id"),
            (SOURCE, None, "source"),
            (SOURCE, Some(&long), "source"),
            (TYPE, None, "type"),
            (TYPE, Some(&long), "type"),
            (TIME, Some("yesterday"), "time"),
            (TIME, Some("1969-12-31T23:59:59Z"), "time"),
            (TIME, Some("2026-02-30T00:00:00Z"), "time"),
            (TIME, Some("2026-01-02T03:04:05"), "time"),
            (TIME, Some("2026-01-02T03:04:05+24:00"), "time"),
            (TIME, Some("2026-01-02T03:04:05Z.5Z"), "time"),
            (TIME, Some("1970-01-01T00:00:00+00:01"), "time"),
            (TIME, Some("9999-12-31T23:59:59-00:01"), "time"),
            (AUTHOR, Some(&long), "author"),
            (CONTENT_TYPE, Some("application/protobuf"), "content_type"),
            (CONTENT_TYPE, Some("application/cloudevents+avro"), "content_type"),
            (CONTENT_TYPE, Some("application/cloudevents-batch+json; charset=utf-8"), "batch"),
            (CONTENT_TYPE, Some("application/cloudevents+json"), "specversion"),
        ];
        for (name, value, reason) in cases {
            let error = read_with(name, value).unwrap_err();
            assert_eq!(error.reason(), reason, "{name} = {value:?}");
        }
    }

    /// Returns the complete event in structured mode.
    fn envelope() -> serde_json::Value {
        let [id, source, kind, time, author, trace] =
            [ID, SOURCE, TYPE, TIME, AUTHOR, TRACE].map(|name| whole()[name].clone());
        json!({
            "specversion": "1.0", "id": id, "source": source, "type": kind, "time": time,
            "author": author, "traceparent": trace, "datacontenttype": "application/json",
            "partitionkey": "unknown to us", "sequence": 7, "data": {},
        })
    }

    fn read_structured(data: impl Into<Bytes>) -> Result<Event, Undecodable> {
        let published = SystemTime::UNIX_EPOCH + Duration::from_secs(5);
        let content_type = "Application/CloudEvents+JSON; charset=UTF-8";
        decode(|name| (name == CONTENT_TYPE).then_some(content_type), data.into(), Some(published))
    }

    /// Reads the complete event in structured mode with one member changed; `None` removes it.
    fn read_structured_with(name: &str, value: Option<serde_json::Value>) -> Result<Event, Undecodable> {
        let mut envelope = envelope();
        match value {
            Some(value) => envelope[name] = value,
            None => drop(envelope.as_object_mut().unwrap().remove(name)),
        }
        read_structured(envelope.to_string())
    }

    #[test]
    fn structured_event_equals_binary_event() {
        assert_eq!(read_structured(envelope().to_string()), read(&whole()));
        let bare = r#" { "data" : { "b": 1.50,  "a": "\u00e9" } , "type":"t","source":"s","id":"i",
            "specversion":"1.1","time":null,"author":"","data_base64":null } "#;
        let event = read_structured(bare).unwrap();
        assert_eq!(event.data, r#"{ "b": 1.50,  "a": "\u00e9" }"#, "the publisher's own text");
        assert_eq!((event.author, event.trace, Some(event.time)), (None, None, event.published));
        assert_eq!(read_structured_with("data", Some(json!(null))).unwrap().data, "null");
        assert_eq!(read_structured_with("data", None).unwrap().data, "");
    }

    #[test]
    fn trace_beside_structured_event_counts_second() {
        let read = |envelope: &serde_json::Value| {
            let attribute = |name: &str| match name {
                CONTENT_TYPE => Some(STRUCTURED),
                TRACE => Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b8-01"),
                _ => None,
            };
            decode(attribute, envelope.to_string().into(), None).unwrap().trace.unwrap()
        };
        let mut envelope = envelope();
        assert_eq!(&*read(&envelope), TRACEPARENT);
        envelope["traceparent"] = json!(null);
        assert!(read(&envelope).ends_with("b8-01"));
    }

    #[test]
    fn each_structured_fault_has_its_own_reason() {
        let long = "x".repeat(MAX_SOURCE_BYTES + 1);
        let cases = [
            ("specversion", None, "specversion"),
            ("specversion", Some(json!("0.3")), "specversion"),
            ("id", None, "id"),
            ("id", Some(json!("")), "id"),
            ("id", Some(json!("a\nb")), "id"),
            ("id", Some(json!(7)), "structured"),
            ("source", Some(json!(long)), "source"),
            ("type", Some(json!(null)), "type"),
            ("time", Some(json!("yesterday")), "time"),
            ("author", Some(json!(long)), "author"),
            ("datacontenttype", Some(json!("text/plain")), "content_type"),
            ("datacontenttype", Some(json!("application/cloudevents+json")), "content_type"),
            ("data_base64", Some(json!("e30=")), "data_base64"),
        ];
        for (name, value, reason) in cases {
            let error = read_structured_with(name, value.clone()).unwrap_err();
            assert_eq!(error.reason(), reason, "{name} = {value:?}");
        }
        let list = r#"["1.0",null,"i","s","t",null,null,null,{},null]"#;
        let twice = envelope().to_string().replacen('{', r#"{"id":"b","#, 1);
        for data in ["", "{", "null", "[{}]", list, &*twice, &format!("{} {{}}", envelope())] {
            assert_eq!(read_structured(data.to_owned()), Err(Undecodable::Structured), "{data}");
        }
        assert_eq!(read_structured(&b"{\"data\": \"\xff\"}"[..]), Err(Undecodable::Structured));
    }

    #[test]
    fn manual_lists_each_reason() {
        let manual = include_str!("../../docs/TELEMETRY.md");
        for undecodable in [
            Undecodable::NotCloudEvent,
            Undecodable::Batch,
            Undecodable::Structured,
            Undecodable::DataBase64,
            Undecodable::SpecVersion,
            Undecodable::Id,
            Undecodable::Source,
            Undecodable::Type,
            Undecodable::Time,
            Undecodable::Author,
            Undecodable::ContentType,
        ] {
            let item = format!("\n  - `{}`", undecodable.reason());
            assert!(manual.contains(&item), "{item}");
        }
    }

    #[test]
    fn foreign_publisher_may_omit_or_vary_attributes() {
        let bare =
            [SPEC_VERSION, ID, SOURCE, TYPE].map(|name| (name.to_owned(), whole()[name].clone())).into();
        let event = read(&bare).unwrap();
        assert_eq!((event.author, event.trace, Some(event.time)), (None, None, event.published));

        assert_eq!(read_with(AUTHOR, Some("")).unwrap().author, None);
        assert!(read_with(SPEC_VERSION, Some("1.1")).is_ok());
        assert!(read_with("ce-from-the-next-release", Some("?")).is_ok());
        for content_type in ["application/json; charset=utf-8", "Application/JSON", "application/geo+json"] {
            assert!(read_with(CONTENT_TYPE, Some(content_type)).is_ok(), "{content_type}");
        }
    }

    #[test]
    fn offset_time_is_the_same_moment() {
        let utc = read_with(TIME, Some("2026-01-02T03:04:05.5Z")).unwrap().time;
        for text in ["2026-01-02T05:34:05.5+02:30", "2026-01-01T22:04:05.5-05:00", "2026-01-02t03:04:05.5z"] {
            assert_eq!(read_with(TIME, Some(text)).unwrap().time, utc, "{text}");
        }
    }

    #[test]
    fn malformed_trace_is_dropped_and_event_kept() {
        let wrong = [
            "",
            "00",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-later",
        ];
        for trace in wrong {
            assert_eq!(read_with(TRACE, Some(trace)).unwrap().trace, None, "{trace}");
        }
        let later = "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-later";
        assert_eq!(read_with(TRACE, Some(later)).unwrap().trace.as_deref(), Some(later));
    }

    #[test]
    fn unrepresentable_time_is_omitted() {
        let mut event = read(&whole()).unwrap();
        for time in [
            SystemTime::UNIX_EPOCH - Duration::from_nanos(1),
            SystemTime::UNIX_EPOCH + Duration::from_secs(YEAR_10000),
        ] {
            event.time = time;
            assert!(!encode(&event).contains_key(TIME));
        }
    }

    #[test]
    fn check_finds_event_that_no_reader_takes() {
        let mut event = read(&whole()).unwrap();
        assert_eq!(check(&event), Ok(()));
        event.author = Some("x".repeat(MAX_NAME_BYTES + 1).into());
        assert_eq!(check(&event), Err(Undecodable::Author));
        event.id = "".into();
        assert_eq!(check(&event), Err(Undecodable::Id));
    }

    fn text() -> impl Strategy<Value = Arc<str>> {
        "\\PC{1,64}".prop_map(Into::into) // At most 4 bytes each
    }

    prop_compose! {
        fn events()(
            id in text(),
            source in text(),
            kind in text(),
            since in (0..YEAR_10000, 0..1_000_000_000_u32),
            author in proptest::option::of(text()),
            data in proptest::collection::vec(any::<u8>(), 0..64),
            trace in proptest::option::of(Just(Arc::from(TRACEPARENT))),
        ) -> Event {
            let time = SystemTime::UNIX_EPOCH + Duration::new(since.0, since.1);
            Event { id, source, kind, time, author, data: data.into(), trace, published: None }
        }
    }

    proptest! {
        #[test]
        fn encoded_event_decodes_unchanged(event in events(), published in any::<Option<u32>>()) {
            let published =
                published.map(|seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.into()));
            let attributes = encode(&event);
            prop_assert!(attributes.values().all(|value| !value.is_empty()));
            prop_assert_eq!(check(&event), Ok(()));
            let name = |name: &str| attributes.get(name).map(String::as_str);
            let decoded = decode(name, event.data.clone(), published).unwrap();
            prop_assert_eq!(decoded, Event { published, ..event });
        }

        #[test]
        fn decode_never_panics(
            attributes in proptest::collection::btree_map(
                prop::sample::select(whole().into_keys().collect::<Vec<_>>()),
                prop_oneof![any::<String>(), "[0-9T:.+Zz-]{0,40}", Just("1.0".to_owned())],
                0..9,
            ),
            data in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            let name = |name: &str| attributes.get(name).map(String::as_str);
            if let Ok(event) = decode(name, data.into(), None) {
                prop_assert_eq!(check(&event), Ok(()));
            }
        }

        #[test]
        fn structured_mode_carries_any_event(event in events(), data in "[a-z\"\\\\é]{0,16}") {
            let data = json!({ "text": data }).to_string();
            let time = rfc3339::write(event.time).unwrap();
            let attributes = json!({
                "specversion": "1.0", "id": event.id, "source": event.source, "type": event.kind,
                "time": time, "author": event.author, "traceparent": event.trace,
            });
            let message = attributes.to_string().replacen('{', &format!("{{\"data\":{data},"), 1);
            let decoded = read_structured(message).unwrap();
            let published = decoded.published;
            prop_assert_eq!(decoded, Event { data: data.into(), published, ..event });
        }

        #[test]
        fn structured_decode_never_panics(
            cut in any::<prop::sample::Index>(),
            junk in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..8),
                "[\\[\\]{}\",:\\\\0-9a-z ]{0,8}".prop_map(String::into_bytes),
            ],
            rest in any::<prop::sample::Index>(),
        ) {
            let whole = envelope().to_string().into_bytes();
            let (cut, rest) = (cut.index(whole.len()), rest.index(whole.len()));
            let message = [&whole[..cut], &junk, &whole[rest..]].concat();
            if let Ok(event) = read_structured(message) {
                prop_assert_eq!(check(&event), Ok(()));
            }
        }
    }
}
