//! Events as CloudEvents 1.0 in Pub/Sub's binary mode: attributes beside the data, in both
//! directions.
//!
//! Other programs and other releases publish to the topic too. So [`decode`] requires no more than
//! CloudEvents does, and ignores unknown attributes. It must never panic, whatever arrives, and
//! must never read the data.

use std::{collections::BTreeMap, time::SystemTime};

use bytes::Bytes;
use thiserror::Error;

use crate::{event::Event, rfc3339};

const SPEC_VERSION: &str = "ce-specversion";
const ID: &str = "ce-id";
const SOURCE: &str = "ce-source";
const TYPE: &str = "ce-type";
const TIME: &str = "ce-time";
const AUTHOR: &str = "ce-author";
const CONTENT_TYPE: &str = "content-type";
/// Name under which Google's own clients carry a `traceparent`.
const TRACE: &str = "googclient_traceparent";

/// Longest id, type and author, in bytes: they are kept for a whole window and compared for every
/// event.
const MAX_NAME_BYTES: usize = 256;

/// Longest source, in bytes: Pub/Sub's limit for the value of an attribute.
const MAX_SOURCE_BYTES: usize = 1_024;

/// Why a message holds no event. Such a message is acknowledged, counted with
/// [`Undecodable::reason`] and logged with its message id.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Undecodable {
    /// The message is not marked as a CloudEvent in binary mode.
    #[error("no ce-specversion attribute")]
    NotCloudEvent,
    /// It is a CloudEvent of another major version than 1.
    #[error("ce-specversion is not 1.x")]
    SpecVersion,
    /// Its id is missing, longer than 256 bytes, or holds control characters.
    #[error("ce-id is missing or out of bounds")]
    Id,
    /// Its source is missing, longer than 1,024 bytes, or holds control characters.
    #[error("ce-source is missing or out of bounds")]
    Source,
    /// Its type is missing, longer than 256 bytes, or holds control characters.
    #[error("ce-type is missing or out of bounds")]
    Type,
    /// Its time is not RFC 3339, or not in the years 1970 to 9999.
    #[error("ce-time is not an RFC 3339 time from 1970 on")]
    Time,
    /// Its author is longer than 256 bytes or holds control characters.
    #[error("ce-author is out of bounds")]
    Author,
    /// Its data is not JSON, or is a whole event (CloudEvents' structured mode).
    #[error("content-type is not JSON")]
    ContentType,
}

impl Undecodable {
    /// Returns the cause as a metric's label. The labels are stable.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::NotCloudEvent => "not_cloudevent",
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

/// Returns the event in a message. Takes the message's attributes by name, its data, and the time
/// at which the topic took it.
///
/// An empty attribute counts as absent. Without a `ce-time` the event happened when it was
/// published, or in 1970 if that time is unknown too. A malformed trace is dropped, since it says
/// nothing about the event.
///
/// # Errors
/// [`Undecodable`] names the first attribute that cannot be accepted.
pub fn decode<'a>(
    attribute: impl Fn(&str) -> Option<&'a str>,
    data: Bytes,
    published: Option<SystemTime>,
) -> Result<Event, Undecodable> {
    let attribute = |name| attribute(name).filter(|value| !value.is_empty());
    let bounded = |name, limit| attribute(name).filter(|value| is_bounded(value, limit));

    let version = attribute(SPEC_VERSION).ok_or(Undecodable::NotCloudEvent)?;
    if version.split('.').next() != Some("1") {
        return Err(Undecodable::SpecVersion);
    }
    if !attribute(CONTENT_TYPE).is_none_or(is_json) {
        return Err(Undecodable::ContentType);
    }
    Ok(Event {
        id: bounded(ID, MAX_NAME_BYTES).ok_or(Undecodable::Id)?.into(),
        source: bounded(SOURCE, MAX_SOURCE_BYTES).ok_or(Undecodable::Source)?.into(),
        kind: bounded(TYPE, MAX_NAME_BYTES).ok_or(Undecodable::Type)?.into(),
        time: match attribute(TIME) {
            Some(text) => rfc3339::parse(text).ok_or(Undecodable::Time)?,
            None => published.unwrap_or(SystemTime::UNIX_EPOCH),
        },
        author: match attribute(AUTHOR) {
            Some(author) if !is_bounded(author, MAX_NAME_BYTES) => return Err(Undecodable::Author),
            author => author.map(Into::into),
        },
        data,
        trace: attribute(TRACE).filter(|trace| is_traceparent(trace)).map(Into::into),
        published,
    })
}

/// Checks whether every reader will accept the event once it is published.
///
/// # Errors
/// The error that [`decode`] would return. Such an event must not be published.
pub fn check(event: &Event) -> Result<(), Undecodable> {
    let is_name = |text: &str, limit| !text.is_empty() && is_bounded(text, limit);
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

/// Returns whether the value is at most `limit` bytes long and has no control characters.
/// CloudEvents forbids them, so headers and log lines need no further check.
fn is_bounded(value: &str, limit: usize) -> bool {
    value.len() <= limit && !value.chars().any(char::is_control)
}

/// Returns whether the content type is JSON. Excludes structured mode, since its envelope would be
/// taken for the payload.
fn is_json(content_type: &str) -> bool {
    let media_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    media_type == "application/json"
        || (media_type.ends_with("+json") && !media_type.starts_with("application/cloudevents"))
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
            (CONTENT_TYPE, Some("application/cloudevents+json"), "content_type"),
        ];
        for (name, value, reason) in cases {
            let error = read_with(name, value).unwrap_err();
            assert_eq!(error.reason(), reason, "{name} = {value:?}");
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
    }
}
