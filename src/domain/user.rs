//! Users: whom tokens name, and what each listens to.

use std::sync::Arc;

use serde::Deserialize;

/// A user of the directory.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct User {
    /// The id, as events name their author and a JWT its `sub`.
    pub id: Arc<str>,
    /// The demo token's name for the user, such as `ZOWI`.
    #[serde(rename = "type")]
    pub kind: Arc<str>,
    /// The address that a JWT's `email` may name, whatever its case.
    pub email: Arc<str>,
    /// The one location that the user listens to; or else
    #[serde(default)]
    pub location_id: Option<Arc<str>>,
    /// the organisation to all of whose locations it listens.
    #[serde(default)]
    pub org_id: Option<Arc<str>>,
}
