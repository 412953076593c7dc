//! [`Api`]: the schema of a domain, with its types erased and the limits of every document.
//!
//! The engine runs any domain's schema through this trait. Nothing here may name a domain.

use std::{iter, sync::Arc};

use async_graphql::{
    ObjectType, PathSegment, QueryPathNode, QueryPathSegment, Request, Response, Schema, SchemaBuilder,
    ServerResult, SubscriptionType, Value, dynamic,
    extensions::{Extension, ExtensionContext, ExtensionFactory, NextExecute, NextResolve, ResolveInfo},
    futures_util::stream::BoxStream,
};
use async_trait::async_trait;

use super::{
    document::{Prepared, turn},
    error::{Error, publicly},
    plan::Plans,
};
use crate::budget::Pool;

/// Most levels of nesting in a document, and most directives on one field. It is deep enough for
/// the introspection query of every known tool (15), and too shallow to hurt.
const MAX_DEPTH: usize = 20;

/// Most fields that one operation may resolve, without the lengths of lists. The introspection
/// query of tools needs about 200.
const MAX_COMPLEXITY: usize = 1_000;

/// A schema with erased types: all that the relay needs of a domain's schema.
#[async_trait]
pub trait Api: Send + Sync + 'static {
    /// Runs a query or a mutation.
    async fn execute(&self, request: Request) -> Response;

    /// Runs a subscription.
    fn execute_stream(&self, request: Request) -> BoxStream<'static, Response>;

    /// Returns the schema in the definition language.
    fn sdl(&self) -> String;

    /// Returns the schema with its plans, if plans instead of the executor make its results.
    fn planned(&self) -> Option<&Planned> {
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

#[async_trait]
impl Api for dynamic::Schema {
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

/// Schema that was built at run time, with plans for its results.
pub struct Planned {
    schema: dynamic::Schema,
    plans: Box<dyn Plans>,
    sdl: String,
}

impl Planned {
    /// Returns the plans.
    pub(super) fn plans(&self) -> &dyn Plans {
        &*self.plans
    }

    /// Validates the document of a request when it is the user's turn, unless that was done before.
    /// Values of variables are not looked at.
    ///
    /// # Errors
    /// A response that refuses the request.
    pub(super) async fn validate(
        &self,
        prepared: &Prepared,
        turns: &Pool,
        user: &Arc<str>,
    ) -> Result<(), Box<Response>> {
        if prepared.document.is_valid() {
            return Ok(());
        }
        // Boxed: a document is validated once, but the future of every request would have its size.
        Box::pin(self.validate_now(prepared, turns, user)).await
    }

    async fn validate_now(
        &self,
        prepared: &Prepared,
        turns: &Pool,
        user: &Arc<str>,
    ) -> Result<(), Box<Response>> {
        let turn = turn(turns, user).await.map_err(Error::response)?;
        let mut request = Request::new(prepared.request.query.as_str()).data(ValidateOnly);
        request.operation_name.clone_from(&prepared.request.operation_name);
        request.set_parsed_query(prepared.document.tree().clone());
        let response = self.schema.execute(request).await;
        turn.end().await;
        if response.is_err() {
            return Err(publicly(response).into());
        }
        prepared.document.set_valid();
        Ok(())
    }
}

/// Mark in the data of a request whose document is to be validated, and not run.
struct ValidateOnly;

#[async_trait]
impl Api for Planned {
    async fn execute(&self, request: Request) -> Response {
        self.schema.execute(request).await
    }

    fn execute_stream(&self, request: Request) -> BoxStream<'static, Response> {
        Box::pin(self.schema.execute_stream(request))
    }

    fn sdl(&self) -> String {
        self.sdl.clone()
    }

    fn planned(&self) -> Option<&Planned> {
        Some(self)
    }
}

/// Builds a schema that was made at run time, with the limits of [`build`]. Its results come from
/// `plans`. `sdl` is its text for clients.
///
/// # Errors
/// The schema is inconsistent.
pub fn build_planned(
    schema: dynamic::SchemaBuilder,
    plans: impl Plans,
    sdl: String,
) -> Result<Arc<dyn Api>, dynamic::SchemaError> {
    Ok(Arc::new(Planned { schema: finish(schema)?, plans: Box::new(plans), sdl }))
}

/// Builds a schema whose types are known only at run time, with the limits of [`build`].
///
/// async-graphql loses the errors below the root field of such a schema's subscriptions: the fields
/// that failed are absent.
///
/// # Errors
/// The schema is inconsistent.
pub fn build_dynamic(schema: dynamic::SchemaBuilder) -> Result<Arc<dyn Api>, dynamic::SchemaError> {
    Ok(Arc::new(finish(schema)?))
}

fn finish(schema: dynamic::SchemaBuilder) -> Result<dynamic::Schema, dynamic::SchemaError> {
    let schema = schema.limit_depth(MAX_DEPTH).limit_complexity(MAX_COMPLEXITY).limit_directives(MAX_DEPTH);
    schema.extension(Paths).finish()
}

/// Gives the errors of a dynamic schema's resolvers their paths, which async-graphql leaves empty.
/// It also ends a request after validation if that is all that it asks for.
struct Paths;

impl ExtensionFactory for Paths {
    fn create(&self) -> Arc<dyn Extension> {
        Arc::new(Self)
    }
}

#[async_trait]
impl Extension for Paths {
    async fn execute(
        &self,
        ctx: &ExtensionContext<'_>,
        operation_name: Option<&str>,
        next: NextExecute<'_>,
    ) -> Response {
        if ctx.data_opt::<ValidateOnly>().is_some() {
            return Response::default();
        }
        next.run(ctx, operation_name).await
    }

    async fn resolve(
        &self,
        ctx: &ExtensionContext<'_>,
        info: ResolveInfo<'_>,
        next: NextResolve<'_>,
    ) -> ServerResult<Option<Value>> {
        let node = info.path_node;
        next.run(ctx, info).await.map_err(|mut error| {
            if error.path.is_empty() {
                error.path = iter::once(node).chain(node.parents()).map(segment).collect();
                error.path.reverse();
            }
            error
        })
    }
}

fn segment(node: &QueryPathNode<'_>) -> PathSegment {
    match node.segment {
        QueryPathSegment::Name(name) => PathSegment::Field(name.to_owned()),
        QueryPathSegment::Index(index) => PathSegment::Index(index),
    }
}
