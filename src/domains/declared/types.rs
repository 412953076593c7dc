//! Types of a file, as rules and payloads use them.
//!
//! It is plain data with look-ups. [`crate::domains::declared::definitions`] builds and checks it.

use std::collections::HashMap;

use super::constraint::{Constraint, Content};

/// Number of a type in [`Types`].
pub type TypeId = usize;

/// Built-in scalars, in the order of their numbers.
pub const BUILT_IN: [(&str, Scalar); 5] = [
    ("ID", Scalar::Id),
    ("String", Scalar::Text),
    ("Int", Scalar::Int),
    ("Float", Scalar::Float),
    ("Boolean", Scalar::Boolean),
];

/// Scalar type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scalar {
    /// `ID`: a text without control characters. A whole number counts as its digits.
    Id,
    /// `String`.
    Text,
    /// `Int`: 32 bits.
    Int,
    /// `Float`: a finite number.
    Float,
    /// `Boolean`.
    Boolean,
    /// Scalar of the file: any JSON.
    Custom,
}

/// Kind of a type, with what it consists of.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// Scalar.
    Scalar(Scalar),
    /// Enum with its values.
    Enum(Vec<Box<str>>),
    /// Object type.
    Object(Composite),
    /// Interface.
    Interface(Composite),
    /// Union of object types.
    Union(Vec<TypeId>),
    /// Input object.
    Input(Composite),
}

/// Fields of an object type, an interface or an input object.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Composite {
    /// Fields in the order of the file.
    pub fields: Vec<Field>,
    /// Interfaces that the type implements.
    pub implements: Vec<TypeId>,
}

/// Type with its name.
#[derive(Clone, Debug, PartialEq)]
pub struct Type {
    /// Name in the file.
    pub name: Box<str>,
    /// Kind.
    pub kind: Kind,
}

/// Field of a type.
#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    /// Name in the file.
    pub name: Box<str>,
    /// Lists and nulls around the named type.
    pub wrapping: Wrapping,
    /// Named type.
    pub of: TypeId,
    /// Place of the value in an event.
    pub source: Source,
    /// Bounds.
    pub constraint: Constraint,
    /// Whether the file gives a default. Only input fields have one.
    pub has_default: bool,
}

/// Lists and nulls around a named type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrapping {
    /// Whether null is allowed.
    pub is_nullable: bool,
    /// Elements, if this is a list.
    pub element: Option<Box<Self>>,
}

/// Place of a field's value in an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Steps through JSON objects, from the enclosing one.
    Path(Box<[Box<str>]>),
    /// Author of the event.
    Author,
    /// Id of the event.
    Id,
    /// Time of the event, as RFC 3339 with three fraction digits.
    Time,
}

/// Types by number and by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Types {
    types: Vec<Type>,
    ids: HashMap<Box<str>, TypeId>,
}

/// Field that a path leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Number of the field at each step.
    pub steps: Box<[usize]>,
    /// Named type of the last field.
    pub of: TypeId,
    /// Whether a list lies on the way, or at its end.
    pub is_list: bool,
    /// Whether null may lie on the way, or at its end.
    pub is_nullable: bool,
}

impl Found {
    /// Creates one value of a type, which is never null.
    #[must_use]
    pub fn one(of: TypeId) -> Self {
        Self { steps: Box::default(), of, is_list: false, is_nullable: false }
    }
}

impl Types {
    /// Creates a table of the built-in scalars.
    #[must_use]
    pub fn new() -> Self {
        let mut types = Self::default();
        for (name, scalar) in BUILT_IN {
            types.add(name, Kind::Scalar(scalar));
        }
        types
    }

    /// Adds a type and returns its number.
    pub fn add(&mut self, name: &str, kind: Kind) -> TypeId {
        let id = self.types.len();
        self.types.push(Type { name: name.into(), kind });
        self.ids.insert(name.into(), id);
        id
    }

    /// Replaces the kind of a type.
    pub fn set(&mut self, id: TypeId, kind: Kind) {
        self.types[id].kind = kind;
    }

    /// Returns the type with this number.
    ///
    /// # Panics
    /// The number is another table's.
    #[must_use]
    pub fn get(&self, id: TypeId) -> &Type {
        &self.types[id]
    }

    /// Returns the number of the type with this name.
    #[must_use]
    pub fn id(&self, name: &str) -> Option<TypeId> {
        self.ids.get(name).copied()
    }

    /// Returns all types with their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (TypeId, &Type)> {
        self.types.iter().enumerate()
    }

    /// Returns the fields of an object type, an interface or an input object; none for others.
    #[must_use]
    pub fn fields(&self, id: TypeId) -> &[Field] {
        match &self.types[id].kind {
            Kind::Object(composite) | Kind::Interface(composite) | Kind::Input(composite) => {
                &composite.fields
            }
            _ => &[],
        }
    }

    /// Returns whether values of the type have no fields.
    #[must_use]
    pub fn is_leaf(&self, id: TypeId) -> bool {
        matches!(self.types[id].kind, Kind::Scalar(_) | Kind::Enum(_))
    }

    /// Returns whether the type is an object type.
    #[must_use]
    pub fn is_object(&self, id: TypeId) -> bool {
        matches!(self.types[id].kind, Kind::Object(_))
    }

    /// Returns whether the type is an interface or a union.
    #[must_use]
    pub fn is_abstract(&self, id: TypeId) -> bool {
        matches!(self.types[id].kind, Kind::Interface(_) | Kind::Union(_))
    }

    /// Returns whether every value of `member` is one of `of`.
    #[must_use]
    pub fn is_member(&self, member: TypeId, of: TypeId) -> bool {
        let implements = match &self.types[member].kind {
            Kind::Object(composite) | Kind::Interface(composite) => composite.implements.contains(&of),
            _ => false,
        };
        member == of
            || implements
            || matches!(&self.types[of].kind, Kind::Union(members) if members.contains(&member))
    }

    /// Returns the field that a path of names leads to, from a type with fields; `None` if a step
    /// does not exist.
    #[must_use]
    pub fn find(&self, mut of: TypeId, names: &[Box<str>]) -> Option<Found> {
        let (mut steps, mut is_list, mut is_nullable) = (Vec::new(), false, false);
        for name in names {
            let fields = self.fields(of);
            let at = fields.iter().position(|field| field.name == *name)?;
            steps.push(at);
            is_list |= fields[at].wrapping.element.is_some();
            is_nullable |= fields[at].wrapping.is_nullable;
            of = fields[at].of;
        }
        Some(Found { steps: steps.into(), of, is_list, is_nullable })
    }

    /// Returns the field at the end of these steps from a type.
    #[must_use]
    pub fn field_at(&self, mut of: TypeId, steps: &[usize]) -> Option<&Field> {
        let mut last = None;
        for step in steps {
            last = self.fields(of).get(*step);
            of = last?.of;
        }
        last
    }

    /// Returns what bounds can apply to in values of the type.
    #[must_use]
    pub fn content(&self, id: TypeId) -> Content {
        match self.types[id].kind {
            Kind::Scalar(Scalar::Id | Scalar::Text) => Content::Text,
            Kind::Scalar(Scalar::Int | Scalar::Float) => Content::Number,
            _ => Content::Other,
        }
    }
}
