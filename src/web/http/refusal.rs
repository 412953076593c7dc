//! [`Refusal`]: the answer to an HTTP request that was not run.
//!
//! It has a status, headers, and a GraphQL error in a media type that the client accepts. Every
//! transport over HTTP refuses through it, so that none answers with an empty or foreign body.

use std::borrow::Cow;

use axum::{
    Json,
    http::{
        HeaderName, HeaderValue, StatusCode,
        header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, VARY, WWW_AUTHENTICATE},
    },
    response::{IntoResponse, Response},
};

use super::{super::connection::End, negotiate::Form};
use crate::{
    auth::AuthError,
    graphql::{
        self,
        error::{Body, Code, Error},
    },
};

/// `Retry-After` of a refusal that passes, in seconds. By then a load balancer has stopped sending
/// requests to this pod, or the keys have been fetched again.
const RETRY_SECONDS: HeaderValue = HeaderValue::from_static("5");

/// Text for a client of a pod that drains.
pub(in crate::web) const DRAINING: &str = "this pod is draining; connect again";

/// Refusal of a request: what is answered instead of running it.
#[derive(Debug)]
pub struct Refusal {
    status: StatusCode,
    header: Option<Box<(HeaderName, HeaderValue)>>,
    error: Error,
    /// Limit that was reached, if the status does not name it.
    limit: Option<&'static str>,
}

impl Refusal {
    /// Creates a refusal with this status, code and public text.
    pub fn new(status: StatusCode, code: Code, text: impl Into<Cow<'static, str>>) -> Self {
        Self { status, header: None, error: Error::new(code, text), limit: None }
    }

    /// Creates a refusal with 400: the request cannot be understood.
    pub fn bad(text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, Code::BadRequest, text)
    }

    /// Creates a refusal with 503: a limit on connections was reached, or the pod drains.
    #[must_use]
    pub fn unavailable(end: &End) -> Self {
        Self::busy(match end {
            End::Drained => DRAINING,
            End::Crowded => "this address has as many connections as it may; end one first",
            End::Overloaded => {
                "too many requests of this address or this pod are under way; connect again later"
            }
            _ => "this pod has as many connections as it may; connect again later",
        })
    }

    /// Creates a refusal with 503: a limit was reached that passes soon.
    pub fn busy(text: &'static str) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, Code::LimitReached, text).with(RETRY_AFTER, RETRY_SECONDS)
    }

    /// Creates a refusal with 503 of a response that refuses its request at present only; `None` of
    /// any other.
    #[must_use]
    pub fn at_present(refusal: &async_graphql::Response) -> Option<Self> {
        if Body::from(refusal).refusal() == Some(Code::NotCaughtUp) {
            return Some(Self::not_caught_up());
        }
        let error = refusal.errors.first().filter(|_| is_overloaded(refusal))?;
        let refusal = Self::new(StatusCode::SERVICE_UNAVAILABLE, Code::Overloaded, error.message.clone());
        Some(refusal.with(RETRY_AFTER, RETRY_SECONDS))
    }

    /// Creates a refusal with 503: this pod has not applied what the client wrote.
    #[must_use]
    pub fn not_caught_up() -> Self {
        let (status, error) = (StatusCode::SERVICE_UNAVAILABLE, Error::not_caught_up());
        Self { status, header: None, error, limit: None }.with(RETRY_AFTER, HeaderValue::from_static("1"))
    }

    /// Creates a refusal with 503: there is no room for the request at present.
    #[must_use]
    pub fn no_room() -> Self {
        let text = "too many requests of this user or this pod are under way; try again later";
        let refusal = Self::new(StatusCode::SERVICE_UNAVAILABLE, Code::Overloaded, text);
        Self { limit: Some("requests"), ..refusal.with(RETRY_AFTER, RETRY_SECONDS) }
    }

    /// Returns the limit that was reached, if it was one. Limits on connections are counted with
    /// the ends of connections.
    #[must_use]
    pub const fn limit(&self) -> Option<&'static str> {
        match self.status {
            _ if self.limit.is_some() => self.limit,
            StatusCode::PAYLOAD_TOO_LARGE => Some("body"),
            StatusCode::REQUEST_TIMEOUT => Some("body_time"),
            StatusCode::TOO_MANY_REQUESTS => Some("watchers"),
            _ => None,
        }
    }

    /// Sets the one header that a refusal may have.
    #[must_use]
    pub fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.header = Some(Box::new((name, value)));
        self
    }

    /// Returns the response, in a form that the client accepts if there is one.
    #[must_use]
    pub fn answer(self, form: Option<Form>) -> Response {
        let body = self.error.response();
        let mut response = json(self.status, form, &Body::from(&body));
        response.headers_mut().extend(self.header.map(|header| *header));
        response
    }
}

impl Refusal {
    /// Creates the refusal of a viewer, with this text.
    pub fn of_viewer(error: &AuthError, text: String) -> Self {
        tracing::debug!(reason = error.reason(), "request refused");
        match error {
            // The token may be good. After a 401 the client would drop it in vain.
            AuthError::KeysUnavailable => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, code(error), text).with(RETRY_AFTER, RETRY_SECONDS)
            }
            // A fresh token of the same user would not help.
            AuthError::Forbidden(_) => Self::new(StatusCode::FORBIDDEN, code(error), text),
            _ => Self::new(StatusCode::UNAUTHORIZED, code(error), text)
                .with(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")),
        }
    }
}

/// Returns the end of a connection whose operation is refused at present only; `None` for any other
/// response. Stock clients would take an `error` for final.
pub(in crate::web) fn end_of(refusal: &async_graphql::Response) -> Option<End> {
    let is_of_operations = graphql::error::limit(refusal) == Some("operations");
    is_overloaded(refusal).then_some(if is_of_operations { End::TooManyOperations } else { End::Overloaded })
}

/// Returns the code that the client of a refused token reads.
pub(in crate::web) const fn code(error: &AuthError) -> Code {
    match error {
        AuthError::Revoked => Code::TokenRevoked,
        AuthError::Forbidden(_) => Code::Forbidden,
        _ => Code::Unauthenticated,
    }
}

/// Reports whether the response refuses a request that may pass later.
pub(in crate::web) fn is_overloaded(refusal: &async_graphql::Response) -> bool {
    Body::from(refusal).refusal() == Some(Code::Overloaded)
}

/// Returns a GraphQL response as one JSON body.
pub(in crate::web) fn json(status: StatusCode, form: Option<Form>, body: &Body<'_>) -> Response {
    (status, headers(form), Json(body)).into_response()
}

/// Returns the headers of every answer that is one JSON body.
pub(in crate::web) const fn headers(form: Option<Form>) -> [(HeaderName, &'static str); 3] {
    let media_type = match form {
        Some(Form::GraphqlResponseJson) => "application/graphql-response+json; charset=utf-8",
        _ => "application/json; charset=utf-8",
    };
    // The answer depends on the viewer and on the accepted media types.
    [(CONTENT_TYPE, media_type), (VARY, "accept, authorization"), (CACHE_CONTROL, "no-store")]
}
