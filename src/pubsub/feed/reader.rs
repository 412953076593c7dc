//! What comes out of a feed's stream, and how two feeds of one pod are read as one.
//!
//! A second feed is for emulators only, whose new feeds leave out what is published while they are created. It must never be
//! read for longer than it takes to fill that in.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, SystemTime},
};

use google_cloud_pubsub::{
    model::Message,
    subscriber::{MessageStream, handler::Handler},
};
use tokio::{
    sync::{Mutex, mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep},
};

use super::describe;
use crate::{
    broker::{Ack, Received},
    event::{PULSE, cloudevent},
};

/// After so long without a message a second feed has nothing more: ten of the emulator's ticks.
const QUIET: Duration = Duration::from_millis(500);

/// After so long with something newer than itself, such as the pod's own pulse, a second feed has told what is older: two
/// ticks.
const PASSED: Duration = Duration::from_millis(100);

/// Hands on what a second feed has of the time before it was created.
pub(super) async fn fill(second: Reader, events: mpsc::Sender<Received>) {
    let twins = second.twins.clone();
    let mut reader = JoinSet::new();
    reader.spawn(second.run(events));
    while reader.try_join_next().is_none() && !twins.0.lock().await.is_filled() {
        sleep(PASSED / 4).await;
    }
    twins.end().await;
}

/// What two feeds of one pod have handed on, so that neither repeats the other. It may repeat itself: then it was asked to.
#[derive(Clone)]
pub(super) struct Twins(Arc<Mutex<Handed>>);

struct Handed {
    by_first: HashSet<String>,
    by_second: HashSet<String>,
    /// When the second feed was there, by the clock of an emulator on this machine, and when anything came from it.
    created: SystemTime,
    heard_second: Instant,
    /// When something newer than itself came from the second feed.
    passed: Option<Instant>,
    /// The second feed has no more: what the first hands on need not be kept.
    is_over: bool,
}

impl Twins {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(Handed::new())))
    }

    /// There is no second feed, or it has no more.
    pub(super) async fn end(&self) {
        self.0.lock().await.is_over = true;
    }
}

impl Handed {
    fn new() -> Self {
        let (by_first, by_second) = Default::default();
        let (created, heard_second) = (SystemTime::now(), Instant::now());
        Self { by_first, by_second, created, heard_second, passed: None, is_over: false }
    }

    fn is_filled(&self) -> bool {
        self.passed.is_some_and(|passed| passed.elapsed() >= PASSED) || self.heard_second.elapsed() >= QUIET
    }

    fn is_repeat(&mut self, is_second: bool, received: &Received, message: &str) -> bool {
        if is_second {
            let now = Instant::now();
            self.heard_second = now;
            let published = received.event.as_ref().ok().and_then(|event| event.published);
            if published > Some(self.created) {
                self.passed.get_or_insert(now);
            }
        }
        let Self { by_first, by_second, is_over, .. } = self;
        let (own, other) = if is_second { (by_second, by_first) } else { (by_first, by_second) };
        let is_repeat = other.contains(message);
        if !is_repeat && !*is_over {
            own.insert(message.to_owned());
        }
        is_repeat
    }
}

/// Reads one stream.
pub(in crate::pubsub) struct Reader {
    pub(super) stream: MessageStream,
    pub(super) twins: Twins,
    pub(super) is_second: bool,
    /// When the newest pulse that came through was published.
    pub(super) seen: watch::Sender<Option<SystemTime>>,
}

impl Reader {
    /// The reader of a feed that has no second.
    pub(in crate::pubsub) fn only(stream: MessageStream, seen: watch::Sender<Option<SystemTime>>) -> Self {
        let mut handed = Handed::new();
        handed.is_over = true;
        Self { stream, twins: Twins(Arc::new(Mutex::new(handed))), is_second: false, seen }
    }

    /// Reads to the stream's end, and says why that came.
    pub(in crate::pubsub) async fn run(mut self, events: mpsc::Sender<Received>) -> String {
        loop {
            let (message, handler) = match self.stream.next().await {
                Some(Ok(message)) => message,
                Some(Err(error)) => return describe(&error),
                None => return "the stream ended".to_owned(),
            };
            // Held until the message is handed on, or the other feed's next one could overtake it.
            let mut handed = self.twins.0.lock().await;
            let received = receive(&message, handler);
            if handed.is_repeat(self.is_second, &received, &message.message_id) {
                received.ack.ack();
                continue;
            }
            let pulse = received.event.as_ref().ok().filter(|event| *event.kind == *PULSE);
            let published = pulse.and_then(|pulse| pulse.published);
            if events.send(received).await.is_err() {
                return "nobody listens".to_owned();
            }
            self.seen.send_modify(|seen| *seen = (*seen).max(published));
        }
    }
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
