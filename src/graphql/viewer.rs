//! [`viewer`]: the viewer of a request, for resolvers.

use std::sync::Arc;

use async_graphql::Context;

use super::error::{Code, Error};
use crate::audience::Viewer;

/// The viewer whose request is being resolved.
///
/// # Errors
/// `UNAUTHENTICATED` in a request without one, and in a subscription's resolver, whose result many viewers share.
pub fn viewer<'a>(ctx: &'a Context<'_>) -> Result<&'a Viewer, Error> {
    let viewer = ctx.data_opt::<Arc<Viewer>>().map(AsRef::as_ref);
    viewer.ok_or_else(|| Error::new(Code::Unauthenticated, "this needs a viewer"))
}
