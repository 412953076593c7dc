//! Locations, which templates are shared with.

use std::sync::Arc;

use async_graphql::{ID, Object};
use serde::Deserialize;

use crate::audience::Key;

/// A location of an organisation.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Location {
    /// The id.
    pub id: Arc<str>,
    /// What people call it.
    pub name: String,
    /// The organisation that owns it.
    pub org_id: Arc<str>,
}

#[Object]
impl Location {
    async fn id(&self) -> ID {
        ID::from(&*self.id)
    }

    async fn name(&self) -> &str {
        &self.name
    }

    async fn org_id(&self) -> ID {
        ID::from(&*self.org_id)
    }
}

/// What an event about the location is about, and whoever listens to it listens to.
pub(super) fn key(id: &str) -> Key {
    format!("location:{id}").into()
}
