//! What a request asks for, known before it runs: which operation of the document, of which kind, and whether the document
//! stays within our own limits.

use async_graphql::{
    Positioned, Request, Response, Value,
    parser::parse_query,
    parser::types::{
        DocumentOperations, ExecutableDocument, OperationDefinition, OperationType, Selection, SelectionSet,
    },
};
use tracing::Span;

use super::error::{Code, Error};
use crate::telemetry::traces;

mod cursor;

/// The argument of a subscription's root field that takes a cursor. A field that has it can be resumed; its resolver does
/// not see the value.
pub const AFTER: &str = "after";

/// How many fields of a document may carry an alias: enough for any page, too few to multiply work with.
pub const MAX_ALIASES: usize = 30;

/// How many tokens a document may have: four times those of the introspection query of known tools. They are counted before the
/// document is parsed, so that nobody pays for parsing the rest.
pub const MAX_TOKENS: usize = 1_000;

/// A request whose document parses, and the operation in it that will run.
pub struct Prepared {
    /// The request, its document parsed.
    pub request: Request,
    /// Whether it is a query, a mutation or a subscription.
    pub kind: OperationType,
    pub(super) document: ExecutableDocument,
    /// A subscription's one root field, and its name in the result.
    pub(super) field: String,
    pub(super) response_key: String,
    /// The cursor to resume from: the field's argument [`AFTER`].
    pub(super) after: Option<String>,
}

impl Prepared {
    /// The client's `traceparent`, which rides in the request's extensions.
    pub(super) fn client(&self) -> Option<&str> {
        match self.request.extensions.get(traces::TRACEPARENT) {
            Some(Value::String(client)) => Some(client),
            _ => None,
        }
    }

    /// The span of its execution on this pod, under that of the client.
    pub(super) fn span(&self, pod: &str) -> Span {
        let kind = match self.kind {
            OperationType::Query => "query",
            OperationType::Mutation => "mutation",
            OperationType::Subscription => "subscription",
        };
        traces::operation(pod, kind, self.request.operation_name.as_deref(), self.client())
    }
}

/// Parses the request's document and picks its operation. It may ask for the schema only with `introspection`.
///
/// # Errors
/// The response that refuses it.
pub(super) fn prepare(mut request: Request, introspection: bool) -> Result<Prepared, Box<Response>> {
    if request.query.trim().is_empty() {
        return refuse(Code::BadRequest, "the request has no query");
    }
    if tokens(&request.query) > MAX_TOKENS {
        let text = format!("the document has more than {MAX_TOKENS} tokens");
        return refuse(Code::ValidationFailed, text);
    }
    let mut document = match request.parsed_query() {
        Ok(document) => document.clone(),
        Err(error) => return Err(bad_document(&error.message)),
    };
    let operation = match pick(&document, request.operation_name.as_deref()) {
        Ok(operation) => &operation.node,
        Err(text) => return refuse(Code::BadRequest, text),
    };
    let kind = operation.ty;
    let mut survey = Survey::default();
    selection_sets(&document).for_each(|set| survey.walk(set));
    if survey.aliases > MAX_ALIASES {
        let text = format!("the document has {} aliases; {MAX_ALIASES} is the most", survey.aliases);
        return refuse(Code::ValidationFailed, text);
    }
    if survey.asks_for_schema && !introspection {
        return refuse(Code::ValidationFailed, "introspection is switched off here");
    }
    let (mut field, mut response_key, mut after) = (String::new(), String::new(), None);
    if kind == OperationType::Subscription {
        let [Positioned { node: Selection::Field(root), .. }] = operation.selection_set.node.items.as_slice()
        else {
            let text = "a subscription selects exactly one field, not through a fragment";
            return refuse(Code::ValidationFailed, text);
        };
        field = root.node.name.node.to_string();
        response_key = root.node.response_key().node.to_string();
        after = cursor::take(&mut request, &root.node);
        if after.is_some() {
            document = parse_query(&request.query).map_err(|error| bad_document(&error.to_string()))?;
        }
    }
    Ok(Prepared { request, kind, document, field, response_key, after })
}

fn bad_document(text: &str) -> Box<Response> {
    Error::new(Code::ParseFailed, text.to_owned()).response().into()
}

fn refuse<T>(code: Code, text: impl Into<std::borrow::Cow<'static, str>>) -> Result<T, Box<Response>> {
    Err(Error::new(code, text).response().into())
}

fn pick<'a>(
    document: &'a ExecutableDocument,
    name: Option<&str>,
) -> Result<&'a Positioned<OperationDefinition>, String> {
    match (&document.operations, name) {
        (DocumentOperations::Single(operation), None) => Ok(operation),
        (DocumentOperations::Multiple(operations), None) if operations.len() == 1 => {
            operations.values().next().ok_or_else(String::new)
        }
        (DocumentOperations::Multiple(_), None) => {
            Err("the document has several operations: name one".to_owned())
        }
        (DocumentOperations::Multiple(operations), Some(name)) => {
            operations.get(name).ok_or_else(|| format!("the document has no operation `{name}`"))
        }
        (DocumentOperations::Single(_), Some(name)) => Err(format!("the document has no operation `{name}`")),
    }
}

fn selection_sets(document: &ExecutableDocument) -> impl Iterator<Item = &SelectionSet> {
    let operations = document.operations.iter().map(|(_, operation)| &operation.node.selection_set.node);
    operations.chain(document.fragments.values().map(|fragment| &fragment.node.selection_set.node))
}

/// What a document is made of.
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
                    self.asks_for_schema |= matches!(&*field.node.name.node, "__schema" | "__type");
                    self.walk(&field.node.selection_set.node);
                }
                Selection::InlineFragment(fragment) => self.walk(&fragment.node.selection_set.node),
                Selection::FragmentSpread(_) => {}
            }
        }
    }
}

/// How many tokens the text has, or a few more if it is no document.
fn tokens(text: &str) -> usize {
    let run = |text: &str, is: fn(char) -> bool| text.find(|c| !is(c)).unwrap_or(text.len());
    let (mut rest, mut count) = (text, 0);
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '#' => rest.find(['\n', '\r']).unwrap_or(rest.len()),
            '"' => cursor::literal(rest).unwrap_or(rest.len()),
            '.' => run(rest, |c| c == '.'),
            '-' | '0'..='9' => run(rest, |c| c.is_alphanumeric() || matches!(c, '-' | '+' | '.')),
            '_' | 'a'..='z' | 'A'..='Z' => run(rest, |c| c.is_alphanumeric() || c == '_'),
            _ => first.len_utf8(),
        };
        count += usize::from(!first.is_whitespace() && !matches!(first, ',' | '#' | '\u{feff}'));
        rest = &rest[length..];
    }
    count
}

#[cfg(test)]
mod tests {
    use async_graphql::Variables;
    use serde_json::json;

    use super::*;

    fn prepared(document: &str, variables: serde_json::Value) -> Prepared {
        prepare(Request::new(document).variables(Variables::from_json(variables)), true).ok().unwrap()
    }

    #[test]
    fn the_cursor_is_no_part_of_the_operation() {
        for (document, variables) in [
            ("subscription { a(after: \"c\") { b } }", json!({})),
            ("subscription {\r\n  # é\n  x: a(n: 1, after:\n\"c\", m: \"c\") { b } }", json!({})),
            ("subscription { a(after: \"\"\"c\"\"\") { b } }", json!({})),
            ("subscription ($c: String) { a(after: $c) { b } }", json!({"c": "c"})),
            ("subscription ($c: String = \"d\") { a(after: $c) { b } }", json!({"c": "c"})),
        ] {
            let with = prepared(document, variables.clone());
            assert_eq!(with.after.as_deref(), Some("c"), "{document}");
            let others = if variables == json!({}) { variables } else { json!({"c": "other"}) };
            let other = prepared(&document.replacen("\"c", "\"other", 1), others);
            assert_eq!(with.request.query, other.request.query);
            assert_eq!(with.request.variables, other.request.variables);
        }
    }

    #[test]
    fn without_a_cursor_nothing_changes() {
        for document in [
            "subscription { a { b } }",
            "subscription { a(after: null) { b } }",
            "subscription ($c: String) { a(after: $c) { b } }",
            "subscription { a(after: 7) { b } }",
        ] {
            let prepared = prepared(document, json!({}));
            assert_eq!((prepared.after, &*prepared.request.query), (None, document));
        }
    }

    #[test]
    fn an_escaped_quote_does_not_end_the_cursor() {
        let prepared = prepared(r#"subscription { a(after: "c\"\\", n: "d") { b } }"#, json!({}));
        assert_eq!(prepared.after.as_deref(), Some(r#"c"\"#));
        assert_eq!(prepared.request.query, r#"subscription { a(after: "", n: "d") { b } }"#);
    }

    #[test]
    fn tokens_are_counted_as_a_lexer_counts_them() {
        for (document, count) in [
            ("", 0),
            (" ,\n\t\u{feff}# a comment { a }", 0),
            ("{ a }", 3),
            ("query Q($n: Int = -1.5e+3) { b: a(n: $n, s: \"x \\\" { y\") ...F }", 26),
            ("{ a(s: \"\"\"block \" quote { }\"\"\") } # end", 8),
            ("{ a(s: \"never ends { { {", 6),
        ] {
            assert_eq!(tokens(document), count, "{document}");
        }
    }

    #[test]
    fn a_document_of_too_many_tokens_is_not_parsed() {
        let refused = |fields: usize| {
            let document = format!("{{ {} }}", "a ".repeat(fields));
            prepare(Request::new(document), true).is_err()
        };
        assert!(!refused(MAX_TOKENS - 2));
        assert!(refused(MAX_TOKENS - 1));
    }

    #[test]
    fn the_schema_is_hidden_wherever_it_is_asked_for() {
        for document in [
            "{ __schema { types { name } } }",
            "{ x: __type(name: \"a\") { name } }",
            "{ ... { ...F } } fragment F on Query { __schema { types { name } } }",
        ] {
            assert!(prepare(Request::new(document), true).is_ok(), "{document}");
            assert!(prepare(Request::new(document), false).is_err(), "{document}");
        }
        assert!(prepare(Request::new("{ __typename a { __typename } }"), false).is_ok());
    }
}
