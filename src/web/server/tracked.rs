//! The TCP socket under HTTP, which tells whose turn it is on it.
//!
//! It adds nothing to what is read and written, and is taken off again by whoever takes the socket over.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::pending::Turns;

/// A socket that is served.
pub(in crate::web) struct TrackedSocket {
    io: TokioIo<TcpStream>,
    turns: Arc<Turns>,
}

impl TrackedSocket {
    pub(super) fn new(stream: TcpStream, turns: Arc<Turns>) -> Self {
        Self { io: TokioIo::new(stream), turns }
    }

    /// The socket alone.
    pub(in crate::web) fn into_inner(self) -> TcpStream {
        self.io.into_inner()
    }

    fn io(&mut self) -> Pin<&mut TokioIo<TcpStream>> {
        Pin::new(&mut self.io)
    }
}

impl Read for TrackedSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.io().poll_read(cx, buffer))?;
        // Or the end, after which there are no turns.
        self.turns.heard();
        Poll::Ready(Ok(()))
    }
}

impl Write for TrackedSocket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let length = ready!(self.io().poll_write(cx, bytes))?;
        self.turns.wrote();
        Poll::Ready(Ok(length))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length = ready!(self.io().poll_write_vectored(cx, parts))?;
        self.turns.wrote();
        Poll::Ready(Ok(length))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io().poll_shutdown(cx)
    }
}
