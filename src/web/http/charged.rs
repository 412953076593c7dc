//! [`charged`]: a body that holds the charge of its bytes until the socket has taken them.
//!
//! hyper drops the bytes of a body only when the kernel has them, so the charge goes with the
//! bytes. It must never be released earlier: a client that does not read is what it bounds.

use std::{
    convert::Infallible,
    mem,
    pin::Pin,
    task::{Context, Poll},
};

use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};

use crate::budget::Charge;

/// Bytes of a body that are passed on at once: to compress them takes about half a millisecond.
const PIECE_BYTES: usize = 32 << 10;

struct Charged {
    bytes: Vec<u8>,
    _charge: Option<Charge>,
}

impl AsRef<[u8]> for Charged {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Body that lets other tasks run between its pieces. A client may ask for it compressed, which
/// would keep a thread busy for as long as the whole body takes.
struct Pieces {
    bytes: Bytes,
    /// Whether other tasks have their turn before the next piece.
    is_pausing: bool,
}

impl hyper::body::Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.bytes.is_empty() {
            return Poll::Ready(None);
        }
        if mem::take(&mut self.is_pausing) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let length = self.bytes.len().min(PIECE_BYTES);
        let piece = self.bytes.split_to(length);
        self.is_pausing = !self.bytes.is_empty();
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.len() as u64)
    }
}

/// Returns a body of these bytes. Their charge is released when they are written, or thrown away.
pub(in crate::web) fn charged(bytes: Vec<u8>, charge: Option<Charge>) -> Body {
    let bytes = Bytes::from_owner(Charged { bytes, _charge: charge });
    Body::new(Pieces { bytes, is_pausing: false })
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;
    use hyper::body::Body as _;

    use super::*;
    use crate::budget::Pool;

    #[tokio::test]
    async fn other_tasks_run_between_pieces() {
        let text: Vec<u8> = (0..5 * PIECE_BYTES).map(|n| (n % 251) as u8).collect();
        let pool = Pool::new("test", 1_000, 1_000);
        let body = charged(text.clone(), pool.try_charge(&"a".into(), 100));
        assert_eq!(body.size_hint().exact(), Some(text.len() as u64));
        let mut turns = 0;
        let others = async {
            loop {
                turns += 1;
                tokio::task::yield_now().await;
            }
        };
        let read = tokio::select! {
            biased;
            read = to_bytes(body, usize::MAX) => read.unwrap(),
            () = others => unreachable!(),
        };
        assert!(read == text && turns >= 4, "{turns} turns");
        drop(read);
        assert_eq!(pool.used(), 0);
    }
}
