//! Coercion of input: variables and arguments, from what a request gives to JSON of their types.
//!
//! The schema has validated the document, but values of variables are checked here only. A refusal
//! names the place of a value, and never quotes it.

use std::cell::Cell;

use async_graphql::{
    Name, Value, Variables,
    indexmap::IndexMap,
    parser::types::{BaseType, Field, FieldDefinition, OperationDefinition, Type as Reference},
};
use serde_json::{Map, Value as Json};

use super::{
    arguments,
    root_arguments::RootArguments,
    rules::Rules,
    types::{Kind, Scalar, TypeId},
};
use crate::graphql::{Error, error::Code};

/// Enum value that stands for a variable without a value. No document can name it.
const ABSENT: &str = "%absent";

/// Longest unknown name that a refusal repeats, in bytes.
const MAX_NAME_BYTES: usize = 64;

/// Most bytes that the uses of variables in one operation may take together: 2 MiB, twice the
/// longest body. One value may be used many times.
const MAX_BYTES: usize = 2 << 20;

/// Bytes that the uses of variables in one operation may still take.
#[derive(Debug)]
pub struct Room(Cell<usize>);

impl Default for Room {
    fn default() -> Self {
        Self(Cell::new(MAX_BYTES))
    }
}

impl Room {
    /// Takes the bytes of a value. Returns whether there was room for them.
    fn take(&self, value: &Json) -> bool {
        let left = self.0.get().checked_sub(bytes(value));
        self.0.set(left.unwrap_or_default());
        left.is_some()
    }
}

/// Returns the approximate memory of a value, in bytes.
fn bytes(value: &Json) -> usize {
    16 + match value {
        Json::String(text) => text.len(),
        Json::Array(items) => items.iter().map(bytes).sum(),
        Json::Object(fields) => fields.iter().map(|(name, item)| name.len() + bytes(item)).sum(),
        _ => 0,
    }
}

/// Coerced of variables, by name. A variable without a value is absent.
pub type Coerced = Map<String, Json>;

/// Returns the variables of an operation, with its defaults.
///
/// # Errors
/// A value is missing or of another type.
pub fn variables(
    rules: &Rules,
    operation: &OperationDefinition,
    given: &Variables,
) -> Result<Coerced, Error> {
    let mut values = Coerced::new();
    for definition in operation.variable_definitions.iter().map(|definition| &definition.node) {
        let (name, ty) = (&definition.name.node, &definition.var_type.node);
        let given = given.get(name).or(definition.default_value.as_ref().map(|value| &value.node));
        let coercion = Coercion { rules };
        let refuse = |misfit: Misfit| refusal(&format!("variable `${name}`"), &misfit);
        match given {
            None if ty.nullable => {}
            None => return Err(refuse(Misfit::new("a value is expected"))),
            Some(given) => {
                let value = coercion.value(ty, given).map_err(refuse)?;
                values.insert(name.to_string(), value.unwrap_or_default());
            }
        }
    }
    Ok(values)
}

/// Returns the arguments of a root field, with the defaults of its definition.
///
/// # Errors
/// A value is missing or of another type, or the uses of variables exceed their room.
pub fn arguments(
    rules: &Rules,
    field: &Field,
    definition: &FieldDefinition,
    variables: &Coerced,
    room: &Room,
) -> Result<RootArguments, Error> {
    let known = |name: Name| {
        let Some(value) = variables.get(name.as_str()) else { return Ok(Value::Enum(Name::new(ABSENT))) };
        if !room.take(value) {
            let text = format!("the uses of variables have more than {MAX_BYTES} bytes together");
            return Err(Error::new(Code::ValidationFailed, text));
        }
        Value::from_json(value.clone()).map_err(|_| Error::bad_input("a variable is no JSON"))
    };
    let mut given = IndexMap::new();
    for (name, value) in &field.arguments {
        given.insert(name.node.clone(), value.node.clone().into_const_with(known)?);
    }
    from_values(rules, &given, definition)
}

/// Returns the arguments of a root field from values without variables.
///
/// # Errors
/// A value is missing or of another type.
pub fn from_values(
    rules: &Rules,
    given: &IndexMap<Name, Value>,
    definition: &FieldDefinition,
) -> Result<RootArguments, Error> {
    let coercion = Coercion { rules };
    let mut values = Map::new();
    for argument in definition.arguments.iter().map(|argument| &argument.node) {
        let name = &argument.name.node;
        let refuse = |misfit: Misfit| refusal(&format!("argument `{name}`"), &misfit);
        let default = argument.default_value.as_ref().map(|value| &value.node);
        let value = coercion.input(&argument.ty.node, given.get(name), default).map_err(refuse)?;
        values.extend(value.map(|value| (name.to_string(), value)));
    }
    Ok(RootArguments::new(values))
}

fn refusal(what: &str, Misfit { path, text }: &Misfit) -> Error {
    let names: Vec<_> = path.iter().rev().map(|name| &**name).collect();
    let place = if names.is_empty() { String::new() } else { format!(", `{}`", names.join(".")) };
    Error::new(Code::ValidationFailed, format!("{what}{place}: {text}"))
}

/// Value that does not fit its type. Its path grows from the last name to the first.
struct Misfit {
    path: Vec<Box<str>>,
    text: &'static str,
}

impl Misfit {
    const fn new(text: &'static str) -> Self {
        Self { path: Vec::new(), text }
    }

    fn within(mut self, name: &str) -> Self {
        self.path.push(name.into());
        self
    }
}

#[derive(Clone, Copy)]
struct Coercion<'a> {
    rules: &'a Rules,
}

impl Coercion<'_> {
    /// Returns the value of an argument or of an input field, or else its default; `None` if it has
    /// neither.
    fn input(
        &self,
        ty: &Reference,
        given: Option<&Value>,
        default: Option<&Value>,
    ) -> Result<Option<Json>, Misfit> {
        let given = given.map_or(Ok(None), |given| self.value(ty, given))?;
        match (given, default) {
            (Some(given), _) => Ok(Some(given)),
            (None, Some(default)) => self.value(ty, default),
            (None, None) if ty.nullable => Ok(None),
            (None, None) => Err(Misfit::new("a value is expected")),
        }
    }

    /// Returns a value as JSON of its type; `None` if it is a variable that is absent.
    fn value(&self, ty: &Reference, value: &Value) -> Result<Option<Json>, Misfit> {
        match value {
            Value::Enum(name) if name == ABSENT => Ok(None),
            Value::Null if ty.nullable => Ok(Some(Json::Null)),
            Value::Null => Err(Misfit::new("a value is expected")),
            value => self.some(ty, value).map(Some),
        }
    }

    fn some(&self, ty: &Reference, value: &Value) -> Result<Json, Misfit> {
        match (&ty.base, value) {
            (BaseType::Named(name), value) => self.named(name, value),
            (BaseType::List(element), Value::List(items)) => {
                let items = items.iter().map(|item| Ok(self.value(element, item)?.unwrap_or_default()));
                items.collect()
            }
            // A single value stands for a list of one.
            (BaseType::List(element), value) => Ok(Json::Array(vec![self.some(element, value)?])),
        }
    }

    fn named(&self, name: &Name, value: &Value) -> Result<Json, Misfit> {
        let types = &self.rules.types;
        // The schema has validated the name.
        let Some(id) = types.id(name) else { return Err(Misfit::new("the type is unknown")) };
        match (&types.get(id).kind, value) {
            (Kind::Scalar(scalar), value) => self.scalar(*scalar, value),
            (Kind::Enum(values), Value::Enum(given)) if values.iter().any(|known| **known == **given) => {
                Ok(given.as_str().into())
            }
            (Kind::Enum(values), Value::String(given)) if values.iter().any(|known| **known == **given) => {
                Ok(given.as_str().into())
            }
            (Kind::Enum(_), _) => Err(Misfit::new("a value of the enum is expected")),
            (Kind::Input(_), Value::Object(given)) => self.object(id, given),
            (Kind::Input(_), _) => Err(Misfit::new("an object is expected")),
            _ => Err(Misfit::new("the type is no input")),
        }
    }

    fn scalar(&self, scalar: Scalar, value: &Value) -> Result<Json, Misfit> {
        match (scalar, value) {
            (Scalar::Id | Scalar::Text, Value::String(text)) => Ok(text.as_str().into()),
            (Scalar::Id, Value::Number(number)) if !number.is_f64() => Ok(number.to_string().into()),
            (Scalar::Int, Value::Number(number)) => {
                let number = number.as_i64().and_then(|number| i32::try_from(number).ok());
                number.map(Json::from).ok_or_else(|| Misfit::new("a whole number of 32 bits is expected"))
            }
            (Scalar::Float, Value::Number(number)) => Ok(Json::Number(number.clone())),
            (Scalar::Boolean, Value::Boolean(flag)) => Ok((*flag).into()),
            (Scalar::Custom, value) => {
                let value = present(value).into_json();
                value.map_err(|_| Misfit::new("a JSON value is expected"))
            }
            (Scalar::Id, _) => Err(Misfit::new("an id is expected: a text or a whole number")),
            (Scalar::Text, _) => Err(Misfit::new("a text is expected")),
            (Scalar::Int, _) => Err(Misfit::new("a whole number is expected")),
            (Scalar::Float, _) => Err(Misfit::new("a number is expected")),
            (Scalar::Boolean, _) => Err(Misfit::new("true or false is expected")),
        }
    }

    fn object(&self, id: TypeId, given: &IndexMap<Name, Value>) -> Result<Json, Misfit> {
        let definition = self.rules.file.get(&self.rules.types.get(id).name);
        let inputs = definition.map(|definition| definition.inputs()).unwrap_or_default();
        if let Some(unknown) =
            given.keys().find(|name| !inputs.iter().any(|input| input.node.name.node == **name))
        {
            let misfit = Misfit::new("there is no such field");
            // A name that no document could have is the client's text, which no refusal repeats.
            let is_name = unknown.len() <= MAX_NAME_BYTES
                && unknown.bytes().all(|byte| byte == b'_' || byte.is_ascii_alphanumeric());
            return Err(if is_name { misfit.within(unknown) } else { misfit });
        }
        let mut object = Map::new();
        for input in inputs.iter().map(|input| &input.node) {
            let name = &input.name.node;
            let default = input.default_value.as_ref().map(|value| &value.node);
            let value =
                self.input(&input.ty.node, given.get(name), default).map_err(|misfit| misfit.within(name))?;
            object.extend(value.map(|value| (name.to_string(), value)));
        }
        let is_one_of = definition.is_some_and(|ty| arguments::find(&ty.directives, "oneOf").is_some());
        if is_one_of && (given.len() != 1 || object.len() != 1 || object.values().any(Json::is_null)) {
            return Err(Misfit::new("exactly one field with a value is expected"));
        }
        Ok(Json::Object(object))
    }
}

/// Returns a value of a custom scalar, with null for each variable without a value.
fn present(value: &Value) -> Value {
    match value {
        Value::Enum(name) if name == ABSENT => Value::Null,
        Value::List(items) => items.iter().map(present).collect(),
        Value::Object(fields) => {
            Value::Object(fields.iter().map(|(name, item)| (name.clone(), present(item))).collect())
        }
        value => value.clone(),
    }
}

#[cfg(test)]
mod tests {
    use async_graphql::parser::parse_query;
    use serde_json::json;

    use super::*;

    const FILE: &str = r#"
        extend schema @interest(key: "room:{rooms}")
        enum Mood { CALM LOUD }
        scalar Any
        input Line { text: String!  mood: Mood = CALM  any: Any }
        input Pick @oneOf { a: ID  b: ID }
        type Note @projection(key: "id", events: ["note"]) { id: ID!  room: ID }
        type Query {
            notes(room: ID @filter): [Note!] @audience(everyone: true)
        }
        type Mutation {
            add(id: ID!, lines: [Line!], pick: Pick, count: Int = 3, size: Float, on: Boolean, room: ID):
                Boolean @allow(key: "room:{room}") @publish(type: "note")
        }
    "#;

    fn coerced(document: &str, variables_given: Json) -> Result<Json, String> {
        let rules = Rules::parse(FILE).map_err(|problems| format!("{problems:?}"))?;
        let document = parse_query(document).unwrap();
        let (_, operation) = document.operations.iter().next().unwrap();
        let given = Variables::from_json(variables_given);
        let known = variables(&rules, &operation.node, &given).map_err(|error| error.to_string())?;
        let async_graphql::parser::types::Selection::Field(field) =
            &operation.node.selection_set.node.items[0].node
        else {
            panic!()
        };
        let definition = rules.file.get("Mutation").unwrap().field("add").unwrap();
        let arguments = arguments(&rules, &field.node, definition, &known, &Room::default());
        arguments.map(|arguments| arguments.document().clone()).map_err(|error| error.to_string())
    }

    #[test]
    fn input_takes_form_of_its_type() {
        for (document, given, expected) in [
            ("mutation { add(id: 7) }", json!({}), json!({"id": "7", "count": 3})),
            (
                "mutation { add(id: \"a\", count: null, lines: {text: \"t\"}) }",
                json!({}),
                json!({"id": "a", "count": null, "lines": [{"text": "t", "mood": "CALM"}]}),
            ),
            (
                "mutation($id: ID!, $mood: Mood, $any: Any, $n: Int) {
                    add(id: $id, count: $n, lines: [{text: \"t\", mood: $mood, any: {a: $any}}]) }",
                json!({"id": 5, "mood": "LOUD", "any": [1.5, null]}),
                json!({"id": "5", "count": 3,
                    "lines": [{"text": "t", "mood": "LOUD", "any": {"a": [1.5, null]}}]}),
            ),
            (
                "mutation($l: [Line!], $s: Float = 2) { add(id: 1, lines: $l, size: $s, on: true) }",
                json!({"l": {"text": "t", "mood": null}}),
                json!({"id": "1", "count": 3, "size": 2, "on": true, "lines": [{"text": "t", "mood": null}]}),
            ),
            (
                "mutation($p: Pick) { add(id: 1, pick: $p) }",
                json!({"p": {"a": "x"}}),
                json!({"id": "1", "count": 3, "pick": {"a": "x"}}),
            ),
        ] {
            assert_eq!(coerced(document, given).unwrap(), expected, "{document}");
        }
    }

    #[test]
    fn misfit_names_its_place_without_value() {
        let one = "mutation($id: ID!, $l: [Line!], $p: Pick, $n: Int, $s: Float, $b: Boolean) {
            add(id: $id, lines: $l, pick: $p, count: $n, size: $s, on: $b) }";
        for (given, expected) in [
            (json!({}), "variable `$id`: a value is expected"),
            (json!({"id": null}), "variable `$id`: a value is expected"),
            (json!({"id": 1.5}), "variable `$id`: an id is expected: a text or a whole number"),
            (
                json!({"id": 1, "n": 3_000_000_000_i64}),
                "variable `$n`: a whole number of 32 bits is expected",
            ),
            (json!({"id": 1, "s": "1"}), "variable `$s`: a number is expected"),
            (json!({"id": 1, "b": 1}), "variable `$b`: true or false is expected"),
            (json!({"id": 1, "l": [null]}), "variable `$l`: a value is expected"),
            (json!({"id": 1, "l": [{}]}), "variable `$l`, `text`: a value is expected"),
            (
                json!({"id": 1, "l": [{"text": "t", "mood": "SAD"}]}),
                "variable `$l`, `mood`: a value of the enum is expected",
            ),
            (json!({"id": 1, "l": [{"text": "t", "x": 1}]}), "variable `$l`, `x`: there is no such field"),
            (
                json!({"id": 1, "p": {"a": 1, "b": 2}}),
                "variable `$p`: exactly one field with a value is expected",
            ),
            (json!({"id": 1, "p": {"a": null}}), "variable `$p`: exactly one field with a value is expected"),
        ] {
            assert_eq!(coerced(one, given).unwrap_err(), expected);
        }
        let nullable = "mutation($id: ID = 1) { add(id: $id) }";
        assert_eq!(coerced(nullable, json!({"id": null})).unwrap_err(), "argument `id`: a value is expected");
    }
}
