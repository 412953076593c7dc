//! Takes the cursor out of a subscription's request.
//!
//! Each client resumes from a position of its own, but many watch the same subscription. Without
//! their cursors, their requests become one shared operation. It must not change anything else in a
//! request.

use std::convert::Infallible;

use async_graphql::{
    Name, Pos, Request, Value,
    parser::types::{Field, OperationDefinition},
};

/// Argument of a subscription's root field that takes a cursor; its resolver does not see the
/// cursor. A request may carry the cursor in its extension of this name instead.
pub const AFTER: &str = "after";

/// Text that replaces every cursor.
const NONE: &str = "";

/// A cursor that was taken out of a request.
pub(super) struct Taken {
    pub(super) cursor: String,
    /// Whether the cursor was a literal, so that the document's text has changed.
    pub(super) is_in_document: bool,
}

/// Takes the cursor of this field out of the request; `None` if there is none, or if it is not a
/// text.
pub(super) fn take(request: &mut Request, operation: &OperationDefinition, field: &Field) -> Option<Taken> {
    let argument = field.get_argument(AFTER)?;
    let mut variable = None;
    let value = argument.node.clone().into_const_with(|name| {
        let value = self::variable(request, operation, &name).unwrap_or_default();
        variable = Some(name);
        Ok::<_, Infallible>(value)
    });
    let Ok(Value::String(cursor)) = value else { return None };
    let is_in_document = variable.is_none();
    if let Some(name) = variable {
        request.variables.insert(name, Value::from(NONE));
    } else {
        let from = offset(&request.query, argument.pos)?;
        let to = from + literal(&request.query[from..])?;
        request.query.replace_range(from..to, "\"\"");
    }
    Some(Taken { cursor, is_in_document })
}

/// Returns the value of a variable: that of the request, else its default.
pub(super) fn variable(request: &Request, operation: &OperationDefinition, name: &Name) -> Option<Value> {
    request.variables.get(name).or_else(|| default(operation, name)).cloned()
}

/// Returns the default value of a variable, if the operation declares one.
fn default<'a>(operation: &'a OperationDefinition, name: &Name) -> Option<&'a Value> {
    let mut definitions = operation.variable_definitions.iter().map(|definition| &definition.node);
    let definition = definitions.find(|definition| definition.name.node == *name)?;
    definition.default_value.as_ref().map(|value| &value.node)
}

/// Returns the offset of a position in the text, in bytes.
fn offset(text: &str, pos: Pos) -> Option<usize> {
    // The parser counts in the same way: only a line feed ends a line.
    let (mut line, mut column) = (1, 1);
    for (at, character) in text.char_indices() {
        if (line, column) == (pos.line, pos.column) {
            return Some(at);
        }
        (line, column) = match character {
            '\n' => (line + 1, 1),
            '\r' => (line, 1),
            _ => (line, column + 1),
        };
    }
    None
}

/// Returns the length of the string literal at the start of the text, in bytes, quotes included.
pub(super) fn literal(text: &str) -> Option<usize> {
    let quotes = if text.starts_with("\"\"\"") { "\"\"\"" } else { "\"" };
    let mut at = quotes.len();
    text.starts_with(quotes).then_some(())?;
    loop {
        let rest = text.get(at..)?;
        if rest.starts_with(quotes) {
            return Some(at + quotes.len());
        }
        let mut characters = rest.chars();
        at += match characters.next()? {
            // In a block string a backslash escapes nothing but the quotes that would end it.
            '\\' if quotes.len() == 1 => 1 + characters.next()?.len_utf8(),
            '\\' if rest[1..].starts_with(quotes) => 1 + quotes.len(),
            other => other.len_utf8(),
        };
    }
}
