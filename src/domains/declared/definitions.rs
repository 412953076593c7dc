//! Builds the types of a file, and reports what is wrong with them.
//!
//! These are the rules of GraphQL itself, and those of `@from` and `@constraint`. Rules about who
//! receives what are in the files of their directives.

use std::collections::{HashMap, HashSet};

use async_graphql::{
    Name, Positioned,
    parser::types::{
        BaseType, ConstDirective, FieldDefinition, InputValueDefinition, Type as Reference, TypeKind,
    },
};

use super::{
    arguments,
    constraint::Constraint,
    directives::{self, Place},
    foreign::Foreign,
    interfaces,
    problem::Problems,
    sdl::{Definition, File, ROOTS, named},
    template::{Root, Template},
    types::{BUILT_IN, Composite, Field, Kind, Scalar, Source, TypeId, Types, Wrapping},
};

/// Builds the types. A field whose type is unknown is reported and left out.
pub fn types(file: &File, foreign: &Foreign, problems: &mut Problems) -> Types {
    let mut types = Types::new();
    for definition in &file.types {
        let name = definition.name.node.as_str();
        if BUILT_IN.iter().any(|(built_in, _)| *built_in == name) {
            problems.add(definition.name.pos, format!("`{name}` is built in; leave its definition out"));
        } else if name.starts_with("__") {
            problems.add(
                definition.name.pos,
                format!("`{name}` begins with `__`, which GraphQL keeps for itself"),
            );
        }
        if types.id(name).is_none() {
            types.add(name, Kind::Scalar(Scalar::Custom));
        }
    }
    // Kinds come before fields, so that a reference can be checked for its kind.
    let kinds: HashMap<&str, &TypeKind> =
        file.types.iter().map(|definition| (definition.name.node.as_str(), &definition.kind)).collect();
    for definition in &file.types {
        let builder = Builder { types: &types, kinds: &kinds, foreign, definition };
        let kind = builder.kind(problems);
        if let Some(id) = types.id(&definition.name.node).filter(|id| *id >= BUILT_IN.len()) {
            types.set(id, kind);
        }
    }
    for definition in &file.types {
        interfaces::check(definition, &types, problems);
    }
    types
}

struct Builder<'a> {
    types: &'a Types,
    kinds: &'a HashMap<&'a str, &'a TypeKind>,
    foreign: &'a Foreign,
    definition: &'a Definition,
}

impl Builder<'_> {
    fn name(&self) -> &str {
        self.definition.name.node.as_str()
    }

    fn kind(&self, problems: &mut Problems) -> Kind {
        let is_root = ROOTS.contains(&self.name());
        let is_object = matches!(self.definition.kind, TypeKind::Object(_));
        if is_root && !is_object {
            problems
                .add(self.definition.name.pos, format!("the root `{}` must be an object type", self.name()));
        }
        let place = if is_object && !is_root { Place::Type } else { Place::Other };
        directives::check(&self.definition.directives, place, self.foreign, problems);
        match &self.definition.kind {
            TypeKind::Scalar => Kind::Scalar(Scalar::Custom),
            TypeKind::Enum(definition) => {
                for value in &definition.values {
                    directives::check(&value.node.directives, Place::Other, self.foreign, problems);
                }
                let names = definition.values.iter().map(|value| &value.node.value);
                self.distinct("value", names.clone(), problems);
                Kind::Enum(names.map(|name| name.node.as_str().into()).collect())
            }
            TypeKind::Union(definition) => {
                self.distinct("member", definition.members.iter(), problems);
                let is_object = |kind: &TypeKind| matches!(kind, TypeKind::Object(_));
                let members = definition.members.iter();
                let members =
                    members.filter_map(|name| self.lookup(name, is_object, "an object type", problems));
                Kind::Union(members.collect())
            }
            TypeKind::Object(_) => Kind::Object(self.composite(problems)),
            TypeKind::Interface(_) => Kind::Interface(self.composite(problems)),
            TypeKind::InputObject(definition) => {
                let names = definition.fields.iter().map(|field| &field.node.name);
                self.distinct("field", names, problems);
                let fields = definition.fields.iter().filter_map(|field| self.input(&field.node, problems));
                Kind::Input(Composite { fields: fields.collect(), implements: Vec::new() })
            }
        }
    }

    /// Returns the number of a type that must have a certain kind.
    fn lookup(
        &self,
        name: &Positioned<Name>,
        fits: impl Fn(&TypeKind) -> bool,
        expected: &str,
        problems: &mut Problems,
    ) -> Option<TypeId> {
        match self.kinds.get(name.node.as_str()) {
            Some(kind) if fits(kind) => self.types.id(&name.node),
            None => {
                problems.add(name.pos, unknown(&name.node));
                None
            }
            Some(_) => {
                problems.add(name.pos, format!("`{}` is not {expected}", name.node));
                None
            }
        }
    }

    fn distinct<'n>(
        &self,
        what: &str,
        names: impl Iterator<Item = &'n Positioned<Name>>,
        problems: &mut Problems,
    ) {
        let mut seen = HashSet::new();
        let mut count = 0;
        for name in names {
            count += 1;
            if !seen.insert(&name.node) {
                let text = format!("{what} `{}` stands twice in `{}`; leave one out", name.node, self.name());
                problems.add(name.pos, text);
            } else if name.node.starts_with("__") {
                problems.add(
                    name.pos,
                    format!("`{}` begins with `__`, which GraphQL keeps for itself", name.node),
                );
            }
        }
        if count == 0 {
            problems.add(self.definition.name.pos, format!("`{}` has no {what}; add one", self.name()));
        }
    }

    fn composite(&self, problems: &mut Problems) -> Composite {
        let names = self.definition.fields().iter().map(|field| &field.node.name);
        self.distinct("field", names, problems);
        let is_interface = |kind: &TypeKind| matches!(kind, TypeKind::Interface(_));
        let implements = self.definition.implements().iter();
        let implements =
            implements.filter_map(|name| self.lookup(name, is_interface, "an interface", problems));
        let implements = implements.collect();
        let fields = self.definition.fields().iter();
        let fields = fields.filter_map(|field| self.field(&field.node, problems)).collect();
        Composite { fields, implements }
    }

    /// Returns the place of directives on the fields of this type.
    fn place(&self) -> Place {
        match (self.name(), &self.definition.kind) {
            ("Query", _) => Place::Query,
            ("Mutation", _) => Place::Mutation,
            ("Subscription", _) => Place::Subscription,
            (_, TypeKind::Object(_)) => Place::Field,
            _ => Place::Other,
        }
    }

    fn field(&self, field: &FieldDefinition, problems: &mut Problems) -> Option<Field> {
        let place = self.place();
        directives::check(&field.directives, place, self.foreign, problems);
        self.arguments(field, place, problems);
        let of = self.reference(&field.ty, false, problems)?;
        let name: Box<str> = field.name.node.as_str().into();
        let wrapping = wrapping(&field.ty.node);
        let (source, constraint) = if place == Place::Field {
            let source =
                arguments::find(&field.directives, "from").and_then(|from| self.source(from, of, problems));
            let constraint = arguments::find(&field.directives, "constraint");
            // Types of the file have no kind yet, but only built-in ones have bounds of values.
            let content = self.types.content(of);
            let is_list = wrapping.element.is_some();
            let read = |constraint| Constraint::read(constraint, content, is_list, problems);
            (source, constraint.map(read).unwrap_or_default())
        } else {
            (None, Constraint::default())
        };
        let source = source.unwrap_or_else(|| Source::Path([name.clone()].into()));
        Some(Field { name, wrapping, of, source, constraint, has_default: false })
    }

    fn arguments(&self, field: &FieldDefinition, place: Place, problems: &mut Problems) {
        let mut seen = HashSet::new();
        for argument in &field.arguments {
            let argument = &argument.node;
            if !matches!(place, Place::Query | Place::Mutation | Place::Subscription) {
                let text = format!("`{}` has an argument; fields of payloads have none", field.name.node);
                problems.add(argument.name.pos, text);
                continue;
            }
            if !seen.insert(&argument.name.node) {
                problems.add(
                    argument.name.pos,
                    format!("argument `{}` stands twice; leave one out", argument.name.node),
                );
            }
            let place = if place == Place::Mutation { Place::Other } else { Place::Argument };
            directives::check(&argument.directives, place, self.foreign, problems);
            self.reference(&argument.ty, true, problems);
        }
    }

    fn input(&self, field: &InputValueDefinition, problems: &mut Problems) -> Option<Field> {
        directives::check(&field.directives, Place::Other, self.foreign, problems);
        let of = self.reference(&field.ty, true, problems)?;
        let name: Box<str> = field.name.node.as_str().into();
        let source = Source::Path([name.clone()].into());
        let wrapping = wrapping(&field.ty.node);
        let has_default = field.default_value.is_some();
        Some(Field { name, wrapping, of, source, constraint: Constraint::default(), has_default })
    }

    /// Returns the number of a field's or an argument's named type.
    fn reference(
        &self,
        ty: &Positioned<Reference>,
        is_input: bool,
        problems: &mut Problems,
    ) -> Option<TypeId> {
        let name = named(&ty.node);
        let Some(id) = self.types.id(name) else {
            problems.add(ty.pos, unknown(name));
            return None;
        };
        match self.kinds.get(name.as_str()) {
            Some(TypeKind::InputObject(_)) if !is_input => {
                problems.add(ty.pos, format!("`{name}` is an input type; a field needs an output type"));
            }
            Some(TypeKind::Object(_) | TypeKind::Interface(_) | TypeKind::Union(_)) if is_input => {
                problems.add(
                    ty.pos,
                    format!("`{name}` is an output type; an input needs a scalar, an enum or an input"),
                );
            }
            _ if ROOTS.contains(&name.as_str()) => {
                problems.add(ty.pos, format!("`{name}` is a root, not a value"))
            }
            _ => return Some(id),
        }
        None
    }

    fn source(&self, from: &ConstDirective, of: TypeId, problems: &mut Problems) -> Option<Source> {
        let at = arguments::place_of(from, "path");
        let path = arguments::text(from, "path")?;
        let Ok(template) = Template::parse(&format!("{{{path}}}")) else {
            problems.add(
                at,
                format!("`{path}` is no path; write names joined by dots, or $author, $id or $time"),
            );
            return None;
        };
        let placeholder = template.only_placeholder()?;
        let source = match placeholder.root {
            Root::Document => return Some(Source::Path(placeholder.steps.clone())),
            Root::Author => Source::Author,
            Root::Id => Source::Id,
            Root::Time => Source::Time,
            Root::Viewer | Root::Uuid | Root::Data => {
                problems.add(at, format!("`{path}` is not part of an event; use $author, $id or $time"));
                return None;
            }
        };
        let name = self.types.get(of).name.as_ref();
        let is_custom = matches!(self.kinds.get(name), Some(TypeKind::Scalar));
        if !(matches!(name, "ID" | "String") || is_custom) {
            problems
                .add(at, format!("`{path}` is a text; the field must be ID, String or a scalar of the file"));
        }
        Some(source)
    }
}

fn unknown(name: &Name) -> String {
    format!("there is no type `{name}`; define it or correct the name")
}

/// Returns the lists and nulls of a type reference.
fn wrapping(ty: &Reference) -> Wrapping {
    let element = match &ty.base {
        BaseType::Named(_) => None,
        BaseType::List(element) => Some(Box::new(wrapping(element))),
    };
    Wrapping { is_nullable: ty.nullable, element }
}
