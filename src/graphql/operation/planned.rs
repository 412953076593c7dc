//! Operations that run by plan: a result is copied from the payload, without the executor.
//!
//! Subscriptions that copy the same under the same name share one operation, whatever their
//! documents and arguments. An operation must never depend on a viewer.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, Weak},
};

use async_graphql::Response;
use async_trait::async_trait;

use super::notice;
use crate::{
    budget::Charge,
    graphql::{
        error::too_many_operations,
        plan::{Plan, TooLarge},
    },
    hub::{Relayed, Render},
    lock::lock,
};

/// Most distinct operations that run by plan. An event is copied at most this often; one more
/// subscription is refused.
const MAX_OPERATIONS: usize = 10_000;

/// Bytes of a result around its data, for the first allocation.
const AROUND: usize = 256;

/// Operations that have watchers, by the name of the root field in results and the address of the
/// plan.
type Table = Arc<Mutex<HashMap<(Arc<str>, usize), Weak<PlannedOperation>>>>;

/// The planned operations of a pod.
#[derive(Default)]
pub(super) struct PlannedOperations {
    table: Table,
}

impl PlannedOperations {
    /// Returns the operation of this plan. Only a new one calls `charge`.
    ///
    /// # Errors
    /// A response that refuses the request: too many operations run, of this user or in all.
    pub(super) fn get_or_create(
        &self,
        response_key: &str,
        plan: Arc<dyn Plan>,
        limit: usize,
        charge: impl FnOnce() -> Result<Charge, Box<Response>>,
    ) -> Result<Arc<PlannedOperation>, Box<Response>> {
        let response_key: Arc<str> = response_key.into();
        let key = (response_key.clone(), address(&plan));
        let mut table = lock(&self.table);
        if let Some(operation) = table.get(&key).and_then(Weak::upgrade) {
            return Ok(operation);
        }
        if table.len() >= MAX_OPERATIONS {
            return too_many_operations();
        }
        let (table_of_all, _charge) = (self.table.clone(), charge()?);
        let operation =
            Arc::new(PlannedOperation { response_key, plan, limit, table: table_of_all, _charge });
        table.insert(key, Arc::downgrade(&operation));
        Ok(operation)
    }
}

/// Operation that runs by plan.
pub(super) struct PlannedOperation {
    /// Name of the root field in results.
    response_key: Arc<str>,
    plan: Arc<dyn Plan>,
    /// Most bytes of a result.
    limit: usize,
    table: Table,
    _charge: Charge,
}

/// Returns the address of a plan, which no other plan has while the plan is in use.
fn address(plan: &Arc<dyn Plan>) -> usize {
    Arc::as_ptr(plan).cast::<()>() as usize
}

impl Drop for PlannedOperation {
    fn drop(&mut self) {
        let key = (self.response_key.clone(), address(&self.plan));
        let mut table = lock(&self.table);
        // A newer operation of the same plan stays.
        if table.get(&key).is_some_and(|operation| operation.strong_count() == 0) {
            table.remove(&key);
        }
    }
}

impl PlannedOperation {
    fn copy(&self, relayed: &Relayed, is_replayed: bool) -> Option<Arc<str>> {
        let mut text = String::with_capacity(AROUND + relayed.event.data.len());
        // A name of GraphQL has nothing to escape.
        text.push_str("{\"data\":{\"");
        text.push_str(&self.response_key);
        text.push_str("\":");
        match self.plan.copy(&relayed.payload, &mut text, self.limit) {
            Ok(true) => {}
            Ok(false) => return None,
            Err(TooLarge) => return Some(notice::too_large(relayed, self.limit, is_replayed)),
        }
        text.push_str("},\"extensions\":{\"cursor\":");
        text.push_str(&serde_json::to_string(&*relayed.cursor).ok()?);
        text.push_str(",\"eventId\":");
        text.push_str(&serde_json::to_string(&*relayed.position.event).ok()?);
        if is_replayed {
            text.push_str(",\"");
            text.push_str(notice::REPLAYED);
            text.push_str("\":true");
        }
        text.push_str("}}");
        Some(text.into())
    }
}

#[async_trait]
impl Render for PlannedOperation {
    async fn render(&self, relayed: &Relayed) -> Option<Arc<str>> {
        self.copy(relayed, false)
    }

    /// Copies again: a copy costs less than a look-up of a kept result.
    async fn render_again(&self, relayed: &Relayed) -> Option<Arc<str>> {
        self.copy(relayed, true)
    }

    fn gap(&self, reason: &str, cursor: &str) -> Arc<str> {
        notice::gap(&self.response_key, reason, cursor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{budget::Pool, event::Payload};

    struct Nothing;

    impl Plan for Nothing {
        fn bytes(&self) -> usize {
            0
        }

        fn copy(&self, _: &Payload, _: &mut String, _: usize) -> Result<bool, TooLarge> {
            Ok(false)
        }
    }

    fn charge() -> Result<Charge, Box<Response>> {
        Ok(Pool::new("test", 1, 1).try_charge(&"user".into(), 1).unwrap())
    }

    #[test]
    fn operations_of_one_plan_are_shared() {
        let operations = PlannedOperations::default();
        let plan: Arc<dyn Plan> = Arc::new(Nothing);
        let get = |key: &str| operations.get_or_create(key, plan.clone(), 100, charge).ok().unwrap();
        let (first, same, other) = (get("a"), get("a"), get("b"));
        assert!(Arc::ptr_eq(&first, &same) && !Arc::ptr_eq(&first, &other));
        drop((first, same, other));
        assert!(lock(&operations.table).is_empty(), "dropped operations leave nothing");
    }

    #[test]
    fn operations_are_bounded() {
        let operations = PlannedOperations::default();
        let plan: Arc<dyn Plan> = Arc::new(Nothing);
        let get = |number: usize| operations.get_or_create(&format!("f{number}"), plan.clone(), 100, charge);
        let mut held: Vec<_> = (0..MAX_OPERATIONS).map(|number| get(number).ok().unwrap()).collect();
        assert!(get(MAX_OPERATIONS).is_err());
        held.pop();
        assert!(get(MAX_OPERATIONS).is_ok());
    }
}
