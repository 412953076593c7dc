//! Costs of a file's subscription fields, as `relay check` prints them.

use std::fmt::Write as _;

use super::{filter::Op, rules::Rules};

/// Returns one line for each subscription field: its templates, its indexed arguments, and those
/// that are compared for each plan.
#[must_use]
pub fn costs(rules: &Rules) -> String {
    let mut text = String::new();
    for field in &rules.subscriptions {
        let audience = match (field.audience.is_everyone, field.audience.keys.len()) {
            (true, _) => "everyone".to_owned(),
            (false, 1) => "1 key template".to_owned(),
            (false, count) => format!("{count} key templates"),
        };
        let names = |is_indexed: bool| {
            let filters = field.filters.iter().filter(|filter| (filter.op == Op::Equals) == is_indexed);
            let names: Vec<_> = filters.map(|filter| filter.argument.as_str()).collect();
            if names.is_empty() { "none".to_owned() } else { names.join(", ") }
        };
        // Writing to a text cannot fail.
        let _ = writeln!(
            text,
            "{}: {audience}; indexed arguments: {}; compared arguments: {}",
            field.name,
            names(true),
            names(false)
        );
    }
    for field in &rules.counts {
        let of = if field.is_everyone { "any key of its template" } else { "a key of the viewer" };
        let _ = writeln!(text, "{}: counts the viewers who listen to {of}", field.definition.name.node);
    }
    text
}
