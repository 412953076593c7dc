//! GraphQL over plain HTTP: queries by GET and POST, mutations by POST, and the way into a WebSocket.
//!
//! Every refusal is a GraphQL error body with a code, whatever the status.

use std::sync::Arc;

use async_graphql::{ParseRequestError, parser::types::OperationType};
use async_graphql_axum::{GraphQLRequest, GraphQLResponse};
use axum::{
    RequestExt as _,
    extract::{FromRequest, Request, State},
    http::{
        HeaderMap, HeaderValue, StatusCode,
        header::{ALLOW, AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE},
    },
    response::{IntoResponse, Response},
};

use super::{Site, connection::End, ws};
use crate::{
    audience::Viewer,
    auth::AuthError,
    graphql::error::{Code, Error},
};

/// `GET /graphql`: a query in the URL, or the handshake of a WebSocket.
pub async fn get(State(site): State<Arc<Site>>, request: Request) -> Response {
    if ws::handshake::is_wanted(request.headers()) {
        return ws::accept(&site, request);
    }
    run(&site, request, Method::Get).await.unwrap_or_else(IntoResponse::into_response)
}

/// `POST /graphql`.
pub async fn post(State(site): State<Arc<Site>>, request: Request) -> Response {
    run(&site, request, Method::Post).await.unwrap_or_else(IntoResponse::into_response)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Method {
    Get,
    Post,
}

async fn run(site: &Site, request: Request, method: Method) -> Result<Response, Refusal> {
    let viewer = viewer(site, request.headers()).await?;
    if method == Method::Post && !is_json(request.headers()) {
        let text = "send the request as `application/json`";
        return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, Code::BadRequest, text));
    }
    let request =
        GraphQLRequest::<Refusal>::from_request(request.with_limited_body(), &()).await?.into_inner();
    let prepared = match site.engine.prepare(request) {
        Ok(prepared) => prepared,
        Err(response) => return Ok(GraphQLResponse::from(*response).into_response()),
    };
    match prepared.kind {
        OperationType::Subscription => {
            let text = "subscriptions need a WebSocket: connect to this address with the subprotocol \
                        graphql-transport-ws (or the older graphql-ws)";
            Err(Refusal::new(StatusCode::BAD_REQUEST, Code::BadRequest, text))
        }
        OperationType::Mutation if method == Method::Get => {
            let mut refusal =
                Refusal::new(StatusCode::METHOD_NOT_ALLOWED, Code::BadRequest, "send mutations by POST");
            refusal.headers.insert(ALLOW, HeaderValue::from_static("POST"));
            Err(refusal)
        }
        _ => Ok(GraphQLResponse::from(site.engine.execute(prepared, viewer).await).into_response()),
    }
}

async fn viewer(site: &Site, headers: &HeaderMap) -> Result<Arc<Viewer>, Refusal> {
    let authorization = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    Ok(site.auth.admit(authorization).await?.viewer)
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
        Self::new(StatusCode::SERVICE_UNAVAILABLE, Code::LimitReached, text)
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
