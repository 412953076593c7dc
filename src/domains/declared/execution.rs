//! Runs queries and mutations by plan: the answer is written at once, without the executor.
//!
//! A plan must give the same data as the executor would. It stops where the answer exceeds its
//! bound.

use std::{ops::ControlFlow, sync::Arc};

use async_graphql::{
    PathSegment, Positioned, ServerError,
    parser::types::{Field, OperationType},
};

use super::{
    coerce,
    count_rule::CountRule,
    domain::Declared,
    mutation_rule::MutationRule,
    payload::Object,
    publication::Publication,
    query,
    query_rule::QueryRule,
    selection::{Compiler, Copied},
    trim::{self, Trim},
    values::Visits,
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
        } else if let Some(rule) = rules.counts.iter().find(|rule| rule.definition.name.node == name)
            && root_name == rule.root
        {
            Rule::Count(rule)
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
                let arguments = coerce::arguments(rules, &first.node, definition, &variables, &room)?;
                (copied, trim::trimmed(arguments, rule.trims(), &rules.types))
            }
        };
        steps.push(Step { key, field: first, rule, copied, arguments });
    }
    let visits = Visits::new(Some(operation.turns));
    let mut writer = Writer { domain, operation, data: String::new(), errors: Vec::new(), visits };
    let written = writer.write(root_name, steps).await;
    let Writer { data, errors, .. } = writer;
    Ok(Some(plan::Copied { data: written.map(|()| data), errors }))
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
    Count(&'a CountRule),
    Mutation(&'a MutationRule),
}

impl Rule<'_> {
    fn definition(&self) -> Option<&async_graphql::parser::types::FieldDefinition> {
        match self {
            Rule::Typename => None,
            Rule::Query(rule) => Some(&rule.definition),
            Rule::Count(rule) => Some(&rule.definition),
            Rule::Mutation(rule) => Some(&rule.definition),
        }
    }

    fn trims(&self) -> &[Trim] {
        match self {
            Rule::Typename | Rule::Count(_) => &[],
            Rule::Query(rule) => &rule.trims,
            Rule::Mutation(rule) => &rule.trims,
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
    visits: Visits<'a>,
}

/// Why a root field has no value.
enum Failed {
    Field(Error),
    /// The answer as a whole has no place for the value.
    Answer(Code),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Field(error)
    }
}

impl Writer<'_> {
    async fn write(&mut self, root: &str, steps: Vec<Step<'_>>) -> Result<(), Code> {
        let mut written = Ok(());
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
                Rule::Query(rule) => self.query(rule, &step).await,
                Rule::Count(rule) => self.count(rule, &step).map_err(Failed::Field),
                Rule::Mutation(rule) => self.mutation(rule, &step).await,
            };
            if let Err(failed) = ran {
                let error = match failed {
                    Failed::Field(error) => error,
                    Failed::Answer(code) if root == "Query" => return Err(code),
                    Failed::Answer(code) => {
                        // The other mutations run nevertheless.
                        written = Err(code);
                        self.data.truncate(start);
                        continue;
                    }
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
        written
    }

    async fn query(&mut self, rule: &QueryRule, step: &Step<'_>) -> Result<(), Failed> {
        let (data, visits, most) = (&mut self.data, &mut self.visits, self.operation.space.bytes());
        let (start, mut is_whole) = (data.len(), true);
        if rule.is_list {
            data.push('[');
        }
        let visit = |value: &Arc<Object>| {
            if rule.is_list && !data.ends_with('[') {
                data.push(',');
            }
            is_whole = step.copied.object(value, data, most);
            if is_whole { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        query::run(self.domain, rule, &step.arguments, self.operation.viewer, visits, visit).await?;
        if !is_whole {
            return Err(Failed::Answer(Code::ResultTooLarge));
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

    /// Writes a count; null while it is not known.
    fn count(&mut self, rule: &CountRule, step: &Step<'_>) -> Result<(), Error> {
        let Operation { viewer, counts, .. } = *self.operation;
        let key = rule.key(&step.arguments, viewer)?;
        let count = counts.map_or(Ok(None), |counts| counts.ask(&viewer.user, &key));
        let count = count.map_err(|error| Error::new(Code::LimitReached, error.to_string()))?;
        self.data.push_str(&count.map_or_else(|| "null".to_owned(), |count| count.to_string()));
        Ok(())
    }

    async fn mutation(&mut self, rule: &MutationRule, step: &Step<'_>) -> Result<(), Failed> {
        let Operation { viewer, event_publisher, space, receipt, .. } = *self.operation;
        let publication = Publication::new(self.domain, rule, &step.arguments, viewer, event_publisher)?;
        let answer = publication.publish(event_publisher, receipt).await?;
        let Some(object) = answer else {
            self.data.push_str("true");
            return Ok(());
        };
        let (start, mut most) = (self.data.len(), space.bytes());
        while !step.copied.object(&object, &mut self.data, most) {
            self.data.truncate(start);
            most = space.grow().map_err(Failed::Answer)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
