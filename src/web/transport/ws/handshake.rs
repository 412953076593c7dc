//! The opening handshake of RFC 6455, section 4.2: reads an HTTP request, returns the response and
//! the [`Socket`].
//!
//! hyper reads the request. The response is written here, on the socket that the server hands over:
//! neither hyper's task nor its buffers are left. A request must be refused before the response
//! promises anything. No extension is ever agreed to; [`super::frame`] gives the reason.

use axum::{
    body::Body,
    extract::Request,
    http::{
        HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version,
        header::{
            CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
            SEC_WEBSOCKET_VERSION, UPGRADE,
        },
    },
    response::Response,
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use sha1::{Digest as _, Sha1};
use thiserror::Error;
use tokio::{io::AsyncWriteExt as _, sync::oneshot};

use super::socket::Socket;
use crate::web::server::{HandoffRequest, SocketHandoff, encode_head};

/// GUID that a server appends to the key, to prove that it speaks WebSocket (RFC 6455, 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The only version of the protocol.
const WEBSOCKET_VERSION: &str = "13";

/// Reason why a handshake is refused. The text is for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HandshakeError {
    /// The request is no `GET` of HTTP/1.1 that asks for `Connection: Upgrade` to `websocket`.
    #[error("a WebSocket begins with GET, HTTP/1.1, `Connection: Upgrade` and `Upgrade: websocket`")]
    NotUpgrade,
    /// The request has a WebSocket's key and no `Upgrade`.
    #[error(
        "the handshake of a WebSocket came without `Upgrade`: a proxy on the way has removed it. Let the proxy pass \
         `Upgrade` and `Connection` on, over HTTP/1.1 (nginx: proxy_http_version 1.1; proxy_set_header Upgrade \
         $http_upgrade; proxy_set_header Connection upgrade)"
    )]
    UpgradeLost,
    /// The request asks for another version of the protocol.
    #[error("the version of the WebSocket must be 13")]
    Version,
    /// The key is not 16 bytes in base64.
    #[error("`Sec-WebSocket-Key` must be 16 bytes in base64")]
    Key,
}

impl HandshakeError {
    /// Returns the status of the response.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        match self {
            Self::NotUpgrade | Self::Key => StatusCode::BAD_REQUEST,
            Self::UpgradeLost | Self::Version => StatusCode::UPGRADE_REQUIRED,
        }
    }

    /// Returns the headers of the response, which name what would have been understood.
    #[must_use]
    pub fn headers(self) -> HeaderMap {
        let headers: &[(HeaderName, &'static str)] = match self {
            Self::NotUpgrade | Self::Key => &[],
            Self::UpgradeLost => &[(CONNECTION, "upgrade"), (UPGRADE, "websocket")],
            Self::Version => {
                &[(CONNECTION, "upgrade"), (UPGRADE, "websocket"), (SEC_WEBSOCKET_VERSION, WEBSOCKET_VERSION)]
            }
        };
        headers.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect()
    }
}

/// The client left before the handshake was over.
#[derive(Debug, Error)]
#[error("the connection was lost in the handshake")]
pub struct HandshakeLost;

/// Reports whether a request asks for a WebSocket: by `Upgrade`, or by a key where a proxy has
/// removed that. Other upgrades may be ignored.
#[must_use]
pub fn is_wanted(headers: &HeaderMap) -> bool {
    has_token(headers, &UPGRADE, "websocket") || headers.contains_key(SEC_WEBSOCKET_KEY)
}

/// Handshake that is accepted.
#[derive(Debug)]
pub struct Handshake {
    /// Subprotocol that both sides speak, if there is one.
    pub subprotocol: Option<&'static str>,
    accept: String,
    request: HandoffRequest,
    socket: oneshot::Receiver<Box<SocketHandoff>>,
}

impl Handshake {
    /// Checks the request and chooses the first of the client's subprotocols that is one of
    /// `subprotocols`: a client lists them by preference (RFC 6455, 4.1).
    ///
    /// # Errors
    /// [`HandshakeError`] if the request breaks a rule of the handshake.
    pub fn read(request: &Request, subprotocols: &[&'static str]) -> Result<Self, HandshakeError> {
        let headers = request.headers();
        if !headers.contains_key(UPGRADE) {
            return Err(HandshakeError::UpgradeLost);
        }
        let is_upgrade = request.method() == Method::GET
            && request.version() == Version::HTTP_11
            && has_token(headers, &UPGRADE, "websocket")
            && has_token(headers, &CONNECTION, "upgrade");
        if !is_upgrade {
            return Err(HandshakeError::NotUpgrade);
        }
        if single(headers, &SEC_WEBSOCKET_VERSION) != Some(WEBSOCKET_VERSION) {
            return Err(HandshakeError::Version);
        }
        let accept = single(headers, &SEC_WEBSOCKET_KEY).and_then(accept_key).ok_or(HandshakeError::Key)?;
        let mut offered = list(headers, &SEC_WEBSOCKET_PROTOCOL);
        let subprotocol = offered.find_map(|offer| subprotocols.iter().copied().find(|name| *name == offer));
        let (request, socket) = HandoffRequest::new();
        Ok(Self { subprotocol, accept, request, socket })
    }

    /// Returns the response that turns the connection into a WebSocket. The server hands its socket
    /// over instead of writing it.
    #[must_use]
    pub fn response(&self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        if let Ok(accept) = HeaderValue::from_str(&self.accept) {
            headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
        }
        if let Some(subprotocol) = self.subprotocol {
            headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(subprotocol));
        }
        response.extensions_mut().insert(self.request.clone());
        response
    }

    /// Writes the response and returns the socket. Its messages have at most `limit` bytes.
    ///
    /// # Errors
    /// [`HandshakeLost`] if the client has left.
    pub async fn socket(self, limit: usize) -> Result<Socket, HandshakeLost> {
        let SocketHandoff { mut socket, unread, head, .. } = *self.socket.await.map_err(|_| HandshakeLost)?;
        let head = encode_head(head.status, &head.headers);
        socket.write_all(&head).await.map_err(|_| HandshakeLost)?;
        Ok(Socket::new(socket, unread, limit))
    }
}

fn accept_key(key: &str) -> Option<String> {
    let bytes = BASE64_STANDARD.decode(key).ok()?;
    let hash = Sha1::new().chain_update(key).chain_update(GUID).finalize();
    (bytes.len() == 16).then(|| BASE64_STANDARD.encode(hash))
}

/// Returns the value of a header that must not be repeated.
fn single<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then(|| value.trim())
}

/// Returns the members of a header that is a list, over all its lines.
fn list<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h str> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim)
}

fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    list(headers, name).any(|member| member.eq_ignore_ascii_case(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Key of the example in RFC 6455, section 1.3.
    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

    fn request(change: impl FnOnce(&mut Request)) -> Request {
        let mut request = Request::new(Body::empty());
        for (name, value) in [
            (CONNECTION, "keep-alive, Upgrade"),
            (UPGRADE, "WebSocket"),
            (SEC_WEBSOCKET_VERSION, "13"),
            (SEC_WEBSOCKET_KEY, KEY),
        ] {
            request.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        change(&mut request);
        request
    }

    fn refused(change: impl FnOnce(&mut Request)) -> HandshakeError {
        Handshake::read(&request(change), &[]).unwrap_err()
    }

    fn with(name: HeaderName, value: &'static str) -> HandshakeError {
        refused(|request| drop(request.headers_mut().insert(name, HeaderValue::from_static(value))))
    }

    #[test]
    fn example_of_rfc_gets_its_answer() {
        let response = Handshake::read(&request(|_| {}), &[]).unwrap().response();
        assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
        assert_eq!(response.headers()[SEC_WEBSOCKET_ACCEPT], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(response.headers().get(SEC_WEBSOCKET_PROTOCOL), None);
    }

    #[test]
    fn first_known_subprotocol_of_client_is_chosen() {
        let offer = request(|request| {
            for line in ["mqtt, b", "a"] {
                request.headers_mut().append(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(line));
            }
        });
        let handshake = Handshake::read(&offer, &["a", "b"]).unwrap();
        assert_eq!(handshake.subprotocol, Some("b"));
        assert_eq!(handshake.response().headers()[SEC_WEBSOCKET_PROTOCOL], "b");
    }

    #[test]
    fn malformed_handshake_is_refused() {
        assert_eq!(refused(|request| *request.method_mut() = Method::POST), HandshakeError::NotUpgrade);
        assert_eq!(refused(|request| *request.version_mut() = Version::HTTP_10), HandshakeError::NotUpgrade);
        assert_eq!(with(CONNECTION, "keep-alive"), HandshakeError::NotUpgrade);
        assert_eq!(with(UPGRADE, "h2c"), HandshakeError::NotUpgrade);
        for key in ["", "nonsense", "dGhlIHNhbXBsZSBub25j", "dGhlIHNhbXBsZSBub25jZQ"] {
            assert_eq!(with(SEC_WEBSOCKET_KEY, key), HandshakeError::Key, "{key}");
        }
        let twice = HeaderValue::from_static(KEY);
        let error = refused(|request| {
            request.headers_mut().append(SEC_WEBSOCKET_KEY, twice);
        });
        assert_eq!(error, HandshakeError::Key);
    }

    #[test]
    fn key_without_upgrade_is_handshake_that_proxy_cut() {
        let cut = request(|request| drop(request.headers_mut().remove(UPGRADE)));
        assert!(is_wanted(cut.headers()));
        let error = Handshake::read(&cut, &[]).unwrap_err();
        assert_eq!((error, error.status()), (HandshakeError::UpgradeLost, StatusCode::UPGRADE_REQUIRED));
    }

    #[test]
    fn refused_version_gets_name_of_right_one() {
        let error = with(SEC_WEBSOCKET_VERSION, "8");
        assert_eq!(error.status(), StatusCode::UPGRADE_REQUIRED);
        assert_eq!(error.headers()[SEC_WEBSOCKET_VERSION], "13");
    }
}
