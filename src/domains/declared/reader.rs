//! Reads an event's data into a typed payload.
//!
//! Any program can publish any bytes, so every breach is an error with the path of the field. The
//! error must never quote the data, since it is logged.

use std::{borrow::Cow, fmt};

use super::{
    constraint::{Bounds, Constraint},
    json::{self, Json, Kind as JsonKind, written},
    payload::{Envelope, Object, Value},
    types::{Field, Kind, Scalar, Source, TypeId, Types, Wrapping},
};

/// Largest data of an event, in bytes. Larger data is malformed.
pub const MAX_DATA_BYTES: usize = 1 << 20;

/// Breach of a type: where it is, and what is expected there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Breach {
    /// Names of the fields on the way, joined by dots, without places in lists. Empty: the data as
    /// a whole.
    pub path: String,
    /// Path up to the first type that it enters again, so that the places of a file are few.
    pub place: String,
    /// What is expected.
    pub text: String,
}

impl Breach {
    const fn whole(text: String) -> Self {
        Self { path: String::new(), place: String::new(), text }
    }
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            f.write_str(&self.text)
        } else {
            write!(f, "`{}`: {}", self.path, self.text)
        }
    }
}

/// Reads data of the type `of`.
///
/// # Errors
/// The first breach of the type, in the order of its fields.
pub fn read(types: &Types, of: TypeId, data: &[u8], envelope: &Envelope) -> Result<Object, Breach> {
    if data.len() > MAX_DATA_BYTES {
        return Err(Breach::whole(format!("more than {MAX_DATA_BYTES} bytes")));
    }
    let json = Json::parse(data).map_err(Breach::whole)?;
    Reader { types, envelope, is_named: false }.object(of, &json).map_err(|found| found.breach(of))
}

/// Reads the value of a field of the type `of`, or of an element of it, as `wrapping` says. With
/// `is_named`, objects in it have the names of their types, else those of events.
///
/// # Errors
/// The first breach of the type.
pub fn read_value(
    types: &Types,
    of: TypeId,
    field: &Field,
    wrapping: &Wrapping,
    is_named: bool,
    json: &str,
) -> Result<Value, Breach> {
    let json = Json::parse(json.as_bytes()).map_err(Breach::whole)?;
    let envelope = Envelope { author: None, id: "".into(), time: None };
    let value = Reader { types, envelope: &envelope, is_named }.value(field, wrapping, Some(&json));
    value.map_err(|found| found.within(field).breach(of))
}

struct Reader<'a> {
    types: &'a Types,
    envelope: &'a Envelope,
    /// Whether values are under the names of the types, wherever an event has them.
    is_named: bool,
}

/// Breach on its way up. Its path grows from the last field to the first.
struct Found<'a> {
    path: Vec<&'a Field>,
    text: Cow<'static, str>,
}

impl<'a> Found<'a> {
    fn new(text: impl Into<Cow<'static, str>>) -> Self {
        Self { path: Vec::new(), text: text.into() }
    }

    fn within(mut self, field: &'a Field) -> Self {
        self.path.push(field);
        self
    }

    /// Returns the breach in data of the type `of`.
    fn breach(mut self, of: TypeId) -> Breach {
        self.path.reverse();
        let mut entered = vec![of];
        let known = self.path.iter().position(|field| {
            let is_again = entered.contains(&field.of);
            entered.push(field.of);
            is_again
        });
        let join = |fields: &[&Field]| fields.iter().map(|field| &*field.name).collect::<Vec<_>>().join(".");
        let place = join(&self.path[..known.map_or(self.path.len(), |last| last + 1)]);
        Breach { path: join(&self.path), place, text: self.text.into_owned() }
    }
}

impl<'a> Reader<'a> {
    fn object(&self, of: TypeId, json: &Json<'_>) -> Result<Object, Found<'a>> {
        if !matches!(json.kind, JsonKind::Object(_)) {
            return Err(Found::new("an object is expected"));
        }
        let fields = self.types.fields(of).iter();
        let fields = fields.map(|field| self.field(field, json).map_err(|found| found.within(field)));
        Ok(Object { of, fields: fields.collect::<Result<_, _>>()? })
    }

    fn field(&self, field: &'a Field, object: &Json<'_>) -> Result<Value, Found<'a>> {
        match &field.source {
            _ if self.is_named => self.value(field, &field.wrapping, object.get(&field.name)),
            Source::Path(path) => {
                let found = path.iter().try_fold(object, |json, name| json.get(name));
                self.value(field, &field.wrapping, found)
            }
            Source::Author => self.text(field, self.envelope.author.as_deref()),
            Source::Id => self.text(field, Some(&self.envelope.id)),
            Source::Time => self.text(field, self.envelope.time.as_deref()),
        }
    }

    /// Returns a text of the envelope as the value of a field.
    fn text(&self, field: &'a Field, text: Option<&str>) -> Result<Value, Found<'a>> {
        let text = text.map(written);
        let json = text.as_deref().map(|text| Json { text, kind: JsonKind::Text });
        self.value(field, &field.wrapping, json.as_ref())
    }

    fn value(
        &self,
        field: &'a Field,
        wrapping: &Wrapping,
        json: Option<&Json<'_>>,
    ) -> Result<Value, Found<'a>> {
        let json = match json {
            None | Some(Json { kind: JsonKind::Null, .. }) if wrapping.is_nullable => return Ok(Value::Null),
            None | Some(Json { kind: JsonKind::Null, .. }) => {
                return Err(Found::new("a value is expected"));
            }
            Some(json) => json,
        };
        let Some(element) = &wrapping.element else { return self.named(field, json) };
        let JsonKind::List(items) = &json.kind else { return Err(Found::new("a list is expected")) };
        within(items.len() as u64, &field.constraint.items, "elements")?;
        let items = items.iter().map(|item| self.value(field, element, Some(item)));
        Ok(Value::List(items.collect::<Result<_, _>>()?))
    }

    fn named(&self, field: &'a Field, json: &Json<'_>) -> Result<Value, Found<'a>> {
        match &self.types.get(field.of).kind {
            Kind::Object(_) => self.object(field.of, json).map(Value::Object),
            Kind::Enum(values) => {
                let value = (json.kind == JsonKind::Text).then(|| json::unquote(json.text)).flatten();
                match value.filter(|value| values.iter().any(|known| **known == **value)) {
                    Some(value) => Ok(leaf(&written(&*value))),
                    None => Err(Found::new("a value of the enum is expected")),
                }
            }
            Kind::Scalar(scalar) => scalar_value(*scalar, &field.constraint, json),
            // The checks of the file refuse these in payloads.
            Kind::Interface(_) | Kind::Union(_) | Kind::Input(_) => Err(Found::new("data has no such type")),
        }
    }
}

fn scalar_value<'a>(scalar: Scalar, constraint: &Constraint, json: &Json<'_>) -> Result<Value, Found<'a>> {
    match (scalar, &json.kind) {
        (Scalar::Id, JsonKind::Number) if is_whole(json.text) => text_value(json.text, true, constraint),
        (Scalar::Id | Scalar::Text, JsonKind::Text) => {
            let text = json::unquote(json.text)
                .ok_or_else(|| Found::new("a text with valid escapes is expected"))?;
            text_value(&text, scalar == Scalar::Id, constraint)
        }
        (Scalar::Int, JsonKind::Number) if is_whole(json.text) => {
            let number: i32 = json.text.parse().map_err(|_| Found::new("a number of 32 bits is expected"))?;
            within(f64::from(number), &constraint.range, "")?;
            Ok(leaf(&number.to_string()))
        }
        (Scalar::Float, JsonKind::Number) => {
            let number = json.text.parse::<f64>().ok().filter(|number| number.is_finite());
            within(number.ok_or_else(|| Found::new("a finite number is expected"))?, &constraint.range, "")?;
            Ok(leaf(json.text))
        }
        (Scalar::Boolean, JsonKind::Boolean) => Ok(leaf(json.text)),
        (Scalar::Custom, _) => Ok(leaf(&json::compact(json.text))),
        (Scalar::Id, _) => Err(Found::new("an id is expected: a text or a whole number")),
        (Scalar::Text, _) => Err(Found::new("a text is expected")),
        (Scalar::Int, _) => Err(Found::new("a whole number is expected")),
        (Scalar::Float, _) => Err(Found::new("a number is expected")),
        (Scalar::Boolean, _) => Err(Found::new("true or false is expected")),
    }
}

/// Returns an id or a text, trimmed and within its bounds.
fn text_value<'a>(text: &str, is_id: bool, constraint: &Constraint) -> Result<Value, Found<'a>> {
    let text = if constraint.trims { text.trim() } else { text };
    if is_id && text.chars().any(char::is_control) {
        return Err(Found::new("an id without control characters is expected"));
    }
    within(text.chars().count() as u64, &constraint.length, "characters")?;
    Ok(leaf(&written(text)))
}

/// Checks a length, a number of elements or a value against its bounds.
fn within<'a, T: Copy + PartialOrd + fmt::Display>(
    value: T,
    bounds: &Bounds<T>,
    unit: &str,
) -> Result<(), Found<'a>> {
    if bounds.has(&value) {
        return Ok(());
    }
    let space = if unit.is_empty() { "" } else { " " };
    let text = match (&bounds.min, &bounds.max) {
        (Some(min), Some(max)) => format!("{min} to {max}{space}{unit} are expected"),
        (Some(min), None) => format!("at least {min}{space}{unit} are expected"),
        (_, Some(max)) => format!("at most {max}{space}{unit} are expected"),
        (None, None) => return Ok(()),
    };
    Err(Found::new(text))
}

/// Returns whether a JSON number is digits only, with a sign or not.
fn is_whole(text: &str) -> bool {
    text.strip_prefix('-').unwrap_or(text).bytes().all(|byte| byte.is_ascii_digit())
}

fn leaf(text: &str) -> Value {
    Value::Leaf(text.into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domains::declared::rules::Rules;

    const FILE: &str = r#"
        enum Status { PLACED SENT }
        scalar Any
        type Item { sku: ID!  price: Float!  count: Int @constraint(min: 1, max: 9) }
        type Order {
            id: ID!
            name: String @constraint(trim: true, minLength: 1, maxLength: 3)
            status: Status!
            customer: ID @from(path: "customer.id")
            author: ID @from(path: "$author")
            event: String @from(path: "$id")
            time: Any @from(path: "$time")
            is_paid: Boolean
            any: Any
            tags: [String!] @constraint(maxItems: 2, maxLength: 4)
            grid: [[Int]]
            items: [Item!]
        }
        type Subscription { order: Order @event(type: "order") @audience(everyone: true) }
    "#;

    fn envelope() -> Envelope {
        Envelope {
            author: Some("ann".into()),
            id: "e-1".into(),
            time: Some("2026-01-02T03:04:05.678Z".into()),
        }
    }

    fn read_order(data: &str) -> Result<Object, String> {
        let rules = Rules::parse(FILE).unwrap();
        let of = rules.types.id("Order").unwrap();
        read(&rules.types, of, data.as_bytes(), &envelope()).map_err(|breach| breach.to_string())
    }

    fn field(data: &str, name: &str) -> Value {
        let rules = Rules::parse(FILE).unwrap();
        let at = rules.types.find(rules.types.id("Order").unwrap(), &[name.into()]).unwrap().steps[0];
        read_order(data).unwrap().fields[at].clone()
    }

    fn text(json: &str) -> Value {
        Value::Leaf(json.into())
    }

    /// Returns data with the two required fields and more.
    fn with(more: &str) -> String {
        format!(r#"{{"id": 7, "status": "SENT"{}{more}}}"#, if more.is_empty() { "" } else { ", " })
    }

    #[test]
    fn values_become_json_texts() {
        for (more, name, expected) in [
            ("", "id", text("\"7\"")),
            ("", "status", text("\"SENT\"")),
            (r#""customer": {"id": "c"}"#, "customer", text("\"c\"")),
            (r#""customer": null"#, "customer", Value::Null),
            (r#""customer": "c""#, "customer", Value::Null),
            (r#""author": "mallory""#, "author", text("\"ann\"")),
            ("", "event", text("\"e-1\"")),
            ("", "time", text("\"2026-01-02T03:04:05.678Z\"")),
            (r#""name": " \u00e9\n ""#, "name", text("\"é\"")),
            (r#""is_paid": false"#, "is_paid", text("false")),
            (
                r#""any": { "a" : [ 1.50, 123456789012345678901 ] }"#,
                "any",
                text(r#"{"a":[1.50,123456789012345678901]}"#),
            ),
            (
                r#""grid": [[1, null], null, []]"#,
                "grid",
                Value::List(
                    [Value::List([text("1"), Value::Null].into()), Value::Null, Value::List([].into())]
                        .into(),
                ),
            ),
        ] {
            assert_eq!(field(&with(more), name), expected, "{more}");
        }
        let long = r#"{"id": 123456789012345678901234567890, "status": "SENT"}"#;
        assert_eq!(field(long, "id"), text("\"123456789012345678901234567890\""));
        let item = with(r#""items": [{"sku": "s", "price": 1e2, "count": 1, "x": 1}]"#);
        let Value::List(items) = field(&item, "items") else { panic!() };
        let Value::Object(item) = &items[0] else { panic!() };
        assert_eq!(*item.fields, [text("\"s\""), text("1e2"), text("1")]);
    }

    #[test]
    fn breaches_name_their_path_without_data() {
        for (data, expected) in [
            ("[]".to_owned(), "an object is expected"),
            ("{".to_owned(), "not JSON at line 1 column 1"),
            (r#"{"status": "SENT"}"#.to_owned(), "`id`: a value is expected"),
            (
                r#"{"id": 7.0, "status": "SENT"}"#.to_owned(),
                "`id`: an id is expected: a text or a whole number",
            ),
            (
                r#"{"id": 1e3, "status": "SENT"}"#.to_owned(),
                "`id`: an id is expected: a text or a whole number",
            ),
            (
                r#"{"id": "a\u0007", "status": "SENT"}"#.to_owned(),
                "`id`: an id without control characters is expected",
            ),
            (
                r#"{"id": "\ud800", "status": "SENT"}"#.to_owned(),
                "`id`: a text with valid escapes is expected",
            ),
            (r#"{"id": "a", "status": "LOST"}"#.to_owned(), "`status`: a value of the enum is expected"),
            (r#"{"id": "a", "status": 1}"#.to_owned(), "`status`: a value of the enum is expected"),
            (with(r#""name": "  ""#), "`name`: 1 to 3 characters are expected"),
            (with(r#""name": "éééé""#), "`name`: 1 to 3 characters are expected"),
            (with(r#""name": 7"#), "`name`: a text is expected"),
            (with(r#""is_paid": 0"#), "`is_paid`: true or false is expected"),
            (with(r#""tags": "a""#), "`tags`: a list is expected"),
            (with(r#""tags": ["a", null]"#), "`tags`: a value is expected"),
            (with(r#""tags": ["a", "b", "c"]"#), "`tags`: at most 2 elements are expected"),
            (with(r#""tags": ["abcde"]"#), "`tags`: at most 4 characters are expected"),
            (with(r#""grid": [[2147483648]]"#), "`grid`: a number of 32 bits is expected"),
            (
                with(r#""items": [{"sku": "s", "price": 1}, {"sku": "s"}]"#),
                "`items.price`: a value is expected",
            ),
            (
                with(r#""items": [{"sku": "s", "price": 1e999}]"#),
                "`items.price`: a finite number is expected",
            ),
            (with(r#""items": [{"sku": "s", "price": "1"}]"#), "`items.price`: a number is expected"),
            (
                with(r#""items": [{"sku": "s", "price": 1, "count": 10}]"#),
                "`items.count`: 1 to 9 are expected",
            ),
            (
                with(r#""items": [{"sku": "s", "price": 1, "count": 1.0}]"#),
                "`items.count`: a whole number is expected",
            ),
            (with(r#""items": [7]"#), "`items`: an object is expected"),
            (" ".repeat(MAX_DATA_BYTES + 1), "more than 1048576 bytes"),
        ] {
            assert_eq!(read_order(&data).unwrap_err(), expected, "{:.80}", data);
        }
    }

    #[test]
    fn places_of_recursive_type_are_few() {
        let file = "type Node { id: ID!  left: Node  leaf: Leaf } type Leaf { id: ID!  node: Node  n: Int }
            type Subscription { node: Node @event(type: \"n\") @audience(everyone: true) }";
        let rules = Rules::parse(file).unwrap();
        let of = rules.types.id("Node").unwrap();
        for (data, path, place) in [
            (r#"{"id": "a", "left": {"id": "a", "left": {}}}"#, "left.left.id", "left"),
            (r#"{"id": "a", "leaf": {"id": "a", "n": ""}}"#, "leaf.n", "leaf.n"),
            (r#"{"id": "a", "leaf": {"id": "a", "node": {}}}"#, "leaf.node.id", "leaf.node"),
        ] {
            let breach = read(&rules.types, of, data.as_bytes(), &envelope()).unwrap_err();
            assert_eq!((&*breach.path, &*breach.place), (path, place));
        }
    }

    proptest! {
        #[test]
        fn bytes_never_panic(data in any::<Vec<u8>>(), values in prop::collection::vec("[0-9.e\"\\[\\]{},a:-]{0,8}", 6)) {
            let rules = Rules::parse(FILE).unwrap();
            let of = rules.types.id("Order").unwrap();
            let _ = read(&rules.types, of, &data, &envelope());
            let [id, status, name, any, items, grid] = &values[..] else { unreachable!() };
            let text = format!(r#"{{"id":{id},"status":{status},"name":{name},"any":{any},"items":{items},"grid":{grid}}}"#);
            if let Err(breach) = read(&rules.types, of, text.as_bytes(), &envelope()) {
                prop_assert!(breach.path.chars().all(|character| character.is_alphabetic() || character == '.'));
            }
        }
    }
}
