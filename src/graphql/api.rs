//! [`Api`]: the schema of a domain, with its types erased and the limits of every document in it.

use std::sync::Arc;

use async_graphql::{
    ObjectType, Request, Response, Schema, SchemaBuilder, SubscriptionType, futures_util::stream::BoxStream,
};
use async_trait::async_trait;

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
