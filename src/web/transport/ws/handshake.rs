//! The opening handshake of RFC 6455, section 4.2: an HTTP request in, a [`Socket`] and the response out.
//!
//! hyper reads the request and writes the response; after that nothing of it is left, neither its task nor its buffers.
//! What is refused is refused before anything is promised. No extension is ever agreed to; [`super::frame`] says why.

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
use hyper::upgrade::{OnUpgrade, Upgraded};
use sha1::{Digest as _, Sha1};
use thiserror::Error;
use tokio::net::TcpStream;

use super::socket::Socket;
use crate::web::server::TrackedSocket;

/// What a server appends to the key, to show that it knows WebSockets (RFC 6455, 1.3).
const MAGIC: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The only version there is.
const WEBSOCKET_VERSION: &str = "13";

/// Why a handshake is refused. The text is for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HandshakeError {
    /// Not a `GET` of HTTP/1.1 that asks for `Connection: Upgrade` to `websocket`.
    #[error("a WebSocket begins with GET, HTTP/1.1, `Connection: Upgrade` and `Upgrade: websocket`")]
    NotUpgrade,
    /// Another version of the protocol.
    #[error("the version of the WebSocket must be 13")]
    Version,
    /// The key is not 16 bytes in base64.
    #[error("`Sec-WebSocket-Key` must be 16 bytes in base64")]
    Key,
}

impl HandshakeError {
    /// How the response says so: its status, and headers beside it.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        match self {
            Self::NotUpgrade | Self::Key => StatusCode::BAD_REQUEST,
            Self::Version => StatusCode::UPGRADE_REQUIRED,
        }
    }

    /// The headers of the response: what would have been understood.
    #[must_use]
    pub fn headers(self) -> HeaderMap {
        let headers: &[(HeaderName, &'static str)] = match self {
            Self::NotUpgrade | Self::Key => &[],
            Self::Version => {
                &[(CONNECTION, "upgrade"), (UPGRADE, "websocket"), (SEC_WEBSOCKET_VERSION, WEBSOCKET_VERSION)]
            }
        };
        headers.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect()
    }
}

/// Why there is no socket although the handshake was in order.
#[derive(Debug, Error)]
pub enum UpgradeError {
    /// The client left meanwhile.
    #[error("the connection was lost in the handshake")]
    Lost(#[from] hyper::Error),
    /// The server was not given TCP sockets to serve; no client can do anything about it.
    #[error("the connection is not a TCP socket")]
    NotTcp,
}

/// Whether a request asks for a WebSocket. Other upgrades may be ignored.
#[must_use]
pub fn is_wanted(headers: &HeaderMap) -> bool {
    has_token(headers, &UPGRADE, "websocket")
}

/// A handshake that is accepted.
#[derive(Debug)]
pub struct Handshake {
    /// The subprotocol that both speak, if there is one.
    pub subprotocol: Option<&'static str>,
    accept: String,
    upgrade: OnUpgrade,
}

impl Handshake {
    /// Checks the request and chooses the first of `subprotocols` that the client speaks too.
    ///
    /// # Errors
    /// [`HandshakeError`], if the request is not in order.
    pub fn read(request: &mut Request, subprotocols: &[&'static str]) -> Result<Self, HandshakeError> {
        let headers = request.headers();
        let is_upgrade = request.method() == Method::GET
            && request.version() == Version::HTTP_11
            && is_wanted(headers)
            && has_token(headers, &CONNECTION, "upgrade");
        if !is_upgrade {
            return Err(HandshakeError::NotUpgrade);
        }
        if single(headers, &SEC_WEBSOCKET_VERSION) != Some(WEBSOCKET_VERSION) {
            return Err(HandshakeError::Version);
        }
        let accept = single(headers, &SEC_WEBSOCKET_KEY).and_then(accept_of).ok_or(HandshakeError::Key)?;
        let offered: Vec<&str> = list(headers, &SEC_WEBSOCKET_PROTOCOL).collect();
        let subprotocol = subprotocols.iter().copied().find(|name| offered.contains(name));
        Ok(Self { subprotocol, accept, upgrade: hyper::upgrade::on(request) })
    }

    /// The response that makes a WebSocket of the connection.
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
        response
    }

    /// The socket, once the response is written. Messages have at most `limit` bytes.
    ///
    /// # Errors
    /// [`UpgradeError`].
    pub async fn socket(self, limit: usize) -> Result<Socket, UpgradeError> {
        let (stream, unread) = raw(self.upgrade.await?).ok_or(UpgradeError::NotTcp)?;
        Ok(Socket::new(stream, unread, limit))
    }
}

/// The TCP socket under the upgraded connection, and what was read of it already.
fn raw(upgraded: Upgraded) -> Option<(TcpStream, bytes::Bytes)> {
    let parts = upgraded.downcast::<TrackedSocket>().ok()?;
    Some((parts.io.into_inner(), parts.read_buf))
}

fn accept_of(key: &str) -> Option<String> {
    let bytes = BASE64_STANDARD.decode(key).ok()?;
    let hash = Sha1::new().chain_update(key).chain_update(MAGIC).finalize();
    (bytes.len() == 16).then(|| BASE64_STANDARD.encode(hash))
}

/// The value of a header that must not be repeated.
fn single<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then(|| value.trim())
}

/// The members of a header that is a list, over all its lines.
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

    /// The example of RFC 6455, section 1.3.
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
        Handshake::read(&mut request(change), &[]).unwrap_err()
    }

    fn with(name: HeaderName, value: &'static str) -> HandshakeError {
        refused(|request| drop(request.headers_mut().insert(name, HeaderValue::from_static(value))))
    }

    #[test]
    fn the_example_of_the_rfc_is_answered_as_it_says() {
        let response = Handshake::read(&mut request(|_| {}), &[]).unwrap().response();
        assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
        assert_eq!(response.headers()[SEC_WEBSOCKET_ACCEPT], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(response.headers().get(SEC_WEBSOCKET_PROTOCOL), None);
    }

    #[test]
    fn the_server_chooses_the_subprotocol_among_those_of_the_client() {
        let mut offer = request(|request| {
            for line in ["mqtt, b", "a"] {
                request.headers_mut().append(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(line));
            }
        });
        let handshake = Handshake::read(&mut offer, &["a", "b"]).unwrap();
        assert_eq!(handshake.subprotocol, Some("a"));
        assert_eq!(handshake.response().headers()[SEC_WEBSOCKET_PROTOCOL], "a");
    }

    #[test]
    fn what_is_no_handshake_is_refused() {
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
    fn another_version_is_told_which_one_is_spoken() {
        let error = with(SEC_WEBSOCKET_VERSION, "8");
        assert_eq!(error.status(), StatusCode::UPGRADE_REQUIRED);
        assert_eq!(error.headers()[SEC_WEBSOCKET_VERSION], "13");
    }
}
