//! [`PostgresFeed`]: reads the topic's table behind the last position, kept going through every
//! failure.
//!
//! There is one way to recover from every failure, including a reader's report that nothing comes
//! ([`Reopen`]): a new connection that begins before the newest event read. A generation must never
//! skip a position: if events that it has not read are deleted, it ends.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::{
    select,
    sync::{mpsc, watch},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_postgres::types::{ToSql, Type};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    cause::Cause,
    row::{self, PAGE_BYTES, PAGE_ROWS},
    schema,
    session::{Access, Session},
};
use crate::broker::{Feed, FeedState, Order, Received, Reopen};

/// Most messages that wait between the table and the relay. At the limit the reader waits.
const QUEUE: usize = 256;

/// How far before the newest event read a new generation begins, in microseconds. After a failover
/// another server's clock counts.
const MARGIN: i64 = 30_000_000;

/// Longest time between two reads. A read is also the proof that the server answers.
const POLL: Duration = Duration::from_secs(1);

/// Longest wait for the answer to a read. At the limit the generation ends.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause between two tries. It doubles from the first value to the second, less up to a half by
/// chance. A pod must be back within 2 s of a repair.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// Longest wait for the end of the connections when the feed is closed.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// Reason of the end of a generation that its reader gave up.
const SILENT: &str = "nothing came through it";

/// Feed of one pod from PostgreSQL.
pub struct PostgresFeed {
    events: mpsc::Receiver<Received>,
    state: watch::Receiver<FeedState>,
    reopen: Reopen,
    stop: CancellationToken,
    keeper: JoinSet<()>,
}

impl PostgresFeed {
    pub(super) fn open(access: Access, window: Duration) -> Self {
        let (sender, events) = mpsc::channel(QUEUE);
        let (states, state) = watch::channel(FeedState::Opening(None));
        let (reopen, stop) = (Reopen::default(), CancellationToken::new());
        let keeper = Keeper {
            access,
            window: i64::try_from(window.as_micros()).unwrap_or(i64::MAX),
            events: sender,
            states,
            reopen: reopen.clone(),
            sessions: TaskTracker::new(),
            newest: None,
            why: String::new(),
            tries: 0,
        };
        let mut task = JoinSet::new();
        task.spawn(keeper.run(stop.clone()));
        Self { events, state, reopen, stop, keeper: task }
    }
}

#[async_trait]
impl Feed for PostgresFeed {
    async fn next(&mut self) -> Option<Received> {
        self.events.recv().await
    }

    fn state(&self) -> watch::Receiver<FeedState> {
        self.state.clone()
    }

    fn reopen(&self) -> Reopen {
        self.reopen.clone()
    }

    fn order(&self) -> Order {
        Order::Total
    }

    fn reaches_back(&self) -> bool {
        true
    }

    async fn close(&mut self) {
        self.events.close();
        self.stop.cancel();
        while self.keeper.join_next().await.is_some() {}
        while self.events.try_recv().is_ok() {}
    }
}

/// Task behind a feed. If it is aborted, the server ends its session: nothing is left behind.
struct Keeper {
    access: Access,
    /// Time back to which the first generation reaches, in microseconds.
    window: i64,
    events: mpsc::Sender<Received>,
    states: watch::Sender<FeedState>,
    reopen: Reopen,
    /// Connections of this feed that have not ended.
    sessions: TaskTracker,
    /// Position of the newest event read.
    newest: Option<i64>,
    /// Why there is no feed, and how often that was so in a row.
    why: String,
    tries: u32,
}

impl Keeper {
    async fn run(mut self, stop: CancellationToken) {
        let mut wait = BACKOFF.0;
        loop {
            let newest = self.newest;
            let Some(why) = stop.run_until_cancelled(self.run_generation()).await else { break };
            self.report(why);
            if self.newest > newest {
                // The generation brought something, so the next one may begin at once.
                (wait, self.tries) = (BACKOFF.0, 0);
            }
            let pause = sleep(wait.mul_f64(rand::random_range(0.5..1.0)));
            if stop.run_until_cancelled(pause).await.is_none() {
                break;
            }
            wait = (wait * 2).min(BACKOFF.1);
        }
        self.sessions.close();
        if timeout(END_TIMEOUT, self.sessions.wait()).await.is_err() {
            tracing::debug!("a connection has not ended yet");
        }
        self.states.send_replace(FeedState::Closed);
    }

    /// Shows and logs why no feed is open, and how often it was tried. Repeats of a reason are
    /// logged ever less often.
    fn report(&mut self, why: String) {
        self.tries = if self.why == why { self.tries + 1 } else { 1 };
        self.why.clone_from(&why);
        let tries = self.tries;
        if tries.is_power_of_two() {
            tracing::warn!(why, tries, "feed not open");
        }
        let times = if tries > 1 { format!(" (tried {tries} times)") } else { String::new() };
        self.states.send_replace(FeedState::Opening(Some(why + &times)));
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
        self.states.send_replace(FeedState::Open(generation.clone()));
        let reopen = self.reopen.clone();
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
                if self.events.send(row::received(row, position)).await.is_err() {
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
