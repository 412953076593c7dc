//! What the relay asks of a domain: the one trait that `src/domain` implements and that a team's own domain implements
//! instead.
//!
//! The relay carries envelopes; a [`Domain`] says whose token it is, what an event means, whom it is for, and which
//! state it changes. Its GraphQL schema comes beside it (see [`crate::graphql::Api`]). Nothing here may name a domain.

use thiserror::Error;

use crate::{
    audience::{Audience, Viewer},
    event::{Event, Payload},
};

/// Whom a checked token names. The domain finds the user behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity<'a> {
    /// A demo token: a name that the domain gives to a user (`ZOWI`).
    Demo(&'a str),
    /// The `sub` of a JWT: the user's id.
    Subject(&'a str),
    /// The `email` of a JWT.
    Email(&'a str),
}

/// What one event means to the domain.
#[derive(Clone)]
pub struct Fact {
    /// The subscription root field whose watchers may be told (`templateAdded`); `None`: the event only changes state.
    pub field: Option<&'static str>,
    /// Whom among those watchers it is for.
    pub audience: Audience,
    /// The decoded payload, which the field's resolver takes by its type ([`crate::graphql::subscription::payloads`]).
    pub payload: Payload,
}

/// Why an event means nothing to the domain. Neither stops the feed; each is counted apart.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Unreadable {
    /// Its type is not one of ours: another program's, or a newer release's. Ignored.
    #[error("unknown event type")]
    UnknownType,
    /// Its type is ours and its data is not what that type promises.
    #[error("malformed event data: {0}")]
    Malformed(String),
}

/// A domain behind the relay.
///
/// Every method is called on the way of every event or connection: none may block or do I/O.
pub trait Domain: Send + Sync + 'static {
    /// The user whom a checked token names, or `None` if there is no such user.
    fn viewer(&self, identity: Identity<'_>) -> Option<Viewer>;

    /// What the event means. Should not panic whatever the data, since anyone who may publish can send anything: an event at
    /// which it does counts as malformed.
    ///
    /// # Errors
    /// [`Unreadable`] says which of the two counters takes it.
    fn read(&self, event: &Event) -> Result<Fact, Unreadable>;

    /// Changes the state behind queries. Called once for each event of the feed in order of arrival, and once more,
    /// earlier and with [`Event::published`] still `None`, on the pod whose own mutation published it.
    fn apply(&self, event: &Event, fact: &Fact);
}
