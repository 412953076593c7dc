//! Streams: connections that are one long HTTP response.
//!
//! For every transport of this kind; what differs between them is a [`Format`]. One result that there is at once needs no
//! connection: it is a body like any other.

mod body;
pub mod command;
mod driver;
pub mod format;
mod operations;
pub mod response;

use std::sync::Arc;

use axum::{http::HeaderMap, response::Response};

pub(super) use self::driver::Stream;
use self::{command::Label, format::Format};
use crate::{
    auth::Session,
    graphql::Prepared,
    web::{
        connection::End,
        http::refusal::Refusal,
        operations::Start,
        server::{HandoffRequest, Peer},
        state::AppState,
    },
};

/// Returns the cursor that a client resumes from, as an `EventSource` sends it by itself when it comes back.
pub(in crate::web) fn last_event_id(headers: &HeaderMap) -> Option<&str> {
    headers.get("last-event-id").and_then(|value| value.to_str().ok()).filter(|id| !id.is_empty())
}

/// The client that opens a stream.
pub(in crate::web) struct Caller {
    pub(in crate::web) session: Session,
    /// The cursor to resume from, if not the document's own.
    pub(in crate::web) after: Option<String>,
    pub(in crate::web) peer: Option<Peer>,
}

/// Answers with the results of a subscription.
///
/// # Errors
/// 503 if there is no room for the connection, or if the pod drains.
pub(in crate::web) async fn subscribe(
    app: Arc<AppState>,
    format: &'static dyn Format,
    prepared: Prepared,
    Caller { session, after, peer }: Caller,
) -> Result<Response, Refusal> {
    let guard = app.connections.enter(format.transport(), peer.as_ref());
    let guard = guard.map_err(|end| Refusal::unavailable(&end))?;
    // From before the watcher is let in, so that a client that resumes from there misses nothing.
    let cursor = app.engine.cursor();
    let mut stream = Stream::new(app, guard, format, &session);
    let start = Start { prepared, viewer: session.viewer.clone(), after };
    if let Err((_, refusal)) = stream.run(start, Label::default()).await {
        stream.end(End::Left);
        return Ok(response::once(format, &refusal));
    }
    stream.begin(cursor);
    let (handoff, socket) = HandoffRequest::new();
    stream.spawn(socket);
    Ok(response::respond(format, handoff))
}
