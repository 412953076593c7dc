//! [`Outbox`]: the bounded outgoing queue of one connection.
//!
//! The dispatcher pushes and never waits; the connection takes whatever is there at once, so that frames which waited
//! together are written together. A queue that overflows frees its memory and says so: it never skips an event silently.

use std::{
    collections::VecDeque,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use tokio::sync::Notify;

use super::Relayed;

/// What an entry costs besides its payload, in bytes: the entry itself and the frame around the payload.
const OVERHEAD: usize = mem::size_of::<Delivery>() + 64;

/// One event on its way to one watcher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Which of the connection's watchers it is for.
    pub watcher: u64,
    /// The JSON of the execution result, shared with every other watcher of the operation.
    pub payload: Arc<str>,
    /// What the client resumes from once it has this.
    pub cursor: Arc<str>,
    /// When the topic took the event; `None` for what is no live event.
    pub published: Option<SystemTime>,
}

impl Delivery {
    /// A live event on its way to a watcher.
    pub(super) fn new(watcher: u64, relayed: &Relayed, payload: Arc<str>) -> Self {
        Self { watcher, payload, cursor: relayed.cursor.clone(), published: relayed.event.published }
    }
}

/// The outgoing queue of one connection, bounded in bytes.
#[derive(Debug)]
pub struct Outbox {
    queue: Mutex<Queue>,
    changed: Notify,
    limit: usize,
}

#[derive(Debug, Default)]
struct Queue {
    deliveries: VecDeque<Delivery>,
    bytes: usize,
    overflowed: bool,
}

impl Outbox {
    /// An empty outbox that holds at most `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { queue: Mutex::default(), changed: Notify::new(), limit })
    }

    /// Queues the delivery, or overflows: then the queue is emptied and takes nothing any more.
    pub fn push(&self, delivery: Delivery) {
        let mut queue = self.queue();
        if queue.overflowed {
            return;
        }
        queue.bytes += delivery.payload.len() + OVERHEAD;
        if queue.bytes > self.limit {
            *queue = Queue { overflowed: true, ..Queue::default() };
        } else {
            queue.deliveries.push_back(delivery);
        }
        drop(queue);
        self.changed.notify_one();
    }

    /// All that waits, now.
    pub fn take(&self) -> VecDeque<Delivery> {
        let mut queue = self.queue();
        queue.bytes = 0;
        mem::take(&mut queue.deliveries)
    }

    /// Waits until something is queued or the queue has overflowed. Cancel-safe; for one waiter at a time.
    pub async fn changed(&self) {
        while {
            let queue = self.queue();
            queue.deliveries.is_empty() && !queue.overflowed
        } {
            self.changed.notified().await;
        }
    }

    /// Waits until the queue has overflowed, while the connection is busy writing. Cancel-safe.
    pub async fn overflow(&self) {
        while !self.overflowed() {
            self.changed.notified().await;
        }
    }

    /// Whether the queue has overflowed: its connection is too slow and must end.
    #[must_use]
    pub fn overflowed(&self) -> bool {
        self.queue().overflowed
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Nothing panics while it is held.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivery(bytes: usize) -> Delivery {
        Delivery { watcher: 1, payload: "x".repeat(bytes).into(), cursor: "".into(), published: None }
    }

    #[tokio::test]
    async fn what_waited_together_is_taken_together_in_order() {
        let outbox = Outbox::new(10_000);
        outbox.push(delivery(1));
        outbox.push(delivery(2));
        outbox.changed().await;
        let lengths: Vec<_> = outbox.take().iter().map(|delivery| delivery.payload.len()).collect();
        assert_eq!(lengths, [1, 2]);
        assert!(outbox.take().is_empty());
    }

    #[tokio::test]
    async fn a_full_outbox_frees_its_memory_and_says_so() {
        let outbox = Outbox::new(1_000);
        outbox.push(delivery(800));
        assert!(!outbox.overflowed());
        outbox.push(delivery(800));
        outbox.overflow().await;
        outbox.changed().await;
        assert!(outbox.take().is_empty());
        outbox.push(delivery(1));
        assert!(outbox.take().is_empty(), "it takes nothing any more");
    }

    #[tokio::test]
    async fn taking_makes_room() {
        let outbox = Outbox::new(1_000);
        for _ in 0..10 {
            outbox.push(delivery(800));
            assert_eq!(outbox.take().len(), 1);
        }
    }
}
