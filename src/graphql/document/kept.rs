//! Keeps the documents that were parsed lately.
//!
//! Parsing is a third of the work of a small mutation
//! (`docs/decisions/0008-parsed-documents-are-kept.md`). For a subscription with an operation that
//! runs already, it is most of the work. The oldest documents make room for new ones: the memory
//! must stay bounded, and no user may displace the documents of all others.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
};

use super::parsed::Document;
use crate::budget::{Charge, Exhausted, Pool};

/// Part of the pool that kept documents may take, as a divisor: the shares of four users.
const PART: usize = 4;

/// Bytes of a kept document besides its text and its parsed form.
const OVERHEAD: usize = 512;

/// Parsed document, with the charge of its memory. The charge lasts as long as any copy of it.
#[derive(Clone)]
pub(in crate::graphql) struct Held {
    pub(in crate::graphql) document: Arc<Document>,
    pub(in crate::graphql) charge: Arc<Charge>,
}

/// Parsed documents by their text.
pub(in crate::graphql) struct Kept {
    documents: Mutex<Documents>,
    pool: Pool,
}

#[derive(Default)]
struct Documents {
    by_text: HashMap<Arc<str>, Held>,
    /// Texts, and the users that sent them first. The oldest stand first.
    by_age: BTreeMap<u64, (Arc<str>, Arc<str>)>,
    /// Ages of the documents of each user, the oldest first. A user without any has no entry.
    by_user: HashMap<Arc<str>, VecDeque<u64>>,
    next_age: u64,
    bytes: usize,
}

impl Kept {
    /// Creates an empty set that charges documents to this pool.
    pub(in crate::graphql) fn new(pool: Pool) -> Self {
        Self { documents: Mutex::default(), pool }
    }

    pub(super) fn get(&self, text: &str) -> Option<Held> {
        self.documents().by_text.get(text).cloned()
    }

    /// Keeps the document, on the account of this user, in the place of older ones if need be. Its
    /// charge is that of the kept document from then on. It is not kept if other things of the user
    /// take all of its share.
    pub(super) fn insert(&self, text: &str, held: &mut Held, user: &Arc<str>) {
        let bytes = held.document.bytes() + text.len() + OVERHEAD;
        let mut documents = self.documents();
        if documents.by_text.contains_key(text) {
            return;
        }
        let charge = loop {
            match self.pool.enter(user, bytes) {
                Ok(charge) => break charge,
                Err(exhausted) if documents.remove_oldest(exhausted.of(user)) => {}
                Err(_) => return,
            }
        };
        held.charge = charge.into();
        documents.insert(text.into(), user, held.clone());
        while documents.bytes > self.pool.limit() / PART && documents.remove_oldest(None) {}
    }

    /// Removes the documents of this user, or all if the pool has no room.
    pub(in crate::graphql) fn make_room(&self, exhausted: Exhausted, user: &str) {
        let mut documents = self.documents();
        while documents.remove_oldest(exhausted.of(user)) {}
    }

    /// Returns whether the user's share has had no room for a subscription lately.
    pub(super) fn is_refused(&self, user: &str) -> bool {
        self.pool.is_refused(user)
    }

    fn documents(&self) -> MutexGuard<'_, Documents> {
        crate::lock::lock(&self.documents)
    }
}

impl Documents {
    fn insert(&mut self, text: Arc<str>, user: &Arc<str>, kept: Held) {
        let age = self.next_age;
        self.next_age += 1;
        self.bytes += kept.charge.bytes();
        self.by_age.insert(age, (text.clone(), user.clone()));
        self.by_user.entry(user.clone()).or_default().push_back(age);
        self.by_text.insert(text, kept);
    }

    /// Removes the oldest document, of this user or of any. Returns whether there was one.
    fn remove_oldest(&mut self, user: Option<&str>) -> bool {
        let age = match user {
            Some(user) => self.by_user.get(user).and_then(VecDeque::front),
            None => self.by_age.keys().next(),
        };
        let Some((text, user)) = age.copied().and_then(|age| self.by_age.remove(&age)) else { return false };
        self.bytes -= self.by_text.remove(&text).map_or(0, |kept| kept.charge.bytes());
        // The oldest of all is the oldest of its user, too.
        if let Some(ages) = self.by_user.get_mut(&user) {
            ages.pop_front();
            if ages.is_empty() {
                self.by_user.remove(&user);
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graphql::document::limits;

    const LIMIT: usize = 1 << 20;

    fn kept() -> (Kept, Pool) {
        let pool = Pool::new("test", LIMIT, LIMIT / 16);
        (Kept::new(pool.clone()), pool)
    }

    /// Returns a text of this user that takes little more than 8 KiB once it is parsed.
    fn text(user: &str, n: usize) -> String {
        format!("{{ x{user}{n} {} }}", "a ".repeat(24))
    }

    fn keep(kept: &Kept, user: &str, n: usize) {
        let text = text(user, n);
        let document = Arc::new(limits::parse(&text, true).ok().unwrap());
        let charge = Pool::new("test", 1, 1).try_charge(&user.into(), 0).unwrap().into();
        kept.insert(&text, &mut Held { document, charge }, &user.into());
    }

    #[test]
    fn user_displaces_only_own_documents() {
        let (kept, pool) = kept();
        keep(&kept, "b", 0);
        for n in 0..100 {
            keep(&kept, "a", n);
        }
        assert!(kept.get(&text("b", 0)).is_some(), "the document of another user stays");
        assert!(kept.get(&text("a", 92)).is_none() && kept.get(&text("a", 99)).is_some());
        for n in 0..20 {
            keep(&kept, &n.to_string(), 0);
            keep(&kept, &n.to_string(), 1);
            assert!(pool.used() <= LIMIT / PART, "{}", pool.used());
        }
        let documents = kept.documents();
        assert_eq!((documents.by_age.len(), documents.bytes), (documents.by_text.len(), pool.used()));
        assert_eq!(documents.by_user.values().map(VecDeque::len).sum::<usize>(), documents.by_age.len());
    }

    #[test]
    fn documents_make_room_for_other_things() {
        let (kept, pool) = kept();
        for user in ["a", "b"] {
            (0..3).for_each(|n| keep(&kept, user, n));
        }
        kept.make_room(Exhausted::Share, "a");
        assert!(kept.get(&text("a", 2)).is_none() && kept.get(&text("b", 0)).is_some());
        let _rest = pool.try_charge(&"b".into(), pool.share() - pool.used()).unwrap();
        keep(&kept, "b", 3);
        assert!(kept.get(&text("b", 0)).is_none() && kept.get(&text("b", 3)).is_some());
        let used = pool.used();
        kept.make_room(Exhausted::Pool, "c");
        assert!(pool.used() < used && kept.documents().by_user.is_empty());
    }
}
