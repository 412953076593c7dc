//! Bytes of requests, sent by hand: whole, in parts, or never to their end.

use std::time::Duration;

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::support::PATIENCE;

/// Socket with a part of a request.
pub(crate) struct Raw(pub(crate) TcpStream);

impl Raw {
    /// Opens a socket and sends these bytes. A pod that refuses them may close it meanwhile.
    pub(crate) async fn send(port: u16, bytes: impl AsRef<[u8]>) -> Self {
        let mut socket = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        socket.write_all(bytes.as_ref()).await.ok();
        Self(socket)
    }

    /// Sends the head of a POST and this many bytes of its body, which has a megabyte.
    pub(crate) async fn begin_body(port: u16, user: &str, bytes: usize) -> Self {
        let head = post_head(user, 1_000_000);
        Self::send(port, head + &" ".repeat(bytes)).await
    }

    /// Returns status, `Retry-After` and the body of the answer; `None` if there is none within the
    /// limit.
    pub(crate) async fn answer(&mut self, limit: Duration) -> Option<(u16, String, Value)> {
        let mut text = Vec::new();
        // The pod may reset the socket behind its answer.
        timeout(limit, self.0.read_to_end(&mut text)).await.ok()?.ok();
        let text = String::from_utf8(text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n")?;
        let header = |name: &str| {
            let lines = head.lines().filter_map(|line| line.split_once(": "));
            let found = lines.into_iter().find(|(other, _)| other.eq_ignore_ascii_case(name));
            found.map_or_else(String::new, |(_, value)| value.to_owned())
        };
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some((status, header("retry-after"), serde_json::from_str(body).unwrap_or_default()))
    }

    /// Waits until the answer is 503 `OVERLOADED`, with the time to wait.
    pub(crate) async fn is_overloaded(&mut self) -> bool {
        self.is_overloaded_within(PATIENCE).await
    }

    /// Waits for the same for no longer than `limit`.
    pub(crate) async fn is_overloaded_within(&mut self, limit: Duration) -> bool {
        let answer = self.answer(limit).await;
        let is_right = |(status, wait, body): &(u16, String, Value)| {
            *status == 503 && wait == "5" && body["errors"][0]["extensions"]["code"] == "OVERLOADED"
        };
        answer.as_ref().is_some_and(is_right)
    }
}

/// Returns the head of a POST with a body of this many bytes. The pod closes the socket after it.
pub(crate) fn post_head(user: &str, length: usize) -> String {
    format!(
        "POST /graphql HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Authorization: Bearer {user}\r\nContent-Length: {length}\r\n\r\n"
    )
}

/// Returns a handshake with this token.
pub(crate) fn handshake(token: &str) -> String {
    format!(
        "GET /graphql HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: graphql-transport-ws\r\nAuthorization: {token}\r\n\r\n"
    )
}
