//! State behind queries: `@table` and `@projection`.

use std::collections::HashMap;

use async_graphql::{Pos, parser::types::ConstDirective};

use super::{
    arguments,
    problem::Problems,
    sdl::{Definition, File},
    types::{Kind, Scalar, TypeId, Types},
};

/// Types whose values queries see.
#[derive(Debug, Default)]
pub struct States {
    /// State of each such type.
    pub by_type: HashMap<TypeId, State>,
}

/// State of one type.
#[derive(Debug)]
pub struct State {
    /// Source of the values.
    pub source: Source,
    /// Number of the field that tells values apart.
    pub key: usize,
}

/// Source of the values of a type.
#[derive(Debug)]
pub enum Source {
    /// Rows of the table with this name.
    Table(Box<str>),
    /// Latest data of the events of these types.
    Projection(Vec<Box<str>>),
}

impl States {
    /// Reads the directives of all object types.
    pub fn read(file: &File, types: &Types, problems: &mut Problems) -> Self {
        let mut states = Self::default();
        let mut tables: HashMap<&str, &str> = HashMap::new();
        for definition in &file.types {
            let name = definition.name.node.as_str();
            let table = arguments::find(&definition.directives, "table");
            let projection = arguments::find(&definition.directives, "projection");
            if let (Some(_), Some(projection)) = (table, projection) {
                let text = format!("`{name}` has both `@table` and `@projection`; choose one");
                problems.add(projection.name.pos, text);
                continue;
            }
            let Some(id) = types.id(name).filter(|id| types.is_object(*id)) else { continue };
            if let Some(table) = table {
                if let Some(text) = arguments::text(table, "name") {
                    if let Some(other) = tables.insert(text, name) {
                        let text = format!("table `{text}` is already that of `{other}`; name another");
                        problems.add(arguments::place_of(table, "name"), text);
                    }
                    let key = key(definition, id, table, types, problems);
                    states.by_type.insert(id, State { source: Source::Table(text.into()), key });
                }
            } else if let Some(projection) = projection {
                let events = arguments::texts(projection, "events").into_iter().map(Into::into);
                let source = Source::Projection(events.collect());
                let key = key(definition, id, projection, types, problems);
                states.by_type.insert(id, State { source, key });
            }
        }
        states
    }

    /// Returns the table of a type.
    #[must_use]
    pub fn table(&self, id: TypeId) -> Option<&str> {
        match &self.by_type.get(&id)?.source {
            Source::Table(name) => Some(name),
            Source::Projection(_) => None,
        }
    }
}

/// Returns the number of the field that the directive's `key` names. After a mistake it is 0, so
/// that other checks go on.
fn key(
    definition: &Definition,
    id: TypeId,
    directive: &ConstDirective,
    types: &Types,
    problems: &mut Problems,
) -> usize {
    let Some(name) = arguments::text(directive, "key") else { return 0 };
    let at: Pos = arguments::place_of(directive, "key");
    let Some(place) = types.fields(id).iter().position(|field| &*field.name == name) else {
        // A field of an unknown type is reported already.
        if definition.field(name).is_none() {
            let text = format!("`{}` has no field `{name}`; name the field of its key", definition.name.node);
            problems.add(at, text);
        }
        return 0;
    };
    let field = &types.fields(id)[place];
    let is_text = matches!(types.get(field.of).kind, Kind::Scalar(Scalar::Id | Scalar::Text | Scalar::Int));
    if !is_text || field.wrapping.element.is_some() || field.wrapping.is_nullable {
        problems.add(at, format!("key `{name}` must be one `ID!`, `String!` or `Int!`"));
    }
    place
}
