//! The port to a domain: the trait that a team implements for its own data.
//!
//! The relay carries envelopes only. A [`Domain`] turns a token into a viewer, decodes an event,
//! names its audience, and keeps the state behind queries. Its GraphQL schema is separate (see
//! [`crate::graphql::Api`]). No domain may be named here.

use std::{sync::Arc, time::SystemTime};

use serde_json::{Map, Value};
use thiserror::Error;

use crate::{
    audience::{Audience, Viewer},
    event::{
        Event, Foreign, Payload,
        cloudevent::Undecodable,
        foreign::{self, Envelope, Unmapped},
    },
};

/// Identity that a checked token proves. The domain finds the user.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Identity<'a> {
    /// A demo token: a name that the domain gives to a user (`ZOWI`).
    Demo(&'a str),
    /// All claims of a JWT with a checked signature and lifetime.
    Claims(&'a Claims),
}

/// The claims of a checked JWT.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Claims(Map<String, Value>);

impl Claims {
    /// Wraps claims that were checked.
    #[must_use]
    pub const fn new(claims: Map<String, Value>) -> Self {
        Self(claims)
    }

    /// Creates the claims of a token that holds nothing but this `sub`.
    #[must_use]
    pub fn of_subject(subject: &str) -> Self {
        Self(Map::from_iter([("sub".to_owned(), subject.into())]))
    }

    /// Returns the claim of this name.
    ///
    /// ```
    /// # use pubsub_relay::Claims;
    /// let claims = Claims::of_subject("42");
    /// assert_eq!(claims.get("sub").and_then(|sub| sub.as_str()), Some("42"));
    /// ```
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// Returns all claims with their names.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.0.iter()
    }

    /// Returns `sub`, the issuer's id of the user.
    #[must_use]
    pub fn subject(&self) -> Option<&str> {
        self.get("sub")?.as_str()
    }

    /// Returns `email`, if the issuer states that it is verified (`email_verified`, true as a
    /// boolean or as text).
    #[must_use]
    pub fn email(&self) -> Option<&str> {
        let is_verified = match self.get("email_verified") {
            Some(Value::String(text)) => text == "true",
            value => value == Some(&Value::Bool(true)),
        };
        self.get("email")?.as_str().filter(|_| is_verified)
    }
}

/// An event as the domain decoded it.
#[derive(Clone)]
pub struct Fact {
    /// Subscription root fields that deliver the event (`templateAdded`). Empty: the event only
    /// changes state.
    pub fields: Vec<Arc<str>>,
    /// The audience among the watchers of these fields.
    pub audience: Audience,
    /// The decoded payload. A field's resolver takes it by its type
    /// ([`crate::graphql::subscription::payloads`]).
    pub payload: Payload,
}

/// Why the domain has no fact for an event. Neither stops the feed; each has a counter of its own.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unreadable {
    /// The type is unknown: that of another program, or of a newer release. The event is ignored.
    #[error("unknown event type")]
    UnknownType,
    /// The type is known and the data does not fit it. The text must not quote the data: it is
    /// logged.
    #[error("malformed event data: {0}")]
    Malformed(String),
    /// As [`Self::Malformed`], with a place that metrics count by. The domain must know the event's
    /// type, and its paths must be a bounded set: both become labels.
    #[error("malformed event data: {text}")]
    Misfit {
        /// Path of the field, without places in lists (`items.price`). Empty: the data as a whole.
        path: String,
        /// What is wrong with it.
        text: String,
    },
}

/// Why a checked token gives no viewer.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum NoViewer {
    /// There is no such user. The client reads `UNAUTHENTICATED`.
    #[error("the token's user is unknown")]
    Unknown,
    /// The user exists and is refused. The client reads `FORBIDDEN` with this text.
    #[error("{0}")]
    Forbidden(String),
}

/// User that an operator names, as the domain knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Found {
    /// The domain has a table of users, and this is the user, with every key that a subscription of
    /// the user without arguments listens to.
    User(Viewer),
    /// The domain has a table of users, and the user is not in it.
    Unknown,
    /// The domain has no table of users: every name may be the id of one.
    NoTable,
}

/// A domain behind the relay.
///
/// Every method is called for every event or connection: none may block or do I/O.
pub trait Domain: Send + Sync + 'static {
    /// Returns the user that a checked token names, with the keys that this user listens to; `None`
    /// if there is no such user.
    ///
    /// ```
    /// # use pubsub_relay::{Identity, Interests, Viewer};
    /// fn viewer(identity: Identity<'_>) -> Option<Viewer> {
    ///     let Identity::Demo("ann") = identity else { return None };
    ///     Some(Viewer::new("ann", Interests::new(["room:tea".into()])))
    /// }
    /// # assert!(viewer(Identity::Demo("ann")).is_some());
    /// ```
    fn viewer(&self, identity: Identity<'_>) -> Option<Viewer>;

    /// Returns what [`Self::viewer`] returns, or why there is no viewer. The relay calls this
    /// method. A domain overrides it if it refuses users that exist.
    ///
    /// # Errors
    /// [`NoViewer`] decides what the client reads.
    fn admit(&self, identity: Identity<'_>) -> Result<Viewer, NoViewer> {
        self.viewer(identity).ok_or(NoViewer::Unknown)
    }

    /// Returns the user with this id, e-mail address or demo name, for an operator who asks about
    /// one. Default: there is no table of users.
    fn find(&self, name: &str) -> Found {
        let _ = name;
        Found::NoTable
    }

    /// Returns names that demo tokens may have, for the refusal of a client without a valid one. A
    /// handful is enough. Default: none.
    fn demo_names(&self) -> Vec<String> {
        Vec::new()
    }

    /// Returns the envelope of a message without CloudEvents, for a topic that had such messages
    /// before the relay. By default there is none, and the message is rejected.
    ///
    /// ```
    /// # use pubsub_relay::event::{Foreign, foreign::{Envelope, Unmapped}};
    /// fn envelope(message: &Foreign) -> Option<Result<Envelope, Unmapped>> {
    ///     let attribute = |name| message.attributes.get(name).cloned();
    ///     let missing = || Unmapped { reason: "type", text: "attribute eventType is missing".into() };
    ///     Some(attribute("eventType").ok_or_else(missing).map(|kind| Envelope {
    ///         kind,
    ///         source: "/shop".into(),
    ///         id: attribute("messageId"),
    ///         author: attribute("userId"),
    ///     }))
    /// }
    /// # assert_eq!(envelope(&Foreign::default()).unwrap().unwrap_err().reason, "type");
    /// ```
    ///
    /// # Errors
    /// [`Unmapped`] names what the message lacks. It is acknowledged, counted and logged.
    fn envelope(&self, message: &Foreign) -> Option<Result<Envelope, Unmapped>> {
        let _ = message;
        None
    }

    /// Decodes an event. Every publisher of the topic can send any data, so this method should not
    /// panic. An event at which it panics counts as malformed.
    ///
    /// ```
    /// # use pubsub_relay::{Audience, Event, Fact, Unreadable};
    /// fn read(event: &Event) -> Result<Fact, Unreadable> {
    ///     if &*event.kind != "message.posted.v1" {
    ///         return Err(Unreadable::UnknownType);
    ///     }
    ///     let text = String::from_utf8(event.data.to_vec())
    ///         .map_err(|_| Unreadable::Malformed("the data is not UTF-8".to_owned()))?;
    ///     let audience = Audience::new(["room:tea".into()], event.author.clone());
    ///     let fields = vec!["messagePosted".into()];
    ///     Ok(Fact { fields, audience, payload: std::sync::Arc::new(text) })
    /// }
    /// ```
    ///
    /// # Errors
    /// [`Unreadable`] names the counter that takes the event.
    fn read(&self, event: &Event) -> Result<Fact, Unreadable>;

    /// Changes the state behind queries. It is called once for each event of the feed, in order of
    /// arrival. On the pod that published the event it is called once more, earlier, with
    /// [`Event::published`] still `None`.
    ///
    /// ```
    /// # use pubsub_relay::{Event, Fact};
    /// # use std::{collections::BTreeMap, sync::Mutex};
    /// # struct Chat(Mutex<BTreeMap<String, String>>);
    /// # impl Chat {
    /// fn apply(&self, event: &Event, fact: &Fact) {
    ///     let Some(text) = fact.payload.downcast_ref::<String>() else { return };
    ///     // A map by the event's id: a repeat changes nothing.
    ///     self.0.lock().unwrap().insert(event.id.to_string(), text.clone());
    /// }
    /// # }
    /// ```
    fn apply(&self, event: &Event, fact: &Fact);

    /// Returns whether clients may ask how many viewers listen to a key. Only then are viewers kept
    /// by their keys. Default: no.
    fn counts_listeners(&self) -> bool {
        false
    }

    /// Takes the time at which the topic published a heartbeat: every few seconds, from before each
    /// event that comes after it. State that ages uses it, since this pod's clock may be wrong. The
    /// default ignores it.
    fn hear(&self, published: SystemTime) {
        let _ = published;
    }
}

/// Returns the event in a message without CloudEvents, by the envelope that the domain gives it.
///
/// # Errors
/// The domain has no envelope for it, or [`foreign::event`](crate::event::foreign::event) refuses
/// the envelope.
pub fn read_foreign(domain: &dyn Domain, message: &Foreign) -> Result<Event, Unmapped> {
    let envelope = domain.envelope(message).unwrap_or_else(|| Err(Undecodable::NotCloudEvent.into()));
    foreign::event(message, &envelope?)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn unverified_email_names_no_user() {
        for (verified, email) in [
            (json!(true), Some("a@b.c")),
            (json!("true"), Some("a@b.c")),
            (json!(null), None),
            (json!(false), None),
            (json!("false"), None),
            (json!(1), None),
        ] {
            let claims = json!({ "email": "a@b.c", "email_verified": verified });
            let Value::Object(claims) = claims else { unreachable!() };
            assert_eq!(Claims::new(claims).email(), email, "{verified}");
        }
    }
}
