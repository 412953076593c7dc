//! [`Plans`]: results without the executor.
//!
//! A domain that knows its payloads may compile a selection once, and then copy each result. A plan
//! must give the same data as the executor would.

use std::sync::Arc;

use async_graphql::{
    ServerError, Variables,
    parser::types::{ExecutableDocument, Field, OperationDefinition},
};
use async_trait::async_trait;

use super::{
    document::Turns,
    error::{Code, Error},
    event_publisher::EventPublisher,
    receipt::Receipt,
    space::Space,
};
use crate::{
    audience::{Interests, Key, Viewer},
    counts::Counts,
    event::Payload,
};

/// Query or mutation that the schema has validated.
pub struct Operation<'a> {
    /// Document with its fragments.
    pub document: &'a ExecutableDocument,
    /// The operation that runs.
    pub definition: &'a OperationDefinition,
    /// Variables as the request gives them.
    pub variables: &'a Variables,
    /// Viewer who asks.
    pub viewer: &'a Viewer,
    /// Publisher of the events of mutations.
    pub event_publisher: &'a EventPublisher,
    /// Bytes that are charged for the data. Copying stops there, or charges more.
    pub space: &'a Space,
    /// What the request has published.
    pub receipt: &'a Receipt,
    /// Turns of the viewer, for work that takes long.
    pub turns: Turns<'a>,
    /// Counts of viewers; `None`: none is ever known.
    pub counts: Option<&'a Counts>,
}

/// Result of a query or a mutation.
#[derive(Debug)]
pub struct Copied {
    /// Data as JSON; `RESULT_TOO_LARGE` or `OVERLOADED` if there is no space for it.
    pub data: Result<String, Code>,
    /// Errors of fields, ready for the client.
    pub errors: Vec<ServerError>,
}

/// Subscription that the schema has validated.
pub struct Subscription<'a> {
    /// Document with its fragments.
    pub document: &'a ExecutableDocument,
    /// Root field with its arguments and selection.
    pub field: &'a Field,
    /// The operation that runs.
    pub definition: &'a OperationDefinition,
    /// Variables as the request gives them.
    pub variables: &'a Variables,
    /// Viewer who subscribes.
    pub viewer: &'a Viewer,
}

/// Compiled subscription.
pub enum Compiled {
    /// It delivers events.
    Events {
        /// Plan of its results. It does not depend on the viewer.
        plan: Arc<dyn Plan>,
        /// Keys that decide which events the watcher receives. `None`: the viewer's interests.
        interests: Option<Interests>,
    },
    /// It counts the viewers who listen to this key.
    Count(Key),
}

/// What a selection copies from payloads.
pub trait Plan: Send + Sync + 'static {
    /// Returns the memory that the plan takes, in bytes, besides the values of arguments.
    fn bytes(&self) -> usize;

    /// Appends the JSON of the root field's value. Returns `false`, and appends nothing, if the
    /// payload is of another type, or if the arguments leave it out.
    ///
    /// # Errors
    /// The text would have more than `max` bytes.
    fn copy(&self, payload: &Payload, into: &mut String, max: usize) -> Result<bool, TooLarge>;
}

/// A result that has more bytes than it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLarge;

/// Plans of one schema.
#[async_trait]
pub trait Plans: Send + Sync + 'static {
    /// Returns the plan of a subscription. Subscriptions that copy the same share one plan.
    ///
    /// # Errors
    /// What is wrong with the arguments, or `FORBIDDEN`.
    fn plan(&self, subscription: &Subscription<'_>) -> Result<Compiled, Error>;

    /// Runs a query or a mutation. `None`: the executor has to run it.
    ///
    /// # Errors
    /// The request as a whole is refused.
    async fn execute(&self, operation: &Operation<'_>) -> Result<Option<Copied>, Error>;
}
