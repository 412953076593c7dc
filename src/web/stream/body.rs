//! The way of chunks from a driver's task into the body that the socket is fed from.
//!
//! One chunk waits at most: whoever makes them waits until the socket has room. A body whose driver is gone without a word is
//! cut, so that its client knows that this was not the end; it never ends in good order by chance.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use axum::body::Bytes;
use futures_util::Stream;
use thiserror::Error;
use tokio::sync::mpsc::{self, error::SendError};

/// The end that chunks are put into. `None` is the end in good order.
pub(in crate::web) struct Pipe(mpsc::Sender<Option<Bytes>>);

/// Room for one chunk.
pub(in crate::web) struct Permit<'a>(mpsc::Permit<'a, Option<Bytes>>);

/// The end that the socket is fed from: the body of a response. Dropped when the client is gone.
pub(in crate::web) struct Chunks(mpsc::Receiver<Option<Bytes>>);

/// The body ends here, and what it carries does not.
#[derive(Debug, Error)]
#[error("cut")]
pub(in crate::web) struct Cut;

/// A way for the chunks of one body.
pub(in crate::web) fn channel() -> (Pipe, Chunks) {
    let (pipe, chunks) = mpsc::channel(1);
    (Pipe(pipe), Chunks(chunks))
}

impl Pipe {
    /// Waits until the client is gone.
    pub(in crate::web) async fn closed(&self) {
        self.0.closed().await;
    }

    /// Waits until the socket has taken the last chunk. Cancel-safe.
    ///
    /// # Errors
    /// If the client is gone.
    pub(in crate::web) async fn reserve(&self) -> Result<Permit<'_>, SendError<()>> {
        self.0.reserve().await.map(Permit)
    }

    /// Ends the body in good order.
    pub(in crate::web) async fn finish(&self) {
        // A client that is gone needs no end.
        let _ = self.0.send(None).await;
    }
}

impl Permit<'_> {
    pub(in crate::web) fn send(self, chunk: Vec<u8>) {
        self.0.send(Some(chunk.into()));
    }
}

impl Stream for Chunks {
    type Item = Result<Bytes, Cut>;

    fn poll_next(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(match ready!(self.0.poll_recv(task)) {
            Some(Some(chunk)) => Some(Ok(chunk)),
            Some(None) => None,
            None => Some(Err(Cut)),
        })
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt as _, StreamExt as _};

    use super::*;

    #[tokio::test]
    async fn a_driver_that_is_gone_cuts_the_body() {
        let (pipe, mut chunks) = channel();
        pipe.reserve().await.unwrap().send(b"one".to_vec());
        assert!(pipe.reserve().now_or_never().is_none(), "the socket has not taken the first");
        assert_eq!(chunks.next().await.unwrap().unwrap(), "one");
        drop(pipe);
        assert!(matches!(chunks.next().await, Some(Err(Cut))));
    }

    #[tokio::test]
    async fn an_end_in_good_order_is_no_cut() {
        let (pipe, mut chunks) = channel();
        pipe.finish().await;
        drop(pipe);
        assert!(chunks.next().await.is_none());
    }

    #[tokio::test]
    async fn a_client_that_is_gone_is_noticed() {
        let (pipe, chunks) = channel();
        drop(chunks);
        pipe.closed().await;
        assert!(pipe.reserve().await.is_err());
    }
}
