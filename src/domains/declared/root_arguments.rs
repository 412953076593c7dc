//! Arguments of a root field, with their variables and defaults put in.

use async_graphql::parser::types::FieldDefinition;
use serde_json::{Map, Value as Json};

/// Values of the arguments that were given, or that have a default.
#[derive(Debug, Default)]
pub struct RootArguments(Json);

impl RootArguments {
    /// Creates arguments of values that fit their types. An explicit null stays null.
    #[must_use]
    pub const fn new(values: Map<String, Json>) -> Self {
        Self(Json::Object(values))
    }

    /// Takes those of these values that the field has as arguments, with the defaults of the
    /// others.
    #[must_use]
    pub fn from_json(values: &Map<String, Json>, definition: &FieldDefinition) -> Self {
        let mut taken = Map::new();
        for argument in &definition.arguments {
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

    /// Returns the arguments, to change their values.
    pub const fn document_mut(&mut self) -> &mut Json {
        &mut self.0
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
