//! Runs queries and mutations by plan: the answer is written at once, without the executor.
//!
//! A plan must give the same data as the executor would. It stops where the answer exceeds its
//! bound.

use std::ops::ControlFlow;

use async_graphql::{
    PathSegment, Positioned, ServerError,
    parser::types::{Field, OperationType},
};

use super::{
    coerce,
    domain::Declared,
    mutation_rule::MutationRule,
    publication::Publication,
    query,
    query_rule::QueryRule,
    selection::{Compiler, Copied},
};
use crate::graphql::{
    Error,
    error::Code,
    plan::{self, Operation},
};

/// Runs an operation. `None`: it selects a field that is not of the file, so the executor has to
/// run it.
///
/// # Errors
/// The request as a whole is refused: a value of a variable or an argument does not fit.
pub async fn run(domain: &Declared, operation: &Operation<'_>) -> Result<Option<plan::Copied>, Error> {
    let rules = domain.rules();
    let root_name = match operation.definition.ty {
        OperationType::Query => "Query",
        OperationType::Mutation => "Mutation",
        OperationType::Subscription => return Ok(None),
    };
    let Some(root) = rules.types.id(root_name) else { return Ok(None) };
    let variables = coerce::variables(rules, operation.definition, operation.variables)?;
    let compiler = Compiler { types: &rules.types, document: operation.document, variables: &variables };
    let (mut steps, room) = (Vec::new(), coerce::Room::default());
    for (key, fields) in compiler.merged(root, &[&operation.definition.selection_set.node])? {
        let Some(first) = fields.first().copied() else { continue };
        let name = first.node.name.node.as_str();
        if !fields.iter().all(|field| has_arguments(&field.node, &first.node)) {
            let text = format!("the fields under `{key}` have different arguments");
            return Err(Error::new(Code::ValidationFailed, text));
        }
        let rule = if name == "__typename" {
            Rule::Typename
        } else if let Some(rule) = rules.queries.iter().find(|rule| rule.definition.name.node == name)
            && root_name == "Query"
        {
            Rule::Query(rule)
        } else if let Some(rule) = rules.mutations.iter().find(|rule| rule.definition.name.node == name)
            && root_name == "Mutation"
        {
            Rule::Mutation(rule)
        } else {
            return Ok(None);
        };
        let sets: Vec<_> = fields.iter().map(|field| &field.node.selection_set.node).collect();
        let (copied, arguments) = match rule.definition() {
            None => Default::default(),
            Some(definition) => {
                let of = rules.types.id(super::sdl::named(&definition.ty.node)).unwrap_or_default();
                let copied = compiler.copied(of, &sets)?;
                (copied, coerce::arguments(rules, &first.node, definition, &variables, &room)?)
            }
        };
        steps.push(Step { key, field: first, rule, copied, arguments });
    }
    let mut writer = Writer { domain, operation, data: String::new(), errors: Vec::new() };
    let is_whole = writer.write(root_name, steps).await.is_ok();
    let Writer { data, errors, .. } = writer;
    Ok(Some(plan::Copied { data: is_whole.then_some(data), errors }))
}

/// Returns whether a field has the same arguments as another one.
fn has_arguments(field: &Field, other: &Field) -> bool {
    let mut given = field.arguments.iter();
    field.arguments.len() == other.arguments.len()
        && given
            .all(|(name, value)| other.get_argument(&name.node).is_some_and(|known| known.node == value.node))
}

/// Rule that a root field runs by.
#[derive(Clone, Copy)]
enum Rule<'a> {
    Typename,
    Query(&'a QueryRule),
    Mutation(&'a MutationRule),
}

impl Rule<'_> {
    fn definition(&self) -> Option<&async_graphql::parser::types::FieldDefinition> {
        match self {
            Rule::Typename => None,
            Rule::Query(rule) => Some(&rule.definition),
            Rule::Mutation(rule) => Some(&rule.definition),
        }
    }
}

/// Root field that is ready to run.
struct Step<'a> {
    /// Name in the answer.
    key: &'a str,
    field: &'a Positioned<Field>,
    rule: Rule<'a>,
    copied: Copied,
    arguments: super::root_arguments::RootArguments,
}

/// Writer of an answer.
struct Writer<'a> {
    domain: &'a Declared,
    operation: &'a Operation<'a>,
    data: String,
    errors: Vec<ServerError>,
}

/// The data has more bytes than it may.
struct TooLarge;

/// Why a root field has no value.
enum Failed {
    Field(Error),
    TooLarge,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Field(error)
    }
}

impl Writer<'_> {
    async fn write(&mut self, root: &str, steps: Vec<Step<'_>>) -> Result<(), TooLarge> {
        let mut is_too_large = false;
        self.data.push('{');
        for (place, step) in steps.into_iter().enumerate() {
            if place > 0 {
                self.data.push(',');
            }
            // A name of GraphQL has nothing to escape.
            self.data.push_str(&["\"", step.key, "\":"].concat());
            let start = self.data.len();
            let is_nullable = step.rule.definition().is_none_or(|definition| definition.ty.node.nullable);
            let ran = match step.rule {
                Rule::Typename => {
                    self.data.push_str(&["\"", root, "\""].concat());
                    Ok(())
                }
                Rule::Query(rule) => self.query(rule, &step),
                Rule::Mutation(rule) => self.mutation(rule, &step).await,
            };
            if let Err(failed) = ran {
                let Failed::Field(error) = failed else {
                    if root == "Query" {
                        return Err(TooLarge);
                    }
                    // The other mutations run nevertheless.
                    is_too_large = true;
                    self.data.truncate(start);
                    continue;
                };
                let path = vec![PathSegment::Field(step.key.to_owned())];
                self.errors.push(error.at(Some(step.field.pos), path));
                if !is_nullable {
                    "null".clone_into(&mut self.data);
                    return Ok(());
                }
                self.data.truncate(start);
                self.data.push_str("null");
            }
        }
        self.data.push('}');
        if is_too_large { Err(TooLarge) } else { Ok(()) }
    }

    fn query(&mut self, rule: &QueryRule, step: &Step<'_>) -> Result<(), Failed> {
        let (data, most) = (&mut self.data, self.operation.max_bytes);
        let (start, mut is_whole) = (data.len(), true);
        if rule.is_list {
            data.push('[');
        }
        query::run(self.domain, rule, &step.arguments, self.operation.viewer, |value| {
            if rule.is_list && !data.ends_with('[') {
                data.push(',');
            }
            is_whole = step.copied.object(value, data, most);
            if is_whole { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        if !is_whole {
            return Err(Failed::TooLarge);
        }
        if rule.is_list {
            data.push(']');
        } else if data.len() == start && rule.definition.ty.node.nullable {
            data.push_str("null");
        } else if data.len() == start {
            let name = &self.domain.rules().types.get(rule.of).name;
            return Err(Error::not_found(format!("there is no such {name}")).into());
        }
        Ok(())
    }

    async fn mutation(&mut self, rule: &MutationRule, step: &Step<'_>) -> Result<(), Failed> {
        let Operation { viewer, event_publisher, .. } = *self.operation;
        let publication = Publication::new(self.domain, rule, &step.arguments, viewer, event_publisher)?;
        let answer = publication.publish(event_publisher).await?;
        let data = &mut self.data;
        match answer {
            Some(object) if !step.copied.object(&object, data, self.operation.max_bytes) => {
                return Err(Failed::TooLarge);
            }
            Some(_) => {}
            None => data.push_str("true"),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
