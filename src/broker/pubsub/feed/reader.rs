//! Reader of a feed's stream, and the rules by which two feeds of one pod are read as one.
//!
//! A second feed is for emulators only: their new feeds leave out what is published during their
//! creation. The second feed must never be read for longer than it takes to fill that in.

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
    sync::{Mutex, watch},
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::{
    broker::{
        Ack, Received,
        pubsub::{Settings, cause::Cause},
        queue,
    },
    event::{Foreign, HEARTBEAT, cloudevent},
};

/// Time without a message after which a second feed that has brought some has nothing more: ten of
/// the emulator's ticks.
const QUIET: Duration = Duration::from_millis(500);

/// Time after which a second feed that brings nothing is given up. A feed that works brings the
/// pod's own heartbeat, at least.
const MUTE: Duration = Duration::from_secs(10);

/// Time after which a second feed has brought everything old: two of the emulator's ticks. It
/// counts from the first message newer than the feed itself, such as the pod's own heartbeat.
const PASSED: Duration = Duration::from_millis(100);

/// Hands on what a second feed has of the time before its creation, then gives the second feed up.
pub(super) async fn fill(second: Reader, events: queue::Sender) {
    let twins = second.twins.clone();
    let mut reader = JoinSet::new();
    reader.spawn(second.run(events));
    while reader.try_join_next().is_none() && !twins.0.lock().await.is_filled() {
        sleep(PASSED / 4).await;
    }
    twins.end().await;
}

/// Messages that two feeds of one pod have handed on, so that neither repeats the other. A feed may
/// repeat itself, since then it was asked to.
#[derive(Clone)]
pub(super) struct Twins(Arc<Mutex<Handed>>);

struct Handed {
    by_first: HashSet<String>,
    by_second: HashSet<String>,
    /// Time at which the second feed was created.
    opened: Instant,
    /// The same time by the system clock, to compare with an emulator on this machine.
    created: SystemTime,
    /// Time of the last message of the second feed. Its stream may take time to open, so silence
    /// before the first message proves nothing.
    last_of_second: Option<Instant>,
    /// Time at which the first message newer than the second feed came from it.
    passed: Option<Instant>,
    /// The second feed has nothing more, so the first feed's messages need not be remembered.
    is_over: bool,
}

impl Twins {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(Handed::new())))
    }

    /// Marks that there is no second feed, or that it has nothing more.
    pub(super) async fn end(&self) {
        self.0.lock().await.is_over = true;
    }
}

impl Handed {
    fn new() -> Self {
        let (by_first, by_second) = Default::default();
        let (opened, created) = (Instant::now(), SystemTime::now());
        Self { by_first, by_second, opened, created, last_of_second: None, passed: None, is_over: false }
    }

    fn is_filled(&self) -> bool {
        let is_past = |since: Option<Instant>, limit| since.is_some_and(|since| since.elapsed() >= limit);
        is_past(self.passed, PASSED)
            || is_past(self.last_of_second, QUIET)
            || is_past(Some(self.opened), MUTE)
    }

    fn is_repeat(&mut self, is_second: bool, received: &Received) -> bool {
        if is_second {
            let now = Instant::now();
            self.last_of_second = Some(now);
            let published = received.event.as_ref().ok().and_then(|event| event.published);
            if published > Some(self.created) {
                self.passed.get_or_insert(now);
            }
        }
        let Self { by_first, by_second, is_over, .. } = self;
        let (own, other) = if is_second { (by_second, by_first) } else { (by_first, by_second) };
        let is_repeat = other.contains(&received.message_id);
        if !is_repeat && !*is_over {
            own.insert(received.message_id.clone());
        }
        is_repeat
    }
}

/// Time of publishing of a heartbeat, and the time at which it came. Both together show the topic's
/// time, whatever this pod's clock says.
pub(in crate::broker::pubsub) type Seen = Option<(SystemTime, Instant)>;

/// Reader of one stream.
pub(in crate::broker::pubsub) struct Reader {
    pub(super) stream: MessageStream,
    pub(super) settings: Settings,
    pub(super) twins: Twins,
    pub(super) is_second: bool,
    /// Newest heartbeat that came through.
    pub(super) seen: watch::Sender<Seen>,
}

impl Reader {
    /// Creates the reader of a feed without a second feed.
    pub(in crate::broker::pubsub) fn only(
        stream: MessageStream,
        settings: Settings,
        seen: watch::Sender<Seen>,
    ) -> Self {
        let mut handed = Handed::new();
        handed.is_over = true;
        Self { stream, settings, twins: Twins(Arc::new(Mutex::new(handed))), is_second: false, seen }
    }

    /// Reads to the end of the stream. Returns the reason of the end.
    pub(in crate::broker::pubsub) async fn run(mut self, events: queue::Sender) -> String {
        loop {
            let (message, handler) = match self.stream.next().await {
                Some(Ok(message)) => message,
                Some(Err(error)) => return Cause::of("receive", &self.settings, &error).to_string(),
                None => return "the stream ended".to_owned(),
            };
            // Held until the message is handed on, or the next message of the other feed could
            // overtake it.
            let mut handed = self.twins.0.lock().await;
            let received = receive(message, handler);
            if handed.is_repeat(self.is_second, &received) {
                received.ack.ack();
                continue;
            }
            let heartbeat = received.event.as_ref().ok().filter(|event| *event.kind == *HEARTBEAT);
            let published = heartbeat.and_then(|heartbeat| heartbeat.published);
            if events.send(received).await.is_err() {
                return "the relay no longer reads".to_owned();
            }
            let came = published.map(|published| (published, Instant::now()));
            self.seen.send_modify(|seen| *seen = (*seen).max(came));
        }
    }
}

fn receive(message: Message, handler: Handler) -> Received {
    let Message { message_id, publish_time, attributes, data, .. } = message;
    let published = publish_time.and_then(|time| SystemTime::try_from(time).ok());
    let attribute = |name: &str| attributes.get(name).map(String::as_str);
    let event = cloudevent::decode_or_keep(attribute, data, published, |data| {
        let attributes = attributes.clone().into_iter().collect();
        Foreign { attributes, data, published, message_id: message_id.clone() }
    });
    Received { event, message_id, ack: Ack::new(move || handler.ack()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from_second(handed: &mut Handed) {
        let event = crate::event::Event::new("/test".into(), "k", None, "{}".into());
        handed.is_repeat(true, &Received { event: Ok(event), message_id: "1".to_owned(), ack: Ack::none() });
    }

    #[tokio::test(start_paused = true)]
    async fn second_feed_stays_until_its_stream_opens() {
        let mut handed = Handed::new();
        sleep(QUIET * 4).await;
        assert!(!handed.is_filled(), "its stream may not be open yet");
        from_second(&mut handed);
        sleep(QUIET / 2).await;
        assert!(!handed.is_filled(), "more may come");
        sleep(QUIET / 2).await;
        assert!(handed.is_filled());
    }

    #[tokio::test(start_paused = true)]
    async fn mute_second_feed_is_given_up() {
        let handed = Handed::new();
        sleep(MUTE).await;
        assert!(handed.is_filled());
    }
}
