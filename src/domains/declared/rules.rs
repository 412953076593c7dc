//! Checked rules of a file: what a declared domain runs.
//!
//! [`Rules::parse`] reports every mistake at once. Rules that it returns need no check any more.

use std::collections::HashMap;

use async_graphql::Pos;

use super::{
    count_rule::{self, CountRule},
    definitions,
    directives::{self, Place},
    envelope::{self, EnvelopeRule},
    event_types::EventTypes,
    foreign::Foreign,
    interest::{self, Interest, ViewerTable},
    key_match,
    mutation_rule::{self, Context, MutationRule},
    problem::{Problem, Problems},
    query_rule::{self, QueryRule},
    row::RowAudiences,
    sdl::File,
    state::{Source, State, States},
    subscription_rule::{self, SubscriptionRule},
    template::Placeholder,
    types::{TypeId, Types},
    viewer_paths,
};

/// Rules of a file.
#[derive(Debug)]
pub struct Rules {
    /// Definitions of the file.
    pub file: File,
    /// Types of the file.
    pub types: Types,
    /// Table of viewers. `None`: a viewer is its claims.
    pub viewer: Option<ViewerTable>,
    /// Paths of the viewer that the templates of root fields name.
    pub viewer_paths: Vec<Placeholder>,
    /// Keys that viewers listen to.
    pub interests: Vec<Interest>,
    /// State behind queries.
    pub states: States,
    /// Fields of `Subscription`.
    pub subscriptions: Vec<SubscriptionRule>,
    /// Fields of `Query`.
    pub queries: Vec<QueryRule>,
    /// Fields of `Mutation`.
    pub mutations: Vec<MutationRule>,
    /// Fields that count viewers.
    pub counts: Vec<CountRule>,
    /// Audiences of the values that queries and mutations read.
    pub row_audiences: RowAudiences,
    /// Meaning of each event type.
    pub events: HashMap<Box<str>, EventRule>,
    /// Envelope of messages without CloudEvents. `None`: they are rejected.
    pub envelope: Option<EnvelopeRule>,
}

/// Meaning of an event type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventRule {
    /// Type of the data.
    pub payload: TypeId,
    /// Numbers of the subscription fields that deliver the event. Empty: it only changes state.
    pub fields: Vec<usize>,
    /// Whether queries see the data.
    pub is_projected: bool,
}

impl Rules {
    /// Parses and checks a file.
    ///
    /// # Errors
    /// Every problem of the file, sorted by place.
    pub fn parse(text: &str) -> Result<Self, Vec<Problem>> {
        let mut problems = Problems::default();
        let file = File::parse(text, &mut problems).map_err(|problem| vec![problem])?;
        let foreign = Foreign::new(&file);
        directives::check(&file.schema, Place::Schema, &foreign, &mut problems);
        let types = definitions::types(&file, &foreign, &mut problems);
        let states = States::read(&file, &types, &mut problems);
        let event_types = EventTypes::read(&file, &types, &mut problems);
        let envelope = envelope::read(&file, &event_types, &mut problems);

        let interests = interest::interests(&file, &types, &states, &mut problems);
        let subscriptions = subscription_rule::subscriptions(&file, &types, &mut problems);
        let mut row_audiences = RowAudiences::default();
        let queries = query_rule::queries(&file, &types, &states, &mut row_audiences, &mut problems);
        let context = Context { file: &file, types: &types, states: &states, events: &event_types };
        let mutations = mutation_rule::mutations(&context, &mut row_audiences, &mut problems);
        let counts = count_rule::counts(&file, &types, &mut problems);
        key_match::check(&file, &mut problems);

        if !file.types.iter().any(|ty| super::sdl::ROOTS.contains(&ty.name.node.as_str()))
            && problems.is_empty()
        {
            problems.add(Pos { line: 1, column: 1 }, "the file has no root type; add `type Subscription`");
        }
        let events = events(&event_types, &states, &subscriptions);
        let viewer = interest::viewer(&file);
        let viewer_paths = viewer_paths::paths(&file);
        problems.none(Self {
            file,
            types,
            viewer,
            viewer_paths,
            interests,
            states,
            subscriptions,
            queries,
            mutations,
            counts,
            row_audiences,
            events,
            envelope,
        })
    }

    /// Returns whether the rules name a table of the directory.
    #[must_use]
    pub fn has_tables(&self) -> bool {
        let is_table = |state: &State| matches!(state.source, Source::Table(_));
        self.viewer.is_some() || self.states.by_type.values().any(is_table)
    }
}

/// Returns the meaning of each event type.
fn events(
    types: &EventTypes,
    states: &States,
    subscriptions: &[SubscriptionRule],
) -> HashMap<Box<str>, EventRule> {
    let rule = |kind: &str, payload| {
        let delivers = |field: &SubscriptionRule| field.events.iter().any(|(known, _)| **known == *kind);
        let fields = subscriptions.iter().enumerate().filter(|(_, field)| delivers(field));
        let fields = fields.map(|(number, _)| number).collect();
        let is_projected = matches!(states.by_type.get(&payload).map(|state| &state.source),
            Some(Source::Projection(kinds)) if kinds.iter().any(|known| **known == *kind));
        EventRule { payload, fields, is_projected }
    };
    types.iter().map(|(kind, payload)| (kind.into(), rule(kind, payload))).collect()
}

#[cfg(test)]
mod tests;
