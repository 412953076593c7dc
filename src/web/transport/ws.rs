//! WebSockets: the way in, and the task of one connection from its first byte to its end.
//!
//! From the bottom up: [`frame`] reads and writes the frames of RFC 6455, [`handshake`] opens a connection, [`socket`] moves
//! its bytes, [`protocol`] knows the subprotocols, and the driver joins them to the engine. A frame is a piece of what
//! travels; a message, here alone, is what RFC 6455 calls one: frames put together. The stack is our own because
//! the common ones keep buffers for each connection, and an idle one shall cost as little as its task.

mod driver;
pub mod frame;
pub mod handshake;
mod operations;
pub mod protocol;
pub mod socket;

use std::{sync::Arc, time::Duration};

use axum::{extract::Request, http::header::AUTHORIZATION, response::Response};
use tokio::time::timeout;

use self::{
    driver::Connection,
    handshake::{Handshake, UpgradeError},
    protocol::{Close, Dialect},
    socket::Socket,
};
use crate::{
    graphql::error::Code,
    web::{
        connection::{End, Guard, Transport},
        http::refusal::Refusal,
        server::Peer,
        state::AppState,
    },
};

/// How long a peer may take to answer our close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The largest message of a client, in bytes: a mutation with the most location ids is under 100 KiB.
const MAX_MESSAGE_BYTES: usize = 128 << 10;

/// The largest one of a client that has not said who it is: as much as all headers of a request may take.
const MAX_FIRST_MESSAGE_BYTES: usize = 16 << 10;

/// Answers the handshake and drives the connection in a task of its own, which a drain waits for.
pub(in crate::web) fn accept(app: &Arc<AppState>, mut request: Request) -> Response {
    if let Err(refusal) = app.check_origin(request.headers()) {
        return refusal.answer(None);
    }
    let authorization = request.headers().get(AUTHORIZATION);
    let authorization = authorization.and_then(|value| value.to_str().ok()).map(Box::from);
    let handshake = match Handshake::read(&mut request, &Dialect::NAMES) {
        Ok(handshake) => handshake,
        Err(error) => {
            let refusal = Refusal::new(error.status(), Code::BadRequest, error.to_string());
            let mut response = refusal.answer(None);
            response.headers_mut().extend(error.headers());
            return response;
        }
    };
    let response = handshake.response();
    let (peer, tasks) = (Peer::of(request.extensions()), app.connections.tasks());
    match app.connections.enter(Transport::WebSocket, peer) {
        Ok(guard) => {
            let arrival = Arrival { app: app.clone(), guard, authorization };
            tasks.spawn(arrival.serve(handshake));
        }
        Err(end) => {
            tasks.spawn(turn_away(handshake, end, peer.cloned()));
        }
    }
    response
}

/// Tells a client by a close that there is no room for it: no browser shows a page the status of a handshake, and stock
/// clients come back by the code. Meanwhile it keeps the place of a stranger, so that no more of them are turned away at once.
async fn turn_away(handshake: Handshake, end: End, _place: Option<Peer>) {
    if let Some(mut socket) = upgraded(handshake).await {
        goodbye(&mut socket, Close::of(&end).as_ref(), true).await;
    }
}

async fn upgraded(handshake: Handshake) -> Option<Socket> {
    match handshake.socket(MAX_FIRST_MESSAGE_BYTES).await {
        Ok(socket) => return Some(socket),
        Err(error @ UpgradeError::NotTcp) => tracing::error!(%error, "no websocket"),
        Err(error @ UpgradeError::Lost(_)) => tracing::debug!(%error, "no websocket"),
    }
    None
}

/// A client whose handshake is in order.
struct Arrival {
    app: Arc<AppState>,
    guard: Guard,
    /// The `Authorization` header, for clients that cannot send a token with `connection_init`.
    authorization: Option<Box<str>>,
}

impl Arrival {
    async fn serve(self, handshake: Handshake) {
        let dialect = handshake.subprotocol.and_then(Dialect::parse);
        let Some(mut socket) = upgraded(handshake).await else { return };
        let Some(dialect) = dialect else {
            let close = Close::BAD_SUBPROTOCOL;
            goodbye(&mut socket, Some(&close), true).await;
            return self.guard.end(End::Refused(close.label()));
        };
        let Self { app, guard, authorization } = self;
        let tasks = app.connections.tasks().clone();
        let mut connection = Connection::new(app, socket, dialect, authorization, guard);
        // A task of its own: this one's is as large as its way here, and a connection lives long.
        tasks.spawn(async move {
            let end = connection.run().await;
            let (close, expects_answer) = connection.leave(&end);
            Box::pin(goodbye(connection.socket(), close.as_ref(), expects_answer)).await;
            connection.end(end);
        });
    }
}

/// Tells the client why, if there is anybody to tell, and lets it answer.
async fn goodbye(socket: &mut Socket, close: Option<&Close>, expects_answer: bool) {
    let Some(close) = close else { return };
    match timeout(CLOSE_TIMEOUT, socket.close(close, expects_answer)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::trace!(%error, "connection lost while closing"),
        Err(_elapsed) => tracing::trace!("no answer to the close"),
    }
}

#[cfg(test)]
mod tests;
