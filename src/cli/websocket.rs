//! Handshake of a WebSocket as a client of the pods makes it.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use reqwest::{Client, RequestBuilder, Url, header};

/// Subprotocol that is offered and expected.
pub(super) const SUBPROTOCOL: &str = "graphql-transport-ws";

/// Builds the request of the handshake. The client must be of HTTP/1.1.
pub(super) fn request(client: &Client, url: Url) -> RequestBuilder {
    let key = BASE64_STANDARD.encode(rand::random::<[u8; 16]>());
    client
        .get(url)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_VERSION, "13")
        .header(header::SEC_WEBSOCKET_KEY, key)
        .header(header::SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL)
}
