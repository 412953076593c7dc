//! Viewers of the file: `@viewer` and `@interest`.

use async_graphql::{Pos, Value, parser::types::ConstDirective};

use super::{
    arguments,
    key_rule::{self, KeyRule},
    problem::Problems,
    sdl::File,
    state::States,
    template::{Root, Template},
    types::Types,
};

/// Key that viewers listen to.
#[derive(Clone, Debug)]
pub struct Interest {
    /// Template of the key.
    pub key: KeyRule,
    /// Rows that the key is built of. `None`: it is built of the viewer.
    pub rows: Option<Rows>,
}

/// Rows of a table that meet conditions.
#[derive(Clone, Debug)]
pub struct Rows {
    /// Name of the table.
    pub table: Box<str>,
    /// Column and the template of the values that it may have. All must hold.
    pub conditions: Vec<(Box<str>, Template)>,
}

/// Table of viewers, with the columns that find them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ViewerTable {
    /// Name of the table.
    pub table: Box<str>,
    /// Column that equals the claim `sub`.
    pub id: Box<str>,
    /// Column that equals a demo token.
    pub token: Option<Box<str>>,
    /// Column that equals the claim `email`, ignoring case.
    pub email: Option<Box<str>>,
}

/// Reads `@viewer`.
#[must_use]
pub fn viewer(file: &File) -> Option<ViewerTable> {
    let viewer = arguments::find(&file.schema, "viewer")?;
    let column = |name| arguments::text(viewer, name).map(Into::into);
    let id = column("id").unwrap_or_else(|| "id".into());
    Some(ViewerTable { table: column("table")?, id, token: column("token"), email: column("email") })
}

/// Reads every `@interest`. A wrong one is reported and left out.
pub fn interests(file: &File, types: &Types, states: &States, problems: &mut Problems) -> Vec<Interest> {
    let interests = arguments::all(&file.schema, "interest");
    interests.filter_map(|interest| read(interest, types, states, problems)).collect()
}

fn read(
    directive: &ConstDirective,
    types: &Types,
    states: &States,
    problems: &mut Problems,
) -> Option<Interest> {
    let at = arguments::place_of(directive, "key");
    let text = arguments::text(directive, "key")?;
    let key = key_rule::parse(at, &[text], problems).pop()?;
    if key.template.placeholders().next().is_none() {
        let text =
            format!("`{text}` has no path, so that every viewer would have it; add one such as {{sub}}");
        problems.add(at, text);
        return None;
    }
    let rows = match arguments::text(directive, "of") {
        Some(of) => Some(rows(directive, of, &key, types, states, problems)?),
        None if directive.get_argument("where").is_some() => {
            let text = "`where` chooses rows of a table; name its type with `of`";
            problems.add(arguments::place_of(directive, "where"), text);
            None
        }
        None => {
            check_roots(at, &key.template, problems);
            None
        }
    };
    Some(Interest { key, rows })
}

fn rows(
    directive: &ConstDirective,
    of: &str,
    key: &KeyRule,
    types: &Types,
    states: &States,
    problems: &mut Problems,
) -> Option<Rows> {
    let id = types.id(of);
    let Some((id, table)) = id.and_then(|id| Some((id, states.table(id)?))) else {
        let text = format!("`{of}` is no type with `@table`; name one that is");
        problems.add(arguments::place_of(directive, "of"), text);
        return None;
    };
    for placeholder in key.template.placeholders() {
        if placeholder.root == Root::Document && types.find(id, &placeholder.steps).is_none() {
            problems.add(key.at, format!("there is no `{placeholder}` in `{of}`; correct the path"));
        }
    }
    check_roots(key.at, &key.template, problems);
    let at = arguments::place_of(directive, "where");
    let mut conditions = Vec::new();
    if let Some(Value::Object(given)) = directive.get_argument("where").map(|given| &given.node) {
        for (column, value) in given {
            let Value::String(text) = value else {
                problems.add(at, format!("`{column}` must be a text such as \"{{orgId}}\""));
                continue;
            };
            if types.find(id, &[column.as_str().into()]).is_none_or(|found| !types.is_leaf(found.of)) {
                problems.add(at, format!("`{of}` has no column `{column}`; correct the name"));
            }
            match Template::parse(text) {
                Ok(template) => {
                    check_roots(at, &template, problems);
                    conditions.push((column.as_str().into(), template));
                }
                Err(error) => problems.add(at, error.to_string()),
            }
        }
    }
    Some(Rows { table: table.into(), conditions })
}

/// Reports paths that start at something else than the document or the viewer.
fn check_roots(at: Pos, template: &Template, problems: &mut Problems) {
    for placeholder in template.placeholders() {
        if !matches!(placeholder.root, Root::Document | Root::Viewer) {
            let text = format!("`{{{placeholder}}}` is not known here; use columns or claims of the viewer");
            problems.add(at, text);
        }
    }
}
