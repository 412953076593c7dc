//! The tutorial's domain: users at locations and organisations, who share templates.
//!
//! It is the one folder that a team replaces (see `docs/ADAPTING.md`). All that the library asks
//! for is here: a [`Domain`] and a GraphQL schema ([`schema()`]). Nothing else in the library may
//! name anything of this folder.

pub mod directory;
mod id;
pub mod location;
pub mod schema;
pub mod template;
mod templates;
pub mod user;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

pub use self::{
    directory::{Directory, DirectoryError},
    schema::schema,
};
use self::{template::Template, templates::Templates};
use crate::{
    audience::{Audience, Viewer},
    domain::{Domain, Fact, Identity, Unreadable},
    event::Event,
};

/// Kind of the event that a template was added. Its data is the template.
pub const TEMPLATE_ADDED: &str = "template.added.v1";

/// Kind of the event that a template was edited. Its data is the whole template after the edit.
pub const TEMPLATE_EDITED: &str = "template.edited.v1";

/// Examples for the page at `/`: a demo user, and the document that this user runs.
pub const EXAMPLES: [(&str, &str); 2] = [
    ("ZOLO", include_str!("tutorial/examples/watch.graphql")),
    ("ZOWI", include_str!("tutorial/examples/add.graphql")),
];

/// The tutorial's domain: its directory, and the recent templates.
pub struct Tutorial {
    directory: Directory,
    templates: Templates,
}

impl Tutorial {
    /// Creates a domain over this directory. It keeps a template for `retention` after the
    /// template's last event. This must be no longer than a new pod's feed reaches back, or old and
    /// new pods would answer differently.
    #[must_use]
    pub fn new(directory: Directory, retention: Duration) -> Arc<Self> {
        Arc::new(Self { directory, templates: Templates::new(retention) })
    }
}

impl Domain for Tutorial {
    fn viewer(&self, identity: Identity<'_>) -> Option<Viewer> {
        self.directory.viewer(identity)
    }

    fn demo_names(&self) -> Vec<String> {
        self.directory.demo_names()
    }

    fn read(&self, event: &Event) -> Result<Fact, Unreadable> {
        let is_added = match &*event.kind {
            TEMPLATE_ADDED => true,
            TEMPLATE_EDITED => false,
            _ => return Err(Unreadable::UnknownType),
        };
        let template =
            Template::parse(&event.data).map_err(|invalid| Unreadable::Malformed(invalid.to_string()))?;
        let (fields, audience) = if is_added {
            (vec!["templateAdded".into()], template.audience(event.author.clone()))
        } else {
            (Vec::new(), Audience::none())
        };
        Ok(Fact { fields, audience, payload: Arc::new(Arc::new(template)) })
    }

    fn apply(&self, event: &Event, fact: &Fact) {
        if let Some(template) = fact.payload.downcast_ref::<Arc<Template>>() {
            self.templates.apply(event, template.clone(), SystemTime::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::domain::Claims;

    fn tutorial() -> Arc<Tutorial> {
        Tutorial::new(Directory::built_in(), Duration::from_secs(600))
    }

    fn event(kind: &str, author: Option<&str>, data: &str) -> Event {
        Event::new("/test".into(), kind, author.map(Into::into), data.to_owned().into())
    }

    fn receivers(tutorial: &Tutorial, event: &Event) -> Vec<&'static str> {
        let audience = tutorial.read(event).unwrap().audience;
        let receives = |name: &&str| audience.includes(&tutorial.viewer(Identity::Demo(name)).unwrap());
        ["ZELO", "ZEWI", "ZOWI", "ZOLO"].into_iter().filter(receives).collect()
    }

    #[test]
    fn audience_matches_tutorials_story() {
        let data = r#"{"id":"t","name":"T","shareLocationIds":["3"]}"#;
        assert_eq!(receivers(&tutorial(), &event(TEMPLATE_ADDED, Some("3"), data)), ["ZEWI", "ZOLO"]);
        assert_eq!(
            receivers(&tutorial(), &event(TEMPLATE_ADDED, Some("4"), data)),
            ["ZEWI"],
            "not the author"
        );
        assert_eq!(receivers(&tutorial(), &event(TEMPLATE_ADDED, None, data)), ["ZEWI", "ZOLO"]);
    }

    #[test]
    fn edit_has_no_audience() {
        let tutorial = tutorial();
        let data = r#"{"id":"t","name":"T","shareLocationIds":["3"]}"#;
        let fact = tutorial.read(&event(TEMPLATE_EDITED, None, data)).unwrap();
        assert_eq!((fact.fields, fact.audience), (Vec::new(), Audience::none()));
        let added = tutorial.read(&event(TEMPLATE_ADDED, None, data)).unwrap();
        assert_eq!(added.fields, ["templateAdded".into()]);
    }

    #[test]
    fn unknown_kind_differs_from_malformed_data() {
        let read = |kind, data| tutorial().read(&event(kind, None, data)).err();
        assert_eq!(read("template.removed.v1", "{}"), Some(Unreadable::UnknownType));
        assert!(matches!(read(TEMPLATE_ADDED, "{}"), Some(Unreadable::Malformed(_))));
    }

    /// Returns what the tutorial's `templateFilter` returns.
    fn template_filter(
        template: &(u8, Option<Vec<u8>>),
        user: &(u8, Option<u8>, Option<u8>),
        locations: &[(u8, u8)],
    ) -> bool {
        let (author, shared) = template;
        let (id, location, organisation) = user;
        let viewers: BTreeSet<u8> = match (location, organisation) {
            (Some(location), _) => BTreeSet::from([*location]),
            (None, Some(organisation)) => {
                locations.iter().filter(|(_, org)| org == organisation).map(|(id, _)| *id).collect()
            }
            (None, None) => BTreeSet::new(),
        };
        author != id && shared.iter().flatten().any(|location| viewers.contains(location))
    }

    proptest! {
        #[test]
        fn audience_matches_tutorials_filter(
            organisations in prop::collection::vec(0u8..4, 1..8),
            users in prop::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 1..8),
            author in 0u8..9,
            shared in prop::option::of(prop::collection::vec(0u8..10, 0..6)),
        ) {
            let locations: Vec<(u8, u8)> = organisations.iter().copied().enumerate().map(|(n, org)| (n as u8, org)).collect();
            let users: Vec<(u8, Option<u8>, Option<u8>)> = users.iter().enumerate().map(|(n, (at_location, which))| {
                let (location, organisation) = *which.get(&locations);
                if *at_location { (n as u8, Some(location), None) } else { (n as u8, None, Some(organisation)) }
            }).collect();
            let text = |n: Option<u8>| n.map(|n| n.to_string());
            let directory = serde_json::json!({
                "locations": locations.iter().map(|(id, org)| serde_json::json!({
                    "id": id.to_string(), "name": "L", "orgId": org.to_string(),
                })).collect::<Vec<_>>(),
                "users": users.iter().map(|(id, location, organisation)| serde_json::json!({
                    "id": id.to_string(), "locationId": text(*location), "orgId": text(*organisation),
                })).collect::<Vec<_>>(),
            });
            let directory = Directory::parse(&directory.to_string()).unwrap();
            let tutorial = Tutorial::new(directory, Duration::from_secs(600));
            let data = serde_json::json!({ "id": "t", "name": "T", "shareLocationIds": shared }).to_string();
            let audience = tutorial.read(&event(TEMPLATE_ADDED, Some(&author.to_string()), &data)).unwrap().audience;
            let template = (author, shared);
            for user in &users {
                let viewer = tutorial.viewer(Identity::Claims(&Claims::of_subject(&user.0.to_string()))).unwrap();
                prop_assert_eq!(audience.includes(&viewer), template_filter(&template, user, &locations));
            }
        }

        #[test]
        fn no_data_panics(data in any::<Vec<u8>>(), text in ".{0,60}") {
            let mut event = event(TEMPLATE_ADDED, None, &text);
            let _ = tutorial().read(&event);
            event.data = data.into();
            let _ = tutorial().read(&event);
        }
    }
}
