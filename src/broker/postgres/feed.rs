//! Feed that reads the topic's table behind the last position, kept going through every failure.
//!
//! There is one way to recover from every failure, including a reader's report that nothing comes
//! ([`Reopen`](crate::broker::Reopen)): a new connection that begins before the newest event read.
//! A generation must never skip a position: if events that it has not read are deleted, it ends.

use std::{sync::Arc, time::Duration};

use tokio::{select, time::timeout};
use tokio_postgres::types::{ToSql, Type};
use tokio_util::task::TaskTracker;

use super::{
    cause::Cause,
    row::{self, PAGE_BYTES, PAGE_ROWS},
    schema,
    session::{Access, Session},
};
use crate::broker::{
    Order,
    kept_feed::{Controls, KeptFeed},
};

/// Most messages that wait between the table and the relay. At the limit the reader waits.
const QUEUE: usize = 256;

/// How far before the newest event read a new generation begins, in microseconds. After a failover
/// another server's clock counts.
const MARGIN: i64 = 30_000_000;

/// Longest time between two reads. A read is also the proof that the server answers.
const POLL: Duration = Duration::from_secs(1);

/// Longest wait for the answer to a read. At the limit the generation ends.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause between two tries. A pod must be back within 2 s of a repair.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// Longest wait for the end of the connections when the feed is closed.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// Reason of the end of a generation that its reader gave up.
const SILENT: &str = "nothing came through it";

/// Opens the feed of one pod.
pub(super) fn open(access: Access, window: Duration) -> KeptFeed {
    let (feed, controls) = KeptFeed::new(QUEUE, BACKOFF);
    controls.set_order(Order::Total);
    controls.set_reaches_back(true);
    let keeper = Keeper {
        access,
        window: i64::try_from(window.as_micros()).unwrap_or(i64::MAX),
        controls,
        sessions: TaskTracker::new(),
        newest: None,
    };
    feed.kept_by(keeper.run())
}

/// Task behind a feed. If it is aborted, the server ends its session: nothing is left behind.
struct Keeper {
    access: Access,
    /// Time back to which the first generation reaches, in microseconds.
    window: i64,
    controls: Controls,
    /// Connections of this feed that have not ended.
    sessions: TaskTracker,
    /// Position of the newest event read.
    newest: Option<i64>,
}

impl Keeper {
    async fn run(mut self) {
        let stop = self.controls.stop.clone();
        while !stop.is_cancelled() {
            let newest = self.newest;
            let Some(why) = stop.run_until_cancelled(self.run_generation()).await else { break };
            self.controls.report(why);
            if self.newest > newest {
                self.controls.succeed();
            }
            self.controls.pause().await;
        }
        self.sessions.close();
        if timeout(END_TIMEOUT, self.sessions.wait()).await.is_err() {
            tracing::debug!("a connection has not ended yet");
        }
        self.controls.close();
    }

    /// Runs one generation of the feed until it fails. Returns the reason of its end.
    async fn run_generation(&mut self) -> String {
        let opening = timeout(ANSWER_TIMEOUT * 2, self.open_session()).await;
        let (session, begin) = match opening.unwrap_or_else(|_| Err(Cause::silent("open"))) {
            Ok(opened) => opened,
            Err(cause) => return cause.to_string(),
        };
        let (topic, pod) = (&self.access.topic.name, &self.access.pod);
        let generation: Arc<str> = format!("{topic}.{pod}.{}", uuid::Uuid::now_v7().simple()).into();
        tracing::info!(feed = &*generation, "feed open");
        self.controls.open(generation.clone());
        let reopen = self.controls.reopen.clone();
        select! {
            why = self.follow(&session, begin) => why,
            () = reopen.asked(&generation) => SILENT.to_owned(),
        }
    }

    /// Opens a connection that hears notes. Returns it with the position behind which to read.
    async fn open_session(&self) -> Result<(Session, i64), Cause> {
        let topic = &self.access.topic.name;
        let session = Session::open(&self.access, &self.sessions).await?;
        schema::ensure(&session.client, topic).await?;
        // Before the first read, or a commit between the two would wake no one.
        let listen = format!("listen {topic}_events");
        session.client.batch_execute(&listen).await.map_err(|error| Cause::of(&error))?;
        let ends = format!(
            "select (extract(epoch from clock_timestamp()) * 1000000)::bigint, trimmed_to, \
             coalesce((select max(position) from {topic}.events), trimmed_to), \
             current_setting('transaction_read_only') = 'on' from {topic}.topic"
        );
        let ends = session.client.query_typed_one(&ends, &[]).await.map_err(|error| Cause::of(&error))?;
        let (now, trimmed_to, head): (i64, i64, i64) = (ends.get(0), ends.get(1), ends.get(2));
        if ends.get(3) {
            return Err(Cause::read_only());
        }
        let reach = now.saturating_sub(self.window);
        let begin = match self.newest {
            // What was read is there, so all before it was read as well.
            Some(newest) if newest <= head => reach.max(newest.saturating_sub(MARGIN)),
            // The first generation, or a topic that has lost what was read.
            _ => reach,
        };
        Ok((session, begin.max(trimmed_to)))
    }

    /// Reads until a failure. Returns its reason.
    async fn follow(&mut self, session: &Session, begin: i64) -> String {
        let statement = row::page(&self.access.topic.name);
        let mut last = begin;
        loop {
            let behind: [(&(dyn ToSql + Sync), Type); 1] = [(&last, Type::INT8)];
            let page = session.client.query_typed(&statement, &behind);
            let rows = match timeout(ANSWER_TIMEOUT, page).await {
                Ok(Ok(rows)) => rows,
                Ok(Err(error)) => return Cause::of(&error).to_string(),
                Err(_) => return Cause::silent("read").to_string(),
            };
            let mut bytes = 0;
            for row in &rows {
                let (trimmed_to, position) = row::positions(row);
                if trimmed_to > last {
                    return "events were deleted before this pod had read them".to_owned();
                }
                let Some(position) = position else { continue };
                bytes += row::size(row);
                if self.controls.events.send(row::received(row, position)).await.is_err() {
                    return "nothing reads it".to_owned();
                }
                self.newest = self.newest.max(Some(position));
            }
            if let Some((_, Some(position))) = rows.last().map(row::positions) {
                last = position;
            }
            if rows.len() < PAGE_ROWS && bytes < PAGE_BYTES {
                // The error is the time at which to read without a note.
                let _ = timeout(POLL, session.notes.notified()).await;
            }
        }
    }
}
