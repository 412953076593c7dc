//! Socket handoff: a transport that writes its own body takes the socket of its response.
//!
//! hyper would keep buffers for as long as the body lasts. A handler puts a [`HandoffRequest`] into the extensions of its
//! response; the server answers it with a [`SocketHandoff`] instead of writing the response.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    http::{Version, response},
    response::Response,
};
use tokio::{net::TcpStream, sync::oneshot};

/// A socket, and the head of the response that is still to be written to it.
#[derive(Debug)]
pub struct SocketHandoff {
    /// The socket, without anything around it.
    pub socket: TcpStream,
    /// The HTTP version of the request.
    pub version: Version,
    /// The head of the response.
    pub head: response::Parts,
}

/// A response extension that asks for the socket.
#[derive(Clone)]
pub struct HandoffRequest(Arc<Mutex<Option<oneshot::Sender<SocketHandoff>>>>);

impl HandoffRequest {
    /// Creates a request and the receiver of its socket. The receiver fails if the client leaves before.
    pub fn new() -> (Self, oneshot::Receiver<SocketHandoff>) {
        let (sender, receiver) = oneshot::channel();
        (Self(Arc::new(Mutex::new(Some(sender)))), receiver)
    }

    /// Takes the request out of a response, together with the head that the transport has to write.
    pub(super) fn take(mut response: Response, version: Version) -> Result<PendingHandoff, Response> {
        match response.extensions_mut().remove::<Self>() {
            Some(request) => Ok(PendingHandoff { request, version, head: response.into_parts().0 }),
            None => Err(response),
        }
    }
}

impl fmt::Debug for HandoffRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HandoffRequest")
    }
}

/// A handoff that waits for hyper to release the socket.
pub(super) struct PendingHandoff {
    request: HandoffRequest,
    version: Version,
    head: response::Parts,
}

impl PendingHandoff {
    /// Hands the socket over. A receiver that has ended meanwhile closes it.
    pub(super) fn complete(self, socket: TcpStream) {
        let Self { request, version, head } = self;
        let sender = request.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        sender.map(|sender| sender.send(SocketHandoff { socket, version, head }));
    }
}
