//! [`viewer`]: gives a resolver the viewer of its request.
//!
//! A subscription's resolver must not depend on a viewer, so it gets none.

use std::sync::Arc;

use async_graphql::Context;

use super::error::{Code, Error};
use crate::audience::Viewer;

/// Returns the viewer of the request that is being resolved.
///
/// # Errors
/// `UNAUTHENTICATED` in a request without a viewer. It is also the error in a subscription's
/// resolver, because many viewers share its result.
pub fn viewer<'a>(ctx: &'a Context<'_>) -> Result<&'a Viewer, Error> {
    let viewer = ctx.data_opt::<Arc<Viewer>>().map(AsRef::as_ref);
    viewer.ok_or_else(|| Error::new(Code::Unauthenticated, "this needs a viewer"))
}
