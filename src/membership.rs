//! Heartbeats of the pods. They show which pods are alive and which feeds are orphans. They also
//! show how far this pod lags behind the topic, and whether its feed is silent.
//!
//! Every pod publishes a heartbeat on the topic when its feed opens, and then again at every
//! interval. The membership needs nothing else: no store and no second protocol. Heartbeats are for
//! pods: none may reach a client, a replay window or a domain.
//!
//! The relay calls [`Membership::hear`] and the methods beside it for everything that the feed
//! brings.

mod balance;
mod catch_up;
mod feed_health;
mod heartbeat;
mod key_counts;
mod members;
mod spared;
mod status;
mod tasks;

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, OnceLock},
    time::{Duration, SystemTime},
};

use opentelemetry::{
    KeyValue,
    metrics::{Counter, Meter},
};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

pub use self::{
    balance::{Balancer, Moves, View},
    catch_up::History,
    heartbeat::{Heartbeat, sender},
    key_counts::{KeyCounts, Listeners, MAX_TOLD_APART, total},
    members::{Member, Size},
    status::PodStatus,
};
use self::{
    feed_health::{FeedHealth, Skew},
    members::{Members, PATIENCE},
    spared::Spared,
};
use crate::{
    audience::Key,
    broker::{FeedState, Order},
    clock::TopicClock,
    control::{self, Secrets, Unproven},
    event::{Event, HEARTBEATS},
    telemetry::{self, Seldom},
};

/// Least time between two log lines about the same contract with the operator.
const WARN_EVERY: Duration = Duration::from_secs(600);

/// Largest difference of the clocks that is no fault, in seconds, as for the doctor.
const MAX_CLOCK: f64 = 4.0;

/// Most generations of this pod's feed that are remembered.
const MAX_OWN_FEEDS: usize = 8;

/// Time that nothing older than a pod's own first heartbeat must come from which on a broker is one
/// whose replay may come late.
pub const LATE_REPLAY: Duration = Duration::from_secs(1);

/// Time after the start of a pod for which history may still come, where it may come late. No gap
/// is reported before.
pub const HISTORY: Duration = Duration::from_secs(30);

/// Settings of this pod's part in the membership.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The pod's name.
    pub pod: Arc<str>,
    /// Longest time between two heartbeats of a pod, for up to 50 pods. In a larger membership the
    /// time grows with the number of pods.
    pub interval: Duration,
    /// How long nothing older than the pod's own first heartbeat must come, until its feed counts
    /// as caught up.
    pub settle: Duration,
    /// How long a pod must have been silent for its feeds to be orphans: at least three of its
    /// intervals, even if this is shorter.
    pub orphan_after: Duration,
    /// Secrets that prove heartbeats; `None`: every heartbeat is believed.
    pub secrets: Option<Secrets>,
}

/// View that one pod has of all pods. Clones share the same view.
#[derive(Clone)]
pub struct Membership(Arc<Shared>);

struct Shared {
    settings: Settings,
    clock: TopicClock,
    state: Mutex<State>,
    /// Present generation of the feed, while it is open.
    generation: watch::Sender<Option<Arc<str>>>,
    /// Count of the feeds that other pods have opened.
    joins: watch::Sender<u64>,
    /// Wakes the task that publishes heartbeats, before the next one is due.
    news: Notify,
    heartbeats: Counter<u64>,
    silences: Counter<u64>,
    unproven: Counter<u64>,
    unproven_lines: Seldom,
    namesakes: Seldom,
    wrong_clocks: Seldom,
    status: OnceLock<Report<PodStatus>>,
    counts: OnceLock<Report<KeyCounts>>,
    /// Wakes the sender of heartbeats before its time.
    hasten: Notify,
}

/// Report of this pod for its heartbeats.
type Report<T> = Box<dyn Fn() -> Option<T> + Send + Sync>;

struct State {
    members: Members,
    spared: Spared,
    feed: FeedHealth,
    /// Names of this pod's last generations of its feed.
    own_feeds: VecDeque<Arc<str>>,
    /// Time of publishing of this process's first heartbeat.
    first_own: Option<SystemTime>,
    /// Interval that this pod's last heartbeat announced.
    announced: Duration,
    /// Keys that this pod's last heartbeat counted; `None`: it had no room for some.
    counted: Option<BTreeSet<Key>>,
}

/// Kind of an event, as the membership sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// A heartbeat, which the membership has processed.
    Heartbeat,
    /// An event of the heartbeats' kind that holds no valid heartbeat.
    Garbage,
    /// A heartbeat that no pod with the secret has sent just then. It only spares its pod's feed.
    Unproven,
    /// Any other event, which is the relay's to process.
    Event,
}

impl Membership {
    /// Creates a membership in which no pod is known yet, and registers its metrics.
    #[must_use]
    pub fn new(settings: Settings, meter: &Meter) -> Self {
        let mut feed = FeedHealth::new(settings.interval, settings.settle);
        if settings.settle >= LATE_REPLAY {
            feed.catch_up.be_patient(Instant::now() + HISTORY);
        }
        let membership = Self(Arc::new(Shared {
            clock: TopicClock::default(),
            state: Mutex::new(State {
                members: Members::new(),
                spared: Spared::default(),
                feed,
                own_feeds: VecDeque::new(),
                first_own: None,
                announced: settings.interval,
                counted: Some(BTreeSet::new()),
            }),
            settings,
            generation: watch::Sender::new(None),
            joins: watch::Sender::new(0),
            news: Notify::new(),
            unproven: telemetry::counter_by(
                meter,
                "relay.control.unproven",
                "Control events without a valid HMAC of the moment, by reason.",
                "reason",
                Unproven::ALL.map(Unproven::reason),
            ),
            unproven_lines: Seldom::new(WARN_EVERY),
            namesakes: Seldom::new(WARN_EVERY),
            wrong_clocks: Seldom::new(WARN_EVERY),
            status: OnceLock::new(),
            counts: OnceLock::new(),
            hasten: Notify::new(),
            heartbeats: telemetry::counter_by(
                meter,
                "relay.heartbeats",
                "Heartbeats handed to the topic, by outcome.",
                "outcome",
                tasks::OUTCOMES,
            ),
            silences: telemetry::counter(
                meter,
                "relay.feed.silences",
                "Feeds given up because nothing came through them.",
            ),
        }));
        membership.observe(meter);
        membership
    }

    fn observe(&self, meter: &Meter) {
        let gauge = |name, description, value: fn(Size) -> u64| {
            let membership = self.clone();
            let gauge = meter.u64_observable_gauge(name).with_description(description);
            gauge.with_callback(move |gauge| gauge.observe(value(membership.size()), &[])).build();
        };
        gauge("relay.membership.pods", "Pods that live, as their heartbeats tell.", |size| size.pods);
        gauge("relay.membership.connections", "Connections of all of them.", |size| size.connections);
        let membership = self.clone();
        meter
            .f64_observable_gauge("relay.clock.skew")
            .with_unit("s")
            .with_description("How much this pod's clock is ahead of the topic's; negative: behind.")
            .with_callback(move |gauge| {
                if let Some(clock) = membership.skew() {
                    gauge.observe(clock, &[]);
                }
            })
            .build();
        let membership = self.clone();
        meter
            .f64_observable_gauge("relay.feed.lag")
            .with_unit("s")
            .with_description("From the publishing of this pod's last heartbeat to its coming back.")
            .with_callback(move |gauge| {
                if let Some(lag) = membership.lag() {
                    gauge.observe(lag.as_secs_f64(), &[]);
                }
            })
            .build();
    }

    /// Returns how much this pod's clock is ahead of the topic's, in seconds; `None` before this
    /// pod's first heartbeat has come back.
    fn skew(&self) -> Option<f64> {
        self.state().feed.clock()
    }

    /// Returns the topic's clock, as this pod's heartbeats set it.
    #[must_use]
    pub fn clock(&self) -> &TopicClock {
        &self.0.clock
    }

    /// Returns whether a heartbeat of this pod has come back, so that the topic's time is known.
    #[must_use]
    pub fn knows_time(&self) -> bool {
        self.skew().is_some()
    }

    /// Sets the topic's clock, and warns if this pod's is wrong.
    fn watch_clock(&self, Skew { now, seconds, error }: Skew) {
        self.0.clock.set(now);
        if seconds.abs() > MAX_CLOCK + error && self.0.wrong_clocks.count("").is_some() {
            let (pod, seconds) = (&*self.0.settings.pod, seconds.round());
            tracing::warn!(
                pod,
                seconds,
                "this clock is ahead of the topic's (behind, if negative): set it by NTP"
            );
        }
    }

    /// Warns if another pod sends heartbeats under this pod's name.
    fn watch_name(&self, state: &mut State, heartbeat: &Heartbeat, published: SystemTime) {
        if heartbeat.pod != self.0.settings.pod || heartbeat.probe {
            return;
        }
        if state.own_feeds.contains(&heartbeat.feed) {
            state.first_own.get_or_insert(published);
        } else if state.first_own.is_some_and(|first| first < published)
            && self.0.namesakes.count("").is_some()
        {
            let (pod, feed) = (&*heartbeat.pod, &*heartbeat.feed);
            tracing::warn!(
                pod,
                feed,
                "another pod has the same name, and each deletes the feeds of the other: give each RELAY_POD or \
                 POD_NAME of its own"
            );
        }
    }

    /// Returns the name of this pod.
    #[must_use]
    pub fn pod(&self) -> &str {
        &self.0.settings.pod
    }

    /// Returns the number of live pods and of their connections.
    #[must_use]
    pub fn size(&self) -> Size {
        self.state().members.size()
    }

    /// Returns how long the last own heartbeat took to come back. If one has been missing for
    /// longer, returns that time instead.
    #[must_use]
    pub fn lag(&self) -> Option<Duration> {
        self.state().feed.lag(Instant::now())
    }

    /// Returns what an open feed still waits for, in words for `/readyz`; `None` if the feed has
    /// caught up.
    #[must_use]
    pub fn awaits(&self) -> Option<String> {
        self.state().feed.awaits()
    }

    /// Returns why this pod cannot publish; `None` if it can. The heartbeats of other pods prove
    /// nothing about it.
    #[must_use]
    pub fn cannot_publish(&self) -> Option<String> {
        let state = self.state();
        state.feed.cannot_publish(self.judged_interval(&state), Instant::now())
    }

    /// Returns how late the feed is, in words for `/readyz`; `None` if it is not, or if the pod
    /// cannot serve with it. Then heartbeats of all members come late, and a new feed cures
    /// nothing.
    #[must_use]
    pub fn late(&self) -> Option<String> {
        let state = self.state();
        state.feed.late(self.judged_interval(&state), Instant::now())
    }

    /// Returns whether a feed that the pod `pod` created at this time belongs to no live pod any
    /// more. Never `true` before this pod itself has been caught up for long enough to judge that.
    #[must_use]
    pub fn is_orphan(&self, pod: &str, created: SystemTime) -> bool {
        let (own, state) = (&self.0.settings.pod, self.state());
        let patience = self.patience(&state);
        let has_listened = state.feed.catch_up.caught_up().is_some_and(|since| since.elapsed() >= patience);
        has_listened
            && *pod != **own
            && !state.spared.is_spared(pod, state.members.now())
            && state.members.is_orphan(pod, created, patience)
    }

    /// Follows the state of a feed with this order. Returns whether the feed has another generation
    /// or none now, and so the pod has to catch up anew.
    pub fn follow(&self, feed: &FeedState, order: Order) -> bool {
        let generation = match feed {
            FeedState::Open(generation) => Some(generation.clone()),
            FeedState::Opening(_) | FeedState::Closed => None,
        };
        if let FeedState::Opening(Some(why)) = feed {
            self.state().feed.hinder(why);
        }
        if *self.0.generation.borrow() == generation {
            return false;
        }
        let mut state = self.state();
        if let Some(generation) = &generation {
            state.own_feeds.truncate(MAX_OWN_FEEDS - 1);
            state.own_feeds.push_front(generation.clone());
        }
        state.feed.follow(generation.as_ref(), order, Instant::now());
        self.0.generation.send_replace(generation);
        true
    }

    /// Processes an event that the feed has brought, repeats included.
    pub fn hear(&self, event: &Event) -> Heard {
        let now = Instant::now();
        let mut state = self.state();
        if !event.kind.starts_with(HEARTBEATS) {
            state.feed.hear(event, None, now);
            return Heard::Event;
        }
        let (Some(heartbeat), Some(published)) = (Heartbeat::read(event), event.published) else {
            self.spare(&mut state, sender(event), Duration::ZERO, event.published);
            state.feed.hear(event, None, now);
            return Heard::Garbage;
        };
        let is_awaited = state.feed.is_awaited(&event.id);
        let sent = match self.prove(event, published, is_awaited) {
            Ok(sent) => sent,
            Err(unproven) => {
                self.count_unproven(&heartbeat, unproven);
                let pod = (!heartbeat.probe).then(|| heartbeat.pod.clone());
                self.spare(&mut state, pod, heartbeat.interval(), Some(published));
                state.feed.hear(event, None, now);
                return Heard::Unproven;
            }
        };
        let is_known = state.members.knows(&heartbeat.pod, &heartbeat.feed);
        let is_newest = !heartbeat.probe && state.members.hear(&heartbeat, published, sent);
        if is_newest && !is_known && heartbeat.pod != self.0.settings.pod {
            self.0.joins.send_modify(|count| *count += 1);
        }
        if is_newest && self.0.counts.get().is_some() && heartbeat.pod != self.0.settings.pod {
            let mut asked = heartbeat.counts.iter().flat_map(|counts| &counts.asked);
            if state.counted.as_ref().is_some_and(|counted| asked.any(|key| !counted.contains(key))) {
                self.hasten();
            }
        }
        self.watch_name(&mut state, &heartbeat, published);
        let feed = (is_newest || is_awaited).then_some(&*heartbeat.feed);
        if let Some(skew) = state.feed.hear(event, feed, now) {
            self.watch_clock(skew);
        }
        Heard::Heartbeat
    }

    /// Returns when the heartbeat was signed, if this pod has secrets.
    ///
    /// The age of an awaited heartbeat of this pod does not count. Before the first one is back,
    /// this pod does not know how wrong its clock is.
    fn prove(
        &self,
        event: &Event,
        published: SystemTime,
        is_awaited: bool,
    ) -> Result<Option<SystemTime>, Unproven> {
        let Some(secrets) = &self.0.settings.secrets else { return Ok(None) };
        let sent = secrets.verify(event)?;
        if !is_awaited {
            control::check_age(sent, published)?;
        }
        Ok(Some(sent))
    }

    /// Returns the members for a pod that holds `own` connections; `None` if nothing proves their
    /// heartbeats.
    #[must_use]
    pub fn view(&self, own: usize) -> Option<View> {
        self.has_secrets().then(|| self.state().members.view(own as u64))
    }

    /// Returns the longest time between two heartbeats of a pod.
    #[must_use]
    pub fn interval(&self) -> Duration {
        self.judged_interval(&self.state())
    }

    /// Returns a receiver of the number of feeds that other pods have opened: it changes when a pod
    /// joins.
    #[must_use]
    pub fn joins(&self) -> watch::Receiver<u64> {
        self.0.joins.subscribe()
    }

    /// Returns whether this pod has secrets, so that control events prove their senders.
    #[must_use]
    pub fn has_secrets(&self) -> bool {
        self.0.settings.secrets.is_some()
    }

    /// Adds a status to each heartbeat of this pod from now on. The first call counts.
    pub fn report(&self, status: impl Fn() -> Option<PodStatus> + Send + Sync + 'static) {
        self.0.status.get_or_init(|| Box::new(status));
    }

    /// Publishes a heartbeat at once, since this pod's status has changed for all.
    pub fn tell(&self) {
        self.0.news.notify_one();
    }

    /// Adds counts to each heartbeat of this pod from now on, unless they are empty. The first call
    /// counts.
    pub fn report_counts(&self, counts: impl Fn() -> Option<KeyCounts> + Send + Sync + 'static) {
        self.0.counts.get_or_init(|| Box::new(counts));
    }

    /// Returns whether this pod knows the members: its feed has caught up, and it has received
    /// heartbeats for an interval.
    #[must_use]
    pub fn knows_members(&self) -> bool {
        let state = self.state();
        let interval = self.judged_interval(&state);
        let has_heard = state.first_own.is_some_and(|first| self.0.clock.age(first) >= interval);
        has_heard && state.feed.awaits().is_none()
    }

    /// Sends the next heartbeat at once, if the last one that came before its time was not just
    /// now.
    pub fn hasten(&self) {
        self.0.hasten.notify_one();
    }

    /// Passes the counts of each other pod that has sent a heartbeat lately to `read`; `None` for a
    /// pod that sends none. `read` must not call the membership.
    pub fn with_counts<T>(&self, read: impl FnOnce(&mut dyn Iterator<Item = Option<&KeyCounts>>) -> T) -> T {
        let now = self.0.clock.now();
        let state = self.state();
        read(&mut state.members.counts(&self.0.settings.pod, now))
    }

    /// Returns the live pods, sorted by their names, `most` of them at most.
    #[must_use]
    pub fn list(&self, most: usize) -> Vec<Member> {
        let mut members = self.state().members.list();
        members.sort_unstable_by(|a, b| a.pod.cmp(&b.pod));
        members.truncate(most);
        members
    }

    /// Returns the names of the live pods, in any order. This pod is among them once its heartbeats
    /// come back.
    #[must_use]
    pub fn names(&self) -> Vec<Arc<str>> {
        self.state().members.names()
    }

    /// Signs a control event of this pod. Returns `false` if this pod has no secrets.
    #[must_use]
    pub fn sign(&self, event: &mut Event) -> bool {
        let Some(secrets) = &self.0.settings.secrets else { return false };
        secrets.sign(event, self.0.clock.now());
        true
    }

    /// Returns whether a pod with the secret has sent this control event just then; `false` if this
    /// pod has no secrets. For other control events than heartbeats.
    #[must_use]
    pub fn prove_control(&self, event: &Event) -> bool {
        let (Some(_), Some(published)) = (&self.0.settings.secrets, event.published) else { return false };
        let proof = self.prove(event, published, false);
        if let Err(unproven) = proof {
            self.0.unproven.add(1, &[KeyValue::new("reason", unproven.reason())]);
        }
        proof.is_ok()
    }

    /// Counts a heartbeat that nothing proves, and logs one now and then.
    fn count_unproven(&self, heartbeat: &Heartbeat, unproven: Unproven) {
        self.0.unproven.add(1, &[KeyValue::new("reason", unproven.reason())]);
        if let Some(heartbeats) = self.0.unproven_lines.count(unproven.reason()) {
            let (pod, reason) = (&*heartbeat.pod, unproven.reason());
            tracing::warn!(
                pod,
                reason,
                heartbeats,
                "heartbeats ignored: give all pods the same RELAY_CONTROL_SECRET, and find the sender"
            );
        }
    }

    /// Spares the feed of a pod whose heartbeat cannot be read or proven. The feed is no orphan
    /// before the pod has been silent for as long as any other.
    fn spare(
        &self,
        state: &mut State,
        pod: Option<Arc<str>>,
        interval: Duration,
        published: Option<SystemTime>,
    ) {
        let (Some(pod), Some(published)) = (pod, published) else { return };
        state.members.advance(published);
        let patience = self.patience(state).max(interval * PATIENCE);
        state.spared.spare(&pod, published + patience, state.members.now());
    }

    /// Returns how long any pod must have been silent before its feeds are orphans.
    fn patience(&self, state: &State) -> Duration {
        let Settings { interval, orphan_after, .. } = &self.0.settings;
        (*orphan_after).max(state.members.interval(*interval) * PATIENCE)
    }

    /// Returns when to call [`settle`](Self::settle), if no event comes before.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        self.state().feed.catch_up.due()
    }

    /// Checks whether the feed has caught up just now. If so, returns what that proves about the
    /// events before.
    pub fn settle(&self) -> Option<History> {
        self.state().feed.settle(Instant::now())
    }

    /// Returns the interval by which silence is judged: that of the members, or the one that this
    /// pod announced last if that is longer.
    fn judged_interval(&self, state: &State) -> Duration {
        state.members.interval(self.0.settings.interval).max(state.announced)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        crate::lock::lock(&self.0.state)
    }
}

#[cfg(test)]
mod tests;
