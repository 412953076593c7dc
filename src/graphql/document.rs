//! What a request asks for, known before it runs: which operation of the document, of which kind, and whether the document
//! stays within our own limits.

use async_graphql::{
    Positioned, Request, Response,
    parser::types::{
        DocumentOperations, ExecutableDocument, OperationDefinition, OperationType, Selection, SelectionSet,
    },
};

use super::error::{Code, Error};

/// How many fields of a document may carry an alias: enough for any page, too few to multiply work with.
pub const MAX_ALIASES: usize = 30;

/// A request whose document parses, and the operation in it that will run.
pub struct Prepared {
    /// The request, its document parsed.
    pub request: Request,
    /// Whether it is a query, a mutation or a subscription.
    pub kind: OperationType,
    pub(super) document: ExecutableDocument,
    pub(super) field: String,
}

/// Parses the request's document and picks its operation.
///
/// # Errors
/// The response that refuses it.
pub(super) fn prepare(mut request: Request) -> Result<Prepared, Box<Response>> {
    if request.query.trim().is_empty() {
        return refuse(Code::BadRequest, "the request has no query");
    }
    let document = match request.parsed_query() {
        Ok(document) => document.clone(),
        Err(error) => return refuse(Code::ParseFailed, error.message),
    };
    let operation = match pick(&document, request.operation_name.as_deref()) {
        Ok(operation) => &operation.node,
        Err(text) => return refuse(Code::BadRequest, text),
    };
    let kind = operation.ty;
    let aliases: usize = selection_sets(&document).map(aliases).sum();
    if aliases > MAX_ALIASES {
        return refuse(
            Code::ValidationFailed,
            format!("the document has {aliases} aliases; {MAX_ALIASES} is the most"),
        );
    }
    let field = match (kind, operation.selection_set.node.items.as_slice()) {
        (OperationType::Subscription, [Positioned { node: Selection::Field(field), .. }]) => {
            field.node.name.node.to_string()
        }
        (OperationType::Subscription, _) => {
            return refuse(
                Code::ValidationFailed,
                "a subscription selects exactly one field, not through a fragment",
            );
        }
        _ => String::new(),
    };
    Ok(Prepared { request, kind, document, field })
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

// The parser bounds the nesting, so the recursion is bounded too.
fn aliases(set: &SelectionSet) -> usize {
    let count = |selection: &Positioned<Selection>| match &selection.node {
        Selection::Field(field) => {
            usize::from(field.node.alias.is_some()) + aliases(&field.node.selection_set.node)
        }
        Selection::InlineFragment(fragment) => aliases(&fragment.node.selection_set.node),
        Selection::FragmentSpread(_) => 0,
    };
    set.items.iter().map(count).sum()
}
