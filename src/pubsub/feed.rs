//! A pod's own subscription and its streaming pull, kept alive through everything.
//!
//! There is one way to recover, whatever went wrong, the reader's own word that nothing comes ([`Reopen`]) included: create
//! a feed under a new name by new connections, seek it back to the last pulse seen less a margin, carry on, delete the old
//! one. Repeats are the reader's to drop. A name is never used twice: a stream that died on it may go on stealing its
//! messages for a minute.

pub(super) mod reader;

use std::{
    convert::Infallible,
    future::pending,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use google_cloud_pubsub::subscriber::ShutdownBehavior;
use tokio::{
    select,
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use self::reader::{Reader, Twins, fill};
use super::{Clients, admin::AdminError};
use crate::broker::{Feed, FeedState, Received, Reopen};

/// How many messages wait between the stream and the relay.
const QUEUE: usize = 1_024;

/// How far behind the last pulse that was seen a new feed begins: the topic's times are not quite in order.
const MARGIN: Duration = Duration::from_secs(30);

/// Between two tries, growing from the first to the second of these, less up to a half by chance.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

/// A feed that lived as long as this is made anew at once.
const HEALTHY: Duration = Duration::from_secs(10);

/// How long a stream that is given up may take to end. One whose network is gone does not end at all.
pub(super) const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// A pod's way in from Pub/Sub.
pub struct PubSubFeed {
    events: mpsc::Receiver<Received>,
    state: watch::Receiver<FeedState>,
    reopen: Reopen,
    stop: CancellationToken,
    keeper: JoinSet<()>,
}

impl PubSubFeed {
    pub(super) fn open(clients: Clients) -> Self {
        let (sender, events) = mpsc::channel(QUEUE);
        let (states, state) = watch::channel(FeedState::Opening(None));
        let (reopen, stop) = (Reopen::default(), CancellationToken::new());
        let keeper = Keeper {
            clients,
            events: sender,
            states,
            reopen: reopen.clone(),
            stop: stop.clone(),
            seen: watch::Sender::new(None),
            left: Vec::new(),
        };
        let mut task = JoinSet::new();
        task.spawn(keeper.run());
        Self { events, state, reopen, stop, keeper: task }
    }
}

#[async_trait]
impl Feed for PubSubFeed {
    async fn next(&mut self) -> Option<Received> {
        self.events.recv().await
    }

    fn state(&self) -> watch::Receiver<FeedState> {
        self.state.clone()
    }

    fn reopen(&self) -> Reopen {
        self.reopen.clone()
    }

    async fn close(&mut self) {
        // First the queue, or a reader that waits for room in it would not hear of the stop.
        self.events.close();
        self.stop.cancel();
        while self.keeper.join_next().await.is_some() {}
        while self.events.try_recv().is_ok() {}
    }
}

/// The task behind a feed. Aborted, it leaves its subscription to the janitor.
struct Keeper {
    clients: Clients,
    events: mpsc::Sender<Received>,
    states: watch::Sender<FeedState>,
    reopen: Reopen,
    stop: CancellationToken,
    /// When the newest pulse that came through was published.
    seen: watch::Sender<Option<SystemTime>>,
    /// Feeds of ended lives, which are still to be deleted.
    left: Vec<String>,
}

impl Keeper {
    async fn run(mut self) {
        let mut wait = BACKOFF.0;
        let mut is_first = true;
        while !self.stop.is_cancelled() {
            let began = Instant::now();
            let why = match self.create().await {
                Ok((name, second)) => {
                    tracing::info!(feed = name, "feed open");
                    let why = self.live(&name, second, is_first).await;
                    is_first = false;
                    self.left.push(name);
                    why
                }
                Err(error) => describe(&error),
            };
            if self.stop.is_cancelled() {
                break;
            }
            tracing::warn!(why, "feed not open");
            self.states.send_replace(FeedState::Opening(Some(why)));
            self.renew().await;
            if began.elapsed() >= HEALTHY {
                wait = BACKOFF.0;
                continue;
            }
            select! {
                () = sleep(wait.mul_f64(rand::random_range(0.5..1.0))) => {}
                () = self.stop.cancelled() => {}
            }
            wait = (wait * 2).min(BACKOFF.1);
        }
        self.clear().await;
        self.states.send_replace(FeedState::Closed);
    }

    /// A new feed and, unless it is whole, a second one: what the first left out while it was created was there before the
    /// second, and so the second has it.
    async fn create(&mut self) -> Result<(String, Option<String>), AdminError> {
        let (admin, since) = (&self.clients.admin, self.since());
        let feed = admin.create_feed(since).await?;
        if feed.is_whole {
            return Ok((feed.name, None));
        }
        match admin.create_feed(since).await {
            Ok(second) => Ok((feed.name, Some(second.name))),
            Err(error) => {
                self.left.push(feed.name);
                Err(error)
            }
        }
    }

    /// New clients, with connections of their own: one that was cut off may look alive for many minutes.
    async fn renew(&mut self) {
        match self.clients.again().await {
            Ok(clients) => self.clients = clients,
            Err(error) => tracing::warn!(error = describe(&error), "clients not renewed"),
        }
    }

    /// Where a new feed begins: before the last pulse that came through, which must come once more, so that the relay
    /// knows that nothing was lost between ([`crate::fleet`] says why).
    fn since(&self) -> SystemTime {
        let reach = SystemTime::now()
            .checked_sub(self.clients.admin.replay_window())
            .unwrap_or(SystemTime::UNIX_EPOCH);
        let seen = *self.seen.borrow();
        seen.and_then(|seen| seen.checked_sub(MARGIN)).map_or(reach, |seen| seen.max(reach))
    }

    /// One life of the feed, until it fails or is stopped, and why it ended.
    async fn live(&mut self, name: &str, second: Option<String>, is_first: bool) -> String {
        let subscriber = &self.clients.subscriber;
        let stream =
            subscriber.subscribe(name).set_shutdown_behavior(ShutdownBehavior::NackImmediately).build();
        let twins = Twins::new();
        let second = second.map(|second| {
            let stream = subscriber.subscribe(&second).build();
            self.left.push(second);
            Reader { stream, twins: twins.clone(), is_second: true, seen: self.seen.clone() }
        });
        let shutdown = stream.shutdown_token();
        // Alone in its task: `next` dropped before the first message leaves a puller behind that steals messages.
        let mut reader = JoinSet::new();
        if second.is_none() {
            twins.end().await;
        }
        let first = Reader { stream, twins: twins.clone(), is_second: false, seen: self.seen.clone() };
        reader.spawn(first.run(self.events.clone()));
        self.states.send_replace(FeedState::Open(name.into()));
        let (reopen, stop) = (self.reopen.clone(), self.stop.clone());
        let events = self.events.clone();
        let tidy = async {
            if let Some(second) = second {
                fill(second, events).await;
                self.clear_last().await;
            }
            self.clear().await;
            if is_first {
                self.clients.admin.delete_earlier_feeds(name).await;
            }
            pending::<Infallible>().await
        };
        let why = select! {
            never = tidy => match never {},
            ended = reader.join_next() => {
                let Some(Ok(why)) = ended else { return "the reader failed".to_owned() };
                return why;
            }
            () = reopen.asked(name) => "nothing came through it".to_owned(),
            () = stop.cancelled() => "stopped".to_owned(),
        };
        if !self.stop.is_cancelled() {
            self.states.send_replace(FeedState::Opening(Some(why.clone())));
        }
        let ended = timeout(CLOSE_TIMEOUT, async {
            shutdown.shutdown().await;
            while reader.join_next().await.is_some() {}
        });
        if ended.await.is_err() {
            tracing::debug!(feed = name, "stream left to itself");
        }
        why
    }

    /// Deletes the feeds of ended lives: not before the next one is open, or an outage would be longer by each call.
    async fn clear(&mut self) {
        while !self.left.is_empty() {
            self.clear_last().await;
        }
    }

    async fn clear_last(&mut self) {
        if let Some(name) = self.left.last() {
            self.clients.admin.delete_feed(name).await;
            self.left.pop();
        }
    }
}

/// The error with all its causes, for people.
fn describe(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
