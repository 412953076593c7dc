//! [`Plan`]: results of a subscription without the executor.
//!
//! A domain that knows its payloads may compile a selection once, and then copy each result. A plan
//! must give the same data as the executor would.

use std::sync::Arc;

use async_graphql::{
    Variables,
    parser::types::{ExecutableDocument, Field},
};

use super::error::Error;
use crate::{
    audience::{Interests, Viewer},
    event::Payload,
};

/// Subscription that the schema has validated.
pub struct Subscription<'a> {
    /// Document with its fragments.
    pub document: &'a ExecutableDocument,
    /// Root field with its arguments and selection.
    pub field: &'a Field,
    /// Variables, with the defaults of the operation.
    pub variables: &'a Variables,
    /// Viewer who subscribes.
    pub viewer: &'a Viewer,
}

/// Compiled subscription.
pub struct Compiled {
    /// Plan of its results. It does not depend on the viewer.
    pub plan: Arc<dyn Plan>,
    /// Keys that decide which events the watcher receives. `None`: the viewer's interests.
    pub interests: Option<Interests>,
}

/// What a selection copies from payloads.
pub trait Plan: Send + Sync + 'static {
    /// Appends the JSON of the root field's value. Returns `false`, and appends nothing, if the
    /// payload is of another type, or if the arguments leave it out.
    fn copy(&self, payload: &Payload, into: &mut String) -> bool;
}

/// Plans of one schema.
pub trait Plans: Send + Sync + 'static {
    /// Returns the plan of a subscription. Subscriptions that copy the same share one plan.
    ///
    /// # Errors
    /// What is wrong with the arguments, or `FORBIDDEN`.
    fn plan(&self, subscription: &Subscription<'_>) -> Result<Compiled, Error>;
}
