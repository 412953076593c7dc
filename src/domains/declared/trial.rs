//! Trial of a file's rules on one event and one viewer, without a server.
//!
//! `relay check --event` prints its answer, so that a team can test its rules in CI. It must ask
//! the same code that a pod runs.

use std::{collections::BTreeMap, fmt::Write as _, time::SystemTime};

use bytes::Bytes;
use serde_json::{Map, Value as Json};

use super::{
    allow, cells, comparison::comparisons, domain::Declared, payload::Payload, root_arguments::RootArguments,
    subscription_rule::SubscriptionRule, trim, viewers::Refused,
};
use crate::{
    audience::{Key, Viewer},
    domain::{Claims, Domain as _, Fact, Identity, Unreadable, read_foreign},
    event::{
        Event, Foreign,
        cloudevent::{self, Undecodable},
        foreign::Unmapped,
    },
};

/// The most keys that an answer lists.
const MAX_LISTED: usize = 10;

/// Returns the event in a message that is published now, as a pod reads it.
///
/// # Errors
/// The message holds no event, and the file has no envelope that fits it.
pub fn receive(
    domain: &Declared,
    attributes: &BTreeMap<String, String>,
    data: Bytes,
) -> Result<Event, Unmapped> {
    let published = Some(SystemTime::now());
    let attribute = |name: &str| attributes.get(name).map(String::as_str);
    let message =
        |data| Foreign { attributes: attributes.clone(), data, published, message_id: "1".to_owned() };
    match cloudevent::decode_or_keep(attribute, data, published, message) {
        Err(Undecodable::Foreign(message)) => read_foreign(domain, &message),
        decoded => Ok(decoded?),
    }
}

/// Returns the envelope of an event as a line of text.
#[must_use]
pub fn envelope(event: &Event) -> String {
    let Event { kind, source, id, author, .. } = event;
    format!("event: type {kind}, source {source}, id {id}, author {}\n", author.as_deref().unwrap_or("none"))
}

/// Tells for each subscription field whether this viewer receives the event: one line each, with
/// the key by which it does, or with the reason why not. `arguments` are given to each field that
/// has them.
///
/// # Errors
/// No field can deliver the event: its type is unknown, or its data does not fit the type.
pub fn tell(
    domain: &Declared,
    event: &Event,
    claims: &Claims,
    arguments: &Map<String, Json>,
) -> Result<String, Unreadable> {
    let fact = domain.read(event)?;
    let viewer = domain.viewers().viewer(Identity::Claims(claims));
    let mut lines = String::new();
    for rule in &domain.rules().subscriptions {
        let arguments = RootArguments::from_json(arguments, &rule.definition);
        let arguments = trim::trimmed(arguments, &rule.trims, &domain.rules().types);
        // Writing to a text cannot fail.
        let _ = match told_by(rule, &fact, viewer.as_ref(), &arguments) {
            Ok(key) => writeln!(lines, "{}: told by {key}", rule.name),
            Err(reason) => writeln!(lines, "{}: not told: {reason}", rule.name),
        };
    }
    Ok(lines)
}

/// Returns the key by which the viewer receives the event on a field, or the reason why not.
fn told_by(
    rule: &SubscriptionRule,
    fact: &Fact,
    viewer: Result<&Viewer, &Refused>,
    arguments: &RootArguments,
) -> Result<String, String> {
    if !fact.fields.contains(&rule.name) {
        return Err("it does not deliver this type".to_owned());
    }
    let viewer = viewer.map_err(ToString::to_string)?;
    let audience = fact.audience.of(&rule.name);
    if audience.excludes(&viewer.user) {
        return Err("the viewer is the author".to_owned());
    }
    allow::check(&rule.allows, arguments, viewer).map_err(|error| error.to_string())?;
    let Some(key) = shared(rule, audience.keys(), viewer, arguments)? else {
        return Err(match shared(rule, audience.keys(), viewer, &RootArguments::default())? {
            Some(_) => "an argument leaves it out".to_owned(),
            None => format!("the viewer listens to none of {}", listed(rule, audience.keys())),
        });
    };
    let payload = fact.payload.downcast_ref::<Payload>();
    let holds = |payload: &Payload| {
        comparisons(&rule.filters, arguments).iter().all(|comparison| comparison.holds(&payload.data))
    };
    if !payload.is_some_and(holds) {
        return Err("an argument leaves it out".to_owned());
    }
    Ok(cells::audience_key(rule, &key).to_owned())
}

/// Returns a key that the event and a watcher with these arguments share.
fn shared(
    rule: &SubscriptionRule,
    keys: &[Key],
    viewer: &Viewer,
    arguments: &RootArguments,
) -> Result<Option<Key>, String> {
    let interests = cells::interests(rule, arguments, viewer).map_err(|error| error.to_string())?;
    let wanted = interests.as_ref().unwrap_or(&viewer.interests).keys();
    Ok(keys.iter().find(|key| wanted.binary_search(key).is_ok()).cloned())
}

/// Returns the keys of the audience as a list, cut where it would be long.
fn listed(rule: &SubscriptionRule, keys: &[Key]) -> String {
    let mut keys: Vec<_> = keys.iter().map(|key| cells::audience_key(rule, key)).collect();
    keys.sort_unstable();
    keys.dedup();
    if keys.is_empty() {
        return "its keys: it has none on this field".to_owned();
    }
    let end = if keys.len() > MAX_LISTED { ", …" } else { "" };
    keys.truncate(MAX_LISTED);
    keys.join(", ") + end
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use serde_json::json;

    use super::*;
    use crate::domains::declared::{directory::Directory, rules::Rules};

    const ORDERS: &str = include_str!("../../../examples/orders/schema.graphql");

    fn domain(file: &str) -> Arc<Declared> {
        Declared::new(Arc::new(Rules::parse(file).unwrap()), Directory::default(), Duration::ZERO)
    }

    fn event(kind: &str, author: Option<&str>, data: &Json) -> Event {
        Event::new("/test".into(), kind, author.map(Into::into), data.to_string().into())
    }

    fn object(json: Json) -> Map<String, Json> {
        serde_json::from_value(json).unwrap()
    }

    fn order() -> Event {
        let data = json!({"id": "o-1", "customer": {"id": "ann"}, "status": "PAID", "total": 9, "items": []});
        event("order.placed.v1", None, &data)
    }

    #[test]
    fn lines_name_key_or_reason() {
        let orders = domain(ORDERS);
        let ask = |claims: Json, arguments: Json| {
            tell(&orders, &order(), &Claims::new(object(claims)), &object(arguments)).unwrap()
        };
        for (claims, arguments, line) in [
            (json!({"sub": "ann"}), json!({}), "told by user:ann"),
            (json!({"sub": "ann"}), json!({"id": "o-1", "minTotal": 9}), "told by user:ann"),
            (json!({"sub": "x", "roles": ["support"]}), json!({"status": ["PAID"]}), "told by role:support"),
            (json!({"sub": "ann"}), json!({"id": "o-2"}), "not told: an argument leaves it out"),
            (json!({"sub": "ann"}), json!({"minTotal": 10}), "not told: an argument leaves it out"),
            (
                json!({"sub": "bob"}),
                json!({}),
                "not told: the viewer listens to none of role:support, user:ann",
            ),
            (json!({"roles": ["support"]}), json!({}), "not told: the token names no user"),
        ] {
            assert_eq!(ask(claims.clone(), arguments.clone()), format!("orderUpdated: {line}\n"), "{claims}");
        }
    }

    #[test]
    fn author_and_other_types_are_not_told() {
        let file = "extend schema @interest(key: \"room:{rooms}\")
            type A { room: ID! }  type B { room: ID! }
            type Subscription {
              a: A @event(type: \"a.v1\") @audience(keys: [\"room:{room}\"], exceptAuthor: true)
              b: B @event(type: \"b.v1\") @audience(keys: [\"room:{room}\"])
            }";
        let claims = Claims::new(object(json!({"sub": "ann", "rooms": ["r"]})));
        let own = event("a.v1", Some("ann"), &json!({"room": "r"}));
        let lines = tell(&domain(file), &own, &claims, &Map::new()).unwrap();
        assert_eq!(
            lines,
            "a: not told: the viewer is the author\nb: not told: it does not deliver this type\n"
        );
    }

    #[test]
    fn misfit_event_is_error() {
        let orders = domain(ORDERS);
        let claims = Claims::of_subject("ann");
        let unknown = event("order.gone.v1", None, &json!({}));
        assert_eq!(tell(&orders, &unknown, &claims, &Map::new()), Err(Unreadable::UnknownType));
        let malformed = event("order.placed.v1", None, &json!({"id": 7.5}));
        let error = tell(&orders, &malformed, &claims, &Map::new()).unwrap_err().to_string();
        assert!(error.contains("id"), "{error}");
    }
}
