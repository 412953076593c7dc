//! The tutorial's domain: users, locations, and the templates that are shared with locations.
//!
//! This file and its folder are what a team replaces by its own (`docs/ADAPTING.md`); nothing else knows it but `main`.

pub mod directory;
pub mod location;
pub mod schema;
pub mod template;
pub mod templates;
pub mod user;

use std::{sync::Arc, time::Duration};

pub use self::{
    directory::{Directory, DirectoryError},
    schema::schema,
};
use self::{template::Template, templates::Templates};
use crate::{
    audience::{Audience, Viewer},
    contract::{Domain, Fact, Identity, Unreadable},
    event::Event,
};

/// A template was added; its data is the template.
pub const ADDED: &str = "template.added.v1";

/// A template was edited; its data is the whole template as it is now.
pub const EDITED: &str = "template.edited.v1";

/// The tutorial's state on one pod.
pub struct Tutorial {
    directory: Directory,
    templates: Templates,
}

impl Tutorial {
    /// These users and locations, and no templates yet; each is kept for `retention` after its last event.
    #[must_use]
    pub fn new(directory: Directory, retention: Duration) -> Arc<Self> {
        Arc::new(Self { directory, templates: Templates::new(retention) })
    }

    /// Who is who, and where.
    #[must_use]
    pub const fn directory(&self) -> &Directory {
        &self.directory
    }

    /// What was added and edited lately.
    #[must_use]
    pub const fn templates(&self) -> &Templates {
        &self.templates
    }
}

impl Domain for Tutorial {
    fn viewer(&self, identity: Identity<'_>) -> Option<Viewer> {
        self.directory.viewer(identity).cloned()
    }

    fn read(&self, event: &Event) -> Result<Fact, Unreadable> {
        let is_news = match &*event.kind {
            ADDED => true,
            EDITED => false,
            _ => return Err(Unreadable::UnknownType),
        };
        let template = Template::parse(&event.data).map_err(Unreadable::Malformed)?;
        let audience = if is_news { template.audience(event.author.clone()) } else { Audience::nobody() };
        Ok(Fact { field: is_news.then_some("templateAdded"), audience, payload: Arc::new(template) })
    }

    fn apply(&self, event: &Event, fact: &Fact) {
        if let Some(template) = fact.payload.downcast_ref::<Template>() {
            self.templates.apply(event, template.clone());
        }
    }
}
