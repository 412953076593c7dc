//! The GraphQL side of a declared domain: its schema, with plans for its results.

use std::sync::Arc;

use async_graphql::dynamic::SchemaError;

use super::{domain::Declared, plan::CopyPlans, schema};
use crate::graphql::{Api, build_planned};

/// Builds the schema of a domain. Its text is that of clients, without `_service`.
///
/// # Errors
/// The file passes our checks, and yet its types contradict each other.
pub fn api(domain: &Arc<Declared>) -> Result<Arc<dyn Api>, SchemaError> {
    let has_query = domain.rules().file.get("Query").is_some();
    let clients = schema::schema(domain, !has_query).finish()?.sdl();
    build_planned(schema::schema(domain, true), CopyPlans::new(domain.clone()), clients)
}

#[cfg(test)]
mod tests;
