//! Audience of an event: the rule between an [`Audience`] and a [`Viewer`]'s interests.
//!
//! The rule decides which user receives which event. [`crate::hub`] applies it to many watchers at
//! once through an index, and is tested against [`Audience::includes`]. It must never do I/O, read
//! a clock or import anything else of the crate.

use std::sync::Arc;

/// Text that an event can concern and a viewer can listen to, such as `location:3`. Keys are
/// compared as text.
pub type Key = Arc<str>;

/// Audience of an event: every viewer who listens to one of its keys, except its author.
///
/// The fields that deliver one event may have audiences of their own ([`Audience::by_field`]).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audience {
    keys: Vec<Key>,
    except: Option<Arc<str>>,
    by_field: Vec<(Arc<str>, Self)>,
}

impl Audience {
    /// Creates the audience of these keys, without the user `except`. Repeated keys count once.
    /// Without keys, no viewer is included.
    pub fn new(keys: impl IntoIterator<Item = Key>, except: Option<Arc<str>>) -> Self {
        Self { keys: distinct(keys), except, by_field: Vec::new() }
    }

    /// Creates the audience of an event whose fields differ in their audiences.
    ///
    /// Its own keys are those of all fields. It excludes a user only if every field does.
    pub fn by_field(fields: impl IntoIterator<Item = (Arc<str>, Self)>) -> Self {
        let by_field: Vec<_> = fields.into_iter().collect();
        let keys = by_field.iter().flat_map(|(_, audience)| audience.keys.iter().cloned());
        let first = by_field.first().and_then(|(_, audience)| audience.except.clone());
        let except = first.filter(|user| by_field.iter().all(|(_, audience)| audience.excludes(user)));
        Self { keys: distinct(keys), except, by_field }
    }

    /// Returns the audience of one field. It is the event's own, unless the fields differ.
    #[must_use]
    pub fn of(&self, field: &str) -> &Self {
        let own = self.by_field.iter().find(|(name, _)| **name == *field);
        own.map_or(self, |(_, audience)| audience)
    }

    /// Returns the number of keys, and the sum of their bytes, over all fields.
    #[must_use]
    pub fn size(&self) -> (usize, usize) {
        let of = |keys: &[Key]| (keys.len(), keys.iter().map(|key| key.len()).sum::<usize>());
        let inner = self.by_field.iter().map(|(_, audience)| audience.size());
        inner.fold(of(&self.keys), |(count, bytes), inner| (count + inner.0, bytes + inner.1))
    }

    /// Creates the audience that includes no viewer, for an event that only changes state.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Returns the distinct keys, sorted.
    #[must_use]
    pub fn keys(&self) -> &[Key] {
        &self.keys
    }

    /// Returns whether this user is the author. The author is excluded, whatever keys they listen
    /// to.
    #[must_use]
    pub fn excludes(&self, user: &str) -> bool {
        self.except.as_deref() == Some(user)
    }

    /// Returns whether the audience includes the viewer: the viewer is not the author, and listens
    /// to at least one of the keys. For the watchers of one field, ask [`Self::of`] first.
    #[must_use]
    pub fn includes(&self, viewer: &Viewer) -> bool {
        !self.excludes(&viewer.user) && self.keys.iter().any(|key| viewer.interests.contains(key))
    }
}

/// Interests of a viewer: the keys that the viewer listens to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interests(Vec<Key>);

impl Interests {
    /// Creates the interests of these keys. Repeated keys count once.
    pub fn new(keys: impl IntoIterator<Item = Key>) -> Self {
        Self(distinct(keys))
    }

    /// Returns the distinct keys, sorted.
    #[must_use]
    pub fn keys(&self) -> &[Key] {
        &self.0
    }

    fn contains(&self, key: &Key) -> bool {
        self.0.binary_search(key).is_ok()
    }
}

/// Authenticated user behind a request or a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Viewer {
    /// Id of the user, as events name it in [`crate::event::Event::author`].
    pub user: Arc<str>,
    /// Keys that the user listens to.
    pub interests: Interests,
    details: Option<Arc<str>>,
    /// Viewer whose interests were narrowed for one watcher.
    narrowed: Option<Arc<Self>>,
}

impl Viewer {
    /// Creates a viewer with this id and these interests.
    pub fn new(user: impl Into<Arc<str>>, interests: Interests) -> Self {
        Self { user: user.into(), interests, details: None, narrowed: None }
    }

    /// Creates the viewer of a watcher that listens to these index keys instead.
    #[must_use]
    pub fn narrowed(viewer: &Arc<Self>, interests: Interests) -> Self {
        Self { narrowed: Some(viewer.clone()), ..Self::new(viewer.user.clone(), interests) }
    }

    /// Returns the keys that the user listens to, also for the viewer of a watcher.
    #[must_use]
    pub fn keys(&self) -> &[Key] {
        self.narrowed.as_deref().unwrap_or(self).interests.keys()
    }

    /// Sets what resolvers need to know of the user beside the id, such as claims, as a text of the
    /// domain's choice. It is kept for as long as the connection.
    #[must_use]
    pub fn with_details(self, details: Option<Arc<str>>) -> Self {
        Self { details, ..self }
    }

    /// Returns the text of [`Self::with_details`].
    #[must_use]
    pub fn details(&self) -> Option<&str> {
        self.details.as_deref()
    }
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
        Viewer::new(user, Interests::new(keys.iter().map(|&key| key.into())))
    }

    fn audience(keys: &[&str], except: Option<&str>) -> Audience {
        Audience::new(keys.iter().map(|&key| key.into()), except.map(Into::into))
    }

    #[test]
    fn audience_needs_one_shared_key() {
        assert!(audience(&["a", "b"], None).includes(&viewer("1", &["b", "c"])));
        assert!(!audience(&["a"], None).includes(&viewer("1", &["b"])));
        assert!(!audience(&[], None).includes(&viewer("1", &["b"])));
        assert!(!audience(&["b"], None).includes(&viewer("1", &[])));
    }

    #[test]
    fn audience_excludes_author() {
        assert!(!audience(&["a"], Some("1")).includes(&viewer("1", &["a"])));
        assert!(audience(&["a"], Some("1")).includes(&viewer("2", &["a"])));
    }

    #[test]
    fn fields_may_differ_in_audience() {
        let fields = [("f", audience(&["a"], Some("1"))), ("g", audience(&["b"], None))];
        let event = Audience::by_field(fields.map(|(field, audience)| (field.into(), audience)));
        assert!(event.of("f").includes(&viewer("2", &["a"])));
        assert!(!event.of("f").includes(&viewer("2", &["b"])));
        assert!(!event.of("f").includes(&viewer("1", &["a"])));
        assert!(event.of("g").includes(&viewer("1", &["b"])));
        assert_eq!(event.keys(), audience(&["a", "b"], None).keys());
        assert!(!event.excludes("1"), "one field includes the author");
        assert_eq!(event.size(), (4, 4));
        let plain = audience(&["a"], Some("1"));
        assert_eq!(plain.of("f"), &plain);
    }

    #[test]
    fn audience_counts_repeated_keys_once() {
        assert_eq!(audience(&["b", "a", "b"], None).keys(), audience(&["a", "b"], None).keys());
    }
}
