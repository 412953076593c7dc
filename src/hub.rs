//! Watchers of one pod, its replay window, and the dispatch of each event to the matching watchers.
//!
//! An event costs one look-up per key of its audience, plus work for the watchers that it reaches;
//! no other watcher is touched. The hub never waits for a socket: it fills [`SendQueue`]es, and a
//! full send queue ends its own connection only. Index and window change under one lock. So no
//! event is missing or repeated between a replay and the live events after it.

mod delivery;
mod delivery_log;
mod dispatch;
pub mod index;
pub mod per_user;
mod relayed;
pub mod replay;
pub mod send_queue;
mod shared;
mod turns;
pub mod watcher;
mod watching;
pub mod window;

use std::{
    sync::{Arc, Mutex, OnceLock, atomic::Ordering},
    time::{Duration, SystemTime},
};

use opentelemetry::{KeyValue, metrics::Meter};
use smallvec::SmallVec;
use tokio::{sync::watch, time::Instant};

pub use self::{
    delivery::{Deliveries, Delivery, Rendered},
    delivery_log::{Answer, DeliveryRecord, GapNotice},
    relayed::{Relayed, Render},
    replay::{Replay, Step},
    send_queue::{Overflow, SendQueue, Watched},
    watcher::Watch,
    watching::Watching,
};
use self::{
    delivery_log::DeliveryLog,
    index::Index,
    shared::{Counts, FEED_LOST, Shared, State, WINDOW_EXCEEDED},
    turns::{Sharing, Turns},
    watcher::{Start, Watcher},
    window::{Bounds, Window},
};
use crate::{
    audience::Viewer,
    budget::{Budget, Pool},
    cursor::{BadCursor, ClientCursor, Cursor, Source},
    domain::Fact,
    event::Event,
};

/// How much later than the pod's start its first cursors are: one second, far less than a replay
/// goes back. Pods that start together on a new topic have each other's first cursors in their
/// windows. So they can resume each other's clients.
pub const HEAD_START: Duration = Duration::from_secs(1);

/// How much older than the newest event an event may be that was published after it: the servers of
/// a topic have clocks of their own.
const DISORDER: Duration = Duration::from_secs(1);

/// Watchers and replay window of one pod. Clones share the same hub.
#[derive(Clone)]
pub struct Hub(Arc<Shared>);

impl Hub {
    /// Creates a hub without watchers. Its feed has not caught up yet. `began` is the start of the
    /// pod by the pod's own clock. This clock must not be more than four seconds ahead of the
    /// topic's clock: the margin of a replay (5 s) less the head start (1 s).
    #[must_use]
    pub fn new(topic: &str, bounds: Bounds, began: SystemTime) -> Self {
        let window = Window::new(bounds, began.checked_sub(bounds.span).unwrap_or(SystemTime::UNIX_EPOCH));
        let held = Some(Cursor { published: began + HEAD_START, event: Arc::default() });
        let state = Mutex::new(State { held, index: Index::default(), window, history_until: None });
        Self(Arc::new(Shared {
            topic: topic.into(),
            state,
            caught_up: watch::Sender::new(false),
            counts: Counts::default(),
            turns: Turns::default(),
            queues: Budget::default().queues,
            replays: Pool::of_turns("replays"),
            delivery_log: OnceLock::new(),
        }))
    }

    /// Charges what waits for connections to this ledger, instead of one of its own. Must be called
    /// before the hub is cloned.
    ///
    /// # Panics
    /// The hub has been cloned.
    #[must_use]
    pub fn with_budget(mut self, budget: &Budget) -> Self {
        Arc::get_mut(&mut self.0).expect("the hub is not shared yet").queues = budget.queues.clone();
        self
    }

    /// Registers the metrics of the window's content, of resumed watchers and of gap notices.
    pub fn observe(&self, meter: &Meter) {
        let gauge = |name, unit, description, value: fn(&State) -> u64| {
            let hub = self.clone();
            let gauge = meter.u64_observable_gauge(name).with_unit(unit).with_description(description);
            gauge.with_callback(move |gauge| gauge.observe(value(&hub.0.state()), &[])).build();
        };
        gauge("relay.window.events", "", "Events kept for replay.", |state| state.window.len() as u64);
        gauge("relay.window.size", "By", "What they take.", |state| state.window.bytes() as u64);
        gauge("relay.window.span", "s", "From the oldest to the newest of them.", |state| {
            state.window.span().as_secs()
        });
        self.observe_counts(meter);
    }

    fn observe_counts(&self, meter: &Meter) {
        let hub = self.clone();
        meter
            .u64_observable_counter("relay.resumes")
            .with_description("Watchers that began with what they had missed.")
            .with_callback(move |counter| counter.observe(hub.0.counts.resumes.load(Ordering::Relaxed), &[]))
            .build();
        let hub = self.clone();
        meter
            .u64_observable_counter("relay.gaps")
            .with_description("Watchers told that events are missing, by reason.")
            .with_callback(move |counter| {
                let Counts { window_exceeded, feed_lost, .. } = &hub.0.counts;
                for (reason, count) in [(WINDOW_EXCEEDED, window_exceeded), (FEED_LOST, feed_lost)] {
                    let reason = KeyValue::new("reason", reason.to_ascii_lowercase());
                    counter.observe(count.load(Ordering::Relaxed), &[reason]);
                }
            })
            .build();
    }

    /// Sets whether the feed has brought everything that was published before it was opened. While
    /// it has not, replays wait and cursors stand still: a cursor ahead of events that are still to
    /// come would lose them.
    pub fn set_caught_up(&self, is_caught_up: bool) {
        let mut state = self.0.state();
        state.held = (!is_caught_up).then(|| state.place().clone());
        self.0.caught_up.send_replace(is_caught_up);
    }

    /// Records that the feed has reached this event, which no watcher here receives.
    pub fn advance(&self, event: &Event) {
        self.0.state().window.advance(&position(event));
    }

    /// Records that no event published since this moment is missing.
    pub fn begin_at(&self, published: SystemTime) {
        self.0.state().window.begin_at(published);
    }

    /// Records that no event published since this moment is missing, for a feed that has caught up
    /// for the first time. Until then the window was only an estimate by the pod's own clock.
    pub fn start_at(&self, published: SystemTime) {
        self.0.state().window.start_at(published);
    }

    /// Sets the start of the pod, which the first cursors show until the feed has caught up.
    pub fn hold_at(&self, began: SystemTime) {
        let mut state = self.0.state();
        if let Some(held) = &mut state.held {
            *held = Cursor { published: began + HEAD_START, event: Arc::default() };
        }
    }

    /// Lets replays wait until this moment for history that may still come, before they give a gap
    /// notice.
    pub fn expect_history(&self, until: Instant) {
        self.0.state().history_until = Some(until);
    }

    /// Records that the history reaches back to this moment after all.
    pub fn reach_back(&self, published: SystemTime) {
        self.0.state().window.reach_back(published);
    }

    /// Records that events published before this one may be lost. Every watcher gets a gap notice,
    /// and so does every client that resumes from before this event. Must be called while the feed
    /// catches up.
    pub fn lose(&self, event: &Event) {
        let (mut watchers, cursor, from) = {
            let mut state = self.0.state();
            let from = state.place().published;
            state.window.lose(&position(event));
            // The events that cursors were held back for are lost.
            state.held = Some(state.window.head().clone());
            let cursor: Arc<str> = state.window.head().encode(&self.0.topic).into();
            (state.index.all().cloned().collect::<Vec<_>>(), cursor, from)
        };
        self.0.counts.feed_lost.fetch_add(watchers.len() as u64, Ordering::Relaxed);
        if let Some(delivery_log) = self.0.delivery_log.get() {
            let notice = GapNotice { reason: FEED_LOST, from, to: position(event).published };
            delivery_log.gap(watchers.iter().map(|watcher| &watcher.viewer.user), notice);
        }
        for sharing in by_operation(&mut watchers) {
            let notice = sharing[0].operation.gap(FEED_LOST, &cursor);
            let notice = Arc::new(Rendered::old(notice, cursor.clone()));
            for watcher in sharing {
                watcher.deliver(notice.clone());
            }
        }
    }

    /// Returns the topic's name.
    #[must_use]
    pub fn topic(&self) -> &str {
        &self.0.topic
    }

    /// Returns the position that the feed has reached, as a cursor for this source. A client that
    /// resumes from it gets every event that was published later.
    #[must_use]
    pub fn cursor(&self, source: Source) -> String {
        let state = self.0.state();
        // A cursor that is held may be ahead of events that are still to come.
        let source = match source {
            Source::Start if state.held.is_some() => Source::Query,
            source => source,
        };
        state.place().encode_from(&self.0.topic, source)
    }

    /// Creates a result that is of no event, with the present cursor.
    #[must_use]
    pub fn result(&self, payload: Arc<str>) -> Rendered {
        Rendered::old(payload, self.cursor(Source::Result).into())
    }

    /// Reads a cursor that any pod of this topic has given out.
    ///
    /// # Errors
    /// [`BadCursor`] for any other text.
    pub fn read_cursor(&self, text: &str) -> Result<ClientCursor, BadCursor> {
        ClientCursor::decode(text, &self.0.topic)
    }

    /// Adds a watcher. Every event dispatched from now on that is for its viewer reaches its send
    /// queue. Dropping the returned guard removes the watcher.
    ///
    /// What the feed brings late, of a time before the watcher, is not for it.
    #[must_use = "the watcher leaves when the guard is dropped"]
    pub fn watch(&self, watch: Watch) -> Watching {
        let mut state = self.0.state();
        let start = state.window.head().published.checked_sub(DISORDER);
        Watching::enter(&self.0, &mut state, watch, start.map_or(Start::Unknown, Start::Time))
    }

    /// Starts a replay for a watcher: the watcher first receives what it missed since the cursor.
    #[must_use]
    pub fn resume(&self, watch: Watch, after: ClientCursor) -> Replay {
        self.0.counts.resumes.fetch_add(1, Ordering::Relaxed);
        Replay::new(self.0.clone(), watch, after)
    }

    /// Keeps the event for replay. If the event is news, puts it once into the send queue of every
    /// watcher that it is for. Users with many operations receive it later, in turns. Returns the
    /// number of these watchers. Calls must not overlap, or the order of events would be lost.
    pub async fn dispatch(&self, event: Event, fact: Fact, is_news: bool) -> usize {
        let Some((relayed, mut watchers)) = self.keep_and_match(event, fact, is_news) else { return 0 };
        let matched = watchers.len();
        let sharing: SmallVec<[Sharing<'_>; 1]> = by_operation(&mut watchers).collect();
        let waiting = self.0.turns.take(&sharing);
        for group in &sharing {
            if waiting.is_empty() {
                self.0.deliver(&relayed, group).await;
            } else {
                let is_now = |watcher: &&Arc<Watcher>| !waiting.contains_key(&watcher.viewer.user);
                let group: Vec<_> = group.iter().filter(is_now).cloned().collect();
                self.0.deliver(&relayed, &group).await;
            }
        }
        self.0.wait(&relayed, waiting);
        matched
    }

    /// Switches the delivery log on, so that [`explain`](Self::explain) has records.
    pub fn follow_events(&self) {
        let span = self.0.state().window.span_kept();
        self.0.delivery_log.get_or_init(|| DeliveryLog::new(span));
    }

    /// Records in the delivery log that an event came again and was dropped.
    pub fn repeat(&self, id: &str) {
        if let Some(delivery_log) = self.0.delivery_log.get() {
            delivery_log.repeat(id);
        }
    }

    /// Returns an event of the window with its delivery record; `None` if the delivery log is off,
    /// or if the log or the window does not have the event.
    #[must_use]
    pub fn explain(&self, id: &str) -> Option<(Arc<Relayed>, DeliveryRecord)> {
        self.0.delivery_log.get()?.find(id)
    }

    /// Returns the newest events of the window with their delivery records, `most` of them at most;
    /// none if the delivery log is off.
    #[must_use]
    pub fn newest_events(&self, most: usize) -> Vec<(Arc<Relayed>, DeliveryRecord)> {
        self.0.delivery_log.get().map(|delivery_log| delivery_log.newest(most)).unwrap_or_default()
    }

    /// Returns the last gap notice of the user that covers this time of publishing, and when the
    /// user received it; without a time the last of all.
    #[must_use]
    pub fn gap_of(&self, user: &str, published: Option<SystemTime>) -> Option<(Instant, GapNotice)> {
        self.0.delivery_log.get()?.gap_of(user, published)
    }

    /// Returns the time for which the window, and what is kept beside it, keeps events.
    #[must_use]
    pub fn window_span(&self) -> Duration {
        self.0.state().window.span_kept()
    }

    /// Returns the time from the oldest to the newest event of the window.
    #[must_use]
    pub fn held_span(&self) -> Duration {
        self.0.state().window.span()
    }

    /// Returns the viewers of this user's watchers, `most` of them at most. Visits all watchers, so
    /// it is for `/debug`, not for each event.
    #[must_use]
    pub fn viewers_of(&self, user: &str, most: usize) -> Vec<Arc<Viewer>> {
        let state = self.0.state();
        let of_user = state.index.all().filter(|watcher| *watcher.viewer.user == *user);
        of_user.take(most).map(|watcher| watcher.viewer.clone()).collect()
    }

    /// Shows the send queue and the viewer of every watcher to `visit`. Events wait meanwhile, so
    /// it is for operators, not for each event.
    pub fn visit(&self, mut visit: impl FnMut(&Arc<SendQueue>, &Arc<Viewer>)) {
        self.0.state().index.all().for_each(|watcher| visit(&watcher.send_queue, &watcher.viewer));
    }

    /// Keeps the users who listen to each key, for [`Self::listeners`]. Must be called before there
    /// is a watcher.
    pub fn count_listeners(&self) {
        self.0.state().index.count_listeners();
    }

    /// Returns the number of users with watchers who listen to the key, and these users if they are
    /// `most` at most.
    #[must_use]
    pub fn listeners(&self, key: &str, most: usize) -> (usize, Vec<Arc<str>>) {
        self.0.state().index.listeners(key, most)
    }

    /// Returns the number of watchers.
    #[must_use]
    pub fn watchers(&self) -> usize {
        self.0.state().index.len()
    }

    /// Returns the number of keys in the index; zero without watchers.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.0.state().index.keys()
    }

    fn keep_and_match(
        &self,
        event: Event,
        fact: Fact,
        is_news: bool,
    ) -> Option<(Arc<Relayed>, Vec<Arc<Watcher>>)> {
        let position = position(&event);
        let mut state = self.0.state();
        let Fact { fields, audience, payload } = fact;
        if fields.is_empty() {
            state.window.advance(&position);
            return None;
        }
        let cursor = state.cursor(&position).encode(&self.0.topic).into();
        let relayed = Arc::new(Relayed { event, position, cursor, fields, audience, payload });
        state.window.insert(relayed.clone());
        let mut watchers = match is_news {
            true => state.index.matching(&relayed.fields, &relayed.audience),
            false => Vec::new(),
        };
        watchers.retain(|watcher| watcher.is_after_start(&relayed.position));
        if let Some(delivery_log) = self.0.delivery_log.get() {
            delivery_log.begin(&relayed, is_news, watchers.len());
        }
        Some((relayed, watchers))
    }
}

/// Groups the watchers by operation, so that each operation is executed once. Keeps their order
/// within a group.
fn by_operation(watchers: &mut [Arc<Watcher>]) -> impl Iterator<Item = &[Arc<Watcher>]> {
    watchers.sort_by_key(|watcher| watcher.operation_address());
    watchers.chunk_by(|a, b| a.operation_address() == b.operation_address())
}

fn position(event: &Event) -> Cursor {
    Cursor { published: event.published.unwrap_or(event.time), event: event.identity() }
}

#[cfg(test)]
mod properties;

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, sync::LazyLock};

    use async_trait::async_trait;
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::audience::{Audience, Interests};

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
            format!("gap: {reason}").into()
        }
    }

    fn hub() -> Hub {
        let bounds = Bounds { span: Duration::from_secs(600), bytes: 1 << 20 };
        let hub = Hub::new("t", bounds, SystemTime::now());
        hub.set_caught_up(true);
        hub
    }

    fn viewer(user: &str, keys: &[String]) -> Arc<Viewer> {
        let interests = Interests::new(keys.iter().map(|key| key.as_str().into()));
        Arc::new(Viewer::new(user, interests))
    }

    fn watch(hub: &Hub, id: u64, viewer: &Arc<Viewer>, send_queue: &Arc<SendQueue>) -> Watching {
        static OPERATION: LazyLock<Arc<Echo>> = LazyLock::new(|| Arc::new(Echo));
        hub.watch(Watch {
            id,
            field: "f".into(),
            viewer: viewer.clone(),
            operation: OPERATION.clone(),
            send_queue: send_queue.clone(),
        })
    }

    fn event() -> Event {
        let mut event = Event::new("/test".into(), "k", None, Bytes::new());
        event.published = Some(SystemTime::now());
        event
    }

    fn fact(field: &str, audience: &Audience) -> Fact {
        Fact { fields: vec![field.into()], audience: audience.clone(), payload: Arc::new(()) }
    }

    #[tokio::test]
    async fn event_reaches_watchers_of_all_its_fields() {
        let hub = hub();
        let viewer = viewer("1", &["a".to_owned()]);
        let watching: Vec<_> = ["f", "g", "h"]
            .into_iter()
            .map(|field| {
                let send_queue = SendQueue::new(1 << 16);
                let watch = Watch {
                    id: 1,
                    field: field.into(),
                    viewer: viewer.clone(),
                    operation: Arc::new(Echo),
                    send_queue: send_queue.clone(),
                };
                (hub.watch(watch), send_queue)
            })
            .collect();
        let audience = Audience::new(["a".into()], None);
        let fact = Fact { fields: vec!["f".into(), "g".into()], audience, payload: Arc::new(()) };
        assert_eq!(hub.dispatch(event(), fact, true).await, 2);
        let delivered: Vec<_> = watching.iter().map(|(_, queue)| queue.take().len()).collect();
        assert_eq!(delivered, [1, 1, 0]);
    }

    #[tokio::test]
    async fn fields_may_have_own_audiences() {
        let bounds = Bounds { span: Duration::from_secs(600), bytes: 1 << 20 };
        let hub = Hub::new("t", bounds, SystemTime::now() - Duration::from_secs(60));
        let before = hub.read_cursor(&hub.cursor(Source::Result)).unwrap();
        let queue = SendQueue::new(1 << 16);
        let watch = |field: &str, key: &str| Watch {
            id: 1,
            field: field.into(),
            viewer: viewer("1", &[key.to_owned()]),
            operation: Arc::new(Echo),
            send_queue: queue.clone(),
        };
        let _watching = [hub.watch(watch("f", "a")), hub.watch(watch("f", "b")), hub.watch(watch("g", "b"))];
        let own = |field: &str, key: &str| (field.into(), Audience::new([key.into()], None));
        let audience = Audience::by_field([own("f", "a"), own("g", "c")]);
        let fact = Fact { fields: vec!["f".into(), "g".into()], audience, payload: Arc::new(()) };
        assert_eq!(hub.dispatch(event(), fact, true).await, 1, "`a` is a key of `f` only");
        hub.set_caught_up(true);
        for (field, key, is_included) in
            [("f", "a", true), ("f", "c", false), ("g", "c", true), ("g", "a", false)]
        {
            let step = hub.resume(watch(field, key), before.clone()).step().await;
            assert_eq!(matches!(step, Step::Deliveries(_)), is_included, "{field} {key}");
        }
    }

    #[tokio::test]
    async fn removed_watcher_receives_nothing() {
        let hub = hub();
        let send_queue = SendQueue::new(1 << 16);
        let keys = ["a".to_owned(), "b".to_owned()];
        let watching = watch(&hub, 1, &viewer("1", &keys), &send_queue);
        let audience = Audience::new(["a".into(), "b".into()], None);
        assert_eq!(hub.dispatch(event(), fact("f", &audience), true).await, 1);
        assert_eq!(send_queue.take().len(), 1, "two keys match, one delivery");
        assert_eq!(hub.dispatch(event(), fact("g", &audience), true).await, 0, "no watcher of this field");
        drop(watching);
        assert_eq!(hub.dispatch(event(), fact("f", &audience), true).await, 0);
        assert_eq!((hub.watchers(), hub.keys()), (0, 0));
    }

    #[tokio::test]
    async fn loss_sends_gap_to_watchers_and_earlier_cursors() {
        let hub = hub();
        let (send_queue, later) = (SendQueue::new(1 << 16), SendQueue::new(1 << 16));
        let viewer = viewer("1", &["a".to_owned()]);
        let _watching = watch(&hub, 1, &viewer, &send_queue);
        let before = hub.read_cursor(&hub.cursor(Source::Result)).unwrap();
        hub.set_caught_up(false);
        hub.lose(&event());
        hub.set_caught_up(true);
        let notices = send_queue.take();
        assert_eq!(
            notices.iter().map(|notice| &*notice.result.payload).collect::<Vec<_>>(),
            ["gap: FEED_LOST"]
        );
        assert_eq!(*notices[0].result.cursor, *hub.cursor(Source::Result));

        let resume = |after| {
            let (viewer, send_queue) = (viewer.clone(), later.clone());
            let watch = Watch { id: 2, field: "f".into(), viewer, operation: Arc::new(Echo), send_queue };
            hub.resume(watch, after)
        };
        assert!(matches!(resume(before).step().await, Step::Live(_, Some(_))));
        let notified = hub.read_cursor(&notices[0].result.cursor).unwrap();
        assert!(matches!(resume(notified).step().await, Step::Live(_, None)), "one notice only");
    }

    #[tokio::test(start_paused = true)]
    async fn replays_of_user_take_turns() {
        let bounds = Bounds { span: Duration::from_secs(600), bytes: 1 << 20 };
        let hub = Hub::new("t", bounds, SystemTime::now() - Duration::from_secs(60));
        let before = hub.read_cursor(&hub.cursor(Source::Result)).unwrap();
        hub.dispatch(event(), fact("f", &Audience::new(["a".into()], None)), true).await;
        hub.set_caught_up(true);
        let replay = |user: &str| {
            let (viewer, send_queue) = (viewer(user, &["a".to_owned()]), SendQueue::new(1 << 16));
            let watch = Watch { id: 1, field: "f".into(), viewer, operation: Arc::new(Echo), send_queue };
            hub.resume(watch, before.clone())
        };
        let other = hub.0.replays.try_charge(&"1".into(), 1).unwrap();
        let (mut waiting, wait) = (replay("1"), Duration::from_secs(60));
        assert!(tokio::time::timeout(wait, waiting.step()).await.is_err());
        assert!(matches!(replay("2").step().await, Step::Deliveries(_)), "another user has its own turn");
        drop(other);
        assert!(matches!(waiting.step().await, Step::Deliveries(_)));
        assert!(matches!(waiting.step().await, Step::Live(_, None)));
        assert_eq!(hub.0.replays.accounts(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn replay_waits_for_late_history() {
        let (hub, send_queue) = (hub(), SendQueue::new(1 << 16));
        let before = hub.read_cursor(&hub.cursor(Source::Result)).unwrap();
        hub.lose(&event());
        hub.expect_history(Instant::now() + Duration::from_secs(5));
        let (field, operation) = ("f".into(), Arc::new(Echo));
        let watch = Watch { id: 2, field, viewer: viewer("1", &["a".to_owned()]), operation, send_queue };
        let mut replay = hub.resume(watch, before);
        let early = tokio::time::timeout(Duration::from_secs(4), replay.step()).await;
        assert!(early.is_err(), "no gap while history may come");
        assert!(matches!(replay.step().await, Step::Live(_, Some(_))));
    }

    proptest! {
        #[test]
        fn index_agrees_with_audience_rule(
            viewers in prop::collection::vec((0u8..6, prop::collection::vec(0u8..5, 0..4)), 0..20),
            keys in prop::collection::vec(0u8..6, 0..5),
            author in prop::option::of(0u8..6),
        ) {
            let name = |n: &u8| n.to_string();
            let hub = hub();
            let audience = Audience::new(keys.iter().map(|k| name(k).into()), author.as_ref().map(|a| name(a).into()));
            let watching: Vec<_> = viewers.iter().enumerate().map(|(n, (user, keys))| {
                let viewer = viewer(&name(user), &keys.iter().map(name).collect::<Vec<_>>());
                let send_queue = SendQueue::new(1 << 16);
                (watch(&hub, n as u64, &viewer, &send_queue), viewer, send_queue)
            }).collect();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let matched = runtime.block_on(hub.dispatch(event(), fact("f", &audience), true));
            let by_rule: BTreeSet<usize> =
                watching.iter().enumerate().filter(|(_, (_, v, _))| audience.includes(v)).map(|(n, _)| n).collect();
            let by_index: BTreeSet<usize> =
                watching.iter().enumerate().filter(|(_, (_, _, o))| o.take().len() == 1).map(|(n, _)| n).collect();
            prop_assert_eq!(matched, by_rule.len());
            prop_assert_eq!(by_index, by_rule);
        }
    }
}
