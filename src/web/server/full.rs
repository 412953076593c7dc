//! The answer to a head that the ledger has no room for: 503, written without HTTP's own buffers.
//!
//! The head is not complete, so no handler can answer. It must never wait long for the client.

use std::time::Duration;

use axum::http::{
    HeaderMap, HeaderValue, StatusCode,
    header::{CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::head::encode_head;

/// How long the client may take to read the answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// GraphQL error of the answer.
const BODY: &str = r#"{"errors":[{"message":"too many requests of this address or this pod are under way; try again later","extensions":{"code":"OVERLOADED"}}]}"#;

/// Writes the answer and closes the socket.
pub(super) async fn refuse(mut socket: TcpStream) {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        (CONTENT_TYPE, "application/json; charset=utf-8"),
        (CACHE_CONTROL, "no-store"),
        (RETRY_AFTER, "5"),
        (CONNECTION, "close"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert(CONTENT_LENGTH, BODY.len().into());
    let mut answer = encode_head(StatusCode::SERVICE_UNAVAILABLE, &headers);
    answer.extend_from_slice(BODY.as_bytes());
    let written = async {
        socket.write_all(&answer).await?;
        socket.shutdown().await?;
        // A close with unread bytes would reset the connection before the client has the answer.
        let mut rest = [0; 1_024];
        while socket.read(&mut rest).await? > 0 {}
        std::io::Result::Ok(())
    };
    let _ = timeout(ANSWER_TIMEOUT, written).await;
}
