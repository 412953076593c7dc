//! [`SendQueue`]: the bounded outgoing queue of one connection.
//!
//! The dispatcher pushes and never waits; the connection takes whatever is there at once, so that frames which waited
//! together are written together. A queue that overflows frees its memory and says so: it never skips an event silently.

use std::{
    future::poll_fn,
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::SystemTime,
};

use smallvec::SmallVec;

use super::Relayed;
use crate::telemetry::traces::Trace;

/// What an entry costs besides its payload, in bytes: the entry itself and the frame around the payload.
const OVERHEAD: usize = mem::size_of::<Delivery>() + 64;

/// One result on its way to one watcher.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Which of the connection's watchers it is for.
    pub watcher: u64,
    /// What it is told: all that a delivery adds to an event is this pointer and that number.
    pub result: Arc<Rendered>,
}

/// What was queued together. One alone, as a client has that keeps up, needs no memory besides.
pub type Deliveries = SmallVec<[Delivery; 1]>;

/// What an operation makes of an event, shared by all the watchers that are told of it.
#[derive(Debug)]
pub struct Rendered {
    /// The JSON of the execution result.
    pub payload: Arc<str>,
    /// What the client resumes from once it has this.
    pub cursor: Arc<str>,
    /// When the topic took the event; `None` for what is no live event.
    pub published: Option<SystemTime>,
    /// The trace that the deliveries belong to, if it is sampled.
    pub trace: Option<Box<Trace>>,
}

impl Rendered {
    /// A live event.
    pub(super) fn live(relayed: &Relayed, payload: Arc<str>) -> Self {
        let trace = Trace::of_current_span();
        Self { payload, cursor: relayed.cursor.clone(), published: relayed.event.published, trace }
    }

    /// What is no live event.
    pub(super) const fn old(payload: Arc<str>, cursor: Arc<str>) -> Self {
        Self { payload, cursor, published: None, trace: None }
    }
}

/// The outgoing queue of one connection, bounded in bytes.
#[derive(Debug)]
pub struct SendQueue {
    queue: Mutex<Queue>,
    limit: usize,
    watchers: AtomicUsize,
}

#[derive(Debug, Default)]
struct Queue {
    deliveries: Deliveries,
    bytes: usize,
    overflowed: bool,
    /// The connection, if it waits, and whether for an overflow only. Woken once: what is pushed while it wakes up costs
    /// no more than its place in the queue.
    waiter: Option<Waker>,
    only_overflow: bool,
}

impl SendQueue {
    /// An empty send queue that holds at most `limit` bytes, or one delivery that is larger.
    #[must_use]
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { queue: Mutex::default(), limit, watchers: AtomicUsize::new(0) })
    }

    /// Queues the delivery, or overflows: then the queue is emptied and takes nothing any more.
    pub fn push(&self, delivery: Delivery) {
        let mut queue = self.queue();
        if queue.overflowed {
            return;
        }
        queue.bytes += delivery.result.payload.len() + OVERHEAD;
        // One alone always fits: a client that has read everything is not slow, however large the event.
        if queue.bytes > self.limit && !queue.deliveries.is_empty() {
            queue.overflowed = true;
            (queue.deliveries, queue.bytes) = (Deliveries::new(), 0);
        } else {
            queue.deliveries.push(delivery);
        }
        let waiter = if queue.overflowed || !queue.only_overflow { queue.waiter.take() } else { None };
        drop(queue);
        if let Some(waiter) = waiter {
            waiter.wake();
        }
    }

    /// All that waits, now.
    pub fn take(&self) -> Deliveries {
        let mut queue = self.queue();
        queue.bytes = 0;
        mem::take(&mut queue.deliveries)
    }

    /// Waits until something is queued or the queue has overflowed. Cancel-safe; for one waiter at a time.
    pub async fn changed(&self) {
        poll_fn(|cx| self.poll_changed(cx)).await;
    }

    /// The same as [`changed`](Self::changed), without a future that would take room.
    pub fn poll_changed(&self, cx: &Context<'_>) -> Poll<()> {
        let mut queue = self.queue();
        let is_due = !queue.deliveries.is_empty() || queue.overflowed;
        queue.wait_unless(is_due, false, cx)
    }

    /// Waits until the queue has overflowed, while the connection is busy writing. Cancel-safe, and instead of
    /// [`changed`](Self::changed).
    pub async fn overflow(&self) {
        poll_fn(|cx| {
            let mut queue = self.queue();
            let is_due = queue.overflowed;
            queue.wait_unless(is_due, true, cx)
        })
        .await;
    }

    /// Whether the queue has overflowed: its connection is too slow and must end.
    #[must_use]
    pub fn overflowed(&self) -> bool {
        self.queue().overflowed
    }

    /// What waits, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.queue().bytes
    }

    /// How many watchers in the hub it serves.
    #[must_use]
    pub fn watchers(&self) -> usize {
        self.watchers.load(Ordering::Relaxed)
    }

    pub(super) fn join(&self) {
        self.watchers.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn leave(&self) {
        self.watchers.fetch_sub(1, Ordering::Relaxed);
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Nothing panics while it is held.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn wait_unless(&mut self, is_due: bool, only_overflow: bool, cx: &Context<'_>) -> Poll<()> {
        if is_due {
            return Poll::Ready(());
        }
        self.only_overflow = only_overflow;
        match &mut self.waiter {
            Some(waiter) => waiter.clone_from(cx.waker()),
            None => self.waiter = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivery(bytes: usize) -> Delivery {
        Delivery { watcher: 1, result: Rendered::old("x".repeat(bytes).into(), "".into()).into() }
    }

    #[tokio::test]
    async fn what_waited_together_is_taken_together_in_order() {
        let send_queue = SendQueue::new(10_000);
        send_queue.push(delivery(1));
        send_queue.push(delivery(2));
        send_queue.changed().await;
        let lengths: Vec<_> =
            send_queue.take().iter().map(|delivery| delivery.result.payload.len()).collect();
        assert_eq!(lengths, [1, 2]);
        assert!(send_queue.take().is_empty());
    }

    #[tokio::test]
    async fn a_full_send_queue_frees_its_memory_and_says_so() {
        let send_queue = SendQueue::new(1_000);
        send_queue.push(delivery(800));
        assert!(!send_queue.overflowed());
        send_queue.push(delivery(800));
        send_queue.overflow().await;
        send_queue.changed().await;
        assert!(send_queue.take().is_empty());
        send_queue.push(delivery(1));
        assert!(send_queue.take().is_empty(), "it takes nothing any more");
    }

    #[tokio::test]
    async fn an_event_larger_than_the_limit_is_no_slowness() {
        let send_queue = SendQueue::new(1_000);
        for _ in 0..3 {
            send_queue.push(delivery(5_000));
            assert!(!send_queue.overflowed());
            assert_eq!(send_queue.take().len(), 1);
        }
        send_queue.push(delivery(5_000));
        send_queue.push(delivery(1));
        assert!(send_queue.overflowed(), "with another one behind it, it is full");
    }

    #[tokio::test]
    async fn taking_makes_room() {
        let send_queue = SendQueue::new(1_000);
        for _ in 0..10 {
            send_queue.push(delivery(800));
            assert_eq!(send_queue.take().len(), 1);
        }
    }
}
