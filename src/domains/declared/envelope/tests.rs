//! Tests of `@envelope`: what a message gives, and what it never gives.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{
    domain::{Domain as _, read_foreign},
    domains::declared::{Declared, directory::Directory, rules::Rules},
    event::{Event, cloudevent},
};

const FILE: &str = r#"
    extend schema @ENVELOPE @interest(key: "user:{sub}")
    type Order { id: ID!  userId: ID! }
    type Subscription {
      orderUpdated: Order @event(type: "order.placed.v1") @event(type: "order.changed.v1")
        @audience(keys: ["user:{userId}"], exceptAuthor: true)
    }"#;

const ATTRIBUTES: &str = r#"envelope(type: "{eventType}", author: "{userId}", id: "{messageId}")"#;
const DATA: &str = r#"envelope(type: "order.{$data.what}.v1", author: "{$data.by.id}", id: "{$data.no}",
    source: "/{service}")"#;

fn domain(envelope: &str) -> Arc<Declared> {
    let rules = Rules::parse(&FILE.replace("ENVELOPE", envelope)).unwrap();
    Declared::new(Arc::new(rules), Directory::default(), Duration::ZERO)
}

fn published() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_764_000_000)
}

fn message(attributes: &Value, data: &Value) -> Foreign {
    Foreign {
        attributes: serde_json::from_value(attributes.clone()).unwrap(),
        data: data.to_string().into(),
        published: Some(published()),
        message_id: "17".to_owned(),
    }
}

fn read(envelope: &str, attributes: &Value, data: &Value) -> Result<Event, Unmapped> {
    read_foreign(&*domain(envelope), &message(attributes, data))
}

#[test]
fn attributes_stand_for_envelope() {
    let attributes = json!({"eventType": "order.placed.v1", "userId": "ann", "messageId": "m-1", "x": "y"});
    let event = read(ATTRIBUTES, &attributes, &json!({"id": 1, "userId": "bob"})).unwrap();
    let expected = Event {
        id: "m-1".into(),
        source: "/envelope".into(),
        kind: "order.placed.v1".into(),
        time: published(),
        author: Some("ann".into()),
        data: r#"{"id":1,"userId":"bob"}"#.into(),
        trace: None,
        published: Some(published()),
    };
    assert_eq!(event, expected);
    assert_eq!(domain(ATTRIBUTES).read(&event).unwrap().fields, ["orderUpdated".into()]);
}

#[test]
fn fields_of_data_stand_for_envelope() {
    let data = json!({"what": "changed", "by": {"id": 7}, "no": "n-1"});
    let event = read(DATA, &json!({"service": "shop"}), &data).unwrap();
    assert_eq!((&*event.kind, &*event.source, &*event.id), ("order.changed.v1", "/shop", "n-1"));
    assert_eq!(event.author.as_deref(), Some("7"), "a whole number is a text");
}

#[test]
fn record_of_debezium_is_mapped() {
    let envelope = r#"envelope(type: "{$data.eventType}", author: "{$data.userId}", id: "{$data.eventId}")"#;
    let file = FILE.replace("ENVELOPE", envelope).replace(
        "id: ID!  userId: ID!",
        r#"id: ID! @from(path: "payload.id")  userId: ID! @from(path: "payload.customer.id")"#,
    );
    let domain = Declared::new(Arc::new(Rules::parse(&file).unwrap()), Directory::default(), Duration::ZERO);
    // Debezium Server writes each header as JSON with its schema, so no attribute is a plain text.
    let id = r#"{"schema":{"type":"string","optional":false},"payload":"7d9c6f7e"}"#;
    let data = json!({
        "payload": {"id": "o-1", "customer": {"id": "bob"}},
        "eventType": "order.placed.v1", "eventId": "7d9c6f7e", "userId": "ann",
    });
    let event = read_foreign(&*domain, &message(&json!({ "id": id }), &data)).unwrap();
    assert_eq!((&*event.id, event.author.as_deref()), ("7d9c6f7e", Some("ann")));
    assert_eq!(domain.read(&event).unwrap().audience.of("orderUpdated").keys(), ["user:bob".into()]);
}

#[test]
fn names_may_have_dots_and_dashes() {
    let envelope = r#"envelope(type: "{event.type}", id: "{message-id}")"#;
    let attributes = json!({"event.type": "order.placed.v1", "message-id": "1"});
    assert_eq!(&*read(envelope, &attributes, &json!({})).unwrap().id, "1");
}

#[test]
fn author_and_id_may_be_absent() {
    let event = read(r#"envelope(type: "order.placed.v1")"#, &json!({}), &json!({})).unwrap();
    assert_eq!((&*event.id, event.author), ("17-1764000000000000", None));
    let attributes = json!({"eventType": "order.placed.v1", "userId": "", "messageId": "1"});
    assert_eq!(read(ATTRIBUTES, &attributes, &json!({"userId": "ann"})).unwrap().author, None);
}

#[test]
fn refusal_names_what_is_missing() {
    let all = json!({"eventType": "order.placed.v1", "userId": "ann", "messageId": "1", "service": "shop"});
    let without = |name: &str| {
        let mut rest = all.clone();
        rest.as_object_mut().unwrap().remove(name);
        rest
    };
    for (envelope, attributes, data, reason, text) in [
        (
            ATTRIBUTES,
            without("eventType"),
            json!({"eventType": "order.placed.v1"}),
            "type",
            "attribute eventType (@envelope type) is missing",
        ),
        (ATTRIBUTES, without("messageId"), json!({}), "id", "attribute messageId (@envelope id) is missing"),
        (
            DATA,
            all.clone(),
            json!({"what": "placed"}),
            "id",
            "field no of the data (@envelope id) is missing",
        ),
        (
            DATA,
            all.clone(),
            json!({"what": ["placed"], "no": 1}),
            "type",
            "field what of the data (@envelope type) is missing",
        ),
        (
            DATA,
            without("service"),
            json!({"what": "placed", "no": 1}),
            "source",
            "attribute service (@envelope source) is missing",
        ),
    ] {
        let unmapped = read(envelope, &attributes, &data).unwrap_err();
        assert_eq!((unmapped.reason, &*unmapped.text), (reason, text));
    }
    let mut garbage = message(&all, &json!({}));
    garbage.data = "{secret".into();
    let unmapped = read_foreign(&*domain(DATA), &garbage).unwrap_err();
    assert_eq!(unmapped.text, "the data (@envelope type) is not JSON at line 1 column 2");
    garbage.data = vec![b' '; MAX_DATA_BYTES + 1].into();
    let unmapped = read_foreign(&*domain(DATA), &garbage).unwrap_err();
    assert_eq!(unmapped.text, "the data (@envelope type) is more than 1048576 bytes");
    let rules = Rules::parse(&FILE.replace("@ENVELOPE ", "")).unwrap();
    let without = Declared::new(Arc::new(rules), Directory::default(), Duration::ZERO);
    assert_eq!(read_foreign(&*without, &garbage).unwrap_err().reason, "not_cloudevent");
}

#[test]
fn mistakes_stand_at_their_places() {
    for (envelope, expected) in [
        ("envelope", "2:20: `@envelope` needs `type`; add it"),
        ("envelope(type: 7)", "2:35: `type` of `@envelope` must be a text in quotes"),
        ("envelope(type: \"\")", "2:35: `type` is empty; write a text such as \"{eventType}\""),
        ("envelope(type: \"{a\")", "2:35: `{a` has a brace without its partner"),
        ("envelope(type: \"{$author}\")", "2:35: `{$author}` is not known here; use attributes such as"),
        ("envelope(type: \"{$data}\")", "2:35: `{$data}` is not known here; use attributes such as"),
        ("envelope(type: \"order.gone.v1\")", "2:35: no field or projection reads such an event type"),
        ("envelope(type: \"orders.{a}\")", "2:35: no field or projection reads such an event type"),
        ("envelope(type: \"relay.{a}\")", "2:35: an event type that begins with `relay.` is of pods only"),
        ("envelope(type: \"{t}\", id: \"{a}-{b}\")", "2:46: `id` must be one path such as \"{messageId}\""),
        ("envelope(type: \"{t}\", author: \"me\")", "2:50: `author` must be one path such as"),
        ("envelope(type: \"{t}\", source: \"/pods/{a}\")", "2:50: only pods may be a source that begins"),
        ("envelope(type: \"{t}\", user: \"{a}\")", "2:42: `@envelope` has no argument `user`; it has type, "),
        ("envelope(type: \"{t}\") @envelope(type: \"{t}\")", "2:42: `@envelope` stands twice here"),
    ] {
        let found = Rules::parse(&FILE.replace("ENVELOPE", envelope)).unwrap_err();
        let [problem] = &found[..] else { panic!("{envelope}: {found:?}") };
        assert!(problem.to_string().starts_with(expected), "{envelope}: {problem}");
    }
    let misplaced =
        FILE.replace("@ENVELOPE ", "").replace("type Order", "type Order @envelope(type: \"{t}\")");
    let found = Rules::parse(&misplaced).unwrap_err();
    assert!(found[0].text.contains("it belongs on the schema"), "{found:?}");
}

#[test]
fn types_that_values_can_make_are_known() {
    for (template, text, may) in [
        ("{a}", "x", true),
        ("{a}", "", false),
        ("x", "x", true),
        ("x", "xy", false),
        ("order.{a}.v1", "order.placed.v1", true),
        ("order.{a}.v1", "order..v1", false),
        ("order.{a}.v1", "order.v1.v1", true),
        ("order.{a}", "order.", false),
        ("{a}.{b}", "ä.x.y", true),
        ("{a}{b}", "ä", false),
        ("{a}{b}", "äö", true),
        ("{a}.v1.{b}", "order.v1", false),
    ] {
        let template = Template::parse(template).unwrap();
        let parts = template.pieces().iter().map(|piece| match piece {
            Piece::Text(text) => Part::Text(text.clone()),
            Piece::Placeholder(path) => Part::Place(Place::Attribute(path.to_string().into())),
        });
        let parts: Vec<_> = parts.collect();
        assert_eq!(may_equal(&parts, text), may, "{template:?} {text}");
    }
}

fn value() -> impl Strategy<Value = String> {
    prop_oneof![Just("order.placed.v1".to_owned()), "relay\\..{0,8}", ".{0,12}", ".{250,260}"]
}

proptest! {
    #[test]
    fn mapped_message_equals_its_cloudevent(
        attributes in prop::collection::btree_map(
            prop::sample::select(vec!["eventType", "userId", "messageId", "content-type", "ce-id"]), value(), 0..5),
        fields in prop::collection::btree_map(
            prop::sample::select(vec!["kind", "by", "no"]), value(), 0..4),
        is_data in any::<bool>(),
    ) {
        let envelope = if is_data {
            r#"envelope(type: "{$data.kind}", author: "{$data.by}", id: "{$data.no}", source: "/s")"#
        } else {
            r#"envelope(type: "{eventType}", author: "{userId}", id: "{messageId}", source: "/s")"#
        };
        let message = message(&json!(attributes), &json!(fields));
        let mapped = read_foreign(&*domain(envelope), &message);
        if let Ok(event) = &mapped {
            prop_assert!(!event.kind.starts_with("relay."));
        }
        let (from, names) = if is_data {
            (&fields, ["kind", "by", "no"])
        } else {
            (&attributes, ["eventType", "userId", "messageId"])
        };
        let value = |name: &str| from.get(name).map(String::as_str);
        let same: BTreeMap<&str, Option<&str>> = [
            ("ce-specversion", Some("1.0")), ("ce-source", Some("/s")), ("ce-type", value(names[0])),
            ("ce-author", value(names[1])), ("ce-id", value(names[2])),
            ("content-type", attributes.get("content-type").map(String::as_str)),
        ].into();
        let attribute = |name: &str| same.get(name).copied().flatten();
        match cloudevent::decode(attribute, message.data.clone(), message.published) {
            Ok(event) if event.kind.starts_with("relay.") => prop_assert_eq!(mapped.unwrap_err().reason, "type"),
            Ok(event) => prop_assert_eq!(mapped, Ok(event)),
            Err(_) => prop_assert!(mapped.is_err()),
        }
    }

    #[test]
    fn bytes_never_panic(data in any::<Vec<u8>>(), text in r#"[{}\[\]":a-z0-9\\,]{0,24}"#) {
        let domain = domain(DATA);
        for data in [data, text.into_bytes()] {
            let message = Foreign { data: data.into(), ..message(&json!({"service": "s"}), &json!({})) };
            let _ = read_foreign(&*domain, &message);
        }
    }
}
