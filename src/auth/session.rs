//! [`Session`]: the result of a token that lets a user in.

use std::{sync::Arc, time::SystemTime};

use crate::audience::Viewer;

/// Whom a token lets in, and for how long.
#[derive(Clone, Debug)]
pub struct Session {
    /// The user behind the token.
    pub viewer: Arc<Viewer>,
    /// When the connection that showed the token must end; `None`: never. In the past for a token that only the leeway let in.
    pub expires: Option<SystemTime>,
}
