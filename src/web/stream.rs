//! Streams: connections that are one long HTTP response.
//!
//! For every transport of this kind; what differs between them is a [`Format`]. One result that there is at once needs no
//! connection: it is a body like any other.

mod commands;
mod driver;
mod line;

use std::{convert::Infallible, sync::Arc, time::Duration};

use async_graphql::Response as GraphQLResponse;
use axum::{
    body::{Body, Bytes},
    http::{
        HeaderMap, HeaderName, HeaderValue,
        header::{CACHE_CONTROL, CONTENT_TYPE, VARY},
    },
    response::{IntoResponse, Response},
};
use futures_util::stream;

use super::{
    Site, connection::End, multipart::PARTS, negotiate::Form, refusal::Refusal, serve::Peer, sse::EVENTS,
    transport::Transport,
};
use crate::{
    auth::Pass,
    graphql::{Prepared, error},
};

pub(super) use self::{
    commands::{Command, Rejected, Start},
    driver::Stream,
    line::{Handover, Line},
};

/// What a transport writes around results. Everything is appended to the chunk.
pub trait Format: Sync {
    /// Which transport it is.
    fn transport(&self) -> Transport;

    /// The media type of the body.
    fn content_type(&self) -> &'static str;

    /// Between two signs of life, when there is nothing else to write.
    fn keep_alive_period(&self) -> Duration;

    /// What the body begins with, at once: a client, or a proxy, may wait for a first byte. With a cursor, the client can
    /// resume from there before it has a result.
    fn begin(&self, chunk: &mut Vec<u8>, cursor: Option<&str>);

    /// A result of an operation. `id` is the client's id of it, a JSON string, where several share the body.
    fn next(&self, chunk: &mut Vec<u8>, id: Option<&str>, cursor: Option<&str>, result: &str);

    /// That the operation is over.
    fn complete(&self, chunk: &mut Vec<u8>, id: Option<&str>);

    /// A sign of life, and where the client stands.
    fn keep_alive(&self, chunk: &mut Vec<u8>, cursor: Option<&str>);

    /// That the client's token has expired; `false` if the transport has no words for it, and the body is cut instead.
    fn expired(&self, chunk: &mut Vec<u8>) -> bool;
}

/// How many results go out in this form; `None` if it has only one.
pub(super) const fn format(form: Form) -> Option<&'static dyn Format> {
    match form {
        Form::EventStream => Some(EVENTS),
        Form::Multipart => Some(PARTS),
        Form::Json | Form::GraphqlResponseJson => None,
    }
}

/// The cursor that a client resumes from, as an `EventSource` says it by itself when it comes back.
pub(super) fn last_event_id(headers: &HeaderMap) -> Option<&str> {
    headers.get("last-event-id").and_then(|value| value.to_str().ok()).filter(|id| !id.is_empty())
}

/// Answers with the one result that there is.
pub(super) fn once(format: &'static dyn Format, response: &GraphQLResponse) -> Response {
    let mut chunk = Vec::new();
    format.begin(&mut chunk, None);
    result(format, &mut chunk, None, response);
    format.complete(&mut chunk, None);
    head(format, chunk.into())
}

/// Who opens a stream, and from where on.
pub(super) struct Caller {
    pub(super) pass: Pass,
    /// The cursor to resume from, if not the document's own.
    pub(super) after: Option<String>,
    pub(super) peer: Option<Peer>,
}

/// Answers with the results of a subscription.
pub(super) async fn open(
    site: Arc<Site>,
    format: &'static dyn Format,
    prepared: Prepared,
    Caller { pass, after, peer }: Caller,
) -> Result<Response, Refusal> {
    let guard = site.connections.enter(format.transport(), peer.as_ref());
    let guard = guard.map_err(|end| Refusal::unavailable(&end))?;
    // From before the watcher is let in, so that whoever resumes from there misses nothing.
    let cursor = site.engine.cursor();
    let mut stream = Stream::new(site, guard, format, &pass);
    if let Err(refusal) = stream.watch(None, prepared, pass.viewer.clone(), after.as_deref()).await {
        stream.end(End::Left);
        return Ok(once(format, &refusal));
    }
    stream.begin(cursor);
    let (handover, line) = Handover::new();
    stream.spawn(line);
    Ok(respond(format, handover))
}

/// The head of a stream, whose body is written by whoever waits for the line.
pub(super) fn respond(format: &'static dyn Format, handover: Handover) -> Response {
    // Nobody reads it, but a body of a known length would be announced as such.
    let body = Body::from_stream(stream::empty::<Result<Bytes, Infallible>>());
    let mut response = head(format, body);
    response.extensions_mut().insert(handover);
    response
}

fn head(format: &'static dyn Format, body: Body) -> Response {
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static(format.content_type())),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (VARY, HeaderValue::from_static("accept, authorization")),
        // nginx, and those who learnt it from there, would hold results back to fill a buffer.
        (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    (headers, body).into_response()
}

/// A query's or mutation's result, or a refusal. A result without a JSON form cannot be: ours are made of JSON values.
fn result(format: &dyn Format, chunk: &mut Vec<u8>, id: Option<&str>, response: &GraphQLResponse) {
    let text = serde_json::to_string(&error::Body::from(response)).unwrap_or_default();
    format.next(chunk, id, None, &text);
}
