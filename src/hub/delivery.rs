//! [`Delivery`]: one result on its way to one watcher, and what it costs.
//!
//! A result is made once and shared by all watchers that receive it.

use std::{mem, sync::Arc, time::SystemTime};

use smallvec::SmallVec;

use super::relayed::Relayed;
use crate::{budget::SharedCharge, telemetry::traces::Trace};

/// Cost of an entry besides its payload, in bytes: the entry itself and the frame around the
/// payload.
const OVERHEAD: usize = mem::size_of::<Delivery>() + 64;

/// Cost of an entry of a result that several connections share, in bytes. The queue may have room
/// for twice its entries; the room that it makes first is less than what is free.
const ENTRY: usize = 2 * mem::size_of::<Delivery>();

/// One result on its way to one watcher.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Number of the watcher, which is unique on its connection.
    pub watcher: u64,
    /// Result for the watcher. A delivery adds only this pointer and the number above to an event.
    pub result: Arc<Rendered>,
}

impl Delivery {
    /// Returns the bytes that it takes in a send queue, with the frame around its payload.
    pub(super) fn bytes(&self) -> usize {
        self.result.payload.len() + OVERHEAD
    }
}

/// Deliveries that were queued together. One delivery, as for a client that keeps up, needs no heap
/// memory.
pub type Deliveries = SmallVec<[Delivery; 1]>;

/// Result that an operation renders from an event, shared by all watchers that receive it.
#[derive(Debug)]
pub struct Rendered {
    /// JSON of the execution result.
    pub payload: Arc<str>,
    /// Cursor from which the client resumes once it has this result.
    pub cursor: Arc<str>,
    /// Time at which the topic took the event; `None` for a replayed result and for a gap notice.
    pub published: Option<SystemTime>,
    /// Trace that the deliveries belong to, if it is sampled.
    pub trace: Option<Box<Trace>>,
    /// Charge of a result that several connections share. Any other is charged to its user by the
    /// connection that holds it.
    pub(super) charge: Option<SharedCharge>,
}

impl Rendered {
    /// Creates the result of a live event.
    pub(super) fn live(relayed: &Relayed, payload: Arc<str>, charge: Option<SharedCharge>) -> Self {
        let (trace, cursor) = (Trace::of_current_span(), relayed.cursor.clone());
        Self { payload, cursor, published: relayed.event.published, trace, charge }
    }

    /// Returns the bytes that are charged for a result of this length.
    pub(super) const fn bytes(payload: &str) -> usize {
        payload.len() + mem::size_of::<Self>()
    }

    /// Returns the bytes that its delivery is charged to its user.
    pub(super) fn held(&self) -> usize {
        match self.charge {
            Some(_) => ENTRY,
            None => Self::bytes(&self.payload) + ENTRY,
        }
    }

    /// Creates a replayed result or a gap notice.
    pub(super) const fn old(payload: Arc<str>, cursor: Arc<str>) -> Self {
        Self { payload, cursor, published: None, trace: None, charge: None }
    }
}
