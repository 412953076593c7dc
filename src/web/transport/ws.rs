//! WebSockets: accepts the handshake and starts the task of each connection.
//!
//! From the bottom up: [`frame`] reads and writes the frames of RFC 6455. [`handshake`] opens a
//! connection, and [`socket`] moves its bytes. [`protocol`] holds the rules of the subprotocols.
//! The driver joins all of them to the engine. A frame is one piece of what travels. A message, in
//! this folder only, is what RFC 6455 calls one: frames put together.
//!
//! The stack is our own because the common ones keep buffers for each connection. An idle
//! connection must never cost more than its task.

mod driver;
pub mod frame;
pub mod handshake;
mod operations;
pub mod protocol;
pub mod socket;

use std::{sync::Arc, time::Duration};

use axum::{extract::Request, response::Response};
use tokio::time::timeout;

use self::{
    driver::{Connection, Newcomer},
    handshake::Handshake,
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

/// How long a peer may take to answer our close. Then the socket is dropped.
const CLOSE_ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// The largest message of a client that has not authenticated, in bytes: enough for the longest
/// `Authorization` value. A larger one ends the connection with close code 1009.
const MAX_FIRST_MESSAGE_BYTES: usize = 16 << 10;

/// Answers the handshake and starts the connection's task, which a drain waits for.
pub(in crate::web) fn accept(app: &Arc<AppState>, request: &Request) -> Response {
    let token = app.token(request.headers()).map(Box::from);
    let handshake = match Handshake::read(request, &Dialect::NAMES) {
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
    let entered = app.connections.enter(Transport::WebSocket, peer).and_then(|guard| {
        match Newcomer::new(&app.budget.requests, peer, token) {
            Some(newcomer) => Ok((guard, newcomer)),
            None => {
                guard.end(End::Overloaded);
                Err(End::Overloaded)
            }
        }
    });
    match entered {
        Ok((guard, newcomer)) => {
            let connection = NewConnection { app: app.clone(), guard, newcomer };
            tasks.spawn(connection.serve(handshake));
        }
        Err(end) => {
            tasks.spawn(close_refused(handshake, end, peer.cloned()));
        }
    }
    response
}

/// Closes a connection that there is no room for. Browsers hide the status of a handshake from
/// pages, and stock clients reconnect by the close code. Meanwhile the socket keeps its place among
/// the pending ones, which bounds how many are closed at a time.
async fn close_refused(handshake: Handshake, end: End, _place: Option<Peer>) {
    if let Some(mut socket) = upgraded(handshake).await {
        send_close(&mut socket, Close::of(&end).as_ref(), true).await;
    }
}

async fn upgraded(handshake: Handshake) -> Option<Socket> {
    let socket = handshake.socket(MAX_FIRST_MESSAGE_BYTES).await;
    socket.inspect_err(|error| tracing::debug!(%error, "no websocket")).ok()
}

/// New client with an accepted handshake.
struct NewConnection {
    app: Arc<AppState>,
    guard: Guard,
    newcomer: Box<Newcomer>,
}

impl NewConnection {
    async fn serve(self, handshake: Handshake) {
        let dialect = handshake.subprotocol.and_then(Dialect::parse);
        let Some(mut socket) = upgraded(handshake).await else { return };
        let Some(dialect) = dialect else {
            let close = Close::BAD_SUBPROTOCOL;
            send_close(&mut socket, Some(&close), true).await;
            return self.guard.end(End::Refused(close.label()));
        };
        let Self { app, guard, newcomer } = self;
        let tasks = app.connections.tasks().clone();
        let mut connection = Connection::new(app, socket, dialect, newcomer, guard);
        // A second task: this one has the size of the whole handshake, and a connection lasts long.
        tasks.spawn(async move {
            let end = connection.run().await;
            let (close, expects_answer) = connection.prepare_close(&end);
            Box::pin(send_close(connection.socket(), close.as_ref(), expects_answer)).await;
            connection.end(end);
        });
    }
}

/// Sends the close, if there is one, and lets the client answer it.
async fn send_close(socket: &mut Socket, close: Option<&Close>, expects_answer: bool) {
    let Some(close) = close else { return };
    match timeout(CLOSE_ANSWER_TIMEOUT, socket.close(close, expects_answer)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::trace!(%error, "connection lost while closing"),
        Err(_elapsed) => tracing::trace!("no answer to the close"),
    }
}

#[cfg(test)]
mod tests;
