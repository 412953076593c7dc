//! How an event reaches a subscription's resolver.
//!
//! A resolver does not listen anywhere: its operation is executed once for each event that any of its watchers may see,
//! and [`payloads`] is where that event comes out. It must not look at the viewer, since many share its result.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context as TaskContext, Poll, Waker},
};

use async_graphql::Context;
use futures_util::{Stream, stream};

use crate::event::Payload;

/// The payloads, of type `T`, of the events that this operation is executed for. Payloads of another type are passed
/// over: the field has nothing to say about them.
///
/// The stream does not end. A resolver may filter and map it: what it leaves out, no watcher of the operation gets.
pub fn payloads<T: Clone + Send + Sync + 'static>(
    ctx: &Context<'_>,
) -> impl Stream<Item = T> + Send + use<T> {
    let source = ctx.data_opt::<Source>().cloned().unwrap_or_default();
    stream::poll_fn(move |task| {
        while let Poll::Ready(payload) = source.poll(task) {
            if let Some(payload) = payload.downcast_ref::<T>() {
                return Poll::Ready(Some(payload.clone()));
            }
        }
        Poll::Pending
    })
}

/// Hands one payload at a time to an operation's stream.
#[derive(Clone, Default)]
pub(super) struct Source(Arc<Mutex<Slot>>);

#[derive(Default)]
struct Slot {
    payload: Option<Payload>,
    /// The resolver asked for more than there is: it is done with the last payload.
    drained: bool,
    waker: Option<Waker>,
}

impl Source {
    /// Puts the next payload in.
    pub(super) fn put(&self, payload: Payload) {
        let mut slot = self.slot();
        slot.payload = Some(payload);
        slot.drained = false;
        // The executor's stream polls only the fields that were woken.
        if let Some(waker) = slot.waker.take() {
            drop(slot);
            waker.wake();
        }
    }

    /// Whether the resolver has taken the payload and come back for another one.
    pub(super) fn is_drained(&self) -> bool {
        self.slot().drained
    }

    fn poll(&self, task: &mut TaskContext<'_>) -> Poll<Payload> {
        let mut slot = self.slot();
        if let Some(payload) = slot.payload.take() {
            return Poll::Ready(payload);
        }
        slot.drained = true;
        slot.waker = Some(task.waker().clone());
        Poll::Pending
    }

    fn slot(&self) -> MutexGuard<'_, Slot> {
        crate::lock::lock(&self.0)
    }
}

/// A boxed stream of execution results.
pub(super) type Results = Pin<Box<dyn Stream<Item = async_graphql::Response> + Send>>;
