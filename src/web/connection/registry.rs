//! [`Registry`]: the open connections, read by `/debug/connections` and the gauges.
//!
//! A connection is added when it begins and removed when it ends. Events do not touch the registry,
//! so that it costs time only when it is read. Only if operators may ask, each write stores a
//! cursor, and the last ends of each user's connections are kept.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use opentelemetry::{KeyValue, metrics::Meter};
use slab::Slab;
use tokio::time::Instant;

use super::{end::End, moved::Moved, transport::Transport};
use crate::{
    hub::{Delivery, Overflow, SendQueue, Watched, per_user::PerUser},
    membership::Moves,
    revocations::Credentials,
};

/// Registry of open connections, read by `/debug/connections` and the gauges.
pub(super) struct Registry {
    entries: Mutex<Slab<Entry>>,
    /// Ends of connections with watchers; `None`: neither ends nor cursors are kept.
    stays: Option<Mutex<PerUser<Stay>>>,
    moved: Mutex<Moved>,
}

/// Time in which a connection had a user, from its first watcher to its end.
#[derive(Clone, Debug)]
pub struct Stay {
    /// Transport of the connection.
    pub transport: Transport,
    /// Time at which the first watcher began.
    pub began: Instant,
    /// Whether it began with what the client had missed.
    pub resumed: bool,
    /// Time and reason of the end; `None`: it is open.
    pub end: Option<(Instant, &'static str)>,
    /// Number of watchers now.
    pub watchers: usize,
}

/// One connection in the registry.
#[derive(Clone)]
pub struct Entry {
    /// Transport of the connection.
    pub transport: Transport,
    /// Send queue of the connection.
    pub send_queue: Arc<SendQueue>,
    /// When the connection was added.
    pub since: Instant,
    /// Credentials of the connection's token; `None` until it is checked.
    pub credentials: Option<Arc<Credentials>>,
    /// Cursor of the last delivery that was written; `None` if cursors are not kept.
    pub cursor: Option<Arc<str>>,
}

impl Stay {
    /// Returns whether the connection was open, and watched, at this time.
    #[must_use]
    pub fn includes(&self, time: Instant) -> bool {
        self.began <= time && self.end.is_none_or(|(ended, _)| time < ended)
    }
}

impl Entry {
    fn stay(&self, watched: &Watched) -> Stay {
        Stay {
            transport: self.transport,
            began: watched.since,
            resumed: watched.resumed,
            end: None,
            watchers: self.send_queue.watchers(),
        }
    }
}

impl Registry {
    /// Creates an empty registry. It keeps cursors and, for this time, ends; without a time
    /// neither.
    pub(super) fn new(keeps: Option<Duration>) -> Self {
        let stays = keeps.map(|span| Mutex::new(PerUser::new(span)));
        Self { entries: Mutex::default(), stays, moved: Mutex::default() }
    }

    /// Registers the gauges that add up values of all connections.
    pub(super) fn observe(self: &Arc<Self>, meter: &Meter) {
        let gauge = |name, unit, description, value: fn(&SendQueue) -> usize| {
            let registry = self.clone();
            let gauge = meter.u64_observable_gauge(name).with_unit(unit).with_description(description);
            gauge
                .with_callback(move |gauge| {
                    for (transport, sum) in Transport::ALL.into_iter().zip(registry.sum(value)) {
                        gauge.observe(sum, &[KeyValue::new("transport", transport.name())]);
                    }
                })
                .build();
        };
        gauge("relay.watchers", "", "Watchers now, by transport.", SendQueue::watchers);
        gauge(
            "relay.queue.size",
            "By",
            "What waits for clients that have not read it, by transport.",
            SendQueue::bytes,
        );
    }

    pub(super) fn insert(&self, transport: Transport, send_queue: Arc<SendQueue>) -> usize {
        let (since, credentials, cursor) = (Instant::now(), None, None);
        self.entries().insert(Entry { transport, send_queue, since, credentials, cursor })
    }

    /// Stores the credentials of a connection, in place of earlier ones, and ends it if they are
    /// refused. A revocation that comes at the same time either finds them here, or is found.
    pub(super) fn identify(
        &self,
        slot: Option<usize>,
        credentials: Arc<Credentials>,
        refusal: impl Fn(&Credentials) -> Option<Overflow>,
    ) {
        let mut entries = self.entries();
        if let Some(entry) = slot.and_then(|slot| entries.get_mut(slot)) {
            if entry.credentials.is_none() {
                crate::lock::lock(&self.moved).begin(&credentials.user);
            }
            if let Some(end) = refusal(&credentials) {
                entry.send_queue.end(end);
            }
            entry.credentials = Some(credentials);
        }
    }

    /// Ends the connections whose credentials are refused. Returns their number.
    pub(super) fn end_refused(&self, refusal: impl Fn(&Credentials) -> Option<Overflow>) -> usize {
        let mut ended = 0;
        for (_, entry) in self.entries().iter() {
            if let Some(end) = entry.credentials.as_deref().and_then(&refusal) {
                entry.send_queue.end(end);
                ended += 1;
            }
        }
        ended
    }

    /// Stores the cursor of the last delivery, if cursors are kept.
    pub(super) fn delivered(&self, slot: Option<usize>, last: Option<&Delivery>) {
        if self.stays.is_none() {
            return;
        }
        let mut entries = self.entries();
        if let (Some(entry), Some(last)) = (slot.and_then(|slot| entries.get_mut(slot)), last) {
            entry.cursor = Some(last.result.cursor.clone());
        }
    }

    /// Ends one connection with credentials, any of them, so that its client connects again.
    /// Returns `false` if there is none.
    pub(super) fn move_one(&self) -> bool {
        let entries = self.entries();
        let start = rand::random_range(0..entries.capacity().max(1));
        let from = (start..entries.capacity()).chain(0..start);
        let open = from.filter_map(|slot| entries.get(slot));
        let mut open = open.filter(|entry| entry.send_queue.overflowed().is_none());
        let one = open.find_map(|entry| Some((&entry.send_queue, &entry.credentials.as_ref()?.user)));
        one.inspect(|(send_queue, user)| {
            send_queue.end(Overflow::Moved);
            crate::lock::lock(&self.moved).add((*user).clone());
        })
        .is_some()
    }

    /// Returns the moved connections, and how many have come back.
    pub(super) fn moves(&self) -> Moves {
        crate::lock::lock(&self.moved).moves()
    }

    /// Forgets the moved connections.
    pub(super) fn forget_moves(&self) {
        *crate::lock::lock(&self.moved) = Moved::default();
    }

    /// Returns the number of connections, and the first `most` of them.
    pub(super) fn first(&self, most: usize) -> (usize, Vec<Entry>) {
        let entries = self.entries();
        (entries.len(), entries.iter().take(most).map(|(_, entry)| entry.clone()).collect())
    }

    /// Removes a connection that ends for this reason.
    pub(super) fn remove(&self, slot: usize, end: &End) {
        let Some(entry) = self.entries().try_remove(slot) else { return };
        if let (Some(stays), Some(watched)) = (&self.stays, entry.send_queue.watched()) {
            let stay = Stay { end: Some((Instant::now(), end.reason())), ..entry.stay(watched) };
            crate::lock::lock(stays).add(&watched.user, stay);
        }
    }

    /// Returns the user's open connections with watchers, and then those that have ended lately,
    /// the newest first; `most` of each at most. Visits all connections.
    pub(super) fn stays(&self, user: &str, most: usize) -> Vec<Stay> {
        let mut stays: Vec<Stay> = {
            let entries = self.entries();
            let open = entries.iter().filter_map(|(_, entry)| {
                let watched = entry.send_queue.watched().filter(|watched| *watched.user == *user)?;
                Some(entry.stay(watched))
            });
            open.take(most).collect()
        };
        if let Some(ended) = &self.stays {
            stays.extend(crate::lock::lock(ended).of(user).take(most).map(|(_, stay)| stay.clone()));
        }
        stays
    }

    fn entries(&self) -> MutexGuard<'_, Slab<Entry>> {
        crate::lock::lock(&self.entries)
    }

    pub(super) fn by_transport(&self) -> [u64; Transport::ALL.len()] {
        self.sum(|_| 1)
    }

    /// Adds up a value over the connections of each transport.
    fn sum(&self, value: impl Fn(&SendQueue) -> usize) -> [u64; Transport::ALL.len()] {
        let mut sums = [0; Transport::ALL.len()];
        for (_, entry) in self.entries().iter() {
            sums[entry.transport as usize] += value(&entry.send_queue) as u64;
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::revocations::Issued;

    /// Begins a connection of this user. Returns its place.
    fn begin(registry: &Registry, queue: &Arc<SendQueue>, user: &str) -> usize {
        let slot = registry.insert(Transport::WebSocket, queue.clone());
        registry.identify(Some(slot), credentials(user), |_| None);
        slot
    }

    fn credentials(user: &str) -> Arc<Credentials> {
        Credentials { user: user.into(), id: None, issued: Issued::Unknown }.into()
    }

    #[test]
    fn moved_connections_that_return_are_counted() {
        let registry = Registry::new(None);
        let queues: Vec<_> = (0..4).map(|_| SendQueue::new(1_000)).collect();
        let ann = begin(&registry, &queues[0], "ann");
        begin(&registry, &queues[1], "ann");
        assert!(registry.move_one() && registry.move_one());
        begin(&registry, &queues[2], "bob");
        registry.identify(Some(ann), credentials("ann"), |_| None);
        assert_eq!(registry.moves(), Moves { ended: 2, returned: 0 }, "a fresh token is no return");
        for returned in [1, 2, 2] {
            begin(&registry, &queues[3], "ann");
            assert_eq!(registry.moves(), Moves { ended: 2, returned });
        }
        registry.forget_moves();
        assert_eq!(registry.moves(), Moves::default());
    }

    /// Refuses the tokens of this user.
    fn refuses(user: &str) -> impl Fn(&Credentials) -> Option<Overflow> {
        move |credentials| (*credentials.user == *user).then_some(Overflow::Revoked)
    }

    #[test]
    fn revocation_ends_connections_of_its_user_only() {
        let registry = Registry::new(None);
        let queues: Vec<_> = (0..4).map(|_| SendQueue::new(1_000)).collect();
        for (queue, user) in queues.iter().zip(["ann", "bob", "ann"]) {
            begin(&registry, queue, user);
        }
        registry.insert(Transport::Sse, queues[3].clone());
        assert_eq!(registry.end_refused(refuses("ann")), 2);
        let ends: Vec<_> = queues.iter().map(|queue| queue.overflowed()).collect();
        assert_eq!(ends, [Some(Overflow::Revoked), None, Some(Overflow::Revoked), None]);
    }

    #[test]
    fn token_revoked_during_check_gets_no_connection() {
        let registry = Registry::new(None);
        let queue = SendQueue::new(1_000);
        let slot = registry.insert(Transport::WebSocket, queue.clone());
        // The revocation has ended what it found, and the token was checked before.
        assert_eq!(registry.end_refused(refuses("ann")), 0);
        registry.identify(Some(slot), credentials("ann"), refuses("ann"));
        assert_eq!(queue.overflowed(), Some(Overflow::Revoked));
    }

    #[test]
    fn fresh_token_takes_place_of_earlier_one() {
        let registry = Registry::new(None);
        let queue = SendQueue::new(1_000);
        let slot = begin(&registry, &queue, "ann");
        let of_token = |id: &str| Credentials { id: Some(id.into()), ..(*credentials("ann")).clone() };
        let refuses = |id: &'static str| {
            move |token: &Credentials| (token.id.as_deref() == Some(id)).then_some(Overflow::Revoked)
        };
        for id in ["old", "new"] {
            registry.identify(Some(slot), of_token(id).into(), |_| None);
        }
        assert_eq!((registry.end_refused(refuses("old")), queue.overflowed()), (0, None));
        assert_eq!(registry.end_refused(refuses("new")), 1);
    }

    #[test]
    fn each_move_ends_another_connection() {
        let registry = Registry::new(None);
        let queues: Vec<_> = (0..10).map(|_| SendQueue::new(1_000)).collect();
        for queue in &queues {
            begin(&registry, queue, "ann");
        }
        registry.insert(Transport::WebSocket, SendQueue::new(1_000));
        for moved in 1..=10 {
            assert!(registry.move_one());
            let ended = queues.iter().filter(|queue| queue.overflowed() == Some(Overflow::Moved));
            assert_eq!(ended.count(), moved);
        }
        assert!(!registry.move_one(), "one has no user yet");
    }
}
