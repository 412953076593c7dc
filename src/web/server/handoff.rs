//! [`SocketHandoff`]: gives the socket of a response to the transport that writes the body itself.
//!
//! hyper would keep buffers for as long as the body lasts. A handler puts a [`HandoffRequest`] into
//! the extensions of its response. The server then sends a [`SocketHandoff`] and never writes the
//! response.

use std::{
    fmt,
    sync::{Arc, Mutex},
};

use axum::{
    http::{Version, response},
    response::Response,
};
use bytes::Bytes;
use tokio::{net::TcpStream, sync::oneshot};

/// A socket, with the head of the response that the transport has to write.
#[derive(Debug)]
pub struct SocketHandoff {
    /// The plain socket, without any wrapper.
    pub socket: TcpStream,
    /// Bytes that were read from the socket behind the request.
    pub unread: Bytes,
    /// The HTTP version of the request.
    pub version: Version,
    /// The head of the response.
    pub head: response::Parts,
}

/// Response extension by which a handler asks for the socket.
#[derive(Clone)]
pub struct HandoffRequest(Arc<Mutex<Option<oneshot::Sender<Box<SocketHandoff>>>>>);

impl HandoffRequest {
    /// Creates a request and the receiver of its socket. The receiver fails if the client leaves
    /// before the handoff. The socket is boxed, so that a task that waits for it needs little room.
    pub fn new() -> (Self, oneshot::Receiver<Box<SocketHandoff>>) {
        let (sender, receiver) = oneshot::channel();
        (Self(Arc::new(Mutex::new(Some(sender)))), receiver)
    }

    /// Takes the request out of a response, if the response has one.
    pub(super) fn take(response: &mut Response) -> Option<Self> {
        response.extensions_mut().remove()
    }

    /// Adds the version of the request and the response, whose head the transport has to write.
    pub(super) fn answer(self, version: Version, response: Response) -> PendingHandoff {
        PendingHandoff { request: self, version, head: response.into_parts().0 }
    }
}

impl fmt::Debug for HandoffRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HandoffRequest")
    }
}

/// A handoff that waits until hyper releases the socket.
pub(super) struct PendingHandoff {
    request: HandoffRequest,
    version: Version,
    head: response::Parts,
}

impl PendingHandoff {
    /// Sends the socket to the transport. If the receiver has ended, the socket is closed.
    pub(super) fn complete(self, socket: TcpStream, unread: Bytes) {
        let Self { request, version, head } = self;
        let sender = crate::lock::lock(&request.0).take();
        if let Some(sender) = sender {
            let _ = sender.send(Box::new(SocketHandoff { socket, unread, version, head }));
        }
    }
}
