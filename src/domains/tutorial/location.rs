//! [`Location`]: a place of an organisation. Users listen to it, and templates are shared with it.
//!
//! Locations come from the directory only. A template may name others, to which no user listens.

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

/// Returns the key that joins the users at a location with the templates shared with it.
#[must_use]
pub fn key(location: &str) -> Key {
    format!("location:{location}").into()
}
