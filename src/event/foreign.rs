//! Events in messages without CloudEvents, by an [`Envelope`] that the domain reads from them.
//!
//! A topic that existed before the relay has such messages. The event is the one that a CloudEvent
//! with the same values would be. It must never be a control event, nor one of a pod: its values
//! may come from a user of the publisher.

use thiserror::Error;

use super::{
    CONTROL, Event, Foreign, PODS,
    cloudevent::{self, AUTHOR, CONTENT_TYPE, ID, SOURCE, SPEC_VERSION, TRACE, TYPE, Undecodable},
};

/// Values that stand for the attributes of a CloudEvent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Envelope {
    /// Type of the event.
    pub kind: String,
    /// Publisher of the event.
    pub source: String,
    /// Id of the event. `None`: it is made of the broker's id of the message and of its time of
    /// publishing, which are the same each time that the message comes.
    pub id: Option<String>,
    /// Id of the user who caused the event.
    pub author: Option<String>,
}

/// Why a message has no envelope, or one that no event may have.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{text}")]
pub struct Unmapped {
    /// Cause as a metric's label, one of [`Undecodable::reason`].
    pub reason: &'static str,
    /// What the message lacks. It must not quote the data: it is logged.
    pub text: String,
}

impl From<Undecodable> for Unmapped {
    fn from(why: Undecodable) -> Self {
        Self { reason: why.reason(), text: why.to_string() }
    }
}

/// Returns the event in a message with this envelope. It happened when the topic took the message.
/// The content type and the trace are those of the message.
///
/// # Errors
/// [`Unmapped`]: a value is empty or out of the bounds of CloudEvents, the type is that of a
/// control event, the source that of a pod, or the time of publishing is unknown.
pub fn event(message: &Foreign, envelope: &Envelope) -> Result<Event, Unmapped> {
    let published = message.published.ok_or_else(|| {
        let text = "the message has no time of publishing; see docs/RABBITMQ.md#time".to_owned();
        Unmapped { reason: Undecodable::Time.reason(), text }
    })?;
    let own_id = || {
        let since = published.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        format!("{}-{}", message.message_id, since.as_micros())
    };
    let id = envelope.id.clone().unwrap_or_else(own_id);
    let attribute = |name: &str| match name {
        SPEC_VERSION => Some("1.0"),
        ID => Some(&*id),
        SOURCE => Some(&*envelope.source),
        TYPE => Some(&*envelope.kind),
        AUTHOR => envelope.author.as_deref(),
        CONTENT_TYPE | TRACE => message.attributes.get(name).map(String::as_str),
        _ => None,
    };
    let event = cloudevent::decode(attribute, message.data.clone(), Some(published))?;
    let forbidden = |why: Undecodable, text: &str| Unmapped { reason: why.reason(), text: text.to_owned() };
    if event.kind.starts_with(CONTROL) {
        return Err(forbidden(
            Undecodable::Type,
            "the mapped type begins with `relay.`, which only pods may use",
        ));
    }
    if event.source.starts_with(PODS) {
        return Err(forbidden(
            Undecodable::Source,
            "the mapped source begins with `/pods/`, which only pods may use",
        ));
    }
    Ok(event)
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        time::{Duration, SystemTime},
    };

    use proptest::prelude::*;

    use super::*;

    fn message(attributes: &[(&str, &str)]) -> Foreign {
        let attributes = attributes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Foreign {
            attributes: attributes.collect(),
            data: "{}".into(),
            published: Some(SystemTime::UNIX_EPOCH + Duration::from_micros(1_764_000_000_123_456)),
            message_id: "17".to_owned(),
        }
    }

    fn envelope() -> Envelope {
        let [kind, source, id] = ["order.placed", "/envelope", "m-1"].map(str::to_owned);
        Envelope { kind, source, id: Some(id), author: Some("ann".to_owned()) }
    }

    #[test]
    fn id_falls_back_to_message_and_time() {
        let first = event(&message(&[]), &Envelope { id: None, ..envelope() }).unwrap();
        assert_eq!(&*first.id, "17-1764000000123456");
        assert_eq!(&*first.identity(), "/envelope#17-1764000000123456");
        assert_eq!(
            event(&message(&[]), &Envelope { id: None, ..envelope() }),
            Ok(first.clone()),
            "redelivered"
        );
        // An emulator that starts anew counts from 1 again.
        let mut later = message(&[]);
        later.published = later.published.map(|at| at + Duration::from_secs(1));
        assert_ne!(event(&later, &Envelope { id: None, ..envelope() }).unwrap().id, first.id);
    }

    #[test]
    fn values_out_of_bounds_are_refused() {
        let long = "x".repeat(1_025);
        let refused = |envelope: Envelope| event(&message(&[]), &envelope).unwrap_err().reason;
        for (kind, reason) in [("", "type"), (&*long, "type"), ("a\nb", "type")] {
            assert_eq!(refused(Envelope { kind: kind.into(), ..envelope() }), reason, "{kind}");
        }
        assert_eq!(refused(Envelope { id: Some(String::new()), ..envelope() }), "id");
        assert_eq!(refused(Envelope { source: long.clone(), ..envelope() }), "source");
        assert_eq!(refused(Envelope { author: Some(long), ..envelope() }), "author");
        let binary = message(&[("content-type", "application/protobuf")]);
        assert_eq!(event(&binary, &envelope()).unwrap_err().reason, "content_type");
        let timeless = Foreign { published: None, ..message(&[]) };
        let error = event(&timeless, &envelope()).unwrap_err();
        assert_eq!(error.reason, "time");
        assert!(error.text.contains("docs/RABBITMQ.md"), "{error}");
    }

    #[test]
    fn control_types_and_sources_of_pods_are_refused() {
        for kind in ["relay.heartbeat.v1", "relay.revocations.v1", "relay.question.v1", "relay."] {
            let error = event(&message(&[]), &Envelope { kind: kind.into(), ..envelope() }).unwrap_err();
            assert_eq!(error.reason, "type", "{kind}");
        }
        let of_pod = Envelope { source: "/pods/a".into(), ..envelope() };
        assert_eq!(event(&message(&[]), &of_pod).unwrap_err().reason, "source");
        // A broker may hand on what it should have read as an event.
        let whole = r#"{"specversion":"1.0","id":"1","source":"/pods/a","type":"relay.heartbeat.v1"}"#;
        let mut structured = message(&[("content-type", "application/cloudevents+json")]);
        structured.data = whole.into();
        event(&structured, &envelope()).unwrap_err();
    }

    prop_compose! {
        fn values()(
            kind in "(relay\\.|\\PC)?\\PC{0,8}|.{0,300}",
            source in "(/pods/)?\\PC{0,8}",
            id in proptest::option::of(".{0,300}"),
            author in proptest::option::of("\\PC{0,8}|.{0,300}"),
        ) -> Envelope {
            Envelope { kind, source, id, author }
        }
    }

    proptest! {
        #[test]
        fn mapped_message_equals_cloudevent(values in values(), data in any::<Vec<u8>>()) {
            let mut foreign = message(&[("content-type", "application/json")]);
            foreign.data = data.into();
            let Ok(mapped) = event(&foreign, &values) else { return Ok(()) };
            prop_assert!(!mapped.kind.starts_with("relay.") && !mapped.source.starts_with("/pods/"));
            prop_assert_eq!(cloudevent::check(&mapped), Ok(()));
            let attributes: BTreeMap<&str, &str> = [
                ("ce-specversion", "1.0"),
                ("ce-id", values.id.as_deref().unwrap_or(&mapped.id)),
                ("ce-source", &values.source),
                ("ce-type", &values.kind),
                ("ce-author", values.author.as_deref().unwrap_or_default()),
                ("content-type", "application/json"),
            ].into();
            let attribute = |name: &str| attributes.get(name).copied();
            let expected = cloudevent::decode(attribute, foreign.data.clone(), foreign.published);
            prop_assert_eq!(Ok(mapped), expected);
        }
    }
}
