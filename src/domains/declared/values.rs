//! [`Values`]: the values that queries see, of tables and of projections.

use std::{
    collections::HashMap,
    ops::ControlFlow,
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{
    directory::Directory,
    payload::Payload,
    projection::Projection,
    row::{Row, TypeAudiences},
    rules::Rules,
    state::Source,
    topic_clock::TopicClock,
    types::TypeId,
};
use crate::{
    event::Event,
    graphql::{Error, Turn, Turns},
};

/// Bytes of rows that a query visits before other tasks run: well below a millisecond.
pub const TURN_BYTES: usize = 64 << 10;

/// What a visit costs besides the row's bytes, as bytes.
const ROW_OVERHEAD: usize = 512;

/// Values of all types with `@table` or `@projection`.
#[derive(Debug)]
pub struct Values {
    held: HashMap<TypeId, Held>,
    clock: TopicClock,
}

/// Values of one type, with the number of the field that tells them apart.
#[derive(Debug)]
struct Held {
    key: usize,
    audiences: TypeAudiences,
    kept: Kept,
}

#[derive(Debug)]
enum Kept {
    /// Rows in the order of the file, and the place of each key.
    Table(Vec<Arc<Row>>, HashMap<Box<str>, usize>),
    Projection(Projection),
}

impl Values {
    /// Creates the state of these rules: the rows of the directory, and empty projections that keep
    /// each value for `retention`.
    #[must_use]
    pub fn new(rules: &Rules, directory: &mut Directory, retention: Duration) -> Self {
        let mut rows = directory.take_typed();
        let held = rules.states.by_type.iter().map(|(of, state)| {
            let audiences = rules.row_audiences.of(*of);
            let kept = match state.source {
                Source::Table(_) => {
                    let rows = rows.remove(of).unwrap_or_default();
                    let places = rows
                        .iter()
                        .enumerate()
                        .filter_map(|(place, row)| Some((row.fields.get(state.key)?.key()?.into(), place)));
                    let places = places.collect();
                    Kept::Table(rows.into_iter().map(|row| audiences.row(row)).collect(), places)
                }
                Source::Projection(_) => Kept::Projection(Projection::new(retention)),
            };
            (*of, Held { key: state.key, audiences, kept })
        });
        Self { held: held.collect(), clock: TopicClock::default() }
    }

    /// Takes the time at which the topic published a message.
    pub fn hear(&self, published: SystemTime) {
        self.clock.hear(published);
    }

    /// Applies the data of an event to the projection of its type, if there is one.
    pub fn apply(&self, event: &Event, payload: &Payload) {
        event.published.into_iter().for_each(|published| self.hear(published));
        let data = &payload.data;
        let Some(Held { key, audiences, kept: Kept::Projection(projection) }) = self.held.get(&data.of)
        else {
            return;
        };
        let Some(key) = data.fields.get(*key).and_then(|value| value.key()) else { return };
        projection.apply(event, &(&*key).into(), audiences.row(data.clone()), self.clock.now());
    }

    /// Returns the value of a type with this key.
    #[must_use]
    pub fn get(&self, of: TypeId, key: &str) -> Option<Arc<Row>> {
        match &self.held.get(&of)?.kept {
            Kept::Table(rows, places) => rows.get(*places.get(key)?).cloned(),
            Kept::Projection(projection) => projection.get(key, self.clock.now()),
        }
    }

    /// Returns whether the values of a type are the rows of a table.
    #[must_use]
    pub fn is_table(&self, of: TypeId) -> bool {
        self.held.get(&of).is_some_and(|held| matches!(held.kept, Kept::Table(..)))
    }

    /// Visits the values of a type until a visit breaks: rows in the order of the file, projected
    /// values in that of their keys. With `after`, they begin behind this key; a table without it
    /// has none behind it.
    ///
    /// Other tasks run in between: after each [`TURN_BYTES`] of rows. Behind the first ones it goes
    /// on when it is the viewer's turn, so that one long query of a user runs at a time.
    ///
    /// # Errors
    /// `OVERLOADED`: too many long queries of the viewer wait.
    pub async fn each(
        &self,
        of: TypeId,
        after: Option<&str>,
        visits: &mut Visits<'_>,
        mut visit: impl FnMut(&Row) -> ControlFlow<()> + Send,
    ) -> Result<(), Error> {
        match self.held.get(&of).map(|held| &held.kept) {
            Some(Kept::Table(rows, places)) => {
                let from = match after {
                    None => 0,
                    Some(key) => places.get(key).map_or(rows.len(), |place| place + 1),
                };
                visits.visit(&rows[from..], &mut visit).await?;
            }
            Some(Kept::Projection(projection)) => {
                let (mut rows, mut last) = projection.page(after, self.clock.now());
                while visits.visit(&rows, &mut visit).await?
                    && let Some(key) = last
                {
                    (rows, last) = projection.page(Some(&key), self.clock.now());
                }
            }
            None => {}
        }
        Ok(())
    }
}

/// Visits of one operation, in all of its fields.
pub struct Visits<'a> {
    /// `None` if the operation has its turn already.
    turns: Option<Turns<'a>>,
    /// The viewer's turn, once the query takes long.
    turn: Option<Turn>,
    /// Bytes that were visited since other tasks last ran.
    bytes: usize,
}

impl<'a> Visits<'a> {
    /// Creates the state of an operation that has visited nothing. `None`: it has its turn already.
    #[must_use]
    pub const fn new(turns: Option<Turns<'a>>) -> Self {
        Self { turns, turn: None, bytes: 0 }
    }

    /// Visits the rows. Returns whether no visit broke.
    async fn visit(
        &mut self,
        rows: &[Arc<Row>],
        visit: &mut (impl FnMut(&Row) -> ControlFlow<()> + Send),
    ) -> Result<bool, Error> {
        for row in rows {
            self.bytes += ROW_OVERHEAD + row.bytes();
            if self.bytes > TURN_BYTES {
                self.bytes = 0;
                if let Some(turns) = self.turns.take() {
                    self.turn = Some(turns.next().await?);
                }
                tokio::task::yield_now().await;
            }
            if visit(row).is_break() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
