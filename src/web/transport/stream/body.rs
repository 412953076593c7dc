//! [`BodyWriter`]: writes a response body that goes on, in chunks straight to the kernel.
//!
//! An idle body writer holds no buffer. What the kernel does not take is kept until it does.
//! Meanwhile nothing more is made for this client. A body writer that is dropped without
//! [`finish`](BodyWriter::finish) cuts the body: the client notices that this was not the end. It
//! must never end a body in good order by accident.

use std::{
    future::poll_fn,
    io::{self, ErrorKind, Write as _},
    mem,
    task::{Context, Poll, ready},
};

use axum::http::{HeaderValue, Version, header};
use bytes::{Buf as _, BytesMut};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use crate::web::server::{SocketHandoff, encode_head};

/// Size of one read, in bytes. What a client sends during the response is read and thrown away.
const DISCARD_BYTES: usize = 1_024;

/// Last chunk of a body in chunked encoding.
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Writer of the chunks of one body.
#[derive(Debug)]
pub(super) struct BodyWriter {
    stream: TcpStream,
    /// Bytes that the kernel did not take.
    unwritten: BytesMut,
    /// Clients of HTTP/1.0 know no chunks: their body ends when the socket is closed.
    is_chunked: bool,
    /// Whether the kernel took bytes since the last call of [`has_moved`](Self::has_moved).
    has_moved: bool,
}

/// State of a body writer on which its driver acts.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ready {
    /// The kernel has taken all bytes: there is room for a chunk.
    Room,
    /// The client has closed its end.
    Left,
    /// The socket broke, or its peer is dead.
    Lost,
}

impl BodyWriter {
    /// Creates the writer of a body with this head, which is written with the first chunk. The
    /// socket serves no other request after it.
    pub(super) fn new(handoff: SocketHandoff) -> Self {
        // A client sends nothing behind the request of a stream that would matter.
        let SocketHandoff { socket: stream, version, head, .. } = handoff;
        let (status, mut headers) = (head.status, head.headers);
        let is_chunked = version == Version::HTTP_11;
        headers.remove(header::CONTENT_LENGTH);
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        if is_chunked {
            headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        let unwritten = BytesMut::from(&*encode_head(status, &headers));
        Self { stream, unwritten, is_chunked, has_moved: false }
    }

    /// Waits until the client is gone or, with `wants_room`, until there is room for a chunk.
    /// Cancel-safe.
    pub(super) async fn ready(&mut self, wants_room: bool) -> Ready {
        poll_fn(|task| {
            match self.poll_gone(task) {
                Poll::Ready(Ok(())) => return Poll::Ready(Ready::Left),
                Poll::Ready(Err(_)) => return Poll::Ready(Ready::Lost),
                Poll::Pending => {}
            }
            match ready!(self.poll_flush(task)) {
                Err(_) => Poll::Ready(Ready::Lost),
                Ok(()) if wants_room => Poll::Ready(Ready::Room),
                Ok(()) => Poll::Pending,
            }
        })
        .await
    }

    /// Writes a chunk, which must not be empty, and keeps what the kernel does not take. If the
    /// client is gone, [`ready`](Self::ready) reports it.
    pub(super) fn send(&mut self, chunk: &[u8]) {
        self.unwritten.reserve(chunk.len() + 20);
        if self.is_chunked {
            let mut size = [0; 20];
            let mut rest = &mut size[..];
            // Always fits: a length has 16 digits at most.
            let written = write!(rest, "{:x}\r\n", chunk.len()).map_or(0, |()| 20 - rest.len());
            self.unwritten.extend_from_slice(&size[..written]);
        }
        self.unwritten.extend_from_slice(chunk);
        if self.is_chunked {
            self.unwritten.extend_from_slice(b"\r\n");
        }
        if let Ok(length) = self.stream.try_write(&self.unwritten) {
            self.advance(length);
        }
    }

    /// Waits until the kernel has taken all bytes.
    ///
    /// # Errors
    /// If the client is gone.
    pub(super) async fn flush(&mut self) -> io::Result<()> {
        poll_fn(|task| self.poll_flush(task)).await
    }

    /// Ends the body in good order.
    ///
    /// # Errors
    /// If the client is gone.
    pub(super) async fn finish(&mut self) -> io::Result<()> {
        if self.is_chunked {
            self.unwritten.extend_from_slice(LAST_CHUNK);
        }
        self.flush().await?;
        self.stream.shutdown().await
    }

    /// Reports whether there are bytes that the kernel did not take.
    pub(super) fn is_blocked(&self) -> bool {
        !self.unwritten.is_empty()
    }

    /// Reports whether the kernel took bytes since the last call.
    pub(super) fn has_moved(&mut self) -> bool {
        mem::take(&mut self.has_moved)
    }

    fn poll_flush(&mut self, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.is_blocked() {
            ready!(self.stream.poll_write_ready(task))?;
            match self.stream.try_write(&self.unwritten) {
                Ok(length) => self.advance(length),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_gone(&self, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.stream.poll_read_ready(task))?;
            match self.stream.try_read(&mut [0; DISCARD_BYTES]) {
                Ok(0) => return Poll::Ready(Ok(())),
                Ok(1..) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn advance(&mut self, length: usize) {
        self.unwritten.advance(length);
        self.has_moved |= length > 0;
        if self.unwritten.is_empty() {
            // An empty buffer would keep its capacity.
            self.unwritten = BytesMut::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncReadExt as _, net::TcpListener};

    use super::*;

    async fn writer(version: Version) -> (BodyWriter, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let head = axum::response::Response::new(()).into_parts().0;
        (
            BodyWriter::new(SocketHandoff { socket: stream, unread: bytes::Bytes::new(), version, head }),
            client,
        )
    }

    async fn read(mut client: TcpStream) -> (String, String) {
        let mut text = String::new();
        client.read_to_string(&mut text).await.unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head.to_owned(), body.to_owned())
    }

    #[tokio::test]
    async fn only_finished_body_has_its_last_chunk() {
        for (is_finished, end) in [(false, ""), (true, "0\r\n\r\n")] {
            let (mut writer, client) = writer(Version::HTTP_11).await;
            writer.send(b"one");
            assert_eq!(writer.ready(true).await, Ready::Room);
            writer.send(&[b'x'; 26]);
            if is_finished {
                writer.finish().await.unwrap();
            }
            drop(writer);
            let (head, body) = read(client).await;
            assert!(head.starts_with("HTTP/1.1 200 OK\r\ndate: "), "{head}");
            assert!(head.ends_with("\r\ntransfer-encoding: chunked"), "{head}");
            assert_eq!(body, format!("3\r\none\r\n1a\r\n{}\r\n{end}", "x".repeat(26)));
        }
    }

    #[tokio::test]
    async fn http_1_0_client_gets_no_chunks() {
        let (mut writer, client) = writer(Version::HTTP_10).await;
        writer.send(b"one");
        writer.finish().await.unwrap();
        let (head, body) = read(client).await;
        assert!(!head.contains("transfer-encoding"), "{head}");
        assert_eq!(body, "one");
    }

    #[tokio::test]
    async fn writer_notices_departed_client_behind_unread_bytes() {
        let (mut writer, mut client) = writer(Version::HTTP_11).await;
        client.write_all(&[b'x'; 5_000]).await.unwrap();
        drop(client);
        assert_eq!(writer.ready(false).await, Ready::Left);
    }

    #[tokio::test]
    async fn stalled_client_leaves_no_room_until_it_reads() {
        let (mut writer, mut client) = writer(Version::HTTP_11).await;
        while !writer.is_blocked() || writer.has_moved() {
            writer.send(&[0; 1 << 16]);
        }
        assert!(!writer.has_moved());
        let mut buffer = vec![0; 1 << 24];
        let room = async {
            while !writer.has_moved() {
                tokio::select! {
                    ready = writer.ready(true) => assert_eq!(ready, Ready::Room),
                    _ = client.read(&mut buffer) => {}
                }
            }
        };
        room.await;
    }
}
