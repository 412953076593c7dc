//! Streams: connections that are one long HTTP response.
//!
//! They serve every transport of this kind; a [`Format`] holds what differs. A single result that
//! is available at once needs no connection: it is an ordinary body.

mod body;
pub mod command;
mod driver;
pub mod format;
mod operations;
pub mod response;

use std::{num::NonZeroU8, sync::Arc};

use axum::{http::HeaderMap, response::Response};

pub(super) use self::driver::Stream;
use self::{command::Label, format::Format};
use crate::{
    auth::Session,
    budget::Charge,
    cursor::Source,
    graphql::Prepared,
    web::{
        connection::End,
        http::refusal::{Refusal, end_of},
        operations::Start,
        server::{HandoffRequest, Peer},
        state::AppState,
    },
};

/// Returns the cursor that a client resumes from. An `EventSource` sends it by itself when it
/// reconnects.
pub(in crate::web) fn last_event_id(headers: &HeaderMap) -> Option<&str> {
    headers.get("last-event-id").and_then(|value| value.to_str().ok()).filter(|id| !id.is_empty())
}

/// Client that opens a stream.
pub(in crate::web) struct Caller {
    pub(in crate::web) session: Session,
    /// The cursor to resume from; `None`: the cursor of the document, if it has one.
    pub(in crate::web) after: Option<String>,
    pub(in crate::web) peer: Option<Peer>,
    /// Time between two heartbeats that the client wants, in seconds.
    pub(in crate::web) heartbeat: Option<NonZeroU8>,
    /// Charge of the request.
    pub(in crate::web) held: Charge,
}

/// Starts a subscription and answers with the stream of its results.
///
/// # Errors
/// 503 if a limit on connections is reached or the pod drains.
pub(in crate::web) async fn subscribe(
    app: Arc<AppState>,
    format: &'static dyn Format,
    prepared: Prepared,
    Caller { session, after, peer, heartbeat, held }: Caller,
) -> Result<Response, Refusal> {
    let guard = app.connections.enter(format.transport(), peer.as_ref());
    let guard = guard.map_err(|end| Refusal::unavailable(&end))?;
    // Taken before the watcher is added, so that a client that resumes from it misses nothing.
    let cursor = app.engine.cursor(Source::Start);
    let mut stream = Stream::new(app, guard, format, &session);
    let start = Start { prepared, viewer: session.viewer.clone(), after, held: Some(held) };
    if let Err((_, refusal)) = stream.run(start, Label::default()).await {
        if let (Some(end), Some(refusal)) = (end_of(&refusal), Refusal::at_present(&refusal)) {
            stream.end(end);
            return Err(refusal);
        }
        stream.end(End::Left);
        return Ok(response::refuse(format, refusal));
    }
    stream.begin(cursor, heartbeat);
    let (handoff, socket) = HandoffRequest::new();
    stream.spawn(socket);
    Ok(response::respond(format, handoff))
}
