//! Feed of a pod's own subscription and its streaming pull, kept open through every failure.
//!
//! There is one way to recover from every failure, including a reader's report that nothing comes
//! ([`Reopen`](crate::broker::Reopen)). The feed is created under a new name with new connections. It is sought back to
//! the last heartbeat seen, less a margin. The old feed is deleted. The reader drops repeats. A
//! name must never be used twice: a stream that died on it may go on taking its messages for a
//! minute. Tries to recover must never use up what they need: a pod has two feeds at most.

pub(super) mod reader;

use std::time::{Duration, SystemTime};

use google_cloud_gax::error::rpc::Code;
use google_cloud_pubsub::subscriber::{MessageStream, ShutdownBehavior};
use tokio::{
    select,
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};

use self::reader::{Reader, Seen, Twins, fill};
use super::{
    admin::{AdminError, NewFeed, NoFeed, code},
    clients::Clients,
};
use crate::broker::kept_feed::{Controls, KeptFeed};

/// Most messages that wait between the stream and the relay. At the limit the reader waits.
const QUEUE: usize = 1_024;

/// Bytes that a stream may have on its way to the relay: 20 MiB, far more than a second of events.
/// The client would take 100 MiB.
const MAX_OUTSTANDING_BYTES: i64 = 20 << 20;

/// How far before the last heartbeat seen a new feed begins, since the topic's times are not quite
/// in order.
const MARGIN: Duration = Duration::from_secs(30);

/// How far ahead this pod's clock may be, if the first generation brought no heartbeat: then the
/// next one begins earlier by this much. It brings more only if the topic retains more.
const CLOCK_RESERVE: Duration = Duration::from_secs(24 * 60 * 60);

/// Time after which a message that was on its way when its stream broke comes again. It is the
/// least that Pub/Sub accepts, since clients' cursors go on while the message is missing
/// ([`REPEAT`](crate::hub::window::REPEAT)).
const ACK_DEADLINE: Duration = Duration::from_secs(10);

/// Pause between two tries. After a quota was used up it has the second value at once. A pod must
/// be back within 20 s of a repair.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));

/// Reason of the end of a generation that its reader gave up.
const SILENT: &str = "nothing came through it";

/// How long a stream that is given up may take to end. A stream without a network does not end at
/// all.
pub(super) const STREAM_END_TIMEOUT: Duration = Duration::from_secs(2);

/// Pause between two tries to delete feeds that could not be deleted.
const DELETE_PAUSE: Duration = Duration::from_secs(60);

/// Most feeds to delete that are remembered. Beyond it the oldest is forgotten. More arise only
/// from a pod that ended repeatedly, and it searches for them until none is left.
const MAX_LEFTOVERS: usize = 64;

/// Opens the feed of one pod.
pub(super) fn open(clients: Clients) -> KeptFeed {
    let (feed, controls) = KeptFeed::new(QUEUE, BACKOFF);
    feed.kept_by(Keeper::new(clients, controls).run())
}

/// Task behind a feed. If it is aborted, the janitor of another pod deletes its subscription.
struct Keeper {
    clients: Clients,
    controls: Controls,
    /// Newest heartbeat that came through.
    seen: watch::Sender<Seen>,
    /// Whether the first generation began too late, or may have, because this pod's clock is ahead.
    began_late: bool,
    /// Feeds still to be deleted: those of ended generations, and those that may or may not have
    /// been created.
    leftovers: Vec<String>,
    has_found_earlier_feeds: bool,
}

impl Keeper {
    fn new(clients: Clients, controls: Controls) -> Self {
        Self {
            clients,
            controls,
            seen: watch::Sender::new(None),
            began_late: false,
            leftovers: Vec::new(),
            has_found_earlier_feeds: false,
        }
    }

    async fn run(mut self) {
        while !self.controls.stop.is_cancelled() {
            let seen = *self.seen.borrow();
            let since = self.since();
            let why = match self.create(since).await {
                Ok((name, second)) => {
                    tracing::info!(feed = name, "feed open");
                    let mut why = self.run_generation(&name, second, since).await;
                    if why == SILENT {
                        // The seek may have led to a time to come.
                        self.began_late |= self.seen.borrow().is_none();
                        why = self.explain(why, &name).await;
                    }
                    self.add_leftover(name);
                    why
                }
                Err(error) => {
                    self.tidy_after(&error).await;
                    if code(&error) == Some(Code::ResourceExhausted) {
                        self.controls.back_off();
                    }
                    error.to_string()
                }
            };
            if self.controls.stop.is_cancelled() {
                break;
            }
            self.controls.report(why);
            self.renew().await;
            if self.seen.borrow().is_some_and(|now| Some(now) > seen) {
                self.controls.succeed();
            } else {
                self.controls.pause().await;
            }
        }
        self.delete_leftovers().await;
        self.controls.close();
    }

    /// Adds to the end of a generation that brought nothing what the service says about its stream.
    async fn explain(&self, why: String, name: &str) -> String {
        match self.clients.probe(name).await {
            Some(cause) => format!("{why}: {cause}"),
            None => why,
        }
    }

    /// Deletes what earlier tries have left, also while no feed is open. A full quota may be full
    /// of the feeds of this pod's earlier processes.
    async fn tidy_after(&mut self, error: &AdminError) {
        if error.is_away() {
            return;
        }
        if code(error) == Some(Code::ResourceExhausted) {
            self.find_earlier_feeds("").await;
        }
        self.delete_leftovers().await;
    }

    /// Creates a feed and, unless it is whole, a second one. What the first feed left out during
    /// its creation was published before the second existed, so the second has it.
    async fn create(&mut self, since: SystemTime) -> Result<(String, Option<String>), AdminError> {
        while self.leftovers.len() > self.clients.admin.spare_feeds() {
            self.clients.admin.delete_feed(&self.leftovers[0]).await?;
            self.leftovers.remove(0);
        }
        let (name, feed) = self.create_one(since).await?;
        self.controls.set_reaches_back(feed.reaches_back);
        if !feed.reaches_back && self.controls.tries() == 0 {
            let cure = "see relay doctor";
            tracing::warn!(
                cure,
                "the topic retains nothing: clients cannot resume from before a pod's start"
            );
        }
        if feed.is_whole {
            return Ok((name, None));
        }
        match self.create_one(since).await {
            Ok((second, _)) => Ok((name, Some(second))),
            Err(error) => {
                self.add_leftover(name);
                Err(error)
            }
        }
    }

    async fn create_one(&mut self, since: SystemTime) -> Result<(String, NewFeed), AdminError> {
        let name = self.clients.admin.new_name();
        match self.clients.admin.create_feed(&name, since).await {
            Ok(feed) => Ok((name, feed)),
            Err(NoFeed { error, may_exist }) => {
                if may_exist {
                    self.add_leftover(name);
                }
                Err(error)
            }
        }
    }

    fn add_leftover(&mut self, name: String) {
        if self.leftovers.len() == MAX_LEFTOVERS {
            self.leftovers.remove(0);
        }
        self.leftovers.push(name);
    }

    /// Replaces the clients by new ones with connections of their own. A connection that was cut
    /// off may look alive for many minutes.
    async fn renew(&mut self) {
        match self.clients.reconnect().await {
            Ok(clients) => self.clients = clients,
            Err(error) => tracing::warn!(%error, "clients not renewed"),
        }
    }

    /// Returns the time from which a new feed begins: before the last heartbeat that came through.
    /// That heartbeat must come once more, so that the relay can prove that nothing was lost
    /// ([`crate::membership`] explains it). The topic's clock counts; this pod's own is used only
    /// before the first heartbeat.
    fn since(&self) -> SystemTime {
        let window = self.clients.admin.replay_window();
        let before = |time: SystemTime, span| time.checked_sub(span).unwrap_or(SystemTime::UNIX_EPOCH);
        let Some((seen, came)) = *self.seen.borrow() else {
            let reserve = if self.began_late { CLOCK_RESERVE } else { Duration::ZERO };
            return before(SystemTime::now(), window + reserve);
        };
        let reach = before(seen + came.elapsed(), window);
        if self.began_late { reach } else { reach.max(before(seen, MARGIN)) }
    }

    /// Waits until a heartbeat comes that is older than the begin of its feed. Then this pod's
    /// clock is ahead, and the feed has left out what it should have brought.
    async fn begins_too_late(mut seen: watch::Receiver<Seen>, since: SystemTime) {
        let is_older = |seen: &Seen| seen.is_some_and(|(published, _)| published + MARGIN < since);
        // An error would mean that the keeper is gone.
        let _ = seen.wait_for(is_older).await;
    }

    /// Runs one generation of the feed until it fails or is stopped. Returns the reason of its end.
    async fn run_generation(&mut self, name: &str, second: Option<String>, since: SystemTime) -> String {
        let (is_first, begin) = (self.seen.borrow().is_none(), self.seen.subscribe());
        let (subscriber, twins) = (self.clients.subscriber.clone(), Twins::new());
        let stream = subscriber
            .subscribe(name)
            .set_shutdown_behavior(ShutdownBehavior::NackImmediately)
            .set_max_lease_extension(ACK_DEADLINE)
            .set_max_outstanding_bytes(MAX_OUTSTANDING_BYTES)
            .build();
        let second = second.map(|second| {
            let stream = subscriber.subscribe(&second).build();
            // The last of the leftovers, so that it is deleted first.
            self.add_leftover(second);
            self.reader(stream, &twins, true)
        });
        let shutdown = stream.shutdown_token();
        // Alone in its task: if `next` is dropped before the first message, a puller stays behind
        // that takes messages.
        let mut reader = JoinSet::new();
        if second.is_none() {
            twins.end().await;
        }
        reader.spawn(self.reader(stream, &twins, false).run(self.controls.events.clone()));
        // Other pods get the name without the project, which may be of any length.
        let generation = name.rsplit('/').next().unwrap_or(name);
        self.controls.open(generation.into());
        let (reopen, stop) = (self.controls.reopen.clone(), self.controls.stop.clone());
        let events = self.controls.events.clone();
        let tidy = async {
            if let Some(second) = second {
                fill(second, events).await;
            }
            // Known leftovers first, which does not take long.
            self.delete_leftovers().await;
            loop {
                self.find_earlier_feeds(name).await;
                self.delete_leftovers().await;
                sleep(DELETE_PAUSE).await;
            }
        };
        let why = select! {
            never = tidy => match never {},
            ended = reader.join_next() => {
                let Some(Ok(why)) = ended else { return "the reader failed".to_owned() };
                return why;
            }
            () = reopen.asked(generation) => SILENT.to_owned(),
            () = Self::begins_too_late(begin, since), if is_first => {
                self.began_late = true;
                "this pod's clock is ahead of the topic's, so that the feed began too late".to_owned()
            }
            () = stop.cancelled() => "stopped".to_owned(),
        };
        self.controls.end(&why);
        let ended = timeout(STREAM_END_TIMEOUT, async {
            shutdown.shutdown().await;
            while reader.join_next().await.is_some() {}
        });
        if ended.await.is_err() {
            tracing::debug!(feed = name, "stream left to itself");
        }
        why
    }

    fn reader(&self, stream: MessageStream, twins: &Twins, is_second: bool) -> Reader {
        let (settings, seen) = (self.clients.settings.clone(), self.seen.clone());
        Reader { stream, settings, twins: twins.clone(), is_second, seen }
    }

    /// Finds the feeds that earlier processes of this pod left behind. It searches again until it
    /// has found no more than [`MAX_LEFTOVERS`].
    async fn find_earlier_feeds(&mut self, current: &str) {
        if !self.has_found_earlier_feeds {
            match self.clients.admin.own_feeds().await {
                Ok(feeds) => {
                    self.has_found_earlier_feeds = feeds.len() <= MAX_LEFTOVERS;
                    self.leftovers.retain(|leftover| !feeds.contains(leftover));
                    feeds.into_iter().filter(|feed| feed != current).for_each(|feed| self.add_leftover(feed));
                }
                Err(error) => tracing::warn!(%error, "feeds of an earlier generation are not looked for"),
            }
        }
    }

    /// Deletes the leftover feeds, the last one first. It runs once the next feed is open, after a
    /// feed could not be created, and at the end. A feed that cannot be deleted is
    /// kept, and so is the one at which this is cancelled.
    async fn delete_leftovers(&mut self) {
        for n in (0..self.leftovers.len()).rev() {
            if self.clients.admin.delete_feed(&self.leftovers[n]).await.is_ok() {
                self.leftovers.remove(n);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    };

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;
    use crate::broker::pubsub::Settings;

    /// Answers every call with this status, and with a body that repeats it.
    async fn serve(listener: TcpListener, status: Arc<AtomicU16>) {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let status = status.load(Ordering::Relaxed);
            let word = if status == 403 { "PERMISSION_DENIED" } else { "UNAVAILABLE" };
            let body = format!(r#"{{"error":{{"code":{status},"status":"{word}"}}}}"#);
            let head =
                format!("HTTP/1.1 {status} X\r\ncontent-type: application/json\r\nconnection: close\r\n");
            let length = body.len();
            assert_ne!(socket.read(&mut [0; 4_096]).await.unwrap(), 0);
            let answer = format!("{head}content-length: {length}\r\n\r\n{body}");
            socket.write_all(answer.as_bytes()).await.unwrap();
        }
    }

    #[tokio::test]
    async fn possibly_created_feed_is_remembered_until_deleted() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let emulator = Some(listener.local_addr().unwrap().to_string());
        let (project, topic, pod) = ("p-1".to_owned(), "events".to_owned(), "pod".to_owned());
        let replay_window = Duration::from_secs(600);
        let settings = Settings { project, topic, pod, emulator, endpoint: None, proxy: None, replay_window };
        let access = settings.access().unwrap();
        let status = Arc::new(AtomicU16::new(503));
        let mut server = JoinSet::new();
        server.spawn(serve(listener, status.clone()));
        let (_feed, controls) = KeptFeed::new(1, BACKOFF);
        let mut keeper = Keeper::new(Clients::connect(settings, access).await.unwrap(), controls);

        status.store(403, Ordering::Relaxed);
        keeper.create(SystemTime::now()).await.unwrap_err();
        assert!(keeper.leftovers.is_empty(), "a refused call has created nothing");
        status.store(503, Ordering::Relaxed);
        keeper.create(SystemTime::now()).await.unwrap_err();
        let [leftover] = &keeper.leftovers[..] else { panic!("{:?}", keeper.leftovers) };
        assert!(leftover.starts_with("projects/p-1/subscriptions/events.pod."), "{leftover}");
        keeper.delete_leftovers().await;
        assert_eq!(keeper.leftovers.len(), 1, "the feed could not be deleted");
        status.store(200, Ordering::Relaxed);
        keeper.delete_leftovers().await;
        assert!(keeper.leftovers.is_empty());

        for n in 0..=MAX_LEFTOVERS {
            keeper.add_leftover(n.to_string());
        }
        assert_eq!((keeper.leftovers.len(), &*keeper.leftovers[0]), (MAX_LEFTOVERS, "1"));
    }
}
