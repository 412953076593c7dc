//! [`Registry`]: who is connected, for those who ask from outside.
//!
//! Connections put themselves on it when they begin and are taken off when they end. No event touches it, so that what is
//! shown of them costs nothing but the time of whoever looks; unless operators may ask where each client stands, which each
//! write then notes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use opentelemetry::{KeyValue, metrics::Meter};
use slab::Slab;
use tokio::time::Instant;

use super::transport::Transport;
use crate::hub::{Delivery, SendQueue};

/// Who is connected, for whoever asks from outside.
pub(super) struct Registry {
    entries: Mutex<Slab<Entry>>,
    /// Whether somebody may ask where each client stands.
    notes_cursors: bool,
}

/// One connection on the registry.
#[derive(Clone)]
pub struct Entry {
    /// How it is connected.
    pub transport: Transport,
    /// What waits for it.
    pub send_queue: Arc<SendQueue>,
    /// When it came.
    pub since: Instant,
    /// What it was last written, if that is noted.
    pub cursor: Option<Arc<str>>,
}

impl Registry {
    pub(super) fn new(notes_cursors: bool) -> Self {
        Self { entries: Mutex::default(), notes_cursors }
    }

    /// Shows what they add up to as metrics.
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
        self.entries().insert(Entry { transport, send_queue, since: Instant::now(), cursor: None })
    }

    /// Notes where the client stands, if that is to be noted.
    pub(super) fn delivered(&self, slot: Option<usize>, last: Option<&Delivery>) {
        if !self.notes_cursors {
            return;
        }
        let mut entries = self.entries();
        if let (Some(entry), Some(last)) = (slot.and_then(|slot| entries.get_mut(slot)), last) {
            entry.cursor = Some(last.result.cursor.clone());
        }
    }

    /// How many there are, and the first of them.
    pub(super) fn first(&self, most: usize) -> (usize, Vec<Entry>) {
        let entries = self.entries();
        (entries.len(), entries.iter().take(most).map(|(_, entry)| entry.clone()).collect())
    }

    pub(super) fn remove(&self, slot: usize) {
        self.entries().try_remove(slot);
    }

    fn entries(&self) -> MutexGuard<'_, Slab<Entry>> {
        // Nothing panics while it is held.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the connections of each transport add up to.
    fn sum(&self, value: impl Fn(&SendQueue) -> usize) -> [u64; Transport::ALL.len()] {
        let mut sums = [0; Transport::ALL.len()];
        for (_, entry) in self.entries().iter() {
            sums[entry.transport as usize] += value(&entry.send_queue) as u64;
        }
        sums
    }
}
