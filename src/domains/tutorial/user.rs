//! [`User`]: a row of the directory.
//!
//! Only the directory reads it, and makes a viewer of it; the relay knows viewers only.

use serde::Deserialize;

/// A user as the directory's file has it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct User {
    /// Unique among users; the `sub` of their tokens, and the author of what they do.
    pub id: String,
    /// The tutorial's name for a user, which is their demo token: `ZOWI`.
    #[serde(rename = "type")]
    pub name: Option<String>,
    /// The `email` of their tokens; upper and lower case are the same.
    pub email: Option<String>,
    /// The one location they listen to.
    pub location_id: Option<String>,
    /// The organisation to all of whose locations they listen. A user has this or a location.
    pub org_id: Option<String>,
}
