//! Data of an event as a mutation writes it: each value where `@from` reads it.
//!
//! Values are JSON texts, so that no digit is lost. Fields of the envelope are never written.

use super::{
    json::written,
    payload::{Object, Value},
    types::{Source, Types},
};

/// JSON object under construction.
#[derive(Debug, Default)]
pub struct Wire(Vec<(Box<str>, Node)>);

#[derive(Debug)]
enum Node {
    Text(String),
    Object(Wire),
}

impl Wire {
    /// Creates the data of a typed object.
    #[must_use]
    pub fn of(object: &Object, types: &Types) -> Self {
        let mut wire = Self::default();
        for (field, value) in types.fields(object.of).iter().zip(&object.fields) {
            if let Source::Path(path) = &field.source {
                let mut text = String::new();
                write(value, types, &mut text);
                wire.set(path, text);
            }
        }
        wire
    }

    /// Sets the value at a path. A value within another value that is set stays what it is.
    pub fn set(&mut self, path: &[Box<str>], text: String) {
        let [name, rest @ ..] = path else { return };
        let place = self.0.iter().position(|(known, _)| known == name);
        match (place, rest) {
            (None, []) => self.0.push((name.clone(), Node::Text(text))),
            (Some(place), []) => self.0[place].1 = Node::Text(text),
            (None, rest) => {
                let mut inner = Self::default();
                inner.set(rest, text);
                self.0.push((name.clone(), Node::Object(inner)));
            }
            (Some(place), rest) => {
                if let Node::Object(inner) = &mut self.0[place].1 {
                    inner.set(rest, text);
                }
            }
        }
    }

    /// Appends the object as JSON.
    pub fn write(&self, into: &mut String) {
        into.push('{');
        for (place, (name, node)) in self.0.iter().enumerate() {
            if place > 0 {
                into.push(',');
            }
            into.push_str(&written(&**name));
            into.push(':');
            match node {
                Node::Text(text) => into.push_str(text),
                Node::Object(inner) => inner.write(into),
            }
        }
        into.push('}');
    }
}

fn write(value: &Value, types: &Types, into: &mut String) {
    match value {
        Value::Null => into.push_str("null"),
        Value::Leaf(text) => into.push_str(text),
        Value::Object(object) => Wire::of(object, types).write(into),
        Value::List(items) => {
            into.push('[');
            for (place, item) in items.iter().enumerate() {
                if place > 0 {
                    into.push(',');
                }
                write(item, types, into);
            }
            into.push(']');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domains::declared::{payload::Envelope, reader, rules::Rules};

    const FILE: &str = r#"
        scalar Any
        type Item { sku: ID!  price: Float @from(path: "cost.net") }
        type Order {
            id: ID!  customerId: ID @from(path: "customer.id")  name: String @from(path: "customer.name")
            by: ID @from(path: "$author")  any: Any  items: [Item!]
        }
        type Subscription { order: Order @event(type: "order") @audience(everyone: true) }
    "#;

    #[test]
    fn written_data_is_read_back() {
        let rules = Rules::parse(FILE).unwrap();
        let of = rules.types.id("Order").unwrap();
        let envelope = Envelope { author: Some("ann".into()), id: "e".into(), time: None };
        let data = r#"{"id":7,"customer":{"id":"c\"","name":null},"any":[123456789012345678901,"é"],
            "items":[{"sku":"s","cost":{"net":1.50}},{"sku":"t"}]}"#;
        let object = reader::read(&rules.types, of, data.as_bytes(), &envelope).unwrap();
        let mut text = String::new();
        Wire::of(&object, &rules.types).write(&mut text);
        assert_eq!(
            text,
            r#"{"id":"7","customer":{"id":"c\"","name":null},"any":[123456789012345678901,"é"],"items":[{"sku":"s","cost":{"net":1.50}},{"sku":"t","cost":{"net":null}}]}"#
        );
        assert_eq!(reader::read(&rules.types, of, text.as_bytes(), &envelope).unwrap(), object);
    }
}
