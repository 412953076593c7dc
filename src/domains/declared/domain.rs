//! [`Declared`]: the domain of a file, behind the port that every domain implements.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{
    cells,
    directory::Directory,
    expansion::{Excess, Keys, MAX_KEYS},
    key_rule::EVERYONE,
    payload::{Envelope, Node, Payload},
    reader,
    rules::Rules,
    subscription_rule::SubscriptionRule,
    template::Root,
    values::Values,
    viewers::{Refused, Viewers},
};
use crate::{
    audience::{Audience, Viewer},
    domain::{Domain, Fact, Found, Identity, NoViewer, Unreadable},
    event::{
        Event, Foreign,
        foreign::{self, Unmapped},
    },
};

/// Domain of one file and its directory.
#[derive(Debug)]
pub struct Declared {
    rules: Arc<Rules>,
    viewers: Viewers,
    values: Values,
}

impl Declared {
    /// Creates the domain of these rules over the tables of the directory. Projections keep a value
    /// for `retention` after its last event. This must be no longer than a new pod's feed reaches
    /// back, or old and new pods would answer differently.
    #[must_use]
    pub fn new(rules: Arc<Rules>, mut directory: Directory, retention: Duration) -> Arc<Self> {
        let values = Values::new(&rules, &mut directory, retention);
        Arc::new(Self { viewers: Viewers::new(rules.clone(), directory), rules, values })
    }

    /// Returns the rules of the file.
    pub(super) fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Returns the values that queries see.
    pub(super) const fn values(&self) -> &Values {
        &self.values
    }

    /// Returns what an event of this type with this payload is for.
    ///
    /// # Errors
    /// The type is unknown, or the audience has too many keys.
    pub(super) fn fact(&self, kind: &str, payload: Payload) -> Result<Fact, Unreadable> {
        let rule = self.rules.events.get(kind).ok_or(Unreadable::UnknownType)?;
        let mut audiences = Vec::with_capacity(rule.fields.len());
        for field in rule.fields.iter().map(|number| &self.rules.subscriptions[*number]) {
            let audience = self.audience(field, &payload).map_err(|excess| {
                let text = format!("the audience of `{}` has {excess}", field.name);
                Unreadable::Misfit { path: String::new(), text }
            })?;
            audiences.push((field.name.clone(), audience));
        }
        let fields = audiences.iter().map(|(name, _)| name.clone()).collect();
        let audience = match audiences.as_mut_slice() {
            [] => Audience::none(),
            [(_, one)] => std::mem::take(one),
            _ => Audience::by_field(audiences),
        };
        Ok(Fact { fields, audience, payload: Arc::new(payload) })
    }

    /// Returns the viewers of the file.
    pub(super) const fn viewers(&self) -> &Viewers {
        &self.viewers
    }

    /// Returns the audience of a field for one event.
    fn audience(&self, field: &SubscriptionRule, payload: &Payload) -> Result<Audience, Excess> {
        let author = payload.envelope.author.clone();
        let except = author.filter(|_| field.audience.excludes_author);
        let keys = if field.audience.is_everyone {
            vec![EVERYONE.into()]
        } else {
            let mut keys = Keys::new(MAX_KEYS);
            for template in field.keys.get(&payload.data.of).into_iter().flatten() {
                template.expand(|root| node(payload, root), &mut keys)?;
            }
            keys.into_keys().collect()
        };
        Ok(Audience::new(cells::lookups(&field.filters, &payload.data, keys)?, except))
    }
}

/// Returns the node of a payload that a path starts at.
fn node(payload: &Payload, root: Root) -> Option<Node<'_>> {
    let Envelope { author, id, time } = &payload.envelope;
    match root {
        Root::Document => Some(Node::Object(&payload.data)),
        Root::Author => author.as_deref().map(Node::Text),
        Root::Id => Some(Node::Text(id)),
        Root::Time => time.as_deref().map(Node::Text),
        Root::Viewer | Root::Uuid | Root::Data => None,
    }
}

impl Domain for Declared {
    fn viewer(&self, identity: Identity<'_>) -> Option<Viewer> {
        self.viewers.viewer(identity).ok()
    }

    fn admit(&self, identity: Identity<'_>) -> Result<Viewer, NoViewer> {
        self.viewers.viewer(identity).map_err(|refused| match refused {
            Refused::Unknown => NoViewer::Unknown,
            Refused::TooManyInterests(_) | Refused::KeyTooLong(_) => {
                tracing::warn!(error = %refused, "a user was refused");
                NoViewer::Forbidden(refused.to_string())
            }
        })
    }

    fn find(&self, name: &str) -> Found {
        self.viewers.find(name)
    }

    fn demo_names(&self) -> Vec<String> {
        self.viewers.demo_names()
    }

    fn envelope(&self, message: &Foreign) -> Option<Result<foreign::Envelope, Unmapped>> {
        self.rules.envelope.as_ref().map(|rule| rule.envelope(message))
    }

    fn read(&self, event: &Event) -> Result<Fact, Unreadable> {
        let rule = self.rules.events.get(&*event.kind).ok_or(Unreadable::UnknownType)?;
        let envelope = Envelope::of(event);
        let data = reader::read(&self.rules.types, rule.payload, &event.data, &envelope)
            .map_err(|breach| Unreadable::Misfit { text: breach.to_string(), path: breach.place })?;
        self.fact(&event.kind, Payload { data: Arc::new(data), envelope })
    }

    fn counts_listeners(&self) -> bool {
        !self.rules.counts.is_empty()
    }

    fn hear(&self, published: SystemTime) {
        self.values.hear(published);
    }

    fn apply(&self, event: &Event, fact: &Fact) {
        let is_projected = self.rules.events.get(&*event.kind).is_some_and(|rule| rule.is_projected);
        if let (true, Some(payload)) = (is_projected, fact.payload.downcast_ref::<Payload>()) {
            self.values.apply(event, payload);
        }
    }
}

#[cfg(test)]
mod tests;
