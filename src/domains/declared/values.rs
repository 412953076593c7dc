//! [`Values`]: the values that queries see, of tables and of projections.

use std::{
    collections::HashMap,
    ops::ControlFlow,
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{
    directory::Directory,
    payload::{Object, Payload},
    projection::Projection,
    rules::Rules,
    state::Source,
    types::TypeId,
};
use crate::event::Event;

/// Values of all types with `@table` or `@projection`.
#[derive(Debug)]
pub struct Values(HashMap<TypeId, Held>);

/// Values of one type, with the number of the field that tells them apart.
#[derive(Debug)]
struct Held {
    key: usize,
    kept: Kept,
}

#[derive(Debug)]
enum Kept {
    /// Rows in the order of the file, and the place of each key.
    Table(Vec<Arc<Object>>, HashMap<Box<str>, usize>),
    Projection(Projection),
}

impl Values {
    /// Creates the state of these rules: the rows of the directory, and empty projections that keep
    /// each value for `retention`.
    #[must_use]
    pub fn new(rules: &Rules, directory: &mut Directory, retention: Duration) -> Self {
        let mut rows = directory.take_typed();
        let held = rules.states.by_type.iter().map(|(of, state)| {
            let kept = match state.source {
                Source::Table(_) => {
                    let rows = rows.remove(of).unwrap_or_default();
                    let places = rows
                        .iter()
                        .enumerate()
                        .filter_map(|(place, row)| Some((row.fields.get(state.key)?.key()?.into(), place)));
                    let places = places.collect();
                    Kept::Table(rows, places)
                }
                Source::Projection(_) => Kept::Projection(Projection::new(retention)),
            };
            (*of, Held { key: state.key, kept })
        });
        Self(held.collect())
    }

    /// Applies the data of an event to the projection of its type, if there is one.
    pub fn apply(&self, event: &Event, payload: &Payload) {
        let data = &payload.data;
        let Some(Held { key, kept: Kept::Projection(projection) }) = self.0.get(&data.of) else { return };
        let Some(key) = data.fields.get(*key).and_then(|value| value.key()) else { return };
        projection.apply(event, (&*key).into(), data.clone(), SystemTime::now());
    }

    /// Returns the value of a type with this key.
    #[must_use]
    pub fn get(&self, of: TypeId, key: &str) -> Option<Arc<Object>> {
        match &self.0.get(&of)?.kept {
            Kept::Table(rows, places) => rows.get(*places.get(key)?).cloned(),
            Kept::Projection(projection) => projection.get(key, SystemTime::now()),
        }
    }

    /// Returns whether the values of a type are the rows of a table.
    #[must_use]
    pub fn is_table(&self, of: TypeId) -> bool {
        self.0.get(&of).is_some_and(|held| matches!(held.kept, Kept::Table(..)))
    }

    /// Visits the values of a type until a visit breaks: rows in the order of the file, projected
    /// values in that of their keys. With `after`, they begin behind this key; a table without it
    /// has none behind it.
    pub fn each(
        &self,
        of: TypeId,
        after: Option<&str>,
        mut visit: impl FnMut(&Arc<Object>) -> ControlFlow<()>,
    ) {
        match self.0.get(&of).map(|held| &held.kept) {
            Some(Kept::Table(rows, places)) => {
                let from = match after {
                    None => 0,
                    Some(key) => places.get(key).map_or(rows.len(), |place| place + 1),
                };
                let _ = rows[from..].iter().try_for_each(visit);
            }
            Some(Kept::Projection(projection)) => projection.each(after, SystemTime::now(), &mut visit),
            None => {}
        }
    }
}
