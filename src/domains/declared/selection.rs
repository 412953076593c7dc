//! Compiled selection: which fields of a payload a result copies, and under which names.
//!
//! Fragments, aliases, `__typename`, `@skip`, `@include` and merged fields are resolved when the
//! selection is compiled. The schema must have validated it.

use std::convert::Infallible;

use async_graphql::{
    Name, Positioned, Value as Argument,
    parser::types::{Directive, ExecutableDocument, Field, Selection, SelectionSet},
};
use serde_json::Value as Json;

use super::{
    coerce::Coerced,
    payload::{Object, Value},
    types::{Kind, TypeId, Types},
};
use crate::graphql::{Error, error::Code};

/// What a selection copies from an object, for each object type that the object may be of.
#[derive(Debug, Default, PartialEq, Eq, Hash)]
pub struct Copied(Vec<(TypeId, Vec<Step>)>);

/// One value of a result.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Step {
    /// Name in the result as JSON, with its colon. For `__typename` also the value.
    head: Box<str>,
    source: Source,
}

#[derive(Debug, PartialEq, Eq, Hash)]
enum Source {
    /// The step's head is the whole value.
    Head,
    /// Field without fields of its own.
    Leaf(usize),
    /// Field that is an object, or a list of objects.
    Object(usize, Copied),
}

impl Copied {
    /// Returns the memory that it takes besides its own fields, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let step = |Step { head, source }: &Step| {
            let inner = if let Source::Object(_, inner) = source { inner.bytes() } else { 0 };
            head.len() + inner
        };
        let of_type = |(_, steps): &(TypeId, Vec<Step>)| {
            steps.capacity() * size_of::<Step>() + steps.iter().map(step).sum::<usize>()
        };
        self.0.capacity() * size_of::<(TypeId, Vec<Step>)>() + self.0.iter().map(of_type).sum::<usize>()
    }

    /// Appends an object as JSON. It stops where the text would have more than `max` bytes, and
    /// then returns `false`.
    #[must_use]
    pub fn object(&self, object: &Object, into: &mut String, max: usize) -> bool {
        let steps = self.0.iter().find(|(of, _)| *of == object.of).map_or(&[][..], |(_, steps)| steps);
        into.push('{');
        for (place, Step { head, source }) in steps.iter().enumerate() {
            if place > 0 {
                into.push(',');
            }
            into.push_str(head);
            let is_whole = match source {
                Source::Head => true,
                Source::Leaf(number) => Self::default().value(&object.fields[*number], into, max),
                Source::Object(number, inner) => inner.value(&object.fields[*number], into, max),
            };
            if !is_whole {
                return false;
            }
        }
        into.push('}');
        into.len() <= max
    }

    fn value(&self, value: &Value, into: &mut String, max: usize) -> bool {
        match value {
            Value::Null => into.push_str("null"),
            Value::Leaf(text) if text.len() > max.saturating_sub(into.len()) => return false,
            Value::Leaf(text) => into.push_str(text),
            Value::Object(object) => return self.object(object, into, max),
            Value::List(items) => {
                into.push('[');
                for (place, item) in items.iter().enumerate() {
                    if place > 0 {
                        into.push(',');
                    }
                    if !self.value(item, into, max) || into.len() > max {
                        return false;
                    }
                }
                into.push(']');
            }
        }
        true
    }
}

/// Compiler of one operation's selections.
pub struct Compiler<'a> {
    /// Types of the file.
    pub types: &'a Types,
    /// Document with its fragments.
    pub document: &'a ExecutableDocument,
    /// Variables of the operation.
    pub variables: &'a Coerced,
}

/// Selected fields by their name in the result, in the order of the document.
pub type Merged<'a> = Vec<(&'a Name, Vec<&'a Positioned<Field>>)>;

impl<'a> Compiler<'a> {
    /// Compiles the selections of one object, which may be of type `of` or a member of it.
    ///
    /// # Errors
    /// A condition is not a boolean.
    pub fn copied(&self, of: TypeId, sets: &[&'a SelectionSet]) -> Result<Copied, Error> {
        let is_possible = |id: TypeId| self.types.is_object(id) && self.types.is_member(id, of);
        let possible = self.types.iter().map(|(id, _)| id).filter(|id| is_possible(*id));
        let mut copied = Vec::new();
        for id in possible {
            let merged = self.merged(id, sets)?.into_iter();
            let steps = merged.filter_map(|(name, fields)| self.step(id, name, &fields).transpose());
            copied.push((id, steps.collect::<Result<_, _>>()?));
        }
        Ok(Copied(copied))
    }

    /// Returns the fields that selections have for an object of type `of`.
    ///
    /// # Errors
    /// A condition is not a boolean.
    pub fn merged(&self, of: TypeId, sets: &[&'a SelectionSet]) -> Result<Merged<'a>, Error> {
        let mut merged = Merged::new();
        for set in sets {
            self.collect(of, set, &mut merged)?;
        }
        Ok(merged)
    }

    /// Compiles the fields that share a name in the result.
    fn step(&self, of: TypeId, name: &Name, fields: &[&'a Positioned<Field>]) -> Result<Option<Step>, Error> {
        let Some(first) = fields.first().map(|field| &field.node) else { return Ok(None) };
        if first.name.node == "__typename" {
            let head = format!("\"{name}\":\"{}\"", self.types.get(of).name).into();
            return Ok(Some(Step { head, source: Source::Head }));
        }
        let known = self.types.fields(of);
        // The schema has validated the name.
        let Some(number) = known.iter().position(|field| *field.name == *first.name.node) else {
            return Ok(None);
        };
        let of = known[number].of;
        let source = if matches!(self.types.get(of).kind, Kind::Object(_)) {
            let sets: Vec<_> = fields.iter().map(|field| &field.node.selection_set.node).collect();
            Source::Object(number, self.copied(of, &sets)?)
        } else {
            Source::Leaf(number)
        };
        Ok(Some(Step { head: format!("\"{name}\":").into(), source }))
    }

    /// Adds the fields that a selection has for an object of type `of`.
    fn collect(&self, of: TypeId, set: &'a SelectionSet, merged: &mut Merged<'a>) -> Result<(), Error> {
        for item in &set.items {
            let (condition, directives, inner) = match &item.node {
                Selection::Field(field) => {
                    if self.is_included(&field.node.directives)? {
                        let name = &field.node.response_key().node;
                        match merged.iter_mut().find(|(known, _)| *known == name) {
                            Some((_, fields)) => {
                                if fields.iter().any(|other| other.node.name.node != field.node.name.node) {
                                    let text = format!("two different fields are named `{name}`");
                                    return Err(Error::new(Code::ValidationFailed, text));
                                }
                                fields.push(field);
                            }
                            None => merged.push((name, vec![field])),
                        }
                    }
                    continue;
                }
                Selection::InlineFragment(Positioned { node: fragment, .. }) => {
                    let condition = fragment.type_condition.as_ref().map(|condition| &condition.node.on.node);
                    (condition, &fragment.directives, &fragment.selection_set.node)
                }
                Selection::FragmentSpread(Positioned { node: spread, .. }) => {
                    let Some(fragment) = self.document.fragments.get(&spread.fragment_name.node) else {
                        continue;
                    };
                    let fragment = &fragment.node;
                    (
                        Some(&fragment.type_condition.node.on.node),
                        &spread.directives,
                        &fragment.selection_set.node,
                    )
                }
            };
            let is_of = |name: &Name| self.types.id(name).is_some_and(|on| self.types.is_member(of, on));
            if self.is_included(directives)? && condition.is_none_or(is_of) {
                self.collect(of, inner, merged)?;
            }
        }
        Ok(())
    }

    /// Returns whether `@skip` and `@include` let a selection through.
    fn is_included(&self, directives: &[Positioned<Directive>]) -> Result<bool, Error> {
        let mut is_included = true;
        for directive in directives.iter().map(|directive| &directive.node) {
            let wanted = match directive.name.node.as_str() {
                "skip" => false,
                "include" => true,
                _ => continue,
            };
            let given = directive.get_argument("if").map(|given| given.node.clone());
            let variable = |name: Name| Ok::<_, Infallible>(self.flag(&name));
            let Some(Ok(Argument::Boolean(given))) = given.map(|given| given.into_const_with(variable))
            else {
                let text = format!("`if` of `@{}` must be true or false", directive.name.node);
                return Err(Error::new(Code::ValidationFailed, text));
            };
            is_included &= given == wanted;
        }
        Ok(is_included)
    }

    /// Returns a variable that is a boolean; null if it is none.
    fn flag(&self, name: &Name) -> Argument {
        let flag = self.variables.get(name.as_str()).and_then(Json::as_bool);
        flag.map_or(Argument::Null, Argument::Boolean)
    }
}
