//! Responses with the format of a stream: the head of a long body, or a body with a single result.
//!
//! The head of a stream must never announce a length.

use std::convert::Infallible;

use async_graphql::Response as GraphQLResponse;
use axum::{
    body::{Body, Bytes},
    http::{
        HeaderName, HeaderValue,
        header::{CACHE_CONTROL, CONTENT_TYPE, VARY},
    },
    response::{IntoResponse, Response},
};
use futures_util::stream;

use super::format::Format;
use crate::{
    graphql::Answer,
    web::{http::charged, server::HandoffRequest},
};

/// Answers with the one result that there is, and the end.
pub(in crate::web) fn once(format: &'static dyn Format, answer: Answer) -> Response {
    let mut chunk = Vec::new();
    format.begin(&mut chunk, None);
    format.next(&mut chunk, None, None, &answer.text);
    format.complete(&mut chunk, None);
    head(format, charged(chunk, answer.charge))
}

/// Answers with a refusal, and the end.
pub(in crate::web) fn refuse(format: &'static dyn Format, refusal: Box<GraphQLResponse>) -> Response {
    once(format, Answer::refused(refusal))
}

/// Answers with the head of a stream. Its task writes the body.
pub(in crate::web) fn respond(format: &'static dyn Format, handoff: HandoffRequest) -> Response {
    // Never read. A body of a known length would be announced in the head.
    let body = Body::from_stream(stream::empty::<Result<Bytes, Infallible>>());
    let mut response = head(format, body);
    response.extensions_mut().insert(handoff);
    response
}

fn head(format: &'static dyn Format, body: Body) -> Response {
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static(format.content_type())),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (VARY, HeaderValue::from_static("accept, authorization")),
        // nginx, and proxies that adopted its header, would hold results back to fill a buffer.
        (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    (headers, body).into_response()
}
