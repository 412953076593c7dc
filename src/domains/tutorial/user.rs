//! [`User`]: a row of the directory.
//!
//! Only the directory reads it and makes a viewer of it. The relay must see viewers only.

use serde::Deserialize;

/// A user as the directory's file has it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct User {
    /// Unique among users: the `sub` of the user's tokens, and the author of the user's events.
    pub id: String,
    /// The tutorial's name for the user, which is also the demo token: `ZOWI`.
    #[serde(rename = "type")]
    pub name: Option<String>,
    /// The `email` of the user's tokens; upper and lower case are the same.
    pub email: Option<String>,
    /// The one location that the user listens to.
    pub location_id: Option<String>,
    /// The organisation of the locations that the user listens to. A user has this or a location.
    pub org_id: Option<String>,
}
