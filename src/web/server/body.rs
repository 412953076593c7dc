//! [`TrackedBody`]: the body of a request, which reports to [`Activity`] whether it is still on its
//! way.
//!
//! A socket that does not send its body may be closed when others need its place. One with a whole
//! body may not, because its request is running. It changes nothing of what is read.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::pending::Activity;

/// Body of a request that reports what it waits for.
pub(super) struct TrackedBody {
    body: Incoming,
    activity: Arc<Activity>,
}

impl TrackedBody {
    pub(super) const fn new(body: Incoming, activity: Arc<Activity>) -> Self {
        Self { body, activity }
    }
}

impl Body for TrackedBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        match &frame {
            Poll::Pending => self.activity.on_body_awaited(),
            Poll::Ready(Some(Ok(_))) if !self.body.is_end_stream() => self.activity.on_body_read(),
            Poll::Ready(_) => self.activity.on_body_end(),
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
