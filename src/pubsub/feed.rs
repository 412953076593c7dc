//! A pod's own subscription and its streaming pull, kept alive through everything.
//!
//! There is one way to recover, whatever went wrong: delete the feed, create one under a new name, seek it back to the last
//! time seen less a margin, carry on. Repeats are the reader's to drop. A name is never used twice: a stream that died on it
//! may go on stealing its messages for a minute.

use std::{
    convert::Infallible,
    future::pending,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use google_cloud_pubsub::{
    client::Subscriber,
    model::Message,
    subscriber::{MessageStream, ShutdownBehavior, handler::Handler},
};
use tokio::{
    select,
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::admin::Admin;
use crate::{
    broker::{Ack, Feed, FeedState, Received},
    event::cloudevent,
};

/// How many messages wait between the stream and the relay.
const QUEUE: usize = 1_024;

/// How far behind the last published time that was seen a new feed begins: the topic's times are not quite in order.
const MARGIN: Duration = Duration::from_secs(30);

/// Between two tries, growing from the first to the second of these, less up to a half by chance.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

/// A feed that lived as long as this is made anew at once.
const HEALTHY: Duration = Duration::from_secs(10);

/// A pod's way in from Pub/Sub.
pub struct PubSubFeed {
    events: mpsc::Receiver<Received>,
    state: watch::Receiver<FeedState>,
    stop: CancellationToken,
    keeper: JoinSet<()>,
}

impl PubSubFeed {
    pub(super) fn open(admin: Admin, subscriber: Subscriber) -> Self {
        let (sender, events) = mpsc::channel(QUEUE);
        let (states, state) = watch::channel(FeedState::Opening(None));
        let stop = CancellationToken::new();
        let keeper = Keeper { admin, subscriber, events: sender, states, stop: stop.clone(), seen: None };
        let mut task = JoinSet::new();
        task.spawn(keeper.run());
        Self { events, state, stop, keeper: task }
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
    admin: Admin,
    subscriber: Subscriber,
    events: mpsc::Sender<Received>,
    states: watch::Sender<FeedState>,
    stop: CancellationToken,
    /// The latest published time that came through.
    seen: Option<SystemTime>,
}

impl Keeper {
    async fn run(mut self) {
        let mut wait = BACKOFF.0;
        let mut is_first = true;
        while !self.stop.is_cancelled() {
            let began = Instant::now();
            let why = match self.admin.create_feed(self.since()).await {
                Ok(name) => {
                    tracing::info!(feed = name, "feed open");
                    let why = self.live(&name, is_first).await;
                    is_first = false;
                    self.admin.delete_feed(&name).await;
                    why
                }
                Err(error) => describe(&error),
            };
            if self.stop.is_cancelled() {
                break;
            }
            tracing::warn!(why, "feed not open");
            self.states.send_replace(FeedState::Opening(Some(why)));
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
        self.states.send_replace(FeedState::Closed);
    }

    /// Where a new feed begins.
    fn since(&self) -> SystemTime {
        let reach =
            SystemTime::now().checked_sub(self.admin.replay_window()).unwrap_or(SystemTime::UNIX_EPOCH);
        self.seen.and_then(|seen| seen.checked_sub(MARGIN)).map_or(reach, |seen| seen.max(reach))
    }

    /// One life of the feed, until it fails or is stopped, and why it ended.
    async fn live(&mut self, name: &str, is_first: bool) -> String {
        let stream =
            self.subscriber.subscribe(name).set_shutdown_behavior(ShutdownBehavior::NackImmediately).build();
        let shutdown = stream.shutdown_token();
        // Alone in its task: `next` dropped before the first message leaves a puller behind that steals messages.
        let mut reader = JoinSet::new();
        reader.spawn(read(stream, self.events.clone()));
        self.states.send_replace(FeedState::Open);
        let tidy = async {
            if is_first {
                self.admin.delete_earlier_feeds(name).await;
            }
            pending::<Infallible>().await
        };
        select! {
            never = tidy => match never {},
            ended = reader.join_next() => {
                let Some(Ok(Ended { seen, why })) = ended else { return "the reader failed".to_owned() };
                self.seen = self.seen.max(seen);
                why
            }
            () = self.stop.cancelled() => {
                shutdown.shutdown().await;
                while reader.join_next().await.is_some() {}
                "stopped".to_owned()
            }
        }
    }
}

/// How a stream ended.
struct Ended {
    seen: Option<SystemTime>,
    why: String,
}

async fn read(mut stream: MessageStream, events: mpsc::Sender<Received>) -> Ended {
    let mut seen = None;
    let why = loop {
        match stream.next().await {
            Some(Ok((message, handler))) => {
                let received = receive(&message, handler);
                seen = seen.max(received.event.as_ref().ok().and_then(|event| event.published));
                if events.send(received).await.is_err() {
                    break "nobody listens".to_owned();
                }
            }
            Some(Err(error)) => break describe(&error),
            None => break "the stream ended".to_owned(),
        }
    };
    Ended { seen, why }
}

fn receive(message: &Message, handler: Handler) -> Received {
    let published = message.publish_time.and_then(|time| SystemTime::try_from(time).ok());
    let attribute = |name: &str| message.attributes.get(name).map(String::as_str);
    let event = cloudevent::decode(attribute, message.data.clone(), published);
    if let Err(error) = &event {
        tracing::warn!(message = message.message_id, %error, "message holds no event");
    }
    Received { event, ack: Ack::new(move || handler.ack()) }
}

/// The error with all its causes, for people.
fn describe(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
