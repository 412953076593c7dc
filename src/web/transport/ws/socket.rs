//! [`Socket`]: a WebSocket on a plain TCP socket, which holds no buffer while it is idle.
//!
//! Reads and writes go through one buffer each per thread. What the kernel does not take, and what
//! came behind the last message, is kept until it is handled. It must never read ahead: a client
//! that does not take its answers is not read from either.

use std::{
    cell::RefCell,
    future::poll_fn,
    io::{self, ErrorKind},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes, BytesMut};
use thiserror::Error;
use tokio::{
    io::{AsyncRead as _, AsyncWrite as _, AsyncWriteExt as _, ReadBuf},
    net::TcpStream,
};

use super::{
    frame::{self, Decoder, FrameError, Message},
    protocol::Close,
};

/// Size of a thread's read buffer, in bytes: enough for what clients send at once, except for the
/// largest mutations.
const READ_BYTES: usize = 16 << 10;

/// Capacity that a thread's write buffer keeps, in bytes. A batch for a slow client may need
/// megabytes, once.
const KEPT_WRITE_BYTES: usize = 256 << 10;

thread_local! {
    static READ: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
    static WRITE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Reason why nothing more can be read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The connection is gone, in good order or not.
    #[error("connection lost")]
    Lost(#[from] io::Error),
    /// The bytes are no valid WebSocket.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// The server's end of a WebSocket, after the handshake.
#[derive(Debug)]
pub struct Socket {
    stream: TcpStream,
    decoder: Decoder,
    /// Bytes that came behind the last message in the same read.
    unread: Bytes,
    /// Bytes that the kernel did not take.
    unwritten: BytesMut,
}

impl Socket {
    /// Creates a socket from which `unread` was read already. Messages have at most `limit` bytes.
    #[must_use]
    pub fn new(stream: TcpStream, unread: Bytes, limit: usize) -> Self {
        Self { stream, decoder: Decoder::new(limit), unread, unwritten: BytesMut::new() }
    }

    /// Sets the size of the largest message, in bytes, from now on.
    pub const fn set_limit(&mut self, limit: usize) {
        self.decoder.set_limit(limit);
    }

    /// Waits for the next message. Cancel-safe.
    ///
    /// # Errors
    /// [`ReadError`]; nothing more can be read after it.
    pub async fn message(&mut self) -> Result<Message, ReadError> {
        poll_fn(|cx| self.poll_message(cx)).await
    }

    /// Polls for the next message as [`message`](Self::message) does, without a future that takes
    /// room.
    ///
    /// # Errors
    /// The same.
    pub fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Result<Message, ReadError>> {
        if !self.unread.is_empty() {
            let mut input = &*self.unread;
            let message = self.decoder.decode(&mut input)?;
            let left = input.len();
            self.unread.advance(self.unread.len() - left);
            if self.unread.is_empty() {
                self.unread = Bytes::new();
            }
            if let Some(message) = message {
                return Poll::Ready(Ok(message));
            }
        }
        READ.with_borrow_mut(|buffer| {
            loop {
                let length = ready!(self.poll_read(cx, buffer))?;
                let mut input = &buffer[..length];
                if let Some(message) = self.decoder.decode(&mut input)? {
                    self.unread = Bytes::copy_from_slice(input);
                    return Poll::Ready(Ok(message));
                }
            }
        })
    }

    /// Returns the bytes that are held of what the client sends.
    #[must_use]
    pub fn held(&self) -> usize {
        self.decoder.unfinished().1 + self.unread.len()
    }

    /// Returns the bytes that have come of a message that is not complete.
    #[must_use]
    pub fn unfinished(&self) -> usize {
        self.decoder.unfinished().0
    }

    /// Drops what is held of what the client sends. No message can be read any more.
    pub fn forget(&mut self) {
        (self.decoder, self.unread) = (Decoder::new(0), Bytes::new());
    }

    fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        READ.with_borrow_mut(|buffer| self.poll_read(cx, buffer).map_ok(|_discarded| ()))
    }

    /// Reads at least one byte. Returns the number of bytes.
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(buffer);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
        let length = buffer.filled().len();
        Poll::Ready(if length == 0 { Err(ErrorKind::UnexpectedEof.into()) } else { Ok(length) })
    }

    /// Writes frames together: everything that `encode` appends, in one call to the kernel. What
    /// the kernel does not take waits for [`flush`](Self::flush); see
    /// [`is_blocked`](Self::is_blocked).
    ///
    /// # Errors
    /// If the connection is gone.
    pub fn write(&mut self, encode: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        WRITE.with_borrow_mut(|frames| {
            frames.clear();
            encode(frames);
            let written = if self.is_blocked() { 0 } else { self.try_write(frames)? };
            self.unwritten.extend_from_slice(&frames[written..]);
            if frames.capacity() > KEPT_WRITE_BYTES {
                *frames = Vec::new();
            }
            Ok(())
        })
    }

    fn try_write(&self, frames: &[u8]) -> io::Result<usize> {
        match self.stream.try_write(frames) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
            result => result,
        }
    }

    /// Reports whether there are bytes that the kernel did not take.
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        !self.unwritten.is_empty()
    }

    /// Waits until the kernel has taken everything that was written. Cancel-safe.
    ///
    /// # Errors
    /// If the connection is gone.
    pub async fn flush(&mut self) -> io::Result<()> {
        while self.is_blocked() {
            let written = poll_fn(|cx| Pin::new(&mut self.stream).poll_write(cx, &self.unwritten)).await?;
            self.unwritten.advance(written);
        }
        self.unwritten = BytesMut::new();
        Ok(())
    }

    /// Sends a close and lets the peer answer, if it is expected to. It waits for as long as the
    /// peer takes.
    ///
    /// # Errors
    /// If the connection is gone.
    pub async fn close(&mut self, close: &Close, expects_answer: bool) -> io::Result<()> {
        self.write(|frames| frame::close(frames, close))?;
        self.flush().await?;
        while expects_answer && !matches!(self.message().await, Ok(Message::Close(_)) | Err(_)) {}
        self.stream.shutdown().await?;
        // A close with unread bytes would reset the connection, and the peer might lose the close
        // frame.
        while poll_fn(|cx| self.poll_discard(cx)).await.is_ok() {}
        Ok(())
    }
}

#[cfg(test)]
mod tests;
