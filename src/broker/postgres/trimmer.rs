//! [`Trimmer`]: deletes the events that no pod needs any more.
//!
//! It must never delete an event without noting in the same statement how far it deleted: a reader
//! that has not come so far finds out by that.

use std::{error::Error, time::Duration};

use async_trait::async_trait;
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
        // A connection of its own: its end also ends the lock.
        let session = Session::open(&self.access, &TaskTracker::new()).await?;
        let failed = |error| Cause::of(&error);
        let lock = format!("select pg_try_advisory_lock(hashtextextended('pubsub-relay trim {topic}', 0))");
        if !session.client.query_one(&lock, &[]).await.map_err(failed)?.get::<_, bool>(0) {
            return Ok(0);
        }
        let slice = format!(
            "with old as (delete from {topic}.events where position in (select position from {topic}.events \
             where position < (extract(epoch from clock_timestamp()) * 1000000)::bigint - $1 \
             order by position limit {SLICE}) returning position) \
             update {topic}.topic set trimmed_to = greatest(trimmed_to, (select max(position) from old)) \
             returning (select count(*) from old)"
        );
        let slice = session.client.prepare(&slice).await.map_err(failed)?;
        let retention = i64::try_from(self.retention.as_micros()).unwrap_or(i64::MAX);
        let mut trimmed = 0;
        loop {
            let count: i64 = session.client.query_one(&slice, &[&retention]).await.map_err(failed)?.get(0);
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
