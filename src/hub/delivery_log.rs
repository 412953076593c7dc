//! [`DeliveryLog`]: what became of the last events, for whoever asks why somebody was, or was not, told.
//!
//! Kept only while it is switched on, and bounded: what is noted of an event is lost before the event itself. It decides
//! nothing about deliveries.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::SystemTime,
};

use serde::Serialize;

use super::{Relayed, watcher::Watcher};
use crate::audience::Viewer;

/// How many events are followed, and how many users of each and of all together are noted.
const MAX_EVENTS: usize = 10_000;
const MAX_TOLD: usize = 1_000;
const MAX_NOTES: usize = 200_000;

/// Why a user was told of an event, or was not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Answer {
    /// It was put into the queue of a connection of theirs, live or by a replay.
    Told,
    /// It was for them, and the queue of their connection was full, which ended the connection.
    QueueFull,
    /// They are its author.
    Author,
    /// They listen to none of its keys.
    NoCommonKey,
    /// It was published before this pod began, or so long ago that it may have come before: only who resumes from before it
    /// is told.
    BeforeStart,
    /// They had no watcher here that this event has a result for.
    NotConnected,
    /// So many were told that not all are noted.
    NotRecorded,
}

/// What became of the last events of one pod.
#[derive(Default)]
pub(super) struct DeliveryLog(Mutex<Book>);

#[derive(Default)]
struct Book {
    delivery_log: HashMap<Arc<str>, DeliveryRecord>,
    order: VecDeque<Arc<str>>,
    notes: usize,
}

/// What became of one event.
#[derive(Clone)]
pub struct DeliveryRecord {
    /// The event, as long as the window has it.
    relayed: Weak<Relayed>,
    /// When it came through the feed.
    pub received: SystemTime,
    /// Whether it was told live at all.
    pub is_news: bool,
    /// How many watchers it was for.
    pub matched: usize,
    /// How often it came again, and was dropped.
    pub repeats: u64,
    /// Who was told, or would have been but for a full queue.
    pub told: HashMap<Arc<str>, Answer>,
    /// Not all of them are noted.
    pub is_cut: bool,
}

impl DeliveryLog {
    pub(super) fn begin(&self, relayed: &Arc<Relayed>, is_news: bool, matched: usize) {
        let mut book = self.book();
        let id = relayed.event.id.clone();
        let record = DeliveryRecord {
            relayed: Arc::downgrade(relayed),
            received: SystemTime::now(),
            is_news,
            matched,
            repeats: 0,
            told: HashMap::new(),
            is_cut: false,
        };
        match book.delivery_log.insert(id.clone(), record) {
            Some(forgotten) => book.notes -= forgotten.told.len(),
            None => book.order.push_back(id),
        }
        while book.order.len() > MAX_EVENTS || book.notes > MAX_NOTES {
            let Some(oldest) = book.order.pop_front() else { return };
            book.notes -= book.delivery_log.remove(&oldest).map_or(0, |record| record.told.len());
        }
    }

    /// Notes that these watchers' queues have got it, or could not take it.
    pub(super) fn dispatched(&self, relayed: &Relayed, watchers: &[Arc<Watcher>]) {
        let mut book = self.book();
        for watcher in watchers {
            let answer = if watcher.send_queue.overflowed() { Answer::QueueFull } else { Answer::Told };
            book.note(&relayed.event.id, &watcher.viewer.user, answer);
        }
    }

    /// Notes that a replay brought it to this user.
    pub(super) fn replayed(&self, relayed: &Relayed, user: &Arc<str>) {
        self.book().note(&relayed.event.id, user, Answer::Told);
    }

    /// Notes that it came again.
    pub(super) fn repeat(&self, id: &str) {
        if let Some(record) = self.book().delivery_log.get_mut(id) {
            record.repeats += 1;
        }
    }

    /// The event and what became of it, if the window still has it.
    pub(super) fn find(&self, id: &str) -> Option<(Arc<Relayed>, DeliveryRecord)> {
        let book = self.book();
        let record = book.delivery_log.get(id)?;
        Some((record.relayed.upgrade()?, record.clone()))
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        // Nothing panics while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    fn note(&mut self, id: &str, user: &Arc<str>, answer: Answer) {
        let Some(record) = self.delivery_log.get_mut(id) else { return };
        if let Some(noted) = record.told.get_mut(user) {
            // Told on one connection is told.
            if *noted != Answer::Told {
                *noted = answer;
            }
        } else if record.told.len() >= MAX_TOLD {
            record.is_cut = true;
        } else {
            record.told.insert(user.clone(), answer);
            self.notes += 1;
        }
    }
}

impl DeliveryRecord {
    /// Why this user was told of the event, or was not. The viewer is what is known of them now, if anything is.
    #[must_use]
    pub fn answer(&self, relayed: &Relayed, user: &str, viewer: Option<&Viewer>) -> Answer {
        if relayed.audience.excludes(user) {
            return Answer::Author;
        }
        if let Some(answer) = self.told.get(user) {
            return *answer;
        }
        if viewer.is_some_and(|viewer| !relayed.audience.includes(viewer)) {
            return Answer::NoCommonKey;
        }
        match (self.is_news, self.is_cut) {
            (_, true) => Answer::NotRecorded,
            (false, _) => Answer::BeforeStart,
            (true, _) => Answer::NotConnected,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use async_trait::async_trait;
    use bytes::Bytes;

    use super::*;
    use crate::{
        audience::{Audience, Interests},
        domain::Fact,
        event::Event,
        hub::{Hub, Render, SendQueue, Watch, Watching, window::Bounds},
    };

    struct Echo;

    #[async_trait]
    impl Render for Echo {
        async fn render(&self, relayed: &Relayed) -> Option<Arc<str>> {
            Some(relayed.event.id.clone())
        }

        async fn render_again(&self, relayed: &Relayed) -> Option<Arc<str>> {
            self.render(relayed).await
        }

        fn gap(&self, reason: &str, _cursor: &str) -> Arc<str> {
            reason.into()
        }
    }

    fn hub() -> Hub {
        let bounds = Bounds { span: Duration::from_secs(600), bytes: 1 << 20 };
        let hub = Hub::new("t", bounds, SystemTime::now());
        hub.follow_events();
        hub
    }

    fn viewer(user: &str, key: &str) -> Arc<Viewer> {
        Arc::new(Viewer { user: user.into(), interests: Interests::new([key.into()]) })
    }

    fn watch(hub: &Hub, user: &str, limit: usize) -> Watching {
        let (viewer, send_queue) = (viewer(user, "k"), SendQueue::new(limit));
        hub.watch(Watch { id: 1, field: "f".into(), viewer, operation: Arc::new(Echo), send_queue })
    }

    async fn dispatch(hub: &Hub, is_news: bool) -> Arc<str> {
        let event = Event::new("/test".into(), "kind", None, Bytes::new());
        let (id, audience) = (event.id.clone(), Audience::new(["k".into()], Some("author".into())));
        hub.dispatch(event, Fact { field: Some("f"), audience, payload: Arc::new(()) }, is_news).await;
        id
    }

    fn answer(hub: &Hub, id: &str, user: &str, key: &str) -> Answer {
        let (relayed, record) = hub.explain(id).unwrap();
        record.answer(&relayed, user, Some(&viewer(user, key)))
    }

    #[tokio::test]
    async fn a_full_queue_a_repeat_and_an_event_from_before_are_told_apart() {
        let hub = hub();
        let _watching = [watch(&hub, "reads", 1 << 16), watch(&hub, "sleeps", 1)];
        dispatch(&hub, true).await;
        let id = dispatch(&hub, true).await;
        for (user, key, expected) in [
            ("reads", "k", Answer::Told),
            ("sleeps", "k", Answer::QueueFull),
            ("author", "k", Answer::Author),
            ("stranger", "other", Answer::NoCommonKey),
            ("away", "k", Answer::NotConnected),
        ] {
            assert_eq!(answer(&hub, &id, user, key), expected, "{user}");
        }
        hub.repeat(&id);
        assert_eq!(hub.explain(&id).unwrap().1.repeats, 1);
        let old = dispatch(&hub, false).await;
        assert_eq!(answer(&hub, &old, "reads", "k"), Answer::BeforeStart);
        assert!(hub.explain("nothing").is_none());
    }

    #[tokio::test]
    async fn what_is_noted_is_bounded() {
        let hub = hub();
        let _watching: Vec<_> = (0..=MAX_TOLD).map(|n| watch(&hub, &n.to_string(), 1 << 16)).collect();
        let id = dispatch(&hub, true).await;
        let (_, record) = hub.explain(&id).unwrap();
        assert_eq!((record.told.len(), record.is_cut, record.matched), (MAX_TOLD, true, MAX_TOLD + 1));
        let untold = (0..=MAX_TOLD).map(|n| n.to_string()).find(|user| !record.told.contains_key(&**user));
        assert_eq!(answer(&hub, &id, &untold.unwrap(), "k"), Answer::NotRecorded);
    }
}
