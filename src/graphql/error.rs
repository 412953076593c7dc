//! Turns internal errors into what a client reads: a code and a public text.
//!
//! This is the one boundary of errors, so that no detail escapes. An error that is neither
//! [ours](struct@Error) nor the executor's own about the request becomes `INTERNAL` with a fixed
//! text. It is logged here, once. No `Display` of a foreign error may ever reach a client.

use std::{borrow::Cow, collections::BTreeMap, fmt, num::NonZeroU32, time::Duration};

use async_graphql::{ErrorExtensionValues, PathSegment, Pos, Response, ServerError, Value};
use serde::Serialize;
use thiserror::Error;

/// Code of an error, sent as `extensions.code`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// There is no viewer: the token is missing, bad or expired.
    Unauthenticated,
    /// The token was revoked before it expired.
    TokenRevoked,
    /// The viewer may not do this.
    Forbidden,
    /// An argument is out of bounds.
    BadUserInput,
    /// The thing named does not exist.
    NotFound,
    /// The cursor to resume from is not one of this service.
    BadCursor,
    /// A token of the events to read after is not one of this service.
    BadReadAfter,
    /// This pod has not applied an event that the request must see. The client may try again.
    NotCaughtUp,
    /// The document does not parse.
    ParseFailed,
    /// The document does not fit the schema, or exceeds a limit.
    ValidationFailed,
    /// The request around the document is malformed.
    BadRequest,
    /// The request names its document by a hash. The client sends the document instead.
    PersistedQueryNotSupported,
    /// The topic did not acknowledge the event; nothing is stored.
    PublishFailed,
    /// This pod has its most distinct operations, or this connection its most watchers.
    LimitReached,
    /// The result has more bytes than an answer may have. The operation has run.
    ResultTooLarge,
    /// There is no room for the answer at present. The client may try again.
    Overloaded,
    /// The user publishes more than it may. Nothing is stored; `extensions.retryAfter` has the
    /// seconds after which the client may try again.
    RateLimited,
    /// The service failed. The client's request was legal.
    Internal,
}

/// All codes.
const CODES: [Code; 18] = [
    Code::Unauthenticated,
    Code::TokenRevoked,
    Code::Forbidden,
    Code::BadUserInput,
    Code::NotFound,
    Code::BadCursor,
    Code::BadReadAfter,
    Code::NotCaughtUp,
    Code::ParseFailed,
    Code::ValidationFailed,
    Code::BadRequest,
    Code::PersistedQueryNotSupported,
    Code::PublishFailed,
    Code::LimitReached,
    Code::ResultTooLarge,
    Code::Overloaded,
    Code::RateLimited,
    Code::Internal,
];

impl Code {
    /// Returns the code as clients read it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unauthenticated => "UNAUTHENTICATED",
            Self::TokenRevoked => "TOKEN_REVOKED",
            Self::Forbidden => "FORBIDDEN",
            Self::BadUserInput => "BAD_USER_INPUT",
            Self::NotFound => "NOT_FOUND",
            Self::BadCursor => "BAD_CURSOR",
            Self::BadReadAfter => "BAD_READ_AFTER",
            Self::NotCaughtUp => "NOT_CAUGHT_UP",
            Self::ParseFailed => "GRAPHQL_PARSE_FAILED",
            Self::ValidationFailed => "GRAPHQL_VALIDATION_FAILED",
            Self::BadRequest => "BAD_REQUEST",
            Self::PersistedQueryNotSupported => "PERSISTED_QUERY_NOT_SUPPORTED",
            Self::PublishFailed => "PUBLISH_FAILED",
            Self::LimitReached => "LIMIT_REACHED",
            Self::ResultTooLarge => "RESULT_TOO_LARGE",
            Self::Overloaded => "OVERLOADED",
            Self::RateLimited => "RATE_LIMITED",
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
    /// Path of the value that the error is about.
    field: Option<Box<str>>,
    /// Seconds after which the client may try again.
    retry_after: Option<NonZeroU32>,
}

impl Error {
    /// Creates an error with this code and public text.
    pub fn new(code: Code, text: impl Into<Cow<'static, str>>) -> Self {
        Self { code, text: text.into(), field: None, retry_after: None }
    }

    /// Returns the code.
    #[must_use]
    pub const fn code(&self) -> Code {
        self.code
    }

    /// Adds the path of the value that the error is about, sent as `extensions.field`.
    #[must_use]
    pub fn about(mut self, field: &str) -> Self {
        self.field = Some(field.into());
        self
    }

    /// Creates the error of a user who publishes more than it may.
    pub(super) fn rate_limited(wait: Duration) -> Self {
        let seconds = NonZeroU32::MIN.saturating_add(wait.as_secs() as u32);
        let text = format!("you publish too many events or too large ones; try again in {seconds} s");
        Self { retry_after: Some(seconds), ..Self::new(Code::RateLimited, text) }
    }

    /// Creates the error of a request that waited in vain for an event that it must see.
    #[must_use]
    pub fn not_caught_up() -> Self {
        let text = "this pod has not received yet what you wrote; nothing was run; try again in 1 s";
        Self { retry_after: Some(NonZeroU32::MIN), ..Self::new(Code::NotCaughtUp, text) }
    }

    /// Creates an error about an argument out of bounds. The text should name the argument and its
    /// bound.
    pub fn bad_input(text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::BadUserInput, text)
    }

    /// Creates an error about a thing that does not exist.
    pub fn not_found(text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::NotFound, text)
    }

    /// Converts the error into a response that holds nothing else.
    #[must_use]
    pub fn response(self) -> Response {
        Response::from_errors(vec![self.at(None, Vec::new())])
    }

    /// Converts the error into that of one field of a result.
    #[must_use]
    pub fn at(self, place: Option<Pos>, path: Vec<PathSegment>) -> ServerError {
        let mut error = ServerError::new(self.text, place);
        error.path = path;
        mark(&mut error, self.code);
        if let Some(field) = self.field {
            error.extensions.get_or_insert_default().set("field", String::from(field));
        }
        retry(&mut error, self.retry_after);
        error
    }
}

/// Most errors of a request that did not run. A document of 1,000 wrong fields would have as many.
const MAX_REFUSAL_ERRORS: usize = 20;

/// Makes the response fit for a client. Each error gets a code; a foreign error is logged, and its
/// text masked.
#[must_use]
pub fn publicly(mut response: Response) -> Response {
    if is_refusal(&response) {
        response.errors.truncate(MAX_REFUSAL_ERRORS);
    }
    let executed = !matches!(response.data, async_graphql::Value::Null);
    for error in &mut response.errors {
        if error.extensions.as_ref().is_some_and(|extensions| extensions.get("code").is_some()) {
            continue;
        }
        let ours = error.source::<Error>().map(|ours| (ours.code, ours.retry_after));
        let code = match (ours, &error.source) {
            (Some((code, retry_after)), _) => {
                retry(error, retry_after);
                code
            }
            (None, Some(_)) => {
                mask(error);
                continue;
            }
            // The executor's own errors: it refused one value of the document here, the whole
            // document below.
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

/// Refuses a subscription that may run later, or on another pod.
pub(super) fn too_many_operations<T>() -> Result<T, Box<Response>> {
    refuse(Code::Overloaded, "this pod runs as many distinct subscriptions as it may; connect again later")
}

/// Refuses a subscription of a user that runs as many as it may.
pub(super) fn own_operations<T>() -> Result<T, Box<Response>> {
    refuse(Code::LimitReached, "you run as many distinct subscriptions as you may; end some first")
}

/// Refuses a request that the user, or the pod, has no room for.
pub(super) fn no_room<T>() -> Result<T, Box<Response>> {
    Err(overloaded().into())
}

/// Creates the response to a request that the user, or the pod, has no room for.
pub(super) fn overloaded() -> Response {
    let text = "too many requests of this user or this pod are under way; try again later";
    Error::new(Code::Overloaded, text).response()
}

/// Returns whether the response refuses a request that did not run at all.
#[must_use]
pub fn is_refusal(response: &Response) -> bool {
    let was_run = response.data != async_graphql::Value::Null
        || response.errors.iter().any(|error| !error.path.is_empty());
    !was_run && response.is_err()
}

/// Limits that the executor or this module reports: the metric's label, and the part of the text
/// that identifies the limit.
const LIMITS: [(&str, &str); 12] = [
    ("tokens", " tokens"),
    ("aliases", " aliases; "),
    ("selections", " selections"),
    ("bytes", " bytes"),
    ("schema", " of the schema"),
    ("depth", "Query is nested too deep."),
    ("complexity", "Query is too complex."),
    ("directives", "The number of directives on the field "),
    ("operations", "this pod runs as many distinct subscriptions"),
    ("user_operations", "you run as many distinct subscriptions"),
    ("documents", "too much work of yours waits"),
    ("requests", "too many requests of this user or this pod are under way"),
];

/// Returns the limit that a request exceeded, if it was refused for that.
#[must_use]
pub fn limit(response: &Response) -> Option<&'static str> {
    let text = &response.errors.first()?.message;
    let is_refused = is_refusal(response);
    LIMITS.iter().find(|(_, part)| is_refused && text.contains(part)).map(|(limit, _)| *limit)
}

/// Body of a response as it is written. A refusal has no `data` at all, as the GraphQL
/// specification requires.
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
    /// Returns the code of a request that did not run at all; `None` if it ran.
    #[must_use]
    pub fn refusal(&self) -> Option<Code> {
        let error = self.errors.first().filter(|_| self.data.is_none())?;
        let code = error.extensions.as_ref().and_then(|extensions| extensions.get("code"));
        let is = |known: &&Code| code == Some(&Value::from(known.as_str()));
        Some(CODES.iter().find(is).copied().unwrap_or(Code::Internal))
    }
}

/// Creates the response to an operation that panicked or never ended.
#[must_use]
pub fn internal() -> Response {
    Error::new(Code::Internal, INTERNAL_TEXT).response()
}

const INTERNAL_TEXT: &str = "internal error";

fn mask(error: &mut ServerError) {
    let path = error.path.iter().map(|segment| match segment {
        PathSegment::Field(name) => name.clone(),
        PathSegment::Index(index) => index.to_string(),
    });
    let path = path.collect::<Vec<_>>().join(".");
    tracing::error!(error = %error.message, path, "a resolver failed");
    error.message = INTERNAL_TEXT.to_owned();
    error.source = None;
    mark(error, Code::Internal);
}

/// Names the seconds after which the client may try again, if there are any.
fn retry(error: &mut ServerError, after: Option<NonZeroU32>) {
    if let Some(after) = after {
        error.extensions.get_or_insert_with(ErrorExtensionValues::default).set("retryAfter", after.get());
    }
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
    async fn own_errors_reach_clients_unchanged() {
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
    async fn misfit_document_fails_validation() {
        assert_eq!(
            answer("{ nothing }").await["errors"][0]["extensions"]["code"],
            "GRAPHQL_VALIDATION_FAILED"
        );
    }
}
