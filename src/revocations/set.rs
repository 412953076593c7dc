//! [`Set`]: all records that stand, merged by maximum.
//!
//! A record that comes again, or an older one of the same subject, changes nothing. So repeats and
//! replays are harmless, and pods that have the same records have the same set.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
};

use super::record::{Credentials, Record, Refused, Subject};

/// Most records. Beyond it the oldest one is dropped, and the log says so.
pub const MAX_RECORDS: usize = 10_000;

/// Records of one kind: the moment of each name.
type Kind = HashMap<Arc<str>, u64>;

/// Kinds of records: of users and of tokens, each for good or with a retry.
const KINDS: [(bool, bool); 4] = [(false, false), (false, true), (true, false), (true, true)];

/// All records that stand.
#[derive(Debug, Default)]
pub(super) struct Set {
    /// In the order of [`KINDS`].
    kinds: [Kind; KINDS.len()],
}

impl Set {
    /// Adds a record with a sound name. Returns whether it changes the set.
    pub(super) fn merge(&mut self, record: &Record) -> bool {
        let Some(name) = record.subject.name() else { return false };
        let kind = &mut self.kinds[kind(matches!(record.subject, Subject::Token(_)), record.retry)];
        if kind.get(name).is_some_and(|before| *before >= record.before) {
            return false;
        }
        kind.insert(name.clone(), record.before);
        true
    }

    /// Drops the oldest records beyond [`MAX_RECORDS`]. Returns how many.
    pub(super) fn cut(&mut self) -> usize {
        let excess = self.len().saturating_sub(MAX_RECORDS);
        for _ in 0..excess {
            let all =
                self.kinds.iter().enumerate().flat_map(|(at, kind)| {
                    kind.iter().map(move |(name, before)| (*before, at, name.clone()))
                });
            if let Some((_, at, name)) = all.min() {
                self.kinds[at].remove(&name);
            }
        }
        excess
    }

    /// Drops the records that are older than this moment: all tokens that they refuse have expired.
    pub(super) fn expire(&mut self, oldest: u64) {
        for kind in &mut self.kinds {
            kind.retain(|_, before| *before >= oldest);
        }
    }

    /// Returns why the token is refused; `None` if it is not.
    pub(super) fn refusal(&self, credentials: &Credentials) -> Option<Refused> {
        let Credentials { user, id, issued } = credentials;
        let is_refused = |retry| {
            let names = [(false, Some(user)), (true, id.as_ref())];
            names.into_iter().any(|(is_token, name)| {
                let before = name.and_then(|name| self.kinds[kind(is_token, retry)].get(name));
                before.is_some_and(|before| issued.is_refused(*before, retry))
            })
        };
        match (is_refused(false), is_refused(true)) {
            (true, _) => Some(Refused::Revoked),
            (false, true) => Some(Refused::Outdated),
            (false, false) => None,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.kinds.iter().map(Kind::len).sum()
    }

    /// Returns all records, in any order.
    pub(super) fn records(&self) -> impl Iterator<Item = Record> {
        self.kinds.iter().zip(KINDS).flat_map(|(kind, (is_token, retry))| {
            kind.iter().map(move |(name, before)| {
                let subject = if is_token { Subject::Token } else { Subject::User };
                Record { subject: subject(name.clone()), before: *before, retry }
            })
        })
    }

    /// Returns a number that is the same for the same set, in any order.
    pub(super) fn digest(&self) -> u64 {
        let of = |(at, name, before): (usize, &Arc<str>, &u64)| {
            let mut hasher = DefaultHasher::new();
            (at, name, before).hash(&mut hasher);
            hasher.finish()
        };
        let kinds = self.kinds.iter().enumerate();
        let all = kinds.flat_map(|(at, kind)| kind.iter().map(move |(name, before)| (at, name, before)));
        all.map(of).fold(0, |digest, record| digest ^ record)
    }
}

/// Returns the place of a kind in [`KINDS`].
const fn kind(is_token: bool, retry: bool) -> usize {
    2 * is_token as usize + retry as usize
}

#[cfg(test)]
mod tests {
    use super::{super::record::Issued, *};

    fn user(name: &str, before: u64, retry: bool) -> Record {
        Record { subject: Subject::User(name.into()), before, retry }
    }

    fn token(name: &str, before: u64) -> Record {
        Record { subject: Subject::Token(name.into()), before, retry: false }
    }

    fn credentials(user: &str, id: Option<&str>, issued: Issued) -> Credentials {
        Credentials { user: user.into(), id: id.map(Into::into), issued }
    }

    fn set(records: &[Record]) -> Set {
        let mut set = Set::default();
        for record in records {
            set.merge(record);
        }
        set
    }

    #[test]
    fn token_of_before_is_refused() {
        let set = set(&[user("ann", 100, false), token("t", 200), user("bob", 100, true)]);
        let refusal = |user, id, issued| set.refusal(&credentials(user, id, issued));
        for (user, id, issued, refused) in [
            ("ann", None, Issued::At(100), Some(Refused::Revoked)),
            ("ann", None, Issued::At(101), None),
            ("ann", None, Issued::Unknown, Some(Refused::Revoked)),
            ("ann", None, Issued::Checked(500), Some(Refused::Revoked)),
            ("eve", None, Issued::Unknown, None),
            ("eve", Some("t"), Issued::At(200), Some(Refused::Revoked)),
            ("eve", Some("u"), Issued::At(200), None),
            ("t", None, Issued::At(1), None),
            ("bob", None, Issued::At(100), Some(Refused::Outdated)),
            ("bob", None, Issued::Unknown, Some(Refused::Outdated)),
            ("bob", None, Issued::Checked(100), Some(Refused::Outdated)),
            ("bob", None, Issued::Checked(101), None),
        ] {
            assert_eq!(refusal(user, id, issued), refused, "{user} {id:?} {issued:?}");
        }
    }

    #[test]
    fn any_order_and_repeats_give_one_set() {
        let records = [
            user("a", 1, false),
            user("a", 3, false),
            user("a", 2, false),
            user("a", 9, true),
            token("a", 5),
        ];
        let one = set(&records);
        for start in 0..records.len() {
            let order = [&records[start..], &records[..start], &records[..]].concat();
            let other = set(&order);
            assert_eq!((other.digest(), other.len()), (one.digest(), 3));
        }
        let mut again = set(&records);
        assert!(!records.iter().any(|record| again.merge(record)), "a repeat changes nothing");
        assert!(again.merge(&user("a", 4, false)));
        assert_ne!(again.digest(), one.digest());
    }

    #[test]
    fn records_are_bounded_and_expire() {
        let mut all = Set::default();
        for n in 0..MAX_RECORDS as u64 + 3 {
            all.merge(&user(&n.to_string(), 1_000 + n, false));
        }
        assert_eq!((all.cut(), all.len()), (3, MAX_RECORDS));
        let refusal = |name| all.refusal(&credentials(name, None, Issued::Unknown));
        assert_eq!((refusal("2"), refusal("3")), (None, Some(Refused::Revoked)));
        all.expire(1_000 + MAX_RECORDS as u64);
        assert_eq!(all.len(), 3);
        for name in ["", &"x".repeat(256), "a\nb"] {
            assert!(!all.merge(&user(name, u64::MAX, false)), "{name}");
        }
    }
}
