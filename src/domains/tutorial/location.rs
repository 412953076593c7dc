//! [`Location`]: a place of an organisation, which templates are shared with and users listen to.
//!
//! Locations come from the directory only; a template may name others, which nobody listens to.

use async_graphql::{ID, SimpleObject};
use serde::Deserialize;

use crate::audience::Key;

/// A place that belongs to an organisation.
#[derive(Clone, Debug, PartialEq, Eq, SimpleObject, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Location {
    /// Unique among locations.
    pub id: ID,
    /// For people.
    pub name: String,
    /// The organisation that owns it.
    pub org_id: ID,
}

/// The key that everyone who listens to the location listens to.
#[must_use]
pub fn key(location: &str) -> Key {
    format!("location:{location}").into()
}
