//! [`Api`]: the schema of a domain, with its types erased and the limits of every document.
//!
//! The engine runs any domain's schema through this trait. Nothing here may name a domain.

use std::sync::Arc;

use async_graphql::{
    ObjectType, Request, Response, Schema, SchemaBuilder, SubscriptionType, dynamic,
    futures_util::stream::BoxStream,
};
use async_trait::async_trait;

use super::plan::Plans;

/// Most levels of nesting in a document, and most directives on one field. It is deep enough for
/// the introspection query of every known tool (15), and too shallow to hurt.
const MAX_DEPTH: usize = 20;

/// Most fields that one operation may resolve, without the lengths of lists. The introspection
/// query of tools needs about 200.
const MAX_COMPLEXITY: usize = 1_000;

/// A schema whose types are erased: all that the relay needs of a domain's schema.
#[async_trait]
pub trait Api: Send + Sync + 'static {
    /// Runs a query or a mutation.
    async fn execute(&self, request: Request) -> Response;

    /// Runs a subscription.
    fn execute_stream(&self, request: Request) -> BoxStream<'static, Response>;

    /// Returns the schema in the definition language.
    fn sdl(&self) -> String;

    /// Returns what makes the results of subscriptions instead of the executor, if anything does.
    fn plans(&self) -> Option<&dyn Plans> {
        None
    }
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

/// Builds a domain's schema, with our limits on every document.
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

/// Schema that was built at run time, with plans for its subscriptions.
struct Planned<P> {
    schema: dynamic::Schema,
    plans: P,
}

#[async_trait]
impl<P: Plans> Api for Planned<P> {
    async fn execute(&self, request: Request) -> Response {
        self.schema.execute(request).await
    }

    fn execute_stream(&self, request: Request) -> BoxStream<'static, Response> {
        Box::pin(self.schema.execute_stream(request))
    }

    fn sdl(&self) -> String {
        self.schema.sdl()
    }

    fn plans(&self) -> Option<&dyn Plans> {
        Some(&self.plans)
    }
}

/// Builds a schema that was made at run time, with our limits on every document. The results of its
/// subscriptions come from `plans`.
///
/// # Errors
/// The schema contradicts itself.
pub fn build_planned(
    schema: dynamic::SchemaBuilder,
    plans: impl Plans,
) -> Result<Arc<dyn Api>, dynamic::SchemaError> {
    let schema = schema
        .limit_depth(MAX_DEPTH)
        .limit_complexity(MAX_COMPLEXITY)
        .limit_directives(MAX_DEPTH)
        .finish()?;
    Ok(Arc::new(Planned { schema, plans }))
}
