//! Plans of a declared domain: compiled selections. Subscriptions that copy the same share one.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, Weak},
};

use async_trait::async_trait;

use super::{
    allow, cells, coerce,
    comparison::{self, Comparison},
    count_rule::CountRule,
    domain::Declared,
    execution,
    payload::Payload,
    selection::{Compiler, Copied},
    trim,
};
use crate::{
    event,
    graphql::{
        Error,
        plan::{self, Compiled, Operation, Plan, Plans, Subscription, TooLarge},
    },
    lock::lock,
};

/// What a plan does with a payload: it compares first, and then copies.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Work {
    comparisons: Vec<Comparison>,
    copied: Copied,
}

/// Plan for the payloads of one file.
pub struct CopyPlan {
    work: Arc<Work>,
    table: Table,
}

impl Plan for CopyPlan {
    fn bytes(&self) -> usize {
        let comparisons: usize = self.work.comparisons.iter().map(Comparison::bytes).sum();
        size_of::<Work>() + comparisons + self.work.copied.bytes()
    }

    fn copy(&self, payload: &event::Payload, into: &mut String, max: usize) -> Result<bool, TooLarge> {
        let Some(Payload { data, .. }) = payload.downcast_ref::<Payload>() else { return Ok(false) };
        if !self.work.comparisons.iter().all(|comparison| comparison.holds(data)) {
            return Ok(false);
        }
        if self.work.copied.object(data, into, max) { Ok(true) } else { Err(TooLarge) }
    }
}

/// Plans that are in use, by what they do.
type Table = Arc<Mutex<HashMap<Arc<Work>, Weak<CopyPlan>>>>;

impl Drop for CopyPlan {
    fn drop(&mut self) {
        let mut table = lock(&self.table);
        // A newer plan that does the same stays.
        if table.get(&self.work).is_some_and(|plan| plan.strong_count() == 0) {
            table.remove(&self.work);
        }
    }
}

/// Compiler of the plans of one file.
pub struct CopyPlans {
    domain: Arc<Declared>,
    table: Table,
}

impl CopyPlans {
    /// Creates a compiler without plans.
    #[must_use]
    pub fn new(domain: Arc<Declared>) -> Self {
        Self { domain, table: Table::default() }
    }

    /// Returns the number of plans in use.
    #[must_use]
    pub fn len(&self) -> usize {
        lock(&self.table).len()
    }

    /// Returns whether no plan is in use.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn count(&self, count: &CountRule, subscription: &Subscription<'_>) -> Result<Compiled, Error> {
        let rules = self.domain.rules();
        let Subscription { field, definition, variables, viewer, .. } = *subscription;
        let variables = coerce::variables(rules, definition, variables)?;
        let room = coerce::Room::default();
        let arguments = coerce::arguments(rules, field, &count.definition, &variables, &room)?;
        Ok(Compiled::Count(count.key(&arguments, viewer)?))
    }

    fn intern(&self, work: Work) -> Arc<CopyPlan> {
        let mut table = lock(&self.table);
        if let Some(plan) = table.get(&work).and_then(Weak::upgrade) {
            return plan;
        }
        let work = Arc::new(work);
        let plan = Arc::new(CopyPlan { work: work.clone(), table: self.table.clone() });
        table.insert(work, Arc::downgrade(&plan));
        plan
    }
}

#[async_trait]
impl Plans for CopyPlans {
    fn plan(&self, subscription: &Subscription<'_>) -> Result<Compiled, Error> {
        let name = &subscription.field.name.node;
        let rules = self.domain.rules();
        let is_count =
            |count: &&CountRule| count.root == "Subscription" && count.definition.name.node == *name;
        if let Some(count) = rules.counts.iter().find(is_count) {
            return self.count(count, subscription);
        }
        let rule = rules.subscriptions.iter().find(|rule| *rule.name == **name);
        let rule = rule.ok_or_else(|| Error::bad_input(format!("there is no field `{name}`")))?;
        let Subscription { document, field, definition, variables, .. } = *subscription;
        let variables = coerce::variables(rules, definition, variables)?;
        let arguments =
            coerce::arguments(rules, field, &rule.definition, &variables, &coerce::Room::default())?;
        let arguments = trim::trimmed(arguments, &rule.trims, &rules.types);
        allow::check(&rule.allows, &arguments, subscription.viewer)?;
        let interests = cells::interests(rule, &arguments, subscription.viewer)?;
        let comparisons = comparison::comparisons(&rule.filters, &arguments);
        let compiler = Compiler { types: &rules.types, document, variables: &variables };
        let copied = compiler.copied(rule.of, &[&field.selection_set.node])?;
        Ok(Compiled::Events { plan: self.intern(Work { comparisons, copied }), interests })
    }

    async fn execute(&self, operation: &Operation<'_>) -> Result<Option<plan::Copied>, Error> {
        execution::run(&self.domain, operation).await
    }
}

#[cfg(test)]
mod tests;
