//! Runs a field of `Query`: finds the values, and leaves out those that the viewer may not see.

use std::{collections::BTreeSet, ops::ControlFlow, sync::Arc};

use super::{
    allow, cells,
    comparison::{self, Comparison},
    domain::Declared,
    payload::Object,
    query_rule::{AFTER_KEY, FIRST, QueryRule},
    root_arguments::RootArguments,
    row::Row,
    values::Visits,
};
use crate::{audience::Viewer, graphql::Error};

/// Most values of a page. A larger page is refused.
pub const MAX_PAGE: u64 = 1_000;

/// Visits the values of a field in order, until a visit breaks. A single value is at most one.
///
/// # Errors
/// `FORBIDDEN`, or an argument out of bounds. `OVERLOADED`: too many long queries of the viewer
/// wait.
pub async fn run(
    domain: &Declared,
    rule: &QueryRule,
    arguments: &RootArguments,
    viewer: &Viewer,
    visits: &mut Visits<'_>,
    mut visit: impl FnMut(&Arc<Object>) -> ControlFlow<()> + Send,
) -> Result<(), Error> {
    allow::check(&rule.allows, arguments, viewer)?;
    let wanted = Wanted::new(rule, arguments, viewer)?;
    let text = |name: &str| {
        let value = arguments.document().get(name).filter(|value| !value.is_null());
        value.map(cells::argument_text)
    };
    if let Some(key) = rule.key.as_ref() {
        let row = domain.values().get(rule.of, &text(key).unwrap_or_default());
        if let Some(row) = row.filter(|row| wanted.has(row)) {
            let _ = visit(&row.value);
        }
        return Ok(());
    }
    let mut left = match arguments.document().get(FIRST).filter(|first| !first.is_null()) {
        None => u64::MAX,
        Some(first) => {
            let first = first.as_u64().filter(|first| *first <= MAX_PAGE);
            first.ok_or_else(|| Error::bad_input(format!("`{FIRST}` is a number from 0 to {MAX_PAGE}")))?
        }
    };
    if left == 0 {
        return Ok(());
    }
    let after = text(AFTER_KEY);
    let hidden = after.as_ref().filter(|_| domain.values().is_table(rule.of));
    if hidden.and_then(|key| domain.values().get(rule.of, key)).is_some_and(|row| !wanted.is_visible(&row)) {
        // As for a key that no row has: pages must not tell one from the other.
        return Ok(());
    }
    let visit = |row: &Row| {
        if !wanted.has(row) {
            return ControlFlow::Continue(());
        }
        left -= 1;
        visit(&row.value)?;
        if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    domain.values().each(rule.of, after.as_deref(), visits, visit).await
}

/// What a value must have to be part of a result.
struct Wanted<'a> {
    rule: &'a QueryRule,
    /// Texts of which a value has one, with the steps to it.
    equal: Vec<(&'a [usize], BTreeSet<String>)>,
    comparisons: Vec<Comparison>,
    viewer: &'a Viewer,
}

impl<'a> Wanted<'a> {
    fn new(rule: &'a QueryRule, arguments: &RootArguments, viewer: &'a Viewer) -> Result<Self, Error> {
        let mut equal = Vec::new();
        for filter in cells::indexed(&rule.filters) {
            if let (Some(texts), Some(steps)) = (cells::texts(filter, arguments)?, filter.steps.get(&rule.of))
            {
                equal.push((&**steps, texts.into_iter().map(|text| text.into_owned()).collect()));
            }
        }
        let comparisons = comparison::comparisons(&rule.filters, arguments);
        Ok(Self { rule, equal, comparisons, viewer })
    }

    fn has(&self, row: &Row) -> bool {
        let value = &*row.value;
        let is_equal = |(steps, wanted): &(&[usize], BTreeSet<String>)| {
            let mut texts = BTreeSet::new();
            cells::object_texts(value, steps, &mut texts);
            texts.iter().any(|text| wanted.contains(&**text))
        };
        self.is_visible(row)
            && self.equal.iter().all(is_equal)
            && self.comparisons.iter().all(|comparison| comparison.holds(value))
    }

    /// Returns whether the audience includes the viewer.
    fn is_visible(&self, row: &Row) -> bool {
        row.is_for(self.rule.row_audience, self.viewer)
    }
}
