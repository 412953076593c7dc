//! [`Session`]: the result of a token that was accepted.

use std::{sync::Arc, time::SystemTime};

use crate::{audience::Viewer, revocations::Credentials};

/// Viewer that a token names, and the time for which it is accepted.
#[derive(Clone, Debug)]
pub struct Session {
    /// User that the token names.
    pub viewer: Arc<Viewer>,
    /// Time when a connection with this token must end; `None`: never. It is in the past for a
    /// token that only the leeway accepts.
    pub expires: Option<SystemTime>,
    /// What revocations are compared with.
    pub credentials: Arc<Credentials>,
}
