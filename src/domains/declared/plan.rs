//! Plans of a declared domain: which fields of a payload a result copies, and under which names.
//!
//! Fragments, aliases, `__typename`, `@skip`, `@include` and merged fields are resolved when the
//! plan is compiled. Documents that copy the same share one plan.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{Arc, Mutex, Weak},
};

use async_graphql::{
    Name, Positioned, Value as Argument,
    parser::types::{Directive, Field, Selection, SelectionSet},
};

use super::{
    payload::{Object, Payload, Value},
    rules::Rules,
    types::{Kind, TypeId, Types},
};
use crate::{
    event,
    graphql::{
        Error,
        plan::{Plan, Plans, Subscription},
    },
    lock::lock,
};

/// What a selection copies from an object, for each object type that the object may be of.
#[derive(Debug, Default, PartialEq, Eq, Hash)]
struct Copied(Vec<(TypeId, Vec<Step>)>);

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
    fn object(&self, object: &Object, into: &mut String) {
        let steps = self.0.iter().find(|(of, _)| *of == object.of).map_or(&[][..], |(_, steps)| steps);
        into.push('{');
        for (place, Step { head, source }) in steps.iter().enumerate() {
            if place > 0 {
                into.push(',');
            }
            into.push_str(head);
            match source {
                Source::Head => {}
                Source::Leaf(number) => Self::default().value(&object.fields[*number], into),
                Source::Object(number, inner) => inner.value(&object.fields[*number], into),
            }
        }
        into.push('}');
    }

    fn value(&self, value: &Value, into: &mut String) {
        match value {
            Value::Null => into.push_str("null"),
            Value::Leaf(text) => into.push_str(text),
            Value::Object(object) => self.object(object, into),
            Value::List(items) => {
                into.push('[');
                for (place, item) in items.iter().enumerate() {
                    if place > 0 {
                        into.push(',');
                    }
                    self.value(item, into);
                }
                into.push(']');
            }
        }
    }
}

/// Plan that copies from the payloads of one file.
pub struct CopyPlan {
    copied: Arc<Copied>,
    table: Table,
}

impl Plan for CopyPlan {
    fn copy(&self, payload: &event::Payload, into: &mut String) -> bool {
        let Some(payload) = payload.downcast_ref::<Payload>() else { return false };
        self.copied.object(&payload.data, into);
        true
    }
}

/// Plans that are in use, by what they copy.
type Table = Arc<Mutex<HashMap<Arc<Copied>, Weak<CopyPlan>>>>;

impl Drop for CopyPlan {
    fn drop(&mut self) {
        let mut table = lock(&self.table);
        // A newer plan that copies the same stays.
        if table.get(&self.copied).is_some_and(|plan| plan.strong_count() == 0) {
            table.remove(&self.copied);
        }
    }
}

/// Compiler of the plans of one file.
pub struct CopyPlans {
    rules: Arc<Rules>,
    table: Table,
}

impl CopyPlans {
    /// Creates a compiler without plans.
    #[must_use]
    pub fn new(rules: Arc<Rules>) -> Self {
        Self { rules, table: Table::default() }
    }

    /// Returns the number of plans in use.
    #[must_use]
    pub fn len(&self) -> usize {
        lock(&self.table).len()
    }

    /// Returns whether no plan is in use.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn intern(&self, copied: Copied) -> Arc<CopyPlan> {
        let mut table = lock(&self.table);
        if let Some(plan) = table.get(&copied).and_then(Weak::upgrade) {
            return plan;
        }
        let copied = Arc::new(copied);
        let plan = Arc::new(CopyPlan { copied: copied.clone(), table: self.table.clone() });
        table.insert(copied, Arc::downgrade(&plan));
        plan
    }
}

impl Plans for CopyPlans {
    fn plan(&self, subscription: &Subscription<'_>) -> Result<Arc<dyn Plan>, Error> {
        let name = &subscription.field.name.node;
        let rule = self.rules.subscriptions.iter().find(|rule| *rule.name == **name);
        let of = rule.ok_or_else(|| Error::bad_input(format!("there is no field `{name}`")))?.of;
        let compiler = Compiler { types: &self.rules.types, subscription };
        let plan = self.intern(compiler.copied(of, &[&subscription.field.selection_set.node])?);
        Ok(plan)
    }
}

struct Compiler<'a> {
    types: &'a Types,
    subscription: &'a Subscription<'a>,
}

/// Selected fields by their name in the result, in the order of the document.
type Merged<'a> = Vec<(&'a Name, Vec<&'a Field>)>;

impl<'a> Compiler<'a> {
    /// Compiles the selections of one object, which may be of type `of` or a member of it.
    fn copied(&self, of: TypeId, sets: &[&'a SelectionSet]) -> Result<Copied, Error> {
        let is_possible = |id: TypeId| self.types.is_object(id) && self.types.is_member(id, of);
        let possible = self.types.iter().map(|(id, _)| id).filter(|id| is_possible(*id));
        let mut copied = Vec::new();
        for id in possible {
            let mut merged = Merged::new();
            for set in sets {
                self.collect(id, set, &mut merged)?;
            }
            let steps =
                merged.into_iter().filter_map(|(name, fields)| self.step(id, name, &fields).transpose());
            copied.push((id, steps.collect::<Result<_, _>>()?));
        }
        Ok(Copied(copied))
    }

    /// Compiles the fields that share a name in the result.
    fn step(&self, of: TypeId, name: &Name, fields: &[&'a Field]) -> Result<Option<Step>, Error> {
        let Some(first) = fields.first() else { return Ok(None) };
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
            let sets: Vec<_> = fields.iter().map(|field| &field.selection_set.node).collect();
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
                Selection::Field(Positioned { node: field, .. }) => {
                    if self.is_included(&field.directives)? {
                        let name = &field.response_key().node;
                        match merged.iter_mut().find(|(known, _)| *known == name) {
                            Some((_, fields)) => fields.push(field),
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
                    let Some(fragment) = self.subscription.document.fragments.get(&spread.fragment_name.node)
                    else {
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
            let variable = |name: Name| self.subscription.variables.get(&name).cloned().unwrap_or_default();
            let given = given.map(|given| given.into_const_with(|name| Ok::<_, Infallible>(variable(name))));
            let Some(Ok(Argument::Boolean(given))) = given else {
                let text = format!("`if` of `@{}` must be true or false", directive.name.node);
                return Err(Error::bad_input(text));
            };
            is_included &= given == wanted;
        }
        Ok(is_included)
    }
}

#[cfg(test)]
mod tests;
