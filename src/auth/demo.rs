//! Demo tokens: the token is the user's name, as in the tutorial.
//!
//! With them the tutorial runs on a laptop without an issuer. A demo token proves nothing. It must
//! never be accepted with a real project behind the pod; the configuration of `relay` refuses that.

use std::{sync::Arc, time::SystemTime};

use super::{error::AuthError, session::Session};
use crate::{
    domain::{Domain, Identity},
    revocations::{Credentials, Issued},
};

/// Returns the session of a name. `now` is the topic's present time.
pub(super) fn authenticate(token: &str, domain: &dyn Domain, now: SystemTime) -> Result<Session, AuthError> {
    let viewer = Arc::new(domain.admit(Identity::Demo(token))?);
    let credentials = Credentials { user: viewer.user.clone(), id: None, issued: Issued::checked(now) };
    Ok(Session { viewer, expires: None, credentials: Arc::new(credentials) })
}
