//! GraphQL behind the transports: one [`Engine`] that checks, runs and watches operations for all of them.
//!
//! The schema is the domain's ([`Api`]); limits, sharing and the error boundary are here. Nothing here knows a transport.

pub mod document;
pub mod error;
pub mod mutation;
mod operation;
pub mod subscription;

use std::{panic::AssertUnwindSafe, sync::Arc};

use async_graphql::{
    Context, ObjectType, Request, Response, Schema, SchemaBuilder, SubscriptionType,
    futures_util::stream::BoxStream,
};
use async_trait::async_trait;
use futures_util::FutureExt as _;

pub use self::{document::Prepared, error::Error, mutation::Outlet};
use self::{error::Code, operation::Operations};
use crate::{
    audience::Viewer,
    hub::{Hub, Outbox, Watch, Watching},
};

/// Deep enough for the introspection query of every known tool (15), too shallow to hurt.
const MAX_DEPTH: usize = 20;

/// Fields that one operation may resolve, list lengths aside. The introspection query of tools needs about 200.
const MAX_COMPLEXITY: usize = 1_000;

/// A schema whose types are erased: what the relay needs of any domain's.
#[async_trait]
pub trait Api: Send + Sync + 'static {
    /// Runs a query or a mutation.
    async fn execute(&self, request: Request) -> Response;

    /// Runs a subscription.
    fn execute_stream(&self, request: Request) -> BoxStream<'static, Response>;

    /// The schema in the definition language.
    fn sdl(&self) -> String;
}

#[async_trait]
impl<Q, M, S> Api for Schema<Q, M, S>
where
    Q: ObjectType + 'static,
    M: ObjectType + 'static,
    S: SubscriptionType + 'static,
{
    async fn execute(&self, request: Request) -> Response {
        Self::execute(self, request).await
    }

    fn execute_stream(&self, request: Request) -> BoxStream<'static, Response> {
        Self::execute_stream(self, request)
    }

    fn sdl(&self) -> String {
        Self::sdl(self)
    }
}

/// Finishes a domain's schema, with our limits on every document.
pub fn build<Q, M, S>(schema: SchemaBuilder<Q, M, S>) -> Arc<dyn Api>
where
    Q: ObjectType + 'static,
    M: ObjectType + 'static,
    S: SubscriptionType + 'static,
{
    Arc::new(
        schema.limit_depth(MAX_DEPTH).limit_complexity(MAX_COMPLEXITY).limit_directives(MAX_DEPTH).finish(),
    )
}

/// The viewer whose request is being resolved.
///
/// # Errors
/// `UNAUTHENTICATED` in a request without one, and in a subscription's resolver, whose result many viewers share.
pub fn viewer<'a>(ctx: &'a Context<'_>) -> Result<&'a Viewer, Error> {
    let viewer = ctx.data_opt::<Arc<Viewer>>().map(AsRef::as_ref);
    viewer.ok_or_else(|| Error::new(Code::Unauthenticated, "this needs a viewer"))
}

/// One pod's way to run operations.
pub struct Engine {
    api: Arc<dyn Api>,
    outlet: Arc<Outlet>,
    operations: Operations,
    hub: Hub,
}

impl Engine {
    /// Runs the operations of `api`, publishes through `outlet`, watches in `hub`.
    #[must_use]
    pub fn new(api: Arc<dyn Api>, outlet: Outlet, hub: Hub) -> Self {
        Self { operations: Operations::new(api.clone()), api, outlet: Arc::new(outlet), hub }
    }

    /// Parses the request and tells what it asks for.
    ///
    /// # Errors
    /// The response that refuses it.
    pub fn prepare(&self, request: Request) -> Result<Prepared, Box<Response>> {
        document::prepare(request)
    }

    /// Runs a query or a mutation for the viewer. A resolver that panics costs its own request only.
    pub async fn execute(&self, prepared: Prepared, viewer: Arc<Viewer>) -> Response {
        let request = prepared.request.data(viewer).data(self.outlet.clone());
        match AssertUnwindSafe(self.api.execute(request)).catch_unwind().await {
            Ok(response) => error::publicly(response),
            Err(_) => error::internal(),
        }
    }

    /// Lets the viewer watch a subscription: its results go to the outbox, marked with `id`, until the guard is dropped.
    ///
    /// # Errors
    /// The response that refuses it.
    pub async fn watch(
        &self,
        prepared: Prepared,
        viewer: Arc<Viewer>,
        outbox: Arc<Outbox>,
        id: u64,
    ) -> Result<Watching, Box<Response>> {
        let operation = self.operations.open(prepared).await?;
        Ok(self.hub.watch(Watch { id, field: operation.field().clone(), viewer, operation, outbox }))
    }
}
