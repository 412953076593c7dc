//! The GraphQL side of a declared domain: its schema, with plans for the results of subscriptions.

use std::sync::Arc;

use async_graphql::dynamic::SchemaError;

use super::{plan::CopyPlans, rules::Rules, schema};
use crate::graphql::{Api, build_planned};

/// Builds the schema of these rules. Its text is that of clients, without `_service`.
///
/// # Errors
/// The file passes our checks, and yet its types contradict each other.
pub fn api(rules: &Arc<Rules>) -> Result<Arc<dyn Api>, SchemaError> {
    let has_query = rules.file.get("Query").is_some();
    let clients = schema::schema(rules, !has_query).finish()?.sdl();
    build_planned(schema::schema(rules, true), CopyPlans::new(rules.clone()), clients)
}

#[cfg(test)]
mod tests;
