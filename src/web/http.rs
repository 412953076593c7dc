//! GraphQL over plain HTTP: queries by GET and POST, mutations by POST, and the way into a WebSocket.
//!
//! Every refusal is a GraphQL error body with a code, whatever the status.

use std::sync::Arc;

use async_graphql::{
    ParseRequestError, Request as GraphQLQuery, Response as GraphQLResult, Value,
    parser::types::OperationType,
};
use async_graphql_axum::{GraphQLRequest, GraphQLResponse};
use axum::{
    RequestExt as _,
    extract::{FromRequest, Request, State},
    http::{
        HeaderMap, HeaderValue, StatusCode,
        header::{ALLOW, AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
    },
    response::{IntoResponse, Response},
};

use super::{Site, connection::End, sse::reservation, stream, ws};
use crate::{
    auth::{AuthError, Pass},
    graphql::error::{Code, Error},
    telemetry::traces::TRACEPARENT,
};

/// `GET /graphql`: a query in the URL, or the handshake of a WebSocket.
pub async fn get(State(site): State<Arc<Site>>, request: Request) -> Response {
    if ws::handshake::is_wanted(request.headers()) {
        return ws::accept(&site, request);
    }
    let token = reservation::token(request.headers(), request.uri());
    let answer = match token.filter(|_| stream::wanted(request.headers()).is_some()) {
        Some(token) => reservation::open(&site, request.headers(), &token).await,
        None => run(site, request, Method::Get).await,
    };
    answer.unwrap_or_else(IntoResponse::into_response)
}

/// `POST /graphql`.
pub async fn post(State(site): State<Arc<Site>>, request: Request) -> Response {
    let answer = match reservation::token(request.headers(), request.uri()) {
        Some(token) => reservation::submit(&site, request, &token).await,
        None => run(site, request, Method::Post).await,
    };
    answer.unwrap_or_else(IntoResponse::into_response)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Method {
    Get,
    Post,
}

async fn run(site: Arc<Site>, request: Request, method: Method) -> Result<Response, Refusal> {
    let pass = admit(&site, request.headers()).await?;
    let format = stream::wanted(request.headers());
    let after = stream::last_event_id(request.headers()).map(str::to_owned);
    let request = read(request).await?;
    let answer = |response: GraphQLResult| match format {
        Some(format) => stream::once(format, &response),
        None => GraphQLResponse::from(response).into_response(),
    };
    let prepared = match site.engine.prepare(request) {
        Ok(prepared) => prepared,
        // What cannot be read is not answered by a stream; what does not fit the schema is.
        Err(refusal) if !is_invalid(&refusal) && format.is_some() => {
            return Ok((StatusCode::BAD_REQUEST, GraphQLResponse::from(*refusal)).into_response());
        }
        Err(refusal) => return Ok(answer(*refusal)),
    };
    match (prepared.kind, format) {
        (OperationType::Subscription, Some(format)) => {
            stream::open(site, format, prepared, &pass, after.as_deref()).await
        }
        (OperationType::Subscription, None) => {
            let text = "a subscription needs a transport for many results: at this address, a WebSocket with the subprotocol \
                        graphql-transport-ws (or the older graphql-ws), or a request with `Accept: text/event-stream` or \
                        `Accept: multipart/mixed;subscriptionSpec=\"1.0\"`";
            Err(Refusal::new(StatusCode::BAD_REQUEST, Code::BadRequest, text))
        }
        (OperationType::Mutation, _) if method == Method::Get => {
            let mut refusal =
                Refusal::new(StatusCode::METHOD_NOT_ALLOWED, Code::BadRequest, "send mutations by POST");
            refusal.headers.insert(ALLOW, HeaderValue::from_static("POST"));
            Err(refusal)
        }
        _ => Ok(answer(site.engine.execute(prepared, pass.viewer).await)),
    }
}

/// Who asks, by the request's `Authorization`.
pub(super) async fn admit(site: &Site, headers: &HeaderMap) -> Result<Pass, Refusal> {
    let authorization = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    Ok(site.auth.admit(authorization).await?)
}

/// The GraphQL request in the URL or the body.
pub(super) async fn read(request: Request) -> Result<GraphQLQuery, Refusal> {
    if request.method() == axum::http::Method::POST && !is_json(request.headers()) {
        let text = "send the request as `application/json`";
        return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, Code::BadRequest, text));
    }
    let trace = request.headers().get(TRACEPARENT).and_then(|value| value.to_str().ok()).map(Value::from);
    let mut request =
        GraphQLRequest::<Refusal>::from_request(request.with_limited_body(), &()).await?.into_inner();
    request.extensions.extend(trace.map(|trace| (TRACEPARENT.to_owned(), trace)));
    Ok(request)
}

/// Whether the document can be read and does not fit.
fn is_invalid(refusal: &GraphQLResult) -> bool {
    let codes = refusal.errors.iter().filter_map(|error| error.extensions.as_ref()?.get("code"));
    codes.into_iter().any(|code| *code == Value::from(Code::ValidationFailed.as_str()))
}

fn is_json(headers: &HeaderMap) -> bool {
    let media_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = media_type.split(';').next().unwrap_or_default().trim();
    ["application/json", "application/graphql+json"].iter().any(|json| json.eq_ignore_ascii_case(media_type))
}

/// A request that was not run: a status, and a GraphQL error body.
pub(super) struct Refusal {
    status: StatusCode,
    headers: HeaderMap,
    error: Error,
}

impl Refusal {
    pub(super) fn new(
        status: StatusCode,
        code: Code,
        text: impl Into<std::borrow::Cow<'static, str>>,
    ) -> Self {
        Self { status, headers: HeaderMap::new(), error: Error::new(code, text) }
    }

    pub(super) fn unavailable(end: &End) -> Self {
        let text = match end {
            End::Drained => "this pod is draining; connect again",
            _ => "this pod has as many connections as it may; connect again later",
        };
        let mut refusal = Self::new(StatusCode::SERVICE_UNAVAILABLE, Code::LimitReached, text);
        // By then a balancer has forgotten a pod that drains.
        refusal.headers.insert(RETRY_AFTER, HeaderValue::from_static("5"));
        refusal
    }
}

impl From<AuthError> for Refusal {
    fn from(error: AuthError) -> Self {
        tracing::debug!(reason = error.reason(), "request refused");
        let mut refusal = Self::new(StatusCode::UNAUTHORIZED, Code::Unauthenticated, error.to_string());
        refusal.headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        refusal
    }
}

impl From<ParseRequestError> for Refusal {
    fn from(error: ParseRequestError) -> Self {
        match error {
            // The body's own limit comes as an I/O error, told apart by its text only.
            error if is_too_large(&error) => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, Code::BadRequest, "the request is too large")
            }
            ParseRequestError::UnsupportedBatch => Self::new(
                StatusCode::BAD_REQUEST,
                Code::BadRequest,
                "send one operation at a time, not a batch",
            ),
            _ => Self::new(StatusCode::BAD_REQUEST, Code::BadRequest, "the request is not GraphQL over HTTP"),
        }
    }
}

fn is_too_large(error: &ParseRequestError) -> bool {
    match error {
        ParseRequestError::PayloadTooLarge => true,
        ParseRequestError::Io(error) => error.to_string().contains("length limit exceeded"),
        _ => false,
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.status, self.headers, GraphQLResponse::from(self.error.response())).into_response()
    }
}
