//! [`SendQueue`]: the bounded send queue of one connection.
//!
//! The dispatcher pushes and never waits. The connection takes everything that waits at once, so
//! that frames which waited together are written together. A queue that overflows frees its memory
//! and reports the overflow: it never skips an event silently.

use std::{
    future::poll_fn,
    mem,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::time::Instant;

use super::delivery::{Deliveries, Delivery, Rendered};
use crate::budget::{Charge, Pool};

/// Bytes that a connection may hold without a charge: little more than what an idle one takes. So
/// the delivery to a client that keeps up costs the ledger nothing. Half of them are for what is
/// being written, and half for what comes meanwhile.
const FREE: usize = 4 << 10;

/// Step in which bytes are charged.
const STEP: usize = 8 << 10;

/// Most bytes that a connection takes out of its queue at once, beside the first delivery. It
/// encodes them for itself, and they are written together.
const MAX_TAKEN: usize = 64 << 10;

/// Deliveries for which a queue makes room once a second one waits: one allocation, not three.
const LEAST_ROOM: usize = 15;

/// How long a send queue may be above its limit. A reader that keeps up has taken a burst by then.
const PATIENCE: Duration = Duration::from_secs(1);

/// Number of times that a send queue may reach its limit before it overflows at once.
const BURST: usize = 8;

/// Why a send queue accepts nothing more, so that its connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overflow {
    /// The connection did not take its deliveries in time.
    Slow,
    /// The results for its user take more time than there is.
    Behind,
    /// What its user, or the pod, holds for connections leaves no room.
    NoRoom,
    /// The token of its user was revoked.
    Revoked,
    /// The token of its user counts as expired.
    Outdated,
    /// The pod has more connections than others.
    Moved,
}

/// Send queue of one connection, bounded in bytes.
#[derive(Debug)]
pub struct SendQueue {
    queue: Mutex<Queue>,
    limit: usize,
    watchers: AtomicUsize,
    /// Account of the user, once there is a watcher.
    account: OnceLock<Account>,
    /// Whether the client has not taken all, so that nothing else locks the queue to release
    /// nothing.
    is_unwritten: AtomicBool,
}

#[derive(Debug)]
struct Account {
    pool: Pool,
    watched: Watched,
}

/// First watcher of a connection.
#[derive(Clone, Debug)]
pub struct Watched {
    /// User of the connection.
    pub user: Arc<str>,
    /// Time at which the first watcher began.
    pub since: Instant,
    /// Whether it began with what the client had missed.
    pub resumed: bool,
}

#[derive(Debug, Default)]
struct Queue {
    deliveries: Deliveries,
    bytes: usize,
    /// Bytes that wait and that the user is charged for.
    held: usize,
    /// Bytes of what was taken last, and is being written. Most clients take it at once, so that it
    /// is not charged.
    writing: usize,
    /// Bytes that were taken, and that the client has not taken yet.
    unwritten: usize,
    /// In a box, since most connections have none.
    charge: Option<Box<Charge>>,
    /// Time since which the queue has been above its limit.
    above_since: Option<Instant>,
    overflow: Option<Overflow>,
    /// Waker of the connection, if it waits. It is woken once: what is pushed while it wakes up
    /// costs no more than its place in the queue.
    waiter: Option<Waker>,
    /// Whether the connection waits for an overflow only.
    only_overflow: bool,
}

impl SendQueue {
    /// Creates an empty send queue. A delivery makes it overflow if it has been above `limit` bytes
    /// for a second, or would be above 8 times as much. One delivery fits into an empty queue,
    /// however large.
    #[must_use]
    pub fn new(limit: usize) -> Arc<Self> {
        let (queue, account) = (Mutex::default(), OnceLock::new());
        let (watchers, is_unwritten) = (AtomicUsize::new(0), AtomicBool::new(false));
        Arc::new(Self { queue, limit, watchers, account, is_unwritten })
    }

    /// Charges what the connection holds to this user. `resumed` is whether the watcher begins with
    /// what the client has missed.
    pub(super) fn open_account(&self, pool: &Pool, user: &Arc<str>, resumed: bool) {
        self.account.get_or_init(|| {
            let watched = Watched { user: user.clone(), since: Instant::now(), resumed };
            Account { pool: pool.clone(), watched }
        });
    }

    /// Returns the first watcher that the connection had, if it had any.
    #[must_use]
    pub fn watched(&self) -> Option<&Watched> {
        self.account.get().map(|account| &account.watched)
    }

    /// Queues the delivery. If that is too much, the queue overflows instead: it is emptied and
    /// accepts no further delivery.
    pub fn push(&self, delivery: Delivery) {
        let mut queue = self.queue();
        if queue.overflow.is_some() {
            return;
        }
        queue.bytes += delivery.bytes();
        queue.held += delivery.result.held();
        // A single delivery always fits: a client that has read everything is not slow, however
        // large the event.
        if queue.bytes > self.limit && !queue.deliveries.is_empty() && queue.is_too_much(self.limit) {
            queue.end(Overflow::Slow);
        } else if !self.charge_held(&mut queue) {
            queue.end(Overflow::NoRoom);
        } else {
            if queue.deliveries.len() == queue.deliveries.capacity() {
                let more = queue.deliveries.len().max(LEAST_ROOM);
                queue.deliveries.reserve_exact(more);
            }
            queue.deliveries.push(delivery);
        }
        let is_due = queue.overflow.is_some() || !queue.only_overflow;
        let waiter = if is_due { queue.waiter.take() } else { None };
        drop(queue);
        if let Some(waiter) = waiter {
            waiter.wake();
        }
    }

    /// Empties the queue and ends its connection for this reason. The first reason counts.
    pub fn end(&self, overflow: Overflow) {
        let mut queue = self.queue();
        if queue.overflow.is_none() {
            queue.end(overflow);
        }
        let waiter = queue.waiter.take();
        drop(queue);
        if let Some(waiter) = waiter {
            waiter.wake();
        }
    }

    /// Takes the deliveries that wait now, or the first of them if they are many, or if the user's
    /// share has no room to write many together. What was taken before has been written, unless
    /// [`blocked`](Self::blocked) was called since.
    pub fn take(&self) -> Deliveries {
        let mut queue = self.queue();
        (queue.above_since, queue.writing) = (None, 0);
        let most = if self.has_room(&queue) { MAX_TAKEN } else { FREE / 2 };
        let taken = queue.take(most);
        self.charge_or_end(&mut queue);
        taken
    }

    /// Returns whether all that waits may be written together: there is room for it, and for what
    /// comes meanwhile, should the client not take it at once.
    fn has_room(&self, queue: &Queue) -> bool {
        let bytes = queue.unwritten + queue.bytes.min(MAX_TAKEN) + FREE / 2;
        let more = bytes.saturating_sub(queue.charged());
        let has_room = |account: &Account| account.pool.has_room(&account.watched.user, more);
        bytes <= FREE || self.account.get().is_none_or(has_room)
    }

    /// Charges what was taken and is not written at once. Without room the connection ends.
    pub fn blocked(&self) {
        let mut queue = self.queue();
        queue.unwritten += mem::take(&mut queue.writing);
        self.is_unwritten.store(true, Ordering::Relaxed);
        self.charge_or_end(&mut queue);
    }

    /// Charges deliveries that the connection writes without the queue. Without room for them the
    /// connection ends after they are written.
    pub fn hold(&self, deliveries: &[Delivery]) {
        let mut queue = self.queue();
        let bytes = deliveries.iter().map(|delivery| Rendered::bytes(&delivery.result.payload));
        queue.unwritten += bytes.sum::<usize>();
        self.is_unwritten.store(true, Ordering::Relaxed);
        self.charge_or_end(&mut queue);
    }

    /// Releases what the connection has written.
    pub fn written(&self) {
        if self.is_unwritten.load(Ordering::Relaxed) {
            let mut queue = self.queue();
            (queue.unwritten, queue.writing) = (0, 0);
            self.is_unwritten.store(false, Ordering::Relaxed);
            self.charge_or_end(&mut queue);
        }
    }

    fn charge_or_end(&self, queue: &mut Queue) {
        if queue.overflow.is_none() && !self.charge_held(queue) {
            queue.end(Overflow::NoRoom);
        }
    }

    /// Charges what the connection holds. Returns `false` if there is no room. Mostly there is
    /// nothing to charge, so that this part is inlined into each delivery.
    #[inline]
    fn charge_held(&self, queue: &mut Queue) -> bool {
        let held = queue.held + queue.unwritten;
        if held <= FREE {
            queue.charge = None;
            return true;
        }
        self.charge_in_steps(queue, held)
    }

    /// Charges `held` bytes, which are more than [`FREE`], in steps.
    fn charge_in_steps(&self, queue: &mut Queue, held: usize) -> bool {
        let charged = queue.charged();
        if charged >= held && charged - held < 8 * STEP {
            return true;
        }
        let (Some(account), bytes) = (self.account.get(), held.next_multiple_of(STEP)) else {
            return true;
        };
        let (pool, user) = (&account.pool, &account.watched.user);
        match &mut queue.charge {
            Some(charge) => charge.resize(bytes),
            None => {
                queue.charge = pool.try_charge(user, bytes).map(Box::new);
                queue.charge.is_some()
            }
        }
    }

    /// Returns whether deliveries wait.
    pub fn is_behind(&self) -> bool {
        self.queue().bytes > 0
    }

    /// Waits until something is queued or the queue has overflowed. Cancel-safe; for one waiter at
    /// a time.
    pub async fn changed(&self) {
        poll_fn(|cx| self.poll_changed(cx)).await;
    }

    /// Polls for the same as [`changed`](Self::changed), without a future that would need memory.
    pub fn poll_changed(&self, cx: &Context<'_>) -> Poll<()> {
        let mut queue = self.queue();
        let is_due = !queue.deliveries.is_empty() || queue.overflow.is_some();
        queue.wait_unless(is_due, false, cx)
    }

    /// Waits until the queue has overflowed, while the connection is busy writing. Cancel-safe. It
    /// replaces [`changed`](Self::changed): only one of the two may wait at a time.
    pub async fn overflow(&self) -> Overflow {
        poll_fn(|cx| {
            let mut queue = self.queue();
            match queue.overflow {
                Some(overflow) => Poll::Ready(overflow),
                None => queue.wait_unless(false, true, cx).map(|()| Overflow::Slow),
            }
        })
        .await
    }

    /// Returns why the queue has overflowed, if it has: its connection must end.
    #[must_use]
    pub fn overflowed(&self) -> Option<Overflow> {
        self.queue().overflow
    }

    /// Returns whether a delivery to the queue may be of use.
    pub(super) fn is_used(&self) -> bool {
        self.watchers() > 0 && self.overflowed().is_none()
    }

    /// Returns the bytes that wait.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.queue().bytes
    }

    /// Returns the number of watchers in the hub that the queue serves.
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
        crate::lock::lock(&self.queue)
    }
}

impl Queue {
    /// Empties the queue for good.
    fn end(&mut self, overflow: Overflow) {
        self.overflow = Some(overflow);
        (self.deliveries, self.bytes, self.held, self.charge) = (Deliveries::new(), 0, 0, None);
    }

    /// Takes out what is written next: one delivery, and more up to `most` bytes.
    fn take(&mut self, most: usize) -> Deliveries {
        if self.bytes <= most {
            self.writing += self.bytes;
            (self.bytes, self.held) = (0, 0);
            return mem::take(&mut self.deliveries);
        }
        let (mut count, mut taken) = (0, 0);
        for delivery in &self.deliveries {
            let bytes = delivery.bytes();
            if count > 0 && taken + bytes > most {
                break;
            }
            (count, taken) = (count + 1, taken + bytes);
            self.held -= delivery.result.held();
        }
        (self.bytes, self.writing) = (self.bytes - taken, self.writing + taken);
        self.deliveries.drain(..count).collect()
    }

    /// Returns the bytes that are charged.
    fn charged(&self) -> usize {
        self.charge.as_ref().map_or(0, |charge| charge.bytes())
    }

    /// Returns whether the queue is above `limit` for too long, or by too much.
    fn is_too_much(&mut self, limit: usize) -> bool {
        let now = Instant::now();
        let since = *self.above_since.get_or_insert(now);
        now.duration_since(since) >= PATIENCE || self.bytes > limit.saturating_mul(BURST)
    }

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

    /// Returns a delivery of a result that several connections share, charged to another pool.
    fn shared_delivery(bytes: usize) -> Delivery {
        let charge = Pool::new("results", 1 << 20, 1 << 20).try_charge_shared(None, bytes);
        let old = Rendered::old("x".repeat(bytes).into(), "".into());
        Delivery { watcher: 1, result: Rendered { charge, ..old }.into() }
    }

    #[tokio::test]
    async fn take_returns_queued_deliveries_in_order() {
        let send_queue = SendQueue::new(10_000);
        send_queue.push(delivery(1));
        send_queue.push(delivery(2));
        send_queue.changed().await;
        let lengths: Vec<_> =
            send_queue.take().iter().map(|delivery| delivery.result.payload.len()).collect();
        assert_eq!(lengths, [1, 2]);
        assert!(send_queue.take().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn full_send_queue_frees_memory_and_overflows() {
        let send_queue = SendQueue::new(1_000);
        for _ in 0..9 {
            send_queue.push(delivery(800));
        }
        assert!(send_queue.overflowed().is_none());
        send_queue.push(delivery(800));
        send_queue.overflow().await;
        send_queue.changed().await;
        assert!(send_queue.take().is_empty());
        send_queue.push(delivery(1));
        assert!(send_queue.take().is_empty(), "it accepts nothing after an overflow");
    }

    #[tokio::test]
    async fn single_event_above_limit_does_not_overflow() {
        let send_queue = SendQueue::new(1_000);
        for _ in 0..3 {
            send_queue.push(delivery(5_000));
            assert!(send_queue.overflowed().is_none());
            assert_eq!(send_queue.take().len(), 1);
        }
        send_queue.push(delivery(9_000));
        send_queue.push(delivery(1));
        assert!(send_queue.overflowed().is_some(), "a second delivery overflows it");
    }

    #[tokio::test(start_paused = true)]
    async fn burst_overflows_only_unread_for_a_second() {
        let send_queue = SendQueue::new(1_000);
        for _ in 0..3 {
            for _ in 0..7 {
                send_queue.push(delivery(800));
            }
            tokio::time::advance(PATIENCE / 2).await;
            send_queue.push(delivery(800));
            assert_eq!(send_queue.take().len(), 8, "a reader that keeps up goes on");
            tokio::time::advance(PATIENCE).await;
        }
        for _ in 0..2 {
            send_queue.push(delivery(800));
        }
        tokio::time::advance(PATIENCE).await;
        assert!(send_queue.overflowed().is_none());
        send_queue.push(delivery(1));
        assert!(send_queue.overflowed().is_some());
    }

    #[tokio::test]
    async fn take_frees_room() {
        let send_queue = SendQueue::new(1_000);
        for _ in 0..10 {
            send_queue.push(delivery(800));
            assert_eq!(send_queue.take().len(), 1);
        }
    }

    #[tokio::test]
    async fn connection_takes_bounded_bytes_at_once() {
        let send_queue = SendQueue::new(1 << 20);
        (0..100).for_each(|_| send_queue.push(delivery(10_000)));
        let mut taken = Vec::new();
        while taken.iter().sum::<usize>() < 100 {
            send_queue.changed().await;
            taken.push(send_queue.take().len());
        }
        assert_eq!(taken[..2], [6, 6]);
        assert_eq!(send_queue.bytes(), 0);
        send_queue.push(delivery(100_000));
        assert_eq!(send_queue.take().len(), 1, "one delivery of any size is taken");
    }

    #[tokio::test]
    async fn user_is_charged_what_connections_hold() {
        let pool = Pool::new("test", 1 << 20, 128 << 10);
        let user: Arc<str> = "a".into();
        let queues: Vec<_> = (0..4).map(|_| SendQueue::new(1 << 20)).collect();
        queues.iter().for_each(|queue| queue.open_account(&pool, &user, false));
        queues.iter().for_each(|queue| queue.push(delivery(1_000)));
        assert_eq!(pool.used(), 0, "a reader that keeps up costs the ledger nothing");
        for queue in &queues[..2] {
            (0..5).for_each(|_| queue.push(delivery(10_000)));
        }
        assert!(pool.used() >= 100_000 && queues[0].overflowed().is_none(), "{}", pool.used());
        (0..3).for_each(|_| queues[2].push(delivery(10_000)));
        assert_eq!(queues[2].overflowed(), Some(Overflow::NoRoom), "the share of the user is used up");
        let used = pool.used();
        assert_eq!(queues[0].take().len(), 6);
        assert!(pool.used() < used, "what the client takes at once costs the ledger nothing");
        queues[0].blocked();
        assert!(pool.used() >= used, "what it does not take counts");
        queues[0].written();
        assert!(pool.used() < used, "what is written does not");
        assert!(queues[0].take().is_empty());
        drop(queues);
        assert_eq!(pool.used(), 0);
    }

    #[tokio::test]
    async fn connections_beyond_share_write_less_at_once() {
        let pool = Pool::new("test", 1 << 20, 64 << 10);
        let user: Arc<str> = "a".into();
        let queues: Vec<_> = (0..100).map(|_| SendQueue::new(1 << 20)).collect();
        queues.iter().for_each(|queue| queue.open_account(&pool, &user, false));
        let results: Vec<_> = (0..32).map(|_| shared_delivery(300)).collect();
        queues.iter().for_each(|queue| results.iter().for_each(|result| queue.push(result.clone())));
        let blocked = |queue: &SendQueue| (queue.take().len(), queue.blocked()).0;
        let first: Vec<_> = queues.iter().map(|queue| blocked(queue)).collect();
        assert!(first[0] == 32 && first[99] < 10 && first[99] > 0, "{first:?}");
        for (queue, first) in queues.iter().zip(first) {
            let mut taken = first;
            while taken < 32 {
                queue.written();
                taken += queue.take().len();
            }
            queue.written();
            assert!(queue.overflowed().is_none(), "a reader that keeps up goes on");
        }
        assert_eq!(pool.used(), 0);
    }

    #[tokio::test]
    async fn connection_beyond_share_goes_on_while_it_writes() {
        let pool = Pool::new("test", 1 << 20, 64 << 10);
        let user: Arc<str> = "a".into();
        let _all = pool.try_charge(&user, 64 << 10).unwrap();
        let send_queue = SendQueue::new(1 << 20);
        send_queue.open_account(&pool, &user, false);
        for _ in 0..100 {
            (0..10).for_each(|_| send_queue.push(shared_delivery(300)));
            let mut taken = send_queue.take().len();
            (0..32).for_each(|_| send_queue.push(shared_delivery(300)));
            while taken < 42 {
                assert!(send_queue.overflowed().is_none(), "a reader that keeps up goes on");
                taken += send_queue.take().len();
            }
        }
    }
}
