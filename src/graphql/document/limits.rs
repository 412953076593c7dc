//! Checks the size and shape of a document before any other code reads it.
//!
//! The executor's own limits walk through the whole document, so a small text could cost much work.
//! Nothing here may cost more than a few passes over the text.

use std::{collections::HashMap, iter};

use async_graphql::{
    Name, Response,
    parser::parse_query,
    parser::types::{ExecutableDocument, Selection, SelectionSet},
};

use super::{cursor, parsed::Document};
use crate::graphql::error::{Code, Error, refuse};

/// Most bytes of a document: 32 KiB, eight times the indented introspection query of known tools. A
/// longer document is refused.
const MAX_BYTES: usize = 32 << 10;

/// Most tokens of a document: four times those of the introspection query of known tools. They are
/// counted before the document is parsed. A document with more is refused without the cost of
/// parsing.
pub(super) const MAX_TOKENS: usize = 1_000;

/// Most fields of a document that may carry an alias: enough for any page, too few to multiply
/// work. A document with more is refused.
const MAX_ALIASES: usize = 30;

/// Most selections of a document with each fragment written out where it is spread. It is twice the
/// number of fields that an operation may resolve. The executor's own limits walk through every
/// selection. Fragments that spread others twice double the number with each level.
const MAX_SELECTIONS: usize = 2_000;

/// Most fields of a document that ask for the schema, with each fragment written out. Tools need
/// one or two. The answer to each may be long.
const MAX_SCHEMA_FIELDS: usize = 4;

/// Most lists of the schema within one another, with each fragment written out. The introspection
/// query of tools has one. Each level multiplies the answer by the number of fields of a type.
const MAX_SCHEMA_LISTS: usize = 2;

/// Fields of the schema that are lists of what leads to further lists.
const SCHEMA_LISTS: [&str; 4] = ["fields", "inputFields", "interfaces", "possibleTypes"];

/// Parses the text, if it is within the limits. Only with `introspection` may it ask for the
/// schema.
///
/// # Errors
/// A response that refuses the request.
pub(super) fn parse(text: &str, introspection: bool) -> Result<Document, Box<Response>> {
    if text.len() > MAX_BYTES {
        return refuse(Code::ValidationFailed, format!("the document has more than {MAX_BYTES} bytes"));
    }
    let tokens = tokens(text).count();
    if tokens > MAX_TOKENS {
        return refuse(Code::ValidationFailed, format!("the document has more than {MAX_TOKENS} tokens"));
    }
    let document = parse_query(text)
        .map_err(|error| Box::new(Error::new(Code::ParseFailed, error.to_string()).response()))?;
    let mut survey = Survey::default();
    selection_sets(&document).for_each(|set| survey.walk(set));
    if survey.aliases > MAX_ALIASES {
        let text = format!("the document has {} aliases; {MAX_ALIASES} is the most", survey.aliases);
        return refuse(Code::ValidationFailed, text);
    }
    if survey.asks_for_schema && !introspection {
        return refuse(Code::ValidationFailed, "introspection is switched off here");
    }
    let mut sizes = HashMap::new();
    if selection_sets(&document).any(|set| written_out(set, &document, &mut sizes) > MAX_SELECTIONS) {
        let text =
            format!("with its fragments written out, the document has more than {MAX_SELECTIONS} selections");
        return refuse(Code::ValidationFailed, text);
    }
    if survey.asks_for_schema {
        check_schema_fields(&document)?;
    }
    Ok(Document::new(document, text, tokens).asking_for_schema(survey.asks_for_schema))
}

/// Checks how much of the schema a document asks for.
///
/// # Errors
/// A response that refuses the request.
fn check_schema_fields(document: &ExecutableDocument) -> Result<(), Box<Response>> {
    for (_, operation) in document.operations.iter() {
        let mut found = Vec::new();
        schema_fields(&operation.node.selection_set.node, document, &mut found);
        if found.len() > MAX_SCHEMA_FIELDS {
            let text = format!(
                "the document has {} fields of the schema; {MAX_SCHEMA_FIELDS} is the most",
                found.len()
            );
            return refuse(Code::ValidationFailed, text);
        }
        let lists = found.into_iter().map(|set| schema_lists(set, document)).max().unwrap_or_default();
        if lists > MAX_SCHEMA_LISTS {
            let text = format!(
                "the document has {lists} lists of the schema within one another; {MAX_SCHEMA_LISTS} is the most"
            );
            return refuse(Code::ValidationFailed, text);
        }
    }
    Ok(())
}

/// Returns whether a field asks for the schema.
fn is_of_schema(name: &str) -> bool {
    matches!(name, "__schema" | "__type" | "_service")
}

/// Returns the selections of a selection: those of a field, or of a fragment.
fn inner<'a>(selection: &'a Selection, document: &'a ExecutableDocument) -> Option<&'a SelectionSet> {
    Some(match selection {
        Selection::Field(field) => &field.node.selection_set.node,
        Selection::InlineFragment(fragment) => &fragment.node.selection_set.node,
        Selection::FragmentSpread(spread) => {
            &document.fragments.get(&spread.node.fragment_name.node)?.node.selection_set.node
        }
    })
}

/// Adds the selections of the fields that ask for the schema. The document has a bounded number of
/// selections, so the recursion is bounded too.
fn schema_fields<'a>(
    set: &'a SelectionSet,
    document: &'a ExecutableDocument,
    found: &mut Vec<&'a SelectionSet>,
) {
    for selection in &set.items {
        let Some(inner) = inner(&selection.node, document) else { continue };
        match &selection.node {
            Selection::Field(field) if is_of_schema(&field.node.name.node) => found.push(inner),
            _ => schema_fields(inner, document, found),
        }
    }
}

/// Returns the most lists of the schema within one another.
fn schema_lists(set: &SelectionSet, document: &ExecutableDocument) -> usize {
    let lists = set.items.iter().map(|selection| {
        let is_list = match &selection.node {
            Selection::Field(field) => SCHEMA_LISTS.contains(&&*field.node.name.node),
            _ => false,
        };
        let inner = inner(&selection.node, document).map_or(0, |inner| schema_lists(inner, document));
        usize::from(is_list) + inner
    });
    lists.max().unwrap_or_default()
}

fn selection_sets(document: &ExecutableDocument) -> impl Iterator<Item = &SelectionSet> {
    let operations = document.operations.iter().map(|(_, operation)| &operation.node.selection_set.node);
    operations.chain(document.fragments.values().map(|fragment| &fragment.node.selection_set.node))
}

/// Returns the number of selections in the set, with its fragments written out. `sizes` holds the
/// known sizes of fragments. A fragment that is met again while it is measured spreads itself, so
/// it counts as endless.
fn written_out<'a>(
    set: &SelectionSet,
    document: &'a ExecutableDocument,
    sizes: &mut HashMap<&'a Name, usize>,
) -> usize {
    let sizes_of = set.items.iter().map(|selection| match &selection.node {
        Selection::Field(field) => written_out(&field.node.selection_set.node, document, sizes),
        Selection::InlineFragment(fragment) => {
            written_out(&fragment.node.selection_set.node, document, sizes)
        }
        Selection::FragmentSpread(spread) => {
            let Some((name, fragment)) = document.fragments.get_key_value(&spread.node.fragment_name.node)
            else {
                // The validator reports the missing fragment.
                return 0;
            };
            if let Some(size) = sizes.get(name) {
                return *size;
            }
            sizes.insert(name, usize::MAX);
            let size = written_out(&fragment.node.selection_set.node, document, sizes);
            sizes.insert(name, size);
            size
        }
    });
    sizes_of.fold(set.items.len(), usize::saturating_add)
}

/// Findings from a walk through a document.
#[derive(Default)]
struct Survey {
    aliases: usize,
    asks_for_schema: bool,
}

impl Survey {
    // The parser bounds the nesting, so the recursion is bounded too.
    fn walk(&mut self, set: &SelectionSet) {
        for selection in &set.items {
            match &selection.node {
                Selection::Field(field) => {
                    self.aliases += usize::from(field.node.alias.is_some());
                    self.asks_for_schema |= is_of_schema(&field.node.name.node);
                    self.walk(&field.node.selection_set.node);
                }
                Selection::InlineFragment(fragment) => self.walk(&fragment.node.selection_set.node),
                Selection::FragmentSpread(_) => {}
            }
        }
    }
}

/// Returns whether the operation of this name would be a subscription, from the text alone.
/// `false` if only the parser can decide that.
pub(super) fn subscribes(text: &str, name: Option<&str>) -> bool {
    if text.len() > MAX_BYTES {
        return false;
    }
    let (mut depth, mut is_start, mut tokens) = (0_usize, true, tokens(text).peekable());
    while let Some(token) = tokens.next() {
        let is_operation = matches!(token, "{" | "query" | "mutation" | "subscription");
        let own_name = tokens.peek().copied().filter(|_| token != "{");
        if is_start && is_operation && (name.is_none() || name == own_name) {
            return token == "subscription";
        }
        match token {
            "{" | "(" | "[" => depth += 1,
            "}" | ")" | "]" => depth = depth.saturating_sub(1),
            _ => {}
        }
        is_start = depth == 0 && token == "}";
    }
    false
}

/// Returns the tokens of the text, or a few more if the text is not a document.
fn tokens(text: &str) -> impl Iterator<Item = &str> {
    let run = |text: &str, is: fn(char) -> bool| text.find(|c| !is(c)).unwrap_or(text.len());
    let mut rest = text;
    iter::from_fn(move || {
        let first = rest.chars().next()?;
        let length = match first {
            '#' => rest.find(['\n', '\r']).unwrap_or(rest.len()),
            '"' => cursor::literal(rest).unwrap_or(rest.len()),
            '.' => run(rest, |c| c == '.'),
            '-' | '0'..='9' => number(rest),
            '_' | 'a'..='z' | 'A'..='Z' => run(rest, |c| c.is_alphanumeric() || c == '_'),
            _ => first.len_utf8(),
        };
        let (token, others) = rest.split_at(length);
        rest = others;
        Some(token)
    })
    .filter(|token| {
        !token.starts_with(|first: char| first.is_whitespace() || matches!(first, ',' | '#' | '\u{feff}'))
    })
}

/// Returns the length of the number at the start of the text, in bytes. A sign belongs to it only
/// at its start and in its exponent. Otherwise a row of signed numbers would count as one.
fn number(text: &str) -> usize {
    let mut last = ' ';
    let end = text.find(|c: char| {
        let is_sign = matches!(c, '-' | '+') && matches!(last, ' ' | 'e' | 'E');
        last = c;
        !(c.is_alphanumeric() || c == '.' || is_sign)
    });
    end.unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_count_matches_lexer() {
        for (document, count) in [
            ("", 0),
            (" ,\n\t\u{feff}# a comment { a }", 0),
            ("{ a }", 3),
            ("query Q($n: Int = -1.5e+3) { b: a(n: $n, s: \"x \\\" { y\") ...F }", 26),
            ("{ a(s: \"\"\"block \" quote { }\"\"\") } # end", 8),
            ("{ a(s: \"never ends { { {", 6),
            ("{ a(n: [0-0-0-1e-1-2]) }", 14),
            (r#"{ a(s: """\""""  """) b c }"#, 10),
        ] {
            assert_eq!(tokens(document).count(), count, "{document}");
        }
    }

    #[test]
    fn text_alone_shows_subscriptions() {
        for (document, name, is_subscription) in [
            ("subscription { a }", None, true),
            (" # query\n,subscription S($v: I = {query: 1}) @d { a }", Some("S"), true),
            ("fragment f on subscription { a { b } } subscription S { ...f }", None, true),
            ("fragment subscription on S { a } query Q { a }", None, false),
            ("query Q { subscription } subscription S { a }", None, false),
            ("query Q { subscription } subscription S { a }", Some("S"), true),
            ("{ a } subscription S { a }", None, false),
            ("mutation M { subscription(s: \"} subscription\") }", None, false),
            ("}} subscription", Some("S"), false),
        ] {
            assert_eq!(subscribes(document, name), is_subscription, "{document}");
        }
        assert!(!subscribes(&format!("subscription {{ a }} #{}", "x".repeat(MAX_BYTES)), None));
    }

    #[test]
    fn document_with_too_many_tokens_is_refused() {
        let refused = |fields: usize| {
            let document = format!("{{ {} }}", "a ".repeat(fields));
            parse(&document, true).is_err()
        };
        assert!(!refused(MAX_TOKENS - 2));
        assert!(refused(MAX_TOKENS - 1));
    }

    #[test]
    fn schema_is_hidden_in_every_position() {
        for document in [
            "{ __schema { types { name } } }",
            "{ x: __type(name: \"a\") { name } }",
            "{ x: _service { sdl } }",
            "{ ... { ...F } } fragment F on Query { __schema { types { name } } }",
        ] {
            assert!(parse(document, true).is_ok(), "{document}");
            assert!(parse(document, false).is_err(), "{document}");
        }
        assert!(parse("{ __typename a { __typename } }", false).is_ok());
    }

    #[test]
    fn deep_or_repeated_schema_is_refused() {
        let is_refused = |document: &str| {
            let refused = parse(document, true).err();
            refused.map(|refused| crate::graphql::error::limit(&refused)) == Some(Some("schema"))
        };
        let lists = |count: usize| {
            let nested = "fields { type { ofType { ".repeat(count);
            format!("{{ __schema {{ types {{ {nested} name {} }} }} }}", "} } }".repeat(count))
        };
        assert!(!is_refused(&lists(2)) && parse(&lists(2), true).is_ok());
        assert!(is_refused(&lists(3)));
        for hidden in [
            "{ __type(name: \"a\") { ...F } } fragment F on __Type { fields { type { ...G } } } fragment G on __Type { possibleTypes { interfaces { name } } }",
            "{ ... { ...S } } fragment S on Query { __schema { types { fields { type { ... { inputFields { type { fields { name } } } } } } } } }",
            "query P { a { b } } query Q { __type(name: \"a\") { interfaces { interfaces { interfaces { name } } } } }",
        ] {
            assert!(is_refused(hidden), "{hidden}");
        }
        let fields = |count: usize| format!("{{ {} }}", "__type(name: \"a\") { name } ".repeat(count));
        assert!(!is_refused(&fields(4)) && is_refused(&fields(5)));
        let own = "{ __typename fields { fields { fields { fields { a } } } } __schema { types { name } } }";
        assert!(parse(own, true).is_ok(), "a domain may have fields of these names");
    }

    #[test]
    fn endless_fragment_spread_is_refused_at_once() {
        let levels = (1..32).map(|n| format!("fragment f{n} on Query {{ ...f{} ...f{} }} ", n + 1, n + 1));
        let bomb = format!("{{ ...f1 }} {} fragment f32 on Query {{ a }}", levels.collect::<String>());
        assert!(parse(&bomb, true).is_err());
        let circle = "{ ...f } fragment f on Query { ...g ...g } fragment g on Query { ...f ...f }";
        assert!(parse(circle, true).is_err());
        assert!(parse("{ ...f ...f } fragment f on Query { a { b } ...missing }", true).is_ok());
    }

    #[test]
    fn document_with_too_many_bytes_is_refused() {
        assert!(parse(&format!("{{ a }} #{}", "x".repeat(MAX_BYTES - 7)), true).is_ok());
        assert!(parse(&format!("{{ a }} #{}", "x".repeat(MAX_BYTES)), true).is_err());
    }
}
