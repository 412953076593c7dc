//! [`Moved`]: the connections that this pod has ended for others, and how many came back to it.
//!
//! Only so can a pod tell session affinity from an even share: if few of many pods are new, a fair
//! balancer sends most clients to other pods that move some as well. It must never grow while
//! nothing moves.

use std::{collections::HashMap, sync::Arc};

use crate::membership::Moves;

/// Moved connections since the last rest.
#[derive(Debug, Default)]
pub(super) struct Moved {
    /// Moved connections that have not come back, by user.
    away: HashMap<Arc<str>, u64>,
    moves: Moves,
}

impl Moved {
    /// Adds a connection of this user that is moved now.
    pub(super) fn add(&mut self, user: Arc<str>) {
        *self.away.entry(user).or_default() += 1;
        self.moves.ended += 1;
    }

    /// Notes a new connection of this user: one that was moved has come back.
    pub(super) fn begin(&mut self, user: &str) {
        let Some(count) = self.away.get_mut(user) else { return };
        *count -= 1;
        if *count == 0 {
            self.away.remove(user);
        }
        self.moves.returned += 1;
    }

    /// Returns how many were moved, and how many of them have come back.
    pub(super) const fn moves(&self) -> Moves {
        self.moves
    }
}
