//! The file as definitions: parsed, with extensions merged into the types that they extend.
//!
//! A syntax error is the only problem of its file, since nothing after it can be trusted. This
//! module must know no directive of ours.

use std::collections::HashMap;

use async_graphql::{
    Name, Pos, Positioned,
    parser::{
        parse_schema,
        types::{
            ConstDirective, DirectiveDefinition, FieldDefinition, InputValueDefinition, SchemaDefinition,
            ServiceDocument, Type, TypeDefinition, TypeKind, TypeSystemDefinition,
        },
    },
};

use super::problem::{Problem, Problems};

/// Largest file, in bytes.
pub const MAX_BYTES: usize = 1 << 20;

/// Most types of a file.
pub const MAX_TYPES: usize = 1_000;

/// Names of the root types.
pub const ROOTS: [&str; 3] = ["Query", "Mutation", "Subscription"];

/// Definitions of a file.
#[derive(Debug, Default)]
pub struct File {
    /// Directives on the schema.
    pub schema: Vec<Positioned<ConstDirective>>,
    /// Types, in the order of their first definition.
    pub types: Vec<Definition>,
    /// Directives that the file defines.
    pub directives: Vec<DirectiveDefinition>,
}

/// Type with all its extensions.
#[derive(Clone, Debug)]
pub struct Definition {
    /// Name, at the place of its first definition.
    pub name: Positioned<Name>,
    /// Text for clients.
    pub description: Option<String>,
    /// Directives on the type.
    pub directives: Vec<Positioned<ConstDirective>>,
    /// Kind of type, with its fields or values.
    pub kind: TypeKind,
}

impl File {
    /// Parses a file. Other problems than syntax errors go to `problems`.
    ///
    /// # Errors
    /// The file is too large, or its first syntax error.
    pub fn parse(text: &str, problems: &mut Problems) -> Result<Self, Problem> {
        if text.len() > MAX_BYTES {
            let text = format!("the file has {} bytes; at most {MAX_BYTES} are allowed", text.len());
            return Err(Problem { line: 1, column: 1, text });
        }
        let document = parse_schema(text).map_err(|error| {
            let at = error.positions().next().unwrap_or(Pos { line: 1, column: 1 });
            Problem { line: at.line, column: at.column, text: syntax(&error.to_string()) }
        })?;
        Ok(Self::merge(document, problems))
    }

    fn merge(document: ServiceDocument, problems: &mut Problems) -> Self {
        let mut file = Self::default();
        let mut places: HashMap<Name, usize> = HashMap::new();
        let mut extensions = Vec::new();
        for definition in document.definitions {
            match definition {
                TypeSystemDefinition::Schema(schema) => file.add_schema(schema.node, problems),
                TypeSystemDefinition::Directive(directive) => file.directives.push(directive.node),
                TypeSystemDefinition::Type(Positioned { node: ty, .. }) => {
                    if ty.extend {
                        extensions.push(ty);
                    } else if places.contains_key(&ty.name.node) {
                        let text = format!(
                            "type `{}` is defined twice; write `extend type` to add to it",
                            ty.name.node
                        );
                        problems.add(ty.name.pos, text);
                    } else {
                        places.insert(ty.name.node.clone(), file.types.len());
                        file.types.push(Definition::from(ty));
                    }
                }
            }
        }
        for extension in extensions {
            match places.get(&extension.name.node) {
                Some(&place) => file.types[place].extend(extension, problems),
                // A subgraph may extend roots that it does not define.
                None if ROOTS.contains(&extension.name.node.as_str()) => {
                    places.insert(extension.name.node.clone(), file.types.len());
                    file.types.push(Definition::from(extension));
                }
                None => {
                    let text =
                        format!("there is no type `{}` to extend; define it first", extension.name.node);
                    problems.add(extension.name.pos, text);
                }
            }
        }
        if let Some(ty) = file.types.get(MAX_TYPES) {
            problems.add(ty.name.pos, format!("the file has more than {MAX_TYPES} types; split it"));
        }
        file
    }

    fn add_schema(&mut self, schema: SchemaDefinition, problems: &mut Problems) {
        self.schema.extend(schema.directives);
        for (name, root) in ROOTS.into_iter().zip([schema.query, schema.mutation, schema.subscription]) {
            if let Some(root) = root.filter(|root| root.node != name) {
                problems.add(root.pos, format!("the root type is `{}`; name it `{name}`", root.node));
            }
        }
    }

    /// Returns the type of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Definition> {
        self.types.iter().find(|ty| ty.name.node == name)
    }
}

impl Definition {
    fn extend(&mut self, extension: TypeDefinition, problems: &mut Problems) {
        self.directives.extend(extension.directives);
        match (&mut self.kind, extension.kind) {
            (TypeKind::Scalar, TypeKind::Scalar) => {}
            (TypeKind::Object(ours), TypeKind::Object(more)) => {
                ours.implements.extend(more.implements);
                ours.fields.extend(more.fields);
            }
            (TypeKind::Interface(ours), TypeKind::Interface(more)) => {
                ours.implements.extend(more.implements);
                ours.fields.extend(more.fields);
            }
            (TypeKind::Union(ours), TypeKind::Union(more)) => ours.members.extend(more.members),
            (TypeKind::Enum(ours), TypeKind::Enum(more)) => ours.values.extend(more.values),
            (TypeKind::InputObject(ours), TypeKind::InputObject(more)) => ours.fields.extend(more.fields),
            _ => {
                let text = format!("`{}` is another kind of type; extend it as what it is", self.name.node);
                problems.add(extension.name.pos, text);
            }
        }
    }

    /// Returns the fields of an object or an interface; none for other kinds.
    #[must_use]
    pub fn fields(&self) -> &[Positioned<FieldDefinition>] {
        match &self.kind {
            TypeKind::Object(object) => &object.fields,
            TypeKind::Interface(interface) => &interface.fields,
            _ => &[],
        }
    }

    /// Returns the fields of an input object; none for other kinds.
    #[must_use]
    pub fn inputs(&self) -> &[Positioned<InputValueDefinition>] {
        match &self.kind {
            TypeKind::InputObject(input) => &input.fields,
            _ => &[],
        }
    }

    /// Returns the interfaces that the type implements.
    #[must_use]
    pub fn implements(&self) -> &[Positioned<Name>] {
        match &self.kind {
            TypeKind::Object(object) => &object.implements,
            TypeKind::Interface(interface) => &interface.implements,
            _ => &[],
        }
    }

    /// Returns the field of this name.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&FieldDefinition> {
        self.fields().iter().map(|field| &field.node).find(|field| field.name.node == name)
    }
}

impl From<TypeDefinition> for Definition {
    fn from(TypeDefinition { name, description, directives, kind, .. }: TypeDefinition) -> Self {
        Self { name, description: description.map(|text| text.node), directives, kind }
    }
}

/// Returns the name at the heart of a type: `ID` of `[ID!]!`.
#[must_use]
pub fn named(ty: &Type) -> &Name {
    let mut base = &ty.base;
    loop {
        match base {
            async_graphql::parser::types::BaseType::Named(name) => return name,
            async_graphql::parser::types::BaseType::List(element) => base = &element.base,
        }
    }
}

/// Returns the parser's message in one line.
fn syntax(message: &str) -> String {
    let expected = message.lines().rev().find_map(|line| line.trim().strip_prefix("= "));
    format!(
        "the file is not GraphQL: {}",
        expected.unwrap_or_else(|| message.lines().next().unwrap_or_default())
    )
}
