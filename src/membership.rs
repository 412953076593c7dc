//! Heartbeats: who is alive, how far behind the topic this pod is, whether its feed hears, and which feeds are orphans.
//!
//! Every pod says on the topic that it is there, when its feed opens and then again and again. Nothing else is needed to
//! know the membership: no store, no second protocol. Heartbeats are for pods: none reaches a client, a window or a domain.
//!
//! [`Membership::hear`] and its kin are called by the relay for all that the feed brings; [`Membership::run`] is the task that
//! heartbeats, and asks for a new feed when nothing comes back.

mod catch_up;
mod heartbeat;
mod members;

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use opentelemetry::{
    KeyValue,
    metrics::{Counter, Meter},
};
use tokio::{
    select,
    sync::watch,
    time::{Instant, sleep, sleep_until},
};

use self::{
    catch_up::CatchUp,
    members::{Members, PATIENCE},
};
pub use self::{catch_up::History, heartbeat::Heartbeat, members::Size};
use crate::{
    broker::{FeedState, Publish, PublishError, Reopen},
    event::{Event, HEARTBEAT},
};

/// After a heartbeat that the topic did not take.
const RETRY: Duration = Duration::from_secs(1);

/// The least time that a new feed has to bring its first heartbeat, however short the interval: a broker that is busy with all
/// pods at once is not dead.
const FIRST_PATIENCE: Duration = Duration::from_secs(10);

/// What became of a heartbeat, as metrics say it.
const ACKNOWLEDGED: &str = "acknowledged";
const FAILED: &str = "failed";

/// Own heartbeats on their way that are remembered, for the lag.
const ON_THE_WAY: usize = 16;

/// How this pod takes part.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The pod's name.
    pub pod: Arc<str>,
    /// Between two heartbeats, in a membership that is not large.
    pub interval: Duration,
    /// How long a pod must have been silent for its feeds to be orphans.
    pub orphan_after: Duration,
}

/// What one pod knows of all. Clones are the same.
#[derive(Clone)]
pub struct Membership(Arc<Shared>);

struct Shared {
    settings: Settings,
    state: Mutex<State>,
    /// The present generation of the feed, while it is open.
    generation: watch::Sender<Option<Arc<str>>>,
    heartbeats: Counter<u64>,
    silences: Counter<u64>,
}

struct State {
    members: Members,
    catch_up: CatchUp,
    on_the_way: VecDeque<OnTheWay>,
    lag: Option<Duration>,
    /// Why the last heartbeat was not taken by the topic.
    failure: Option<String>,
}

/// An own heartbeat that has not come back.
struct OnTheWay {
    id: Arc<str>,
    since: Instant,
    /// By the pod's clock.
    sent: SystemTime,
    /// Since when it should be back: the topic had taken it then, or something came that was published before it.
    awaited: Option<Instant>,
}

/// What an event is to the membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// A heartbeat: it has done its work.
    Heartbeat,
    /// It says that it is a heartbeat, and is none.
    Garbage,
    /// Something else: for the relay.
    Event,
}

impl Membership {
    /// A membership of which nothing is known yet.
    #[must_use]
    pub fn new(settings: Settings, meter: &Meter) -> Self {
        let counter = |name, description| meter.u64_counter(name).with_description(description).build();
        let membership = Self(Arc::new(Shared {
            state: Mutex::new(State {
                members: Members::new(),
                catch_up: CatchUp::new(settings.interval),
                on_the_way: VecDeque::new(),
                lag: None,
                failure: None,
            }),
            settings,
            generation: watch::Sender::new(None),
            heartbeats: counter("relay.heartbeats", "Heartbeats handed to the topic, by outcome."),
            silences: counter("relay.feed.silences", "Feeds given up because nothing came through them."),
        }));
        membership.observe(meter);
        membership.0.silences.add(0, &[]);
        for outcome in [ACKNOWLEDGED, FAILED] {
            membership.0.heartbeats.add(0, &[KeyValue::new("outcome", outcome)]);
        }
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

    /// The name of this pod.
    #[must_use]
    pub fn pod(&self) -> &str {
        &self.0.settings.pod
    }

    /// Pods that live, and their connections.
    #[must_use]
    pub fn size(&self) -> Size {
        self.state().members.size()
    }

    /// How long the last own heartbeat took to come back, or how long one has been missing, if that is longer.
    #[must_use]
    pub fn lag(&self) -> Option<Duration> {
        let state = self.state();
        let missing = state.on_the_way.front().map(|heartbeat| heartbeat.since.elapsed());
        state.lag.max(missing)
    }

    /// What is still awaited of a feed that is open; `None` if it has caught up.
    #[must_use]
    pub fn awaits(&self) -> Option<String> {
        let state = self.state();
        if state.catch_up.caught_up().is_some() {
            return None;
        }
        Some(match &state.failure {
            Some(failure) => format!("no heartbeat of this pod can be published: {failure}"),
            None => "this pod's heartbeat has not come back yet".to_owned(),
        })
    }

    /// Whether a feed of this pod that was created at this time has nobody any more. Never before this pod itself has
    /// listened for long enough to know.
    #[must_use]
    pub fn is_orphan(&self, pod: &str, created: SystemTime) -> bool {
        let Settings { pod: own, interval, orphan_after } = &self.0.settings;
        let state = self.state();
        let patience = (*orphan_after).max(state.members.interval(*interval) * PATIENCE);
        let has_listened = state.catch_up.caught_up().is_some_and(|since| since.elapsed() >= patience);
        has_listened && *pod != **own && state.members.is_orphan(pod, created, patience)
    }

    /// Follows the feed's state. Whether the pod has to catch up anew.
    pub fn follow(&self, feed: &FeedState) -> bool {
        let generation = match feed {
            FeedState::Open(generation) => Some(generation.clone()),
            FeedState::Opening(_) | FeedState::Closed => None,
        };
        if *self.0.generation.borrow() == generation {
            return false;
        }
        let mut state = self.state();
        match &generation {
            Some(generation) => state.catch_up.begin(generation.clone(), Instant::now()),
            None => state.catch_up.end(),
        }
        // What was on its way to the last life is no measure for this one.
        state.on_the_way.clear();
        self.0.generation.send_replace(generation);
        true
    }

    /// Looks at what the feed has brought, repeats included.
    pub fn hear(&self, event: &Event) -> Heard {
        let now = Instant::now();
        let mut state = self.state();
        // A backlog is no silence: as long as older events come, a heartbeat is behind them.
        let is_behind = |own: &&mut OnTheWay| event.published.is_some_and(|published| published < own.sent);
        for own in state.on_the_way.iter_mut().filter(is_behind) {
            own.awaited = own.awaited.map(|_| now);
        }
        if *event.kind != *HEARTBEAT {
            state.catch_up.hear(event, None, now);
            return Heard::Event;
        }
        let (Some(heartbeat), Some(published)) = (Heartbeat::read(event), event.published) else {
            state.catch_up.hear(event, None, now);
            return Heard::Garbage;
        };
        state.members.hear(&heartbeat, published);
        state.catch_up.hear(event, Some(&heartbeat.feed), now);
        if let Some(own) = state.on_the_way.iter().position(|own| own.id == event.id) {
            // They share a lane: what was sent before and is not here yet is not going to be.
            let returned = state.on_the_way.drain(..=own).next_back();
            state.lag = returned.map(|own| now - own.since);
        }
        Heard::Heartbeat
    }

    /// When to ask [`settle`](Self::settle), if nothing comes before.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        self.state().catch_up.due()
    }

    /// Whether the feed has caught up just now, and what that says of the events before.
    pub fn settle(&self) -> Option<History> {
        self.state().catch_up.settle(Instant::now())
    }

    /// Heartbeats, and asks for a new feed when nothing comes back. Runs until it is dropped, cancel-safe.
    pub async fn run(&self, publisher: &dyn Publish, reopen: &Reopen, connections: impl Fn() -> usize) {
        tokio::join!(self.beat(publisher, connections), self.listen(reopen));
    }

    async fn beat(&self, publisher: &dyn Publish, connections: impl Fn() -> usize) {
        let mut generations = self.0.generation.subscribe();
        loop {
            let Some(generation) = open(&mut generations).await else { return };
            let interval = self.state().members.interval(self.0.settings.interval);
            let heartbeat = Heartbeat::new(self.0.settings.pod.clone(), generation, connections(), interval);
            let pause = match self.publish(&heartbeat.event(), publisher).await {
                // Never longer than announced, and not in step with the others that started with us.
                Ok(()) => interval.mul_f64(rand::random_range(0.8..1.0)),
                Err(_) => RETRY.min(interval),
            };
            select! {
                () = sleep(pause) => {}
                // A new life wants its first heartbeat at once.
                _ = generations.changed() => {}
            }
        }
    }

    async fn publish(&self, event: &Event, publisher: &dyn Publish) -> Result<(), ()> {
        {
            let mut state = self.state();
            if state.on_the_way.len() == ON_THE_WAY {
                state.on_the_way.pop_back();
            }
            state.on_the_way.push_back(OnTheWay {
                id: event.id.clone(),
                since: Instant::now(),
                sent: SystemTime::now(),
                awaited: None,
            });
        }
        let outcome = publisher.publish(event).await;
        let label = if outcome.is_ok() { ACKNOWLEDGED } else { FAILED };
        self.0.heartbeats.add(1, &[KeyValue::new("outcome", label)]);
        let mut state = self.state();
        state.failure = outcome.as_ref().err().map(ToString::to_string);
        match &outcome {
            Ok(()) => {
                if let Some(own) = state.on_the_way.iter_mut().find(|own| own.id == event.id) {
                    own.awaited = Some(Instant::now());
                }
            }
            // It may be on its way all the same.
            Err(PublishError::TimedOut) => {}
            // It is not, and says nothing of the feed.
            Err(_) => state.on_the_way.retain(|own| own.id != event.id),
        }
        outcome.map_err(|error| {
            tracing::warn!(error = &error as &dyn std::error::Error, "heartbeat not published")
        })
    }

    /// Asks for a new feed whenever the present one is silent.
    async fn listen(&self, reopen: &Reopen) {
        let mut generations = self.0.generation.subscribe();
        loop {
            let Some(generation) = open(&mut generations).await else { return };
            let Some(silent) = self.silent_at() else { continue };
            select! {
                () = sleep_until(silent) => {}
                _ = generations.changed() => continue,
            }
            if self.silent_at().is_some_and(|silent| silent <= Instant::now()) {
                tracing::warn!(feed = &*generation, "feed is silent");
                self.0.silences.add(1, &[]);
                reopen.ask(&generation);
                // An error says that the pod is gone.
                let _ = generations.changed().await;
            }
        }
    }

    /// When the feed counts as silent, if nothing comes before: three intervals after anything came through it, or after
    /// the topic took a heartbeat of ours that did not come back, though what is younger does.
    fn silent_at(&self) -> Option<Instant> {
        let state = self.state();
        let base = self.0.settings.interval;
        let (heard, is_proven) = state.catch_up.heard()?;
        let patience = if is_proven { base * PATIENCE } else { (base * PATIENCE).max(FIRST_PATIENCE) };
        let own = state.on_the_way.iter().find_map(|own| own.awaited);
        let own_patience = patience.max(state.members.interval(base) * PATIENCE);
        Some(own.map_or(heard + patience, |awaited| (awaited + own_patience).min(heard + patience)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code under the lock panics halfway through a change.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The present generation of the feed, waiting for one; `None` if there will be none.
async fn open(generations: &mut watch::Receiver<Option<Arc<str>>>) -> Option<Arc<str>> {
    generations.wait_for(Option::is_some).await.ok()?.clone()
}

#[cfg(test)]
mod tests;
