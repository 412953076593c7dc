//! [`Registry`]: the open connections, read by `/debug/connections` and the gauges.
//!
//! A connection is added when it begins and removed when it ends. Events do not touch the registry,
//! so that it costs time only when it is read. Only if operators may ask for cursors, each write
//! stores one.

use std::sync::{Arc, Mutex, MutexGuard};

use opentelemetry::{KeyValue, metrics::Meter};
use slab::Slab;
use tokio::time::Instant;

use super::transport::Transport;
use crate::{
    hub::{Delivery, Overflow, SendQueue},
    revocations::Credentials,
};

/// Registry of open connections, read by `/debug/connections` and the gauges.
pub(super) struct Registry {
    entries: Mutex<Slab<Entry>>,
    /// Whether the last cursor of each connection is kept.
    keeps_cursors: bool,
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

impl Registry {
    pub(super) fn new(keeps_cursors: bool) -> Self {
        Self { entries: Mutex::default(), keeps_cursors }
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

    /// Stores the credentials of a connection, in place of earlier ones.
    pub(super) fn identify(&self, slot: Option<usize>, credentials: Arc<Credentials>) {
        let mut entries = self.entries();
        if let Some(entry) = slot.and_then(|slot| entries.get_mut(slot)) {
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
        if !self.keeps_cursors {
            return;
        }
        let mut entries = self.entries();
        if let (Some(entry), Some(last)) = (slot.and_then(|slot| entries.get_mut(slot)), last) {
            entry.cursor = Some(last.result.cursor.clone());
        }
    }

    /// Returns the number of connections, and the first `most` of them.
    pub(super) fn first(&self, most: usize) -> (usize, Vec<Entry>) {
        let entries = self.entries();
        (entries.len(), entries.iter().take(most).map(|(_, entry)| entry.clone()).collect())
    }

    pub(super) fn remove(&self, slot: usize) {
        self.entries().try_remove(slot);
    }

    fn entries(&self) -> MutexGuard<'_, Slab<Entry>> {
        crate::lock::lock(&self.entries)
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
