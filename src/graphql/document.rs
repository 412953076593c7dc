//! What a request asks for, known before it runs: which operation of the document, of which kind, and whether the document
//! stays within our own limits.
//!
//! Documents that were seen lately are neither counted nor parsed again: most clients of a service send the same few.

use std::sync::Arc;

use async_graphql::{
    Positioned, Request, Response, Value,
    parser::types::{DocumentOperations, ExecutableDocument, OperationDefinition, OperationType, Selection},
};
use tracing::Span;

pub use self::cursor::AFTER;
use self::kept::Kept;
use super::error::{Code, refuse};
use crate::telemetry::traces;

mod cursor;
mod kept;
mod limits;

/// A request whose document parses, and the operation in it that will run.
pub struct Prepared {
    /// The request, without its document parsed.
    pub request: Request,
    /// Whether it is a query, a mutation or a subscription.
    pub kind: OperationType,
    pub(super) document: Arc<ExecutableDocument>,
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

/// Parses documents and picks operations.
pub(super) struct Documents {
    introspection: bool,
    kept: Kept,
}

impl Documents {
    /// None yet. Only with `introspection` may they ask for the schema.
    pub(super) fn new(introspection: bool) -> Self {
        Self { introspection, kept: Kept::default() }
    }

    /// Parses the request's document and picks its operation.
    ///
    /// # Errors
    /// The response that refuses it.
    pub(super) fn prepare(&self, mut request: Request) -> Result<Prepared, Box<Response>> {
        if request.query.trim().is_empty() {
            return refuse(Code::BadRequest, "the request has no query");
        }
        let (mut document, mut is_kept) = self.parse(&request.query)?;
        let operation = match pick(&document, request.operation_name.as_deref()) {
            Ok(operation) => &operation.node,
            Err(text) => return refuse(Code::BadRequest, text),
        };
        let kind = operation.ty;
        let (mut field, mut response_key, mut after) = (String::new(), String::new(), None);
        if kind == OperationType::Subscription {
            let [Positioned { node: Selection::Field(root), .. }] =
                operation.selection_set.node.items.as_slice()
            else {
                let text = "a subscription selects exactly one field, not through a fragment";
                return refuse(Code::ValidationFailed, text);
            };
            field = root.node.name.node.to_string();
            response_key = root.node.response_key().node.to_string();
            let taken = cursor::take(&mut request, operation, &root.node);
            if taken.as_ref().is_some_and(|taken| taken.is_in_document) {
                (document, is_kept) = self.parse(&request.query)?;
            }
            after = taken.map(|taken| taken.cursor);
        }
        if !is_kept {
            self.kept.insert(&request.query, &document);
        }
        Ok(Prepared { request, kind, document, field, response_key, after })
    }

    /// The document, and whether it is kept.
    fn parse(&self, text: &str) -> Result<(Arc<ExecutableDocument>, bool), Box<Response>> {
        match self.kept.get(text) {
            Some(document) => Ok((document, true)),
            None => Ok((limits::parse(text, self.introspection)?.into(), false)),
        }
    }
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

#[cfg(test)]
mod tests {
    use async_graphql::Variables;
    use serde_json::json;

    use super::*;

    fn prepared(document: &str, variables: serde_json::Value) -> Prepared {
        Documents::new(true)
            .prepare(Request::new(document).variables(Variables::from_json(variables)))
            .ok()
            .unwrap()
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
    fn a_cursor_may_be_a_variable_s_default() {
        let with = prepared("subscription ($c: String = \"c\") { a(after: $c) { b } }", json!({}));
        assert_eq!(with.after.as_deref(), Some("c"));
    }

    #[test]
    fn a_document_is_parsed_once_and_again_only_if_another_cursor_stands_in_it() {
        let documents = Documents::new(true);
        let prepare = |text: &str| documents.prepare(Request::new(text)).ok().unwrap().document;
        assert!(Arc::ptr_eq(&prepare("{ a }"), &prepare("{ a }")));
        let watch = prepare("subscription { a(after: \"\") { b } }");
        assert!(Arc::ptr_eq(&watch, &prepare("subscription { a(after: \"c\") { b } }")));
    }
}
