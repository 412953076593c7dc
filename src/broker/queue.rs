//! Queue of messages from an adapter's task to the relay, bounded in number and in bytes.
//!
//! At a bound the task waits, and with it the broker. It must never drop a message.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::Received;

/// Most bytes of data in a queue: 8 MiB. An event that is larger waits alone.
pub(super) const QUEUE_BYTES: u32 = 8 << 20;

/// Sender of a queue.
#[derive(Clone)]
pub(super) struct Sender {
    messages: mpsc::Sender<(Received, OwnedSemaphorePermit)>,
    room: Arc<Semaphore>,
}

/// Receiver of a queue.
pub(super) struct Receiver {
    messages: mpsc::Receiver<(Received, OwnedSemaphorePermit)>,
    room: Arc<Semaphore>,
}

/// The queue is closed.
#[derive(Debug)]
pub(super) struct Closed;

/// Creates a queue of at most this many messages, with [`QUEUE_BYTES`] of data.
pub(super) fn queue(messages: usize) -> (Sender, Receiver) {
    let (sender, receiver) = mpsc::channel(messages);
    let room = Arc::new(Semaphore::new(QUEUE_BYTES as usize));
    (Sender { messages: sender, room: room.clone() }, Receiver { messages: receiver, room })
}

impl Sender {
    /// Waits for room and hands on a message.
    ///
    /// # Errors
    /// [`Closed`] if the receiver is closed or gone.
    pub(super) async fn send(&self, message: Received) -> Result<(), Closed> {
        let bytes = message.bytes();
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(QUEUE_BYTES);
        let room = self.room.clone().acquire_many_owned(bytes).await.map_err(|_| Closed)?;
        self.messages.send((message, room)).await.map_err(|_| Closed)
    }
}

impl Receiver {
    /// Waits for the next message. Returns `None` if the queue is closed and empty.
    pub(super) async fn recv(&mut self) -> Option<Received> {
        self.messages.recv().await.map(|(message, _)| message)
    }

    /// Returns a message that is in the queue.
    pub(super) fn try_recv(&mut self) -> Option<Received> {
        self.messages.try_recv().ok().map(|(message, _)| message)
    }

    /// Closes the queue for senders, also for one that waits for room.
    pub(super) fn close(&mut self) {
        self.messages.close();
        self.room.close();
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;
    use crate::{
        broker::Ack,
        event::{Event, Foreign, cloudevent::Undecodable},
    };

    fn message(bytes: usize) -> Received {
        let event = Event::new("/test".into(), "k", None, vec![b'x'; bytes].into());
        Received { event: Ok(event), message_id: String::new(), ack: Ack::none() }
    }

    /// Returns whether the message found room at once.
    async fn fits(sender: &Sender, bytes: usize) -> bool {
        timeout(Duration::ZERO, sender.send(message(bytes))).await.is_ok()
    }

    #[tokio::test]
    async fn queue_is_bounded_in_number_and_bytes() {
        let (sender, mut receiver) = queue(3);
        assert!(fits(&sender, 5 << 20).await);
        assert!(!fits(&sender, 5 << 20).await, "more than 8 MiB");
        assert!(fits(&sender, 1).await && fits(&sender, 1).await);
        assert!(!fits(&sender, 1).await, "a fourth message");
        while receiver.try_recv().is_some() {}
        assert!(fits(&sender, 9_000_000).await, "the largest event has room alone");
        assert!(!fits(&sender, 1).await);
        assert!(receiver.recv().await.is_some() && fits(&sender, 1).await);
    }

    #[tokio::test]
    async fn message_without_cloudevent_takes_room_too() {
        let (sender, _receiver) = queue(3);
        let foreign = Foreign { data: vec![b'x'; 5 << 20].into(), ..Foreign::default() };
        let event = Err(Undecodable::Foreign(Box::new(foreign)));
        sender.send(Received { event, message_id: String::new(), ack: Ack::none() }).await.unwrap();
        assert!(!fits(&sender, 5 << 20).await, "more than 8 MiB");
    }

    #[tokio::test]
    async fn closed_queue_releases_waiting_sender() {
        let (sender, mut receiver) = queue(3);
        sender.send(message(9_000_000)).await.unwrap();
        let waiting = sender.send(message(1));
        let (sent, ()) = tokio::join!(waiting, async { receiver.close() });
        sent.unwrap_err();
        assert!(receiver.recv().await.is_some(), "what was queued stays");
        assert!(receiver.recv().await.is_none());
    }
}
