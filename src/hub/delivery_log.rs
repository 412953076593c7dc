//! [`DeliveryLog`]: what became of the last events, so that `/debug` can answer why a user did or
//! did not receive one.
//!
//! The log is kept only while it is switched on, and it is bounded: it may drop the record of an
//! event that the window still has. It must never decide about deliveries.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, Weak},
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

use tokio::time::Instant;

use super::{per_user::PerUser, relayed::Relayed, watcher::Watcher};
use crate::audience::Viewer;

/// Most events in the log. Beyond it the oldest events are removed.
const MAX_EVENTS: usize = 10_000;

/// Most users that are recorded for one event. Further users are not recorded.
const MAX_USERS: usize = 1_000;

/// Most users that are recorded for all events together. Beyond it the oldest events are removed.
const MAX_ANSWERS: usize = 200_000;

/// Why a user received an event, or did not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Answer {
    /// The event was put into the send queue of a connection of the user, live or by a replay.
    Told,
    /// The event was for the user, but the send queue of the connection was full, which ended the
    /// connection.
    QueueFull,
    /// The event was for the user, but what the user's subscriptions select is not in the event.
    Filtered,
    /// The user received a gap notice instead: events of that time are missing.
    Gap,
    /// The user is the event's author.
    Author,
    /// The user listens to none of the event's keys.
    NoCommonKey,
    /// The event was published before this pod began, or so long ago that it may have come before.
    /// Only a client that resumes from before the event receives it.
    BeforeStart,
    /// The user had no watcher on this pod that the event has a result for.
    NotConnected,
    /// So many users received the event that not all are recorded.
    NotRecorded,
    /// The connection of the user had ended, and the client resumed on another pod.
    ResumedElsewhere,
    /// The pod does not have the event.
    NotInWindow,
    /// An answer of a newer release.
    #[serde(other)]
    Other,
}

/// Delivery log of one pod.
pub(super) struct DeliveryLog(Mutex<Records>);

struct Records {
    by_event: HashMap<Arc<str>, DeliveryRecord>,
    /// Event ids, oldest first.
    order: VecDeque<Arc<str>>,
    /// Number of users in all records together.
    answers: usize,
    gaps: PerUser<GapNotice>,
}

/// Gap notice that a user received instead of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GapNotice {
    /// Reason that the client read.
    pub reason: &'static str,
    /// Time of publishing since which events may be missing.
    pub from: SystemTime,
    /// Time of publishing until which events may be missing.
    pub to: SystemTime,
}

impl GapNotice {
    /// Returns whether an event of this time of publishing may be among those that are missing.
    #[must_use]
    pub fn covers(&self, published: SystemTime) -> bool {
        (self.from..=self.to).contains(&published)
    }
}

/// Delivery record of one event.
#[derive(Clone)]
pub struct DeliveryRecord {
    /// Event, as long as the window has it.
    relayed: Weak<Relayed>,
    /// Time at which the event came through the feed.
    pub received: SystemTime,
    /// The same by the clock that never steps.
    pub arrived: Instant,
    /// Whether the event was news, and so delivered live.
    pub is_news: bool,
    /// Number of watchers that the event was for.
    pub matched: usize,
    /// Number of times that the event came again and was dropped.
    pub repeats: u64,
    /// Users that received the event, or whose subscriptions had a reason of their own.
    pub told: HashMap<Arc<str>, Answer>,
    /// Whether some of these users are not recorded.
    pub is_cut: bool,
}

impl DeliveryLog {
    /// Creates an empty log. It keeps gap notices for `span`.
    pub(super) fn new(span: Duration) -> Self {
        let (by_event, order) = (HashMap::new(), VecDeque::new());
        Self(Mutex::new(Records { by_event, order, answers: 0, gaps: PerUser::new(span) }))
    }

    pub(super) fn begin(&self, relayed: &Arc<Relayed>, is_news: bool, matched: usize) {
        let mut records = self.records();
        let id = relayed.position.event.clone();
        let record = DeliveryRecord {
            relayed: Arc::downgrade(relayed),
            received: SystemTime::now(),
            arrived: Instant::now(),
            is_news,
            matched,
            repeats: 0,
            told: HashMap::new(),
            is_cut: false,
        };
        match records.by_event.insert(id.clone(), record) {
            Some(replaced) => records.answers -= replaced.told.len(),
            None => records.order.push_back(id),
        }
        while records.order.len() > MAX_EVENTS || records.answers > MAX_ANSWERS {
            let Some(oldest) = records.order.pop_front() else { return };
            records.answers -= records.by_event.remove(&oldest).map_or(0, |record| record.told.len());
        }
    }

    /// Records that the send queues of these watchers have the event, or were full.
    pub(super) fn dispatched(&self, relayed: &Relayed, watchers: &[Arc<Watcher>]) {
        let mut records = self.records();
        for watcher in watchers {
            let answer = watcher.send_queue.overflowed().map_or(Answer::Told, |_| Answer::QueueFull);
            records.add(&relayed.position.event, &watcher.viewer.user, answer);
        }
    }

    /// Records that the operation of these watchers has no result for the event.
    pub(super) fn filtered(&self, relayed: &Relayed, watchers: &[Arc<Watcher>]) {
        let mut records = self.records();
        for watcher in watchers {
            records.add(&relayed.position.event, &watcher.viewer.user, Answer::Filtered);
        }
    }

    /// Records that these users received a gap notice.
    pub(super) fn gap<'a>(&self, users: impl IntoIterator<Item = &'a Arc<str>>, notice: GapNotice) {
        let mut records = self.records();
        for user in users {
            records.gaps.add(user, notice);
        }
    }

    /// Returns the last gap notice of the user that covers this time of publishing, and when the
    /// user received it; without a time the last of all.
    pub(super) fn gap_of(&self, user: &str, published: Option<SystemTime>) -> Option<(Instant, GapNotice)> {
        let records = self.records();
        let covers = |notice: &GapNotice| published.is_none_or(|published| notice.covers(published));
        records.gaps.of(user).find(|(_, notice)| covers(notice)).copied()
    }

    /// Returns the newest events that the window still has, `most` of them at most.
    pub(super) fn newest(&self, most: usize) -> Vec<(Arc<Relayed>, DeliveryRecord)> {
        let records = self.records();
        let newest = records.order.iter().rev().filter_map(|id| {
            let record = records.by_event.get(id)?;
            Some((record.relayed.upgrade()?, record.clone()))
        });
        newest.take(most).collect()
    }

    /// Records that a replay delivered the event to this user.
    pub(super) fn replayed(&self, relayed: &Relayed, user: &Arc<str>) {
        self.records().add(&relayed.position.event, user, Answer::Told);
    }

    /// Records that the event came again.
    pub(super) fn repeat(&self, id: &str) {
        if let Some(record) = self.records().by_event.get_mut(id) {
            record.repeats += 1;
        }
    }

    /// Returns the event and its record, if the window still has the event.
    pub(super) fn find(&self, id: &str) -> Option<(Arc<Relayed>, DeliveryRecord)> {
        let records = self.records();
        let record = records.by_event.get(id)?;
        Some((record.relayed.upgrade()?, record.clone()))
    }

    fn records(&self) -> MutexGuard<'_, Records> {
        crate::lock::lock(&self.0)
    }
}

impl Records {
    fn add(&mut self, id: &str, user: &Arc<str>, answer: Answer) {
        let Some(record) = self.by_event.get_mut(id) else { return };
        if let Some(known) = record.told.get_mut(user) {
            // A delivery on one connection outweighs a full queue of another, and that a filter.
            if *known == Answer::Filtered || answer == Answer::Told {
                *known = answer;
            }
        } else if record.told.len() >= MAX_USERS {
            record.is_cut = true;
        } else {
            record.told.insert(user.clone(), answer);
            self.answers += 1;
        }
    }
}

impl DeliveryRecord {
    /// Returns why this user received the event, or did not. `viewer` holds the user's present
    /// interests, if the user is known. `was_watching` is whether the user had a watcher here when
    /// the event came.
    #[must_use]
    pub fn answer(
        &self,
        relayed: &Relayed,
        user: &str,
        viewer: Option<&Viewer>,
        was_watching: bool,
    ) -> Answer {
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
            (true, _) if was_watching => Answer::Filtered,
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

    /// Operation without a result for any event.
    struct Deaf;

    #[async_trait]
    impl Render for Deaf {
        async fn render(&self, _: &Relayed) -> Option<Arc<str>> {
            None
        }

        async fn render_again(&self, _: &Relayed) -> Option<Arc<str>> {
            None
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
        Arc::new(Viewer::new(user, Interests::new([key.into()])))
    }

    fn parts(user: &str, limit: usize) -> Watch {
        let (viewer, send_queue) = (viewer(user, "k"), SendQueue::new(limit));
        Watch { id: 1, field: "f".into(), viewer, operation: Arc::new(Echo), send_queue }
    }

    fn watch(hub: &Hub, user: &str, limit: usize) -> Watching {
        hub.watch(parts(user, limit))
    }

    async fn dispatch(hub: &Hub, is_news: bool) -> Arc<str> {
        let event = Event::new("/test".into(), "kind", None, Bytes::new());
        let (id, audience) = (event.identity(), Audience::new(["k".into()], Some("author".into())));
        hub.dispatch(event, Fact { fields: vec!["f".into()], audience, payload: Arc::new(()) }, is_news)
            .await;
        id
    }

    fn answer(hub: &Hub, id: &str, user: &str, key: &str) -> Answer {
        let (relayed, record) = hub.explain(id).unwrap();
        record.answer(&relayed, user, Some(&viewer(user, key)), user == "present")
    }

    #[tokio::test]
    async fn record_distinguishes_each_reason() {
        let hub = hub();
        let deaf = Watch { operation: Arc::new(Deaf), ..parts("deaf", 1 << 16) };
        let _watching = [watch(&hub, "reads", 1 << 16), watch(&hub, "sleeps", 1), hub.watch(deaf)];
        dispatch(&hub, true).await;
        let id = dispatch(&hub, true).await;
        for (user, key, expected) in [
            ("reads", "k", Answer::Told),
            ("sleeps", "k", Answer::QueueFull),
            ("author", "k", Answer::Author),
            ("stranger", "other", Answer::NoCommonKey),
            ("away", "k", Answer::NotConnected),
            ("present", "k", Answer::Filtered),
            ("deaf", "k", Answer::Filtered),
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
    async fn gap_notice_covers_what_is_missing() {
        let hub = hub();
        let _watching = watch(&hub, "reads", 1 << 16);
        let mut first = Event::new("/test".into(), "kind", None, Bytes::new());
        let published = SystemTime::now() + Duration::from_secs(60);
        first.published = Some(published);
        hub.lose(&first);
        let (_, notice) = hub.gap_of("reads", Some(published - Duration::from_secs(1))).unwrap();
        assert_eq!((notice.reason, notice.to), ("FEED_LOST", published));
        assert_eq!(hub.gap_of("reads", Some(published + Duration::from_secs(1))), None);
        assert!(hub.gap_of("reads", None).is_some() && hub.gap_of("other", None).is_none());
        dispatch(&hub, true).await;
        dispatch(&hub, true).await;
        assert_eq!(hub.newest_events(1).len(), 1);
        assert_eq!(hub.newest_events(9).len(), 2);
    }

    #[tokio::test]
    async fn delivery_log_is_bounded() {
        let hub = hub();
        let _watching: Vec<_> = (0..=MAX_USERS).map(|n| watch(&hub, &n.to_string(), 1 << 16)).collect();
        let id = dispatch(&hub, true).await;
        let (_, record) = hub.explain(&id).unwrap();
        assert_eq!((record.told.len(), record.is_cut, record.matched), (MAX_USERS, true, MAX_USERS + 1));
        let unrecorded =
            (0..=MAX_USERS).map(|n| n.to_string()).find(|user| !record.told.contains_key(&**user));
        assert_eq!(answer(&hub, &id, &unrecorded.unwrap(), "k"), Answer::NotRecorded);
    }
}
