//! Event types of a file, each with the one type of its data.

use std::collections::{HashMap, HashSet};

use async_graphql::Pos;

use super::{
    arguments,
    problem::Problems,
    sdl::{File, named},
    types::{TypeId, Types},
};
use crate::event::CONTROL;

/// Type of the data of each event type.
#[derive(Debug, Default)]
pub struct EventTypes(HashMap<Box<str>, TypeId>);

impl EventTypes {
    /// Collects the event types of `@event` and `@projection`.
    pub fn read(file: &File, types: &Types, problems: &mut Problems) -> Self {
        let mut events = Self::default();
        for definition in &file.types {
            let Some(projection) = arguments::find(&definition.directives, "projection") else { continue };
            let Some(id) = types.id(&definition.name.node).filter(|id| types.is_object(*id)) else {
                continue;
            };
            let at = arguments::place_of(projection, "events");
            for kind in arguments::texts(projection, "events") {
                events.add(kind, id, at, types, problems);
            }
        }
        for field in file.get("Subscription").into_iter().flat_map(|root| root.fields()) {
            for event in arguments::all(&field.node.directives, "event") {
                let of = arguments::text(event, "as").unwrap_or_else(|| named(&field.node.ty.node));
                let id = types.id(of).filter(|id| types.is_object(*id));
                if let (Some(kind), Some(id)) = (arguments::text(event, "type"), id) {
                    events.add(kind, id, arguments::place_of(event, "type"), types, problems);
                }
            }
        }
        let mut seen = HashSet::new();
        let payloads: HashSet<TypeId> = events.0.values().copied().collect();
        for id in payloads {
            check_members(id, file, types, &mut seen, problems);
        }
        events
    }

    fn add(&mut self, kind: &str, id: TypeId, at: Pos, types: &Types, problems: &mut Problems) {
        if kind.is_empty() || kind.starts_with(CONTROL) {
            problems.add(at, "an event type is not empty and does not begin with `relay.`; name another");
        }
        let known = *self.0.entry(kind.into()).or_insert(id);
        if known != id {
            let (ours, other) = (&types.get(id).name, &types.get(known).name);
            let text =
                format!("event `{kind}` is `{ours}` here and `{other}` elsewhere; use one type for its data");
            problems.add(at, text);
        }
    }

    /// Returns the type of the data of an event type.
    #[must_use]
    pub fn payload(&self, kind: &str) -> Option<TypeId> {
        self.0.get(kind).copied()
    }

    /// Returns all event types with the types of their data.
    pub fn iter(&self) -> impl Iterator<Item = (&str, TypeId)> {
        self.0.iter().map(|(kind, id)| (&**kind, *id))
    }
}

/// Reports fields of a payload that are interfaces or unions. Data does not name its member.
fn check_members(
    id: TypeId,
    file: &File,
    types: &Types,
    seen: &mut HashSet<TypeId>,
    problems: &mut Problems,
) {
    let mut waiting = vec![id];
    while let Some(id) = waiting.pop() {
        if !seen.insert(id) {
            continue;
        }
        for field in types.fields(id) {
            if types.is_abstract(field.of) {
                let place = file.get(&types.get(id).name).and_then(|ty| ty.field(&field.name));
                let text = format!(
                    "`{}` has no one type, and data does not name it; use an object type",
                    field.name
                );
                problems.add(place.map_or_else(Pos::default, |place| place.ty.pos), text);
            } else if types.is_object(field.of) {
                waiting.push(field.of);
            }
        }
    }
}
