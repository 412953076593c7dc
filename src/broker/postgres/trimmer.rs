//! [`Trimmer`]: deletes the events that no pod needs any more.
//!
//! It must never delete an event without noting in the same statement how far it deleted: a reader
//! that has not come so far finds out by that.

use std::{error::Error, time::Duration};

use async_trait::async_trait;
use tokio_postgres::types::Type;
use tokio_util::task::TaskTracker;

use super::{
    cause::Cause,
    session::{Access, Session},
};
use crate::broker::Trim;

/// Most events that one statement deletes. A statement of so many takes milliseconds, and holds no
/// lock that publishers or readers need.
const SLICE: i64 = 10_000;

/// Trimmer of one pod.
pub struct Trimmer {
    access: Access,
    /// Time for which events are kept.
    retention: Duration,
}

impl Trimmer {
    pub(super) const fn new(access: Access, retention: Duration) -> Self {
        Self { access, retention }
    }

    async fn try_trim(&self) -> Result<u64, Cause> {
        let topic = &self.access.topic.name;
        let session = Session::open(&self.access, &TaskTracker::new()).await?;
        // The lock ends with the transaction, so that no pooled connection keeps it.
        let slice = format!(
            "with turn as (select pg_try_advisory_xact_lock(hashtextextended('pubsub-relay trim {topic}', 0)) \
             as mine), old as (delete from {topic}.events where position in (select position \
             from {topic}.events where (select mine from turn) \
             and position < (extract(epoch from clock_timestamp()) * 1000000)::bigint - $1 \
             order by position limit {SLICE}) returning position) \
             update {topic}.topic set trimmed_to = greatest(trimmed_to, (select max(position) from old)) \
             where exists (select from old) returning (select count(*) from old)"
        );
        let retention = i64::try_from(self.retention.as_micros()).unwrap_or(i64::MAX);
        let mut trimmed = 0;
        loop {
            let row = session.client.query_typed_opt(&slice, &[(&retention, Type::INT8)]).await;
            let count = row.map_err(|error| Cause::of(&error))?.map_or(0, |row| row.get::<_, i64>(0));
            trimmed += count.unsigned_abs();
            if count < SLICE {
                return Ok(trimmed);
            }
        }
    }
}

#[async_trait]
impl Trim for Trimmer {
    async fn trim(&mut self) -> Result<u64, Box<dyn Error + Send + Sync>> {
        Ok(self.try_trim().await?)
    }
}
