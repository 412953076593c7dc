//! A pod's own subscription and its streaming pull, kept alive through everything.
//!
//! There is one way to recover, whatever went wrong, the reader's own word that nothing comes ([`Reopen`]) included: create
//! a feed under a new name by new connections, seek it back to the last heartbeat seen less a margin, carry on, delete the old
//! one. Repeats are the reader's to drop. A name is never used twice: a stream that died on it may go on stealing its
//! messages for a minute.

pub(super) mod reader;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
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
use super::{
    Clients,
    admin::{AdminError, NewFeed},
};
use crate::broker::{Feed, FeedState, Received, Reopen};

/// How many messages wait between the stream and the relay.
const QUEUE: usize = 1_024;

/// How far behind the last heartbeat that was seen a new feed begins: the topic's times are not quite in order.
const MARGIN: Duration = Duration::from_secs(30);

/// How soon a message comes again that was on its way when its stream broke: the least that Pub/Sub takes, since the cursors of
/// those who wait for it go on meanwhile ([`REPEAT`](crate::hub::window::REPEAT)).
const ACK_DEADLINE: Duration = Duration::from_secs(10);

/// Between two tries, growing from the first to the second of these, less up to a half by chance.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

/// A feed that lived as long as this is made anew at once.
const HEALTHY: Duration = Duration::from_secs(10);

/// How long a stream that is given up may take to end. One whose network is gone does not end at all.
pub(super) const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Between two tries to delete what could not be deleted.
const CLEAR_AGAIN: Duration = Duration::from_secs(60);

/// Feeds to delete that are remembered: more are left only by an outage of minutes, in which none was made, or by a pod that
/// ended again and again, which are looked for until none is left.
const MAX_LEFT: usize = 64;

/// A pod's way in from Pub/Sub.
pub struct PubSubFeed {
    events: mpsc::Receiver<Received>,
    state: watch::Receiver<FeedState>,
    reopen: Reopen,
    reaches_back: Arc<AtomicBool>,
    stop: CancellationToken,
    keeper: JoinSet<()>,
}

impl PubSubFeed {
    pub(super) fn open(clients: Clients) -> Self {
        let (sender, events) = mpsc::channel(QUEUE);
        let (states, state) = watch::channel(FeedState::Opening(None));
        let (reopen, stop) = (Reopen::default(), CancellationToken::new());
        let reaches_back = Arc::new(AtomicBool::new(false));
        let keeper = Keeper {
            clients,
            events: sender,
            states,
            reopen: reopen.clone(),
            reaches_back: reaches_back.clone(),
            stop: stop.clone(),
            seen: watch::Sender::new(None),
            left: Vec::new(),
            has_looked_back: false,
        };
        let mut task = JoinSet::new();
        task.spawn(keeper.run());
        Self { events, state, reopen, reaches_back, stop, keeper: task }
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

    fn reaches_back(&self) -> bool {
        self.reaches_back.load(Ordering::Relaxed)
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
    reaches_back: Arc<AtomicBool>,
    stop: CancellationToken,
    /// When the newest heartbeat that came through was published.
    seen: watch::Sender<Option<SystemTime>>,
    /// Feeds that are still to be deleted: of ended lives, and those of which it is not known whether they were made.
    left: Vec<String>,
    has_looked_back: bool,
}

impl Keeper {
    async fn run(mut self) {
        let mut wait = BACKOFF.0;
        while !self.stop.is_cancelled() {
            let began = Instant::now();
            let why = match self.create().await {
                Ok((name, second)) => {
                    tracing::info!(feed = name, "feed open");
                    let why = self.live(&name, second).await;
                    self.leave(name);
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
        let since = self.since();
        let (name, feed) = self.create_one(since).await?;
        self.reaches_back.store(feed.reaches_back, Ordering::Relaxed);
        if feed.is_whole {
            return Ok((name, None));
        }
        match self.create_one(since).await {
            Ok((second, _)) => Ok((name, Some(second))),
            Err(error) => {
                self.leave(name);
                Err(error)
            }
        }
    }

    async fn create_one(&mut self, since: SystemTime) -> Result<(String, NewFeed), AdminError> {
        let name = self.clients.admin.new_name();
        match self.clients.admin.create_feed(&name, since).await {
            Ok(feed) => Ok((name, feed)),
            Err(error) => {
                // Whatever went wrong, it may be there: an answer that did not come says nothing.
                if !matches!(error, AdminError::NoTopic(_)) {
                    self.leave(name);
                }
                Err(error)
            }
        }
    }

    fn leave(&mut self, name: String) {
        if self.left.len() == MAX_LEFT {
            self.left.remove(0);
        }
        self.left.push(name);
    }

    /// New clients, with connections of their own: one that was cut off may look alive for many minutes.
    async fn renew(&mut self) {
        match self.clients.again().await {
            Ok(clients) => self.clients = clients,
            Err(error) => tracing::warn!(error = describe(&error), "clients not renewed"),
        }
    }

    /// Where a new feed begins: before the last heartbeat that came through, which must come once more, so that the relay
    /// knows that nothing was lost between ([`crate::membership`] says why).
    fn since(&self) -> SystemTime {
        let reach = SystemTime::now()
            .checked_sub(self.clients.admin.replay_window())
            .unwrap_or(SystemTime::UNIX_EPOCH);
        let seen = *self.seen.borrow();
        seen.and_then(|seen| seen.checked_sub(MARGIN)).map_or(reach, |seen| seen.max(reach))
    }

    /// One life of the feed, until it fails or is stopped, and why it ended.
    async fn live(&mut self, name: &str, second: Option<String>) -> String {
        let subscriber = self.clients.subscriber.clone();
        let stream = subscriber
            .subscribe(name)
            .set_shutdown_behavior(ShutdownBehavior::NackImmediately)
            .set_max_lease_extension(ACK_DEADLINE)
            .build();
        let twins = Twins::new();
        let second = second.map(|second| {
            let stream = subscriber.subscribe(&second).build();
            // The last of them, so that it goes first.
            self.leave(second);
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
        // For the topic's pods it has the name that no project stands before, as long as it may be.
        let generation = name.rsplit('/').next().unwrap_or(name);
        self.states.send_replace(FeedState::Open(generation.into()));
        let (reopen, stop) = (self.reopen.clone(), self.stop.clone());
        let events = self.events.clone();
        let tidy = async {
            if let Some(second) = second {
                fill(second, events).await;
            }
            // First what was known before, which is soon done.
            self.clear().await;
            loop {
                self.look_back(name).await;
                self.clear().await;
                sleep(CLEAR_AGAIN).await;
            }
        };
        let why = select! {
            never = tidy => match never {},
            ended = reader.join_next() => {
                let Some(Ok(why)) = ended else { return "the reader failed".to_owned() };
                return why;
            }
            () = reopen.asked(generation) => "nothing came through it".to_owned(),
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

    /// Finds the feeds that earlier lives of this very pod left behind, until there were no more than it can remember.
    async fn look_back(&mut self, current: &str) {
        if !self.has_looked_back {
            match self.clients.admin.own_feeds().await {
                Ok(feeds) => {
                    self.has_looked_back = feeds.len() <= MAX_LEFT;
                    self.left.retain(|left| !feeds.contains(left));
                    feeds.into_iter().filter(|feed| feed != current).for_each(|feed| self.leave(feed));
                }
                Err(error) => tracing::warn!(%error, "feeds of an earlier generation are not looked for"),
            }
        }
    }

    /// Deletes the feeds of ended lives: not before the next one is open, or an outage would be longer by each call.
    /// The last one first. One that cannot be deleted is kept, and so is the one at which this is cancelled.
    async fn clear(&mut self) {
        for n in (0..self.left.len()).rev() {
            if self.clients.admin.delete_feed(&self.left[n]).await.is_ok() {
                self.left.remove(n);
            }
        }
    }
}

/// The error with all its causes, for people.
fn describe(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU16;

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;
    use crate::broker::pubsub::Settings;

    /// Answers every call with this status, and a body that says so.
    async fn serve(listener: TcpListener, status: Arc<AtomicU16>) {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let status = status.load(Ordering::Relaxed);
            let body = format!(r#"{{"error":{{"code":{status},"status":"UNAVAILABLE"}}}}"#);
            let head =
                format!("HTTP/1.1 {status} X\r\ncontent-type: application/json\r\nconnection: close\r\n");
            let length = body.len();
            assert_ne!(socket.read(&mut [0; 4_096]).await.unwrap(), 0);
            let answer = format!("{head}content-length: {length}\r\n\r\n{body}");
            socket.write_all(answer.as_bytes()).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_feed_that_may_be_there_is_remembered_until_it_is_deleted() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let emulator = Some(listener.local_addr().unwrap().to_string());
        let (project, topic, pod) = ("p-1".to_owned(), "events".to_owned(), "pod".to_owned());
        let replay_window = Duration::from_secs(600);
        let settings = Settings { project, topic, pod, emulator, replay_window };
        let status = Arc::new(AtomicU16::new(503));
        let mut server = JoinSet::new();
        server.spawn(serve(listener, status.clone()));
        let mut keeper = Keeper {
            clients: Clients::connect(settings).await.unwrap(),
            events: mpsc::channel(1).0,
            states: watch::Sender::new(FeedState::Opening(None)),
            reopen: Reopen::default(),
            reaches_back: Arc::default(),
            stop: CancellationToken::new(),
            seen: watch::Sender::new(None),
            left: Vec::new(),
            has_looked_back: false,
        };

        keeper.create().await.unwrap_err();
        let [left] = &keeper.left[..] else { panic!("{:?}", keeper.left) };
        assert!(left.starts_with("projects/p-1/subscriptions/events.pod."), "{left}");
        keeper.clear().await;
        assert_eq!(keeper.left.len(), 1, "it could not be deleted");
        status.store(200, Ordering::Relaxed);
        keeper.clear().await;
        assert!(keeper.left.is_empty());

        for n in 0..=MAX_LEFT {
            keeper.leave(n.to_string());
        }
        assert_eq!((keeper.left.len(), &*keeper.left[0]), (MAX_LEFT, "1"));
    }
}
