//! [`TrackedSocket`]: the TCP socket under HTTP, which reports its reads and writes to
//! [`Activity`].
//!
//! It changes nothing of what is read and written. A transport that takes over the socket removes
//! it.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::pending::Activity;

/// TCP socket that reports its reads and writes.
pub(super) struct TrackedSocket {
    io: TokioIo<TcpStream>,
    activity: Arc<Activity>,
}

impl TrackedSocket {
    pub(super) fn new(stream: TcpStream, activity: Arc<Activity>) -> Self {
        Self { io: TokioIo::new(stream), activity }
    }

    /// Returns the plain socket.
    pub(super) fn into_inner(self) -> TcpStream {
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
        // At the end of the stream too, after which the state no longer matters.
        self.activity.on_read();
        Poll::Ready(Ok(()))
    }
}

impl Write for TrackedSocket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let length = ready!(self.io().poll_write(cx, bytes))?;
        self.activity.on_write();
        Poll::Ready(Ok(length))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length = ready!(self.io().poll_write_vectored(cx, parts))?;
        self.activity.on_write();
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
