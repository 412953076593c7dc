//! Prepares a request before it runs: parses its document, checks our limits, picks the operation.
//!
//! Most clients of a service send the same few documents, so recent ones are neither checked nor
//! parsed again. Nothing is executed here.

use std::{convert::Infallible, sync::Arc};

use async_graphql::{
    Name, Positioned, Request, Response, Value,
    parser::types::{
        DocumentOperations, ExecutableDocument, Field, OperationDefinition, OperationType, Selection,
    },
};
use tracing::Span;

pub use self::{
    cursor::AFTER,
    turn::{Turn, Turns},
};
pub(super) use self::{
    kept::{Held, Kept},
    parsed::{Document, value_bytes},
    turn::turn,
};
use super::{
    error::{Code, Error, no_room, own_operations, refuse},
    read_after,
};
use crate::{
    budget::{Budget, Charge, Pool},
    telemetry::traces,
};

mod cursor;
mod kept;
mod limits;
mod parsed;
mod turn;

/// Extension of a request that names its document by a hash (Apollo's persisted queries).
pub const PERSISTED_QUERY: &str = "persistedQuery";

/// A request with a parsed document, and the operation in it that will run.
pub struct Prepared {
    /// Request, without the parsed document. It is boxed, since what runs it is moved often.
    pub request: Box<Request>,
    /// Query, mutation or subscription.
    pub kind: OperationType,
    pub(super) document: Arc<Document>,
    /// Name of a subscription's one root field; empty for the other kinds.
    pub(super) field: String,
    /// Name of that field in the result: its alias, if there is one.
    pub(super) response_key: String,
    /// Cursor to resume from: the extension [`AFTER`] of the request, else the field's argument.
    pub(super) after: Option<String>,
    /// Tokens of the events that a query or mutation must see. A subscription has a cursor instead.
    pub(super) read_after: Vec<String>,
    /// Charge of the document, for as long as the request needs it.
    pub(super) charge: Arc<Charge>,
}

impl Prepared {
    /// Returns the operation, and a subscription's one root field; `None` for the other kinds.
    pub(super) fn root(&self) -> Option<(&OperationDefinition, &Field)> {
        let operation = &pick(self.document.tree(), self.request.operation_name.as_deref()).ok()?.node;
        let [Positioned { node: Selection::Field(root), .. }] = operation.selection_set.node.items.as_slice()
        else {
            return None;
        };
        Some((operation, &root.node))
    }

    /// Returns the number of fields that the operation selects at its root, those of fragments
    /// counted as very many.
    pub(super) fn root_fields(&self) -> usize {
        let Ok(operation) = pick(self.document.tree(), self.request.operation_name.as_deref()) else {
            return 0;
        };
        let items = &operation.node.selection_set.node.items;
        let is_field = |item: &Positioned<Selection>| matches!(item.node, Selection::Field(_));
        if items.iter().all(is_field) { items.len() } else { usize::MAX }
    }

    /// Returns the client's `traceparent` from the request's extensions.
    pub(super) fn client(&self) -> Option<&str> {
        match self.request.extensions.get(traces::TRACEPARENT) {
            Some(Value::String(client)) => Some(client),
            _ => None,
        }
    }

    /// Returns the span of the execution on this pod, a child of the client's span.
    pub(super) fn span(&self, pod: &str) -> Span {
        let kind = match self.kind {
            OperationType::Query => "query",
            OperationType::Mutation => "mutation",
            OperationType::Subscription => "subscription",
        };
        traces::operation(pod, kind, self.request.operation_name.as_deref(), self.client())
    }
}

/// Parser of requests, with the documents that it parsed lately.
pub(super) struct Documents {
    introspection: bool,
    kept: Arc<Kept>,
    turns: Pool,
    /// Pool that documents are charged to that are not kept.
    requests: Pool,
}

impl Documents {
    /// Creates a parser. Only with `introspection` may documents ask for the schema.
    pub(super) fn new(introspection: bool) -> Self {
        let Budget { operations, documents: turns, requests, .. } = Budget::default();
        Self { introspection, kept: Kept::new(operations).into(), turns, requests }
    }

    /// Charges kept documents to this ledger, instead of one of their own.
    pub(super) fn set_budget(&mut self, budget: &Budget) {
        self.kept = Kept::new(budget.operations.clone()).into();
        self.turns = budget.documents.clone();
        self.requests = budget.requests.clone();
    }

    /// Returns the documents that are kept.
    pub(super) const fn kept(&self) -> &Arc<Kept> {
        &self.kept
    }

    /// Parses the request's document and picks its operation. The document is kept on the account
    /// of this user.
    ///
    /// # Errors
    /// A response that refuses the request.
    pub(super) async fn prepare(
        &self,
        mut request: Request,
        user: &Arc<str>,
    ) -> Result<Prepared, Box<Response>> {
        if request.query.trim().is_empty() {
            if request.extensions.contains_key(PERSISTED_QUERY) {
                // Some clients look for the code, others for exactly this text.
                return refuse(Code::PersistedQueryNotSupported, "PersistedQueryNotSupported");
            }
            return refuse(Code::BadRequest, "the request has no query");
        }
        let read_after = read_after::take(&mut request)?;
        let (mut held, mut is_kept) = self.parse(&request, user).await?;
        let operation = match pick(held.document.tree(), request.operation_name.as_deref()) {
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
            if is_skipped(&root.node, operation, &request) {
                let text = "`@skip` or `@include` leaves the subscription without its only field: no result would ever come";
                return refuse(Code::ValidationFailed, text);
            }
            field = root.node.name.node.to_string();
            response_key = root.node.response_key().node.to_string();
            let taken = cursor::take(&mut request, operation, &root.node);
            if taken.as_ref().is_some_and(|taken| taken.is_in_document) {
                (held, is_kept) = self.parse(&request, user).await?;
            }
            after = match request.extensions.remove(AFTER) {
                None | Some(Value::Null) => taken.map(|taken| taken.cursor),
                Some(Value::String(cursor)) => Some(cursor),
                Some(_) => return refuse(Code::BadRequest, "`extensions.after` must be a cursor, a text"),
            };
        }
        if !is_kept {
            self.kept.insert(&request.query, &mut held, user);
        }
        let Held { document, charge } = held;
        Ok(Prepared {
            request: request.into(),
            kind,
            document,
            field,
            response_key,
            after,
            read_after,
            charge,
        })
    }

    /// Returns the document, and whether it is kept already. A new one is parsed when it is the
    /// user's turn, and charged to the user as a part of its request.
    ///
    /// # Errors
    /// A response that refuses the request, also if there is no room for it. A subscription of a
    /// user without room for it is refused before its document is parsed, since that is the cost.
    async fn parse(&self, request: &Request, user: &Arc<str>) -> Result<(Held, bool), Box<Response>> {
        let Request { query: text, operation_name: name, .. } = request;
        if let Some(held) = self.kept.get(text) {
            return Ok((held, true));
        }
        if self.kept.is_refused(user) && limits::subscribes(text, name.as_deref()) {
            return own_operations();
        }
        let turn = turn(&self.turns, user).await.map_err(Error::response)?;
        let parsed = limits::parse(text, self.introspection).and_then(|document| self.hold(document, user));
        turn.end().await;
        Ok((parsed?, false))
    }

    /// Charges a document that was parsed. At most one of a user has no charge yet: the one whose
    /// turn it is.
    fn hold(&self, document: Document, user: &Arc<str>) -> Result<Held, Box<Response>> {
        let charge = self.requests.try_charge(user, document.bytes()).map(Arc::new);
        charge.map_or_else(no_room, |charge| Ok(Held { document: document.into(), charge }))
    }
}

/// Returns whether a directive leaves the field out. A condition that is no boolean is left to the
/// validation.
fn is_skipped(field: &Field, operation: &OperationDefinition, request: &Request) -> bool {
    field.directives.iter().any(|directive| {
        let leaves_out = match &*directive.node.name.node {
            "skip" => true,
            "include" => false,
            _ => return false,
        };
        let condition = directive.node.get_argument("if").and_then(|value| {
            let variable = |name: Name| Ok(cursor::variable(request, operation, &name).unwrap_or_default());
            value.node.clone().into_const_with::<Infallible>(variable).ok()
        });
        condition == Some(Value::Boolean(leaves_out))
    })
}

/// Returns the operation of the document that runs under this name.
///
/// # Errors
/// The text of a refusal.
pub(super) fn pick<'a>(
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

    fn prepare(documents: &Documents, request: Request) -> Result<Prepared, Box<Response>> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(documents.prepare(request, &"user".into()))
    }

    fn prepared(document: &str, variables: serde_json::Value) -> Prepared {
        let request = Request::new(document).variables(Variables::from_json(variables));
        prepare(&Documents::new(true), request).ok().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn new_documents_of_user_take_turns() {
        let documents = Documents::new(true);
        documents.prepare(Request::new("{ kept }"), &"a".into()).await.ok().unwrap();
        let taken = turn(&documents.turns, &"a".into()).await.ok().unwrap();
        let refused = documents.prepare(Request::new("{ a }"), &"a".into()).await.err().unwrap();
        assert_eq!(crate::graphql::error::limit(&refused), Some("documents"));
        assert!(documents.prepare(Request::new("{ kept }"), &"a".into()).await.is_ok());
        assert!(documents.prepare(Request::new("{ a }"), &"b".into()).await.is_ok());
        taken.end().await;
        assert!(documents.prepare(Request::new("{ b }"), &"a".into()).await.is_ok());
    }

    #[tokio::test]
    async fn exhausted_user_is_refused_unread() {
        let (mut documents, budget, user) = (Documents::new(true), Budget::default(), "a".into());
        documents.set_budget(&budget);
        let known = "subscription { known { a } }";
        documents.prepare(Request::new(known), &"b".into()).await.ok().unwrap();
        let held = budget.operations.try_charge(&user, budget.operations.share()).unwrap();
        budget.operations.note_refusal(&user, 1_000);
        let prepare = async |text: &str, user: &str| {
            let refused = documents.prepare(Request::new(text), &user.into()).await.err();
            refused.map(|refused| crate::graphql::error::limit(&refused))
        };
        let unread = "subscription { that does not parse";
        assert_eq!(prepare(unread, "a").await, Some(Some("user_operations")));
        assert_eq!(prepare(unread, "b").await, Some(None), "it does not parse");
        assert_eq!(prepare(known, "a").await, None, "it may run already");
        assert_eq!(prepare("{ a }", "a").await, None);
        drop(held);
        assert_eq!(prepare(unread, "a").await, Some(None));
    }

    #[tokio::test]
    async fn document_is_charged_while_it_lives() {
        let settings = crate::budget::Settings { memory: 64 << 20, ..Default::default() };
        let (mut documents, budget) = (Documents::new(true), Budget::new(settings, 256 << 10));
        documents.set_budget(&budget);
        let used = || budget.requests.used() + budget.operations.used();
        let text = |n: usize| format!("{{ x{n} {} }}", "a ".repeat(990));
        let prepare = async |n, user: &str| documents.prepare(Request::new(text(n)), &user.into()).await;
        let mut held = Vec::new();
        let refused = loop {
            match prepare(held.len(), "a").await {
                Ok(prepared) => held.push(prepared),
                Err(refused) => break refused,
            }
        };
        assert_eq!(crate::graphql::error::limit(&refused), Some("requests"));
        let bytes: usize = held.iter().map(|prepared| prepared.document.bytes()).sum();
        assert!(held.len() > 10 && used() >= bytes, "{} of {bytes}", used());
        assert!(prepare(0, "b").await.is_ok(), "others have room");
        held.pop();
        assert!(prepare(0, "a").await.is_ok());
        drop(held);
        assert_eq!(budget.requests.used(), 0);
        assert!(budget.operations.used() <= 2 * budget.operations.share(), "only kept ones are left");
    }

    #[tokio::test]
    async fn replaced_document_stays_charged_while_used() {
        let (mut documents, budget) = (Documents::new(true), Budget::default());
        documents.set_budget(&budget);
        let text = |n: usize| format!("{{ x{n} {} }}", "a ".repeat(990));
        let prepare = async |n| documents.prepare(Request::new(text(n)), &"a".into()).await.ok().unwrap();
        let (first, bytes) = (prepare(0).await, budget.operations.used());
        assert!(
            bytes >= first.document.bytes() && budget.requests.used() == 0,
            "a kept document counts once"
        );
        for n in 1..50 {
            prepare(n).await;
        }
        assert!(documents.kept.get(&text(0)).is_none(), "it was replaced");
        let used = budget.operations.used();
        documents.kept.make_room(crate::budget::Exhausted::Share, "a");
        assert_eq!(budget.operations.used(), bytes, "{used} before");
        drop(first);
        assert_eq!(budget.operations.used(), 0);
    }

    #[test]
    fn cursor_is_no_part_of_operation() {
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
    fn request_without_cursor_stays_unchanged() {
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
    fn escaped_quote_does_not_end_cursor() {
        let prepared = prepared(r#"subscription { a(after: "c\"\\", n: "d") { b } }"#, json!({}));
        assert_eq!(prepared.after.as_deref(), Some(r#"c"\"#));
        assert_eq!(prepared.request.query, r#"subscription { a(after: "", n: "d") { b } }"#);
    }

    #[test]
    fn subscription_without_its_field_is_refused() {
        let is_refused = |document: &str, variables: serde_json::Value| {
            let request = Request::new(document).variables(Variables::from_json(variables));
            prepare(&Documents::new(true), request).is_err()
        };
        for condition in ["@skip(if: true)", "@include(if: false)", "@include(if: true) @skip(if: true)"] {
            assert!(
                is_refused(&format!("subscription {{ a {condition} {{ b }} }}"), json!({})),
                "{condition}"
            );
        }
        for condition in ["@skip(if: false)", "@include(if: true)", "@other(if: true)"] {
            assert!(
                !is_refused(&format!("subscription {{ a {condition} {{ b }} }}"), json!({})),
                "{condition}"
            );
        }
        let by_variable = "subscription ($no: Boolean = true) { a @skip(if: $no) { b } }";
        assert!(is_refused(by_variable, json!({})));
        assert!(!is_refused(by_variable, json!({ "no": false })));
        assert!(!is_refused("query { a @skip(if: true) { b } }", json!({})));
    }

    #[test]
    fn variable_default_may_hold_cursor() {
        let with = prepared("subscription ($c: String = \"c\") { a(after: $c) { b } }", json!({}));
        assert_eq!(with.after.as_deref(), Some("c"));
    }

    #[test]
    fn cursor_in_extensions_wins_over_argument() {
        let after = |document: &str, after: Value| {
            let mut request = Request::new(document);
            request.extensions.insert(AFTER.to_owned(), after);
            prepare(&Documents::new(true), request)
        };
        let (plain, with_argument) =
            ("subscription { a { b } }", "subscription { a(after: \"argument\") { b } }");
        for document in [plain, with_argument] {
            let prepared = after(document, Value::from("c")).ok().unwrap();
            assert_eq!(prepared.after.as_deref(), Some("c"));
            assert!(prepared.request.extensions.is_empty());
        }
        let without = after(with_argument, Value::Null).ok().unwrap();
        assert_eq!(without.after.as_deref(), Some("argument"));
        assert!(after(plain, Value::from(7)).is_err());
    }

    #[test]
    fn known_document_is_not_parsed_again() {
        let documents = Documents::new(true);
        let get = |text: &str| prepare(&documents, Request::new(text)).ok().unwrap().document;
        assert!(Arc::ptr_eq(&get("{ a }"), &get("{ a }")));
        let watch = get("subscription { a(after: \"\") { b } }");
        assert!(Arc::ptr_eq(&watch, &get("subscription { a(after: \"c\") { b } }")));
    }
}
