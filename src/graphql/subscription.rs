//! Brings events to a subscription's resolver.
//!
//! A resolver does not listen anywhere: its operation is executed once for each event that any of
//! its watchers may receive. [`payloads`] yields that event. A resolver must never read the viewer,
//! because many viewers share its result.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context as TaskContext, Poll, Waker},
};

use async_graphql::Context;
use futures_util::{Stream, stream};

use crate::event::Payload;

/// Returns the payloads, of type `T`, of the events for which this operation is executed. Payloads
/// of another type are skipped.
///
/// The stream does not end. A resolver may filter and map it: a payload that it filters out reaches
/// no watcher of the operation.
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

/// Source of an operation's stream, which hands over one payload at a time.
#[derive(Clone, Default)]
pub(super) struct Source(Arc<Mutex<Slot>>);

#[derive(Default)]
struct Slot {
    payload: Option<Payload>,
    /// Whether the resolver has asked for another payload, so that it is done with the last one.
    drained: bool,
    waker: Option<Waker>,
}

impl Source {
    /// Puts in the next payload.
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

    /// Returns whether the resolver has taken the payload and asked for another one.
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

/// Returns a source that hands over this payload, for tests of resolvers.
#[cfg(test)]
pub(crate) fn source(payload: Payload) -> impl std::any::Any + Send + Sync {
    let source = Source::default();
    source.put(payload);
    source
}

/// A boxed stream of execution results.
pub(super) type Results = Pin<Box<dyn Stream<Item = async_graphql::Response> + Send>>;
