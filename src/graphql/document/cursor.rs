//! Takes the cursor out of a subscription's request.
//!
//! Where a client resumes is its own affair; what it watches it shares with others. Without their cursors, the requests of
//! all who watch the same are the same operation.

use std::convert::Infallible;

use async_graphql::{Name, Pos, Request, Value, parser::types::Field};

use super::AFTER;

/// What stands in the place of every cursor.
const NONE: &str = "";

/// Where the cursor stands in the request.
enum Place {
    Variable(Name),
    Literal(Pos),
}

/// The cursor that the field is to resume from, taken out of the request; `None` if there is none, or no text. The
/// request's document may have to be parsed again.
pub(super) fn take(request: &mut Request, field: &Field) -> Option<String> {
    let argument = field.get_argument(AFTER)?;
    let mut place = Place::Literal(argument.pos);
    let value = argument.node.clone().into_const_with(|name| {
        let value = request.variables.get(&name).cloned().unwrap_or_default();
        place = Place::Variable(name);
        Ok::<_, Infallible>(value)
    });
    let Ok(Value::String(cursor)) = value else { return None };
    match place {
        Place::Variable(name) => {
            request.variables.insert(name, Value::from(NONE));
        }
        Place::Literal(pos) => {
            let from = offset(&request.query, pos)?;
            let to = from + literal(&request.query[from..])?;
            request.query.replace_range(from..to, "\"\"");
        }
    }
    Some(cursor)
}

/// Where in the text the position is, in bytes.
fn offset(text: &str, pos: Pos) -> Option<usize> {
    // As the parser counts: only a line feed ends a line.
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

/// How long the string is that the text begins with, in bytes, quotes included.
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
            '\\' => 1 + characters.next()?.len_utf8(),
            other => other.len_utf8(),
        };
    }
}
