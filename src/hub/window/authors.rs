//! [`Authors`]: how much of the window the events of each author take.
//!
//! The author with the most bytes gives up its oldest event first, so that the events of one author
//! never displace those of the others.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use crate::{cursor::Cursor, hub::relayed::Relayed};

/// Authors of the events of a window.
#[derive(Default)]
pub(super) struct Authors {
    by_name: HashMap<Arc<str>, Share>,
    by_bytes: BTreeSet<(usize, Arc<str>)>,
}

/// Events of one author.
#[derive(Default)]
struct Share {
    bytes: usize,
    positions: BTreeSet<Cursor>,
}

impl Authors {
    /// Adds an event of this many bytes.
    pub(super) fn insert(&mut self, relayed: &Relayed, bytes: usize) {
        self.change(relayed, |share| {
            share.bytes += bytes;
            share.positions.insert(relayed.position.clone());
        });
    }

    /// Removes an event of this many bytes.
    pub(super) fn remove(&mut self, relayed: &Relayed, bytes: usize) {
        self.change(relayed, |share| {
            share.bytes -= bytes;
            share.positions.remove(&relayed.position);
        });
    }

    fn change(&mut self, relayed: &Relayed, change: impl FnOnce(&mut Share)) {
        // What other programs publish has no author.
        let author = relayed.event.author.as_ref().unwrap_or(&relayed.event.source);
        let share = self.by_name.entry(author.clone()).or_default();
        self.by_bytes.remove(&(share.bytes, author.clone()));
        change(share);
        if share.positions.is_empty() {
            self.by_name.remove(author);
        } else {
            self.by_bytes.insert((share.bytes, author.clone()));
        }
    }

    /// Returns the position of the oldest event of the author with the most bytes.
    pub(super) fn oldest_of_largest(&self) -> Option<&Cursor> {
        let (_, author) = self.by_bytes.last()?;
        self.by_name.get(author)?.positions.first()
    }
}
