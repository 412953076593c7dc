//! Arguments of a root field, with their variables and defaults put in.

use std::convert::Infallible;

use async_graphql::{
    Name, Value, Variables,
    parser::types::{Field, FieldDefinition},
};
use serde_json::{Map, Value as Json};

/// Values of the arguments that were given, or that have a default.
#[derive(Debug, Default)]
pub struct RootArguments(Json);

impl RootArguments {
    /// Reads the arguments of a field. A default holds only where the argument is absent: an
    /// explicit null stays null.
    #[must_use]
    pub fn new(field: &Field, definition: Option<&FieldDefinition>, variables: &Variables) -> Self {
        let mut values = Map::new();
        for argument in definition.iter().flat_map(|definition| &definition.arguments) {
            let name = &argument.node.name.node;
            let default = argument.node.default_value.as_ref().map(|default| default.node.clone());
            if let Some(value) = given(field, name, variables).or(default) {
                values.insert(name.to_string(), value.into_json().unwrap_or_default());
            }
        }
        Self(Json::Object(values))
    }

    /// Takes those of these values that the field has as arguments, with the defaults of the
    /// others.
    #[must_use]
    pub fn from_json(values: &Map<String, Json>, definition: Option<&FieldDefinition>) -> Self {
        let mut taken = Map::new();
        for argument in definition.iter().flat_map(|definition| &definition.arguments) {
            let name = argument.node.name.node.as_str();
            let default = argument.node.default_value.as_ref().map(|default| default.node.clone());
            let default = || default.and_then(|default| default.into_json().ok());
            if let Some(value) = values.get(name).cloned().or_else(default) {
                taken.insert(name.to_owned(), value);
            }
        }
        Self(Json::Object(taken))
    }

    /// Returns the arguments as a document of templates.
    #[must_use]
    pub const fn document(&self) -> &Json {
        &self.0
    }

    /// Returns the values of an argument: `None` if it is absent or null. A single value stands for
    /// a list of one; nulls in a list are left out.
    #[must_use]
    pub fn values(&self, name: &str) -> Option<Vec<&Json>> {
        match self.0.get(name)? {
            Json::Null => None,
            Json::Array(items) => Some(items.iter().filter(|item| !item.is_null()).collect()),
            value => Some(vec![value]),
        }
    }
}

/// Returns the value that the document gives; `None` if the argument or its variable is absent.
fn given(field: &Field, name: &Name, variables: &Variables) -> Option<Value> {
    let value = field.get_argument(name)?.node.clone();
    let mut is_absent = false;
    let value = value.into_const_with(|name| {
        let value = variables.get(&name).cloned();
        is_absent |= value.is_none();
        Ok::<_, Infallible>(value.unwrap_or_default())
    });
    match value {
        Ok(Value::Null) if is_absent => None,
        Ok(value) => Some(value),
        Err(never) => match never {},
    }
}
