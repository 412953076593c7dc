//! Whom an event is for: the rule between an [`Audience`] and a [`Viewer`]'s interests.
//!
//! Pure: no I/O, no clock, nothing else of ours. [`crate::hub`] answers the same rule for many watchers at once through
//! an index, and is tested against [`Audience::includes`].

use std::sync::Arc;

/// Something that an event can be about and that a viewer can listen to, such as `location:3`. Compared as text.
pub type Key = Arc<str>;

/// Whom an event is for: everyone who listens to one of its keys, but its author.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audience {
    keys: Vec<Key>,
    except: Option<Arc<str>>,
}

impl Audience {
    /// The audience of these keys, without the user `except`. Repeated keys count once; no keys means nobody.
    pub fn new(keys: impl IntoIterator<Item = Key>, except: Option<Arc<str>>) -> Self {
        Self { keys: distinct(keys), except }
    }

    /// For nobody: an event that only changes state.
    #[must_use]
    pub fn nobody() -> Self {
        Self::default()
    }

    /// The distinct keys, sorted.
    #[must_use]
    pub fn keys(&self) -> &[Key] {
        &self.keys
    }

    /// Whether this user is the author, whom the event is not for whatever they listen to.
    #[must_use]
    pub fn excludes(&self, user: &str) -> bool {
        self.except.as_deref() == Some(user)
    }

    /// The rule: the viewer is not the author, and listens to at least one of the keys.
    #[must_use]
    pub fn includes(&self, viewer: &Viewer) -> bool {
        !self.excludes(&viewer.user) && self.keys.iter().any(|key| viewer.interests.contains(key))
    }
}

/// The keys that a viewer listens to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interests(Vec<Key>);

impl Interests {
    /// These keys; repeated ones count once.
    pub fn new(keys: impl IntoIterator<Item = Key>) -> Self {
        Self(distinct(keys))
    }

    /// The distinct keys, sorted.
    #[must_use]
    pub fn keys(&self) -> &[Key] {
        &self.0
    }

    fn contains(&self, key: &Key) -> bool {
        self.0.binary_search(key).is_ok()
    }
}

/// The authenticated user behind a request or a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Viewer {
    /// The user's id, as events name it in [`crate::event::Event::author`].
    pub user: Arc<str>,
    /// What the user listens to.
    pub interests: Interests,
}

fn distinct(keys: impl IntoIterator<Item = Key>) -> Vec<Key> {
    let mut keys: Vec<Key> = keys.into_iter().collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    fn viewer(user: &str, keys: &[&str]) -> Viewer {
        Viewer { user: user.into(), interests: Interests::new(keys.iter().map(|&key| key.into())) }
    }

    fn audience(keys: &[&str], except: Option<&str>) -> Audience {
        Audience::new(keys.iter().map(|&key| key.into()), except.map(Into::into))
    }

    #[test]
    fn a_shared_key_is_enough_and_its_absence_is_decisive() {
        assert!(audience(&["a", "b"], None).includes(&viewer("1", &["b", "c"])));
        assert!(!audience(&["a"], None).includes(&viewer("1", &["b"])));
        assert!(!audience(&[], None).includes(&viewer("1", &["b"])));
        assert!(!audience(&["b"], None).includes(&viewer("1", &[])));
    }

    #[test]
    fn the_author_is_never_told() {
        assert!(!audience(&["a"], Some("1")).includes(&viewer("1", &["a"])));
        assert!(audience(&["a"], Some("1")).includes(&viewer("2", &["a"])));
    }

    #[test]
    fn repeated_keys_count_once() {
        assert_eq!(audience(&["b", "a", "b"], None).keys(), audience(&["a", "b"], None).keys());
    }
}
