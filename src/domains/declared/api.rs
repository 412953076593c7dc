//! The GraphQL side of a declared domain: its schema, with plans for the results of subscriptions.

use std::sync::Arc;

use async_graphql::dynamic::SchemaError;

use super::{plan::CopyPlans, rules::Rules, schema};
use crate::graphql::{Api, build_planned};

/// Builds the schema of these rules.
///
/// # Errors
/// The file passes our checks, and yet its types contradict each other.
pub fn api(rules: &Arc<Rules>) -> Result<Arc<dyn Api>, SchemaError> {
    build_planned(schema::schema(rules), CopyPlans::new(rules.clone()))
}

#[cfg(test)]
mod tests;
