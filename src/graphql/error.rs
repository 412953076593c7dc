//! The one boundary between what goes wrong inside and what a client reads: a code and a public text.
//!
//! Whatever is not an [error](struct@Error) of ours, nor the executor's own word on the request, becomes `INTERNAL` with a fixed text
//! and is logged here, once. No `Display` of a foreign error ever reaches a client.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use async_graphql::{ErrorExtensionValues, Response, ServerError, Value};
use serde::Serialize;
use thiserror::Error;

/// What went wrong, as `extensions.code` says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// There is no viewer: the token is missing, bad or expired.
    Unauthenticated,
    /// The viewer may not do this.
    Forbidden,
    /// An argument is out of bounds.
    BadUserInput,
    /// The thing named does not exist.
    NotFound,
    /// What is to be resumed from is no cursor of this service.
    BadCursor,
    /// The document does not parse.
    ParseFailed,
    /// The document does not fit the schema, or passes a limit.
    ValidationFailed,
    /// The request around the document is not one.
    BadRequest,
    /// The topic did not acknowledge the event; nothing is stored.
    PublishFailed,
    /// This pod has as many distinct operations, or this connection as many watchers, as it may.
    LimitReached,
    /// Our fault.
    Internal,
}

/// All of them.
const CODES: [Code; 11] = [
    Code::Unauthenticated,
    Code::Forbidden,
    Code::BadUserInput,
    Code::NotFound,
    Code::BadCursor,
    Code::ParseFailed,
    Code::ValidationFailed,
    Code::BadRequest,
    Code::PublishFailed,
    Code::LimitReached,
    Code::Internal,
];

impl Code {
    /// As clients read it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unauthenticated => "UNAUTHENTICATED",
            Self::Forbidden => "FORBIDDEN",
            Self::BadUserInput => "BAD_USER_INPUT",
            Self::NotFound => "NOT_FOUND",
            Self::BadCursor => "BAD_CURSOR",
            Self::ParseFailed => "GRAPHQL_PARSE_FAILED",
            Self::ValidationFailed => "GRAPHQL_VALIDATION_FAILED",
            Self::BadRequest => "BAD_REQUEST",
            Self::PublishFailed => "PUBLISH_FAILED",
            Self::LimitReached => "LIMIT_REACHED",
            Self::Internal => "INTERNAL",
        }
    }
}

/// An error that a client may read as it is.
#[derive(Clone, Debug, Error)]
#[error("{text}")]
pub struct Error {
    code: Code,
    text: Cow<'static, str>,
}

impl Error {
    /// An error with this code and public text.
    pub fn new(code: Code, text: impl Into<Cow<'static, str>>) -> Self {
        Self { code, text: text.into() }
    }

    /// An argument is out of bounds: the text says which, and the bound.
    pub fn bad_input(text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::BadUserInput, text)
    }

    /// The thing named does not exist.
    pub fn not_found(text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::NotFound, text)
    }

    /// A response that is only this error.
    #[must_use]
    pub fn response(self) -> Response {
        let mut error = ServerError::new(self.text, None);
        mark(&mut error, self.code);
        Response::from_errors(vec![error])
    }
}

/// Makes the response fit for a client: each error gets a code, and what a client must not read is masked and logged.
#[must_use]
pub fn publicly(mut response: Response) -> Response {
    let executed = !matches!(response.data, async_graphql::Value::Null);
    for error in &mut response.errors {
        if error.extensions.as_ref().is_some_and(|extensions| extensions.get("code").is_some()) {
            continue;
        }
        let ours = error.source::<Error>().map(|ours| ours.code);
        let code = match (ours, &error.source) {
            (Some(code), _) => code,
            (None, Some(_)) => {
                mask(error);
                continue;
            }
            // The executor's own words: about a document that was refused whole, or about one value in it.
            (None, None) if executed || !error.path.is_empty() => Code::BadUserInput,
            (None, None) => Code::ValidationFailed,
        };
        mark(error, code);
    }
    response
}

/// Refuses a request with this code and public text.
pub(super) fn refuse<T>(code: Code, text: impl Into<Cow<'static, str>>) -> Result<T, Box<Response>> {
    Err(Error::new(code, text).response().into())
}

/// Whether the response refuses a request that was not run at all.
#[must_use]
pub fn is_refusal(response: &Response) -> bool {
    let was_run = response.data != async_graphql::Value::Null
        || response.errors.iter().any(|error| !error.path.is_empty());
    !was_run && response.is_err()
}

/// The limits whose text the executor or this room writes, by what tells one from the others.
const LIMITS: [(&str, &str); 8] = [
    ("tokens", " tokens"),
    ("aliases", " aliases; "),
    ("selections", " selections"),
    ("bytes", " bytes"),
    ("depth", "Query is nested too deep."),
    ("complexity", "Query is too complex."),
    ("directives", "The number of directives on the field "),
    ("operations", "this pod runs as many distinct subscriptions"),
];

/// The limit that a request hit, if that is why it was refused.
#[must_use]
pub fn limit(response: &Response) -> Option<&'static str> {
    let text = &response.errors.first()?.message;
    let is_refused = is_refusal(response);
    LIMITS.iter().find(|(_, part)| is_refused && text.contains(part)).map(|(limit, _)| *limit)
}

/// A response as it is written: one that refuses the request has no `data` at all, as GraphQL wants it.
#[derive(Serialize)]
pub struct Body<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a Value>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [ServerError],
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    extensions: &'a BTreeMap<String, Value>,
}

impl<'a> From<&'a Response> for Body<'a> {
    fn from(response: &'a Response) -> Self {
        let Response { data, errors, extensions, .. } = response;
        Self { data: (!is_refusal(response)).then_some(data), errors, extensions }
    }
}

impl Body<'_> {
    /// Why the request was not run at all, if it was not.
    #[must_use]
    pub fn refusal(&self) -> Option<Code> {
        let error = self.errors.first().filter(|_| self.data.is_none())?;
        let code = error.extensions.as_ref().and_then(|extensions| extensions.get("code"));
        let is = |known: &&Code| code == Some(&Value::from(known.as_str()));
        Some(CODES.iter().find(is).copied().unwrap_or(Code::Internal))
    }
}

/// The answer to an operation that panicked or never ended.
#[must_use]
pub fn internal() -> Response {
    Error::new(Code::Internal, INTERNAL_TEXT).response()
}

const INTERNAL_TEXT: &str = "internal error";

fn mask(error: &mut ServerError) {
    tracing::error!(error = %error.message, path = ?error.path, "a resolver failed");
    error.message = INTERNAL_TEXT.to_owned();
    error.source = None;
    mark(error, Code::Internal);
}

fn mark(error: &mut ServerError, code: Code) {
    error.extensions.get_or_insert_with(ErrorExtensionValues::default).set("code", code.as_str());
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use async_graphql::{EmptyMutation, EmptySubscription, Object, Schema};

    use super::*;

    struct Query;

    #[Object]
    impl Query {
        async fn ours(&self) -> Result<u8, Error> {
            Err(Error::not_found("no such thing"))
        }

        async fn foreign(&self) -> Result<u8, std::num::ParseIntError> {
            "secret".parse()
        }

        async fn plus(&self, n: u8) -> u8 {
            n
        }
    }

    async fn answer(document: &str) -> serde_json::Value {
        let schema = Schema::new(Query, EmptyMutation, EmptySubscription);
        serde_json::to_value(publicly(schema.execute(document).await)).unwrap()
    }

    #[tokio::test]
    async fn our_errors_are_read_as_they_are() {
        let answer = answer("{ ours }").await;
        assert_eq!(answer["errors"][0]["message"], "no such thing");
        assert_eq!(answer["errors"][0]["extensions"]["code"], "NOT_FOUND");
    }

    #[tokio::test]
    async fn foreign_errors_are_masked() {
        let answer = answer("{ foreign }").await;
        assert_eq!(answer["errors"][0]["message"], "internal error");
        assert_eq!(answer["errors"][0]["extensions"]["code"], "INTERNAL");
    }

    #[tokio::test]
    async fn a_document_that_does_not_fit_the_schema_says_so() {
        assert_eq!(
            answer("{ nothing }").await["errors"][0]["extensions"]["code"],
            "GRAPHQL_VALIDATION_FAILED"
        );
    }
}
