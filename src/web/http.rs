//! GraphQL over plain HTTP: queries by GET and POST, mutations by POST, and the way into a WebSocket.
//!
//! Every refusal is a GraphQL error body with a code, whatever the status.

use std::sync::Arc;

use async_graphql::parser::types::OperationType;
use axum::{
    extract::{FromRequestParts, Request, State, WebSocketUpgrade},
    http::{
        HeaderMap, HeaderValue, Method, StatusCode,
        header::{ALLOW, AUTHORIZATION, ORIGIN, UPGRADE},
    },
    response::{IntoResponse, Response},
};

use super::{
    Site,
    negotiate::{Accept, Answer},
    refusal::{Refusal, json},
    request, ws,
};
use crate::{
    audience::Viewer,
    graphql::{
        Prepared,
        error::{Body, Code},
    },
};

/// How to subscribe, for those who did not.
const TRANSPORTS: &str = "a subscription needs a transport for many results: at this address, a WebSocket with the subprotocol \
                          graphql-transport-ws (or the older graphql-ws), or a request with `Accept: text/event-stream` or \
                          `Accept: multipart/mixed;subscriptionSpec=\"1.0\"`";

/// `GET /graphql`: a query in the URL, or the handshake of a WebSocket.
pub async fn get(State(site): State<Arc<Site>>, request: Request) -> Response {
    if request.headers().contains_key(UPGRADE) {
        return upgrade(site, request).await;
    }
    answer(&site, request).await
}

/// `POST /graphql`.
pub async fn post(State(site): State<Arc<Site>>, request: Request) -> Response {
    answer(&site, request).await
}

/// Any other method on `/graphql`.
pub async fn no_method(request: Request) -> Response {
    let refusal =
        Refusal::new(StatusCode::METHOD_NOT_ALLOWED, Code::BadRequest, "send the request by GET or POST");
    let allow = HeaderValue::from_static("GET, HEAD, POST");
    refusal.with(ALLOW, allow).answer(Accept::read(request.headers()).result())
}

async fn answer(site: &Site, request: Request) -> Response {
    let accept = Accept::read(request.headers());
    run(site, request, &accept).await.unwrap_or_else(|refusal| refusal.answer(accept.result()))
}

async fn run(site: &Site, request: Request, accept: &Accept) -> Result<Response, Refusal> {
    admit_origin(site, request.headers())?;
    let form = accept.result().ok_or_else(not_acceptable)?;
    let viewer = viewer(site, request.headers()).await?;
    let method = request.method().clone();
    let request = match method {
        Method::POST => request::from_body(request).await?,
        _ => request::from_url(request.uri())?,
    };
    let prepared = match site.engine.prepare(request) {
        Ok(prepared) => prepared,
        Err(response) => return Ok(result(form, &response)),
    };
    match prepared.kind {
        OperationType::Subscription => stream(site, prepared, viewer, accept),
        OperationType::Mutation if method != Method::POST => {
            let text = "send mutations by POST";
            let refusal = Refusal::new(StatusCode::METHOD_NOT_ALLOWED, Code::BadRequest, text);
            Err(refusal.with(ALLOW, HeaderValue::from_static("POST")))
        }
        _ if form.is_stream() => Err(not_acceptable()),
        _ => Ok(result(form, &site.engine.execute(prepared, viewer).await)),
    }
}

/// Answers with the results of a subscription, if the client accepts a stream.
fn stream(_: &Site, _: Prepared, _: Arc<Viewer>, accept: &Accept) -> Result<Response, Refusal> {
    match accept.stream() {
        Some(Answer::EventStream | Answer::Multipart) => Err(not_acceptable()),
        _ => Err(Refusal::bad(TRANSPORTS)),
    }
}

fn not_acceptable() -> Refusal {
    let text = "accept `application/graphql-response+json` or `application/json`";
    Refusal::new(StatusCode::NOT_ACCEPTABLE, Code::BadRequest, text)
}

/// One result. With the older media type everything that was understood is a 200, since clients cannot tell our other
/// statuses from a proxy's.
fn result(form: Answer, response: &async_graphql::Response) -> Response {
    let body = Body::from(response);
    let status = match form {
        Answer::GraphqlResponseJson => body.refusal().map_or(StatusCode::OK, status),
        _ => StatusCode::OK,
    };
    json(status, Some(form), &body)
}

/// The status of a request that was understood and not run.
const fn status(code: Code) -> StatusCode {
    match code {
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::Forbidden => StatusCode::FORBIDDEN,
        Code::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::BAD_REQUEST,
    }
}

/// Who asks, by the request's `Authorization`.
///
/// # Errors
/// 401, or 503 if tokens cannot be checked.
pub(super) async fn viewer(site: &Site, headers: &HeaderMap) -> Result<Arc<Viewer>, Refusal> {
    let authorization = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    Ok(site.auth.admit(authorization).await?.viewer)
}

/// Whether the page that sends the request, if it is one, may.
///
/// What protects against requests that other sites have a browser send: nobody is let in without an `Authorization` header,
/// which no browser adds by itself as it does a cookie, and a page that adds it, or a body of JSON, has to ask by a preflight
/// that we answer for allowed origins only. Forms can send neither, and a GET changes nothing. That much holds without this
/// check. It is for what may come to stand in front of the pod, such as a proxy that turns a cookie into a token: with
/// it, a request whose `Origin` is not allowed never runs, whatever it carries. Programs send no `Origin`.
///
/// # Errors
/// 403.
pub(super) fn admit_origin(site: &Site, headers: &HeaderMap) -> Result<(), Refusal> {
    match headers.get(ORIGIN) {
        Some(origin) if !site.settings.origins.allow(origin.as_bytes(), headers) => {
            Err(Refusal::new(StatusCode::FORBIDDEN, Code::Forbidden, "this origin is not allowed"))
        }
        _ => Ok(()),
    }
}

async fn upgrade(site: Arc<Site>, request: Request) -> Response {
    let (mut parts, _) = request.into_parts();
    if let Err(refusal) = admit_origin(&site, &parts.headers) {
        return refusal.answer(None);
    }
    let upgrade = match WebSocketUpgrade::from_request_parts(&mut parts, &()).await {
        Ok(upgrade) => upgrade,
        Err(rejection) => return rejection.into_response(),
    };
    match site.connections.enter(ws::TRANSPORT, &parts.extensions) {
        Ok(guard) => ws::accept(site, upgrade, &parts.headers, guard),
        Err(end) => Refusal::unavailable(&end).answer(None),
    }
}
