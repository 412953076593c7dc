//! [`FeedHealth`]: the state of this pod's feed, as the heartbeats show it that the pod sends and
//! receives.
//!
//! It decides whether the feed has caught up, how far it lags, when it counts as late or silent,
//! and whether the pod can publish. It is pure: its caller passes the time. It must never depend on
//! which pods are alive.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

use super::{catch_up::CatchUp, members::PATIENCE};
use crate::{
    broker::{Order, PublishError},
    event::Event,
};

/// Least time that a new feed has to bring its first heartbeat, however short the interval. A
/// broker that all pods keep busy at once is slow, not dead.
const FIRST_PATIENCE: Duration = Duration::from_secs(10);

/// Number of intervals beyond which heartbeats count as late: one may be missed by accident.
const LATE: u32 = 2;

/// Number of heartbeats in a row that the topic must not take, so that the pod counts as unable to
/// publish. A single failure may be an accident.
const UNPUBLISHABLE: u32 = 3;

/// Most own heartbeats in flight that are remembered, for the lag. At the limit a new one replaces
/// the youngest.
const MAX_IN_FLIGHT: usize = 16;

/// State of the feed of one pod.
pub(super) struct FeedHealth {
    pub(super) catch_up: CatchUp,
    in_flight: VecDeque<InFlight>,
    lag: Option<Duration>,
    /// How much this pod's clock is ahead of the topic's, in seconds; `None` before it is measured.
    clock: Option<f64>,
    /// Why the topic did not take the last heartbeat; `None` if it did.
    failure: Option<String>,
    /// Number of heartbeats since the last one that the topic took.
    failures: u32,
    /// Time at which the topic took a heartbeat again after it had not.
    resumed: Option<Instant>,
    /// Why an earlier generation of the feed has ended; `None` once the feed has caught up.
    obstacle: Option<String>,
    /// Last generation that was given up because nothing came through it, although it had caught
    /// up; `None` once the feed has caught up, or has ended for another reason.
    given_up: Option<Arc<str>>,
}

/// Heartbeat of this pod that has not come back.
struct InFlight {
    id: Arc<str>,
    since: Instant,
    /// Time of sending, by the pod's clock.
    sent: SystemTime,
    /// Time at which the topic acknowledged it.
    taken: Option<Instant>,
    /// Time since which the heartbeat should be back. It begins when the topic takes the heartbeat.
    /// It begins anew with each event that comes and was published before the heartbeat.
    awaited: Option<Instant>,
}

/// Difference between this pod's clock and the topic's, as an own heartbeat measured it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Skew {
    /// Present time of the topic.
    pub(super) now: SystemTime,
    /// How much this pod's clock is ahead, in seconds; negative if behind.
    pub(super) seconds: f64,
    /// Largest error of the measurement, in seconds.
    pub(super) error: f64,
}

impl FeedHealth {
    pub(super) const fn new(interval: Duration, settle: Duration) -> Self {
        Self {
            catch_up: CatchUp::new(interval, settle),
            in_flight: VecDeque::new(),
            lag: None,
            clock: None,
            failure: None,
            failures: 0,
            resumed: None,
            obstacle: None,
            given_up: None,
        }
    }

    /// Returns how much this pod's clock is ahead of the topic's, in seconds; `None` before this
    /// pod's first heartbeat has come back.
    pub(super) const fn clock(&self) -> Option<f64> {
        self.clock
    }

    /// Returns how long the last own heartbeat took to come back. If one has been missing for
    /// longer, returns that time instead.
    pub(super) fn lag(&self, now: Instant) -> Option<Duration> {
        let missing = self.in_flight.front().map(|heartbeat| now - heartbeat.since);
        self.lag.max(missing)
    }

    /// Returns whether an own heartbeat of this id is on its way.
    pub(super) fn is_awaited(&self, id: &str) -> bool {
        self.in_flight.iter().any(|own| *own.id == *id)
    }

    /// Returns the number of heartbeats in a row that the topic did not take.
    pub(super) const fn failures(&self) -> u32 {
        self.failures
    }

    /// Records why no generation of the feed is open.
    pub(super) fn hinder(&mut self, why: &str) {
        self.obstacle = Some(why.to_owned());
    }

    /// Follows the feed to another generation, which has this order, or to none.
    pub(super) fn follow(&mut self, generation: Option<&Arc<str>>, order: Order, now: Instant) {
        if self.catch_up.feed().is_some_and(|ended| Some(ended) != self.given_up.as_ref()) {
            self.given_up = None;
        }
        match generation {
            Some(generation) => self.catch_up.begin(generation.clone(), order, now),
            None => self.catch_up.end(),
        }
        // Heartbeats in flight to the last generation are no measure for this one.
        self.in_flight.clear();
    }

    /// Records that the generation is given up for silence. If nothing at all came through it, the
    /// pod goes on: the delivery may be late for all pods.
    pub(super) fn give_up(&mut self, interval: Duration, now: Instant) {
        let is_silent = self.catch_up.heard().is_some_and(|(heard, _)| now - heard >= interval * PATIENCE);
        let has_served = self.catch_up.caught_up().is_some() || self.given_up.is_some();
        self.given_up = self.catch_up.feed().filter(|_| is_silent && has_served).cloned();
    }

    /// Returns how late the feed is, in words for `/readyz`; `None` if it is not, or if the pod
    /// cannot serve with it.
    ///
    /// A feed that has caught up is late if heartbeats take more than two intervals. A feed that is
    /// opened anew for silence is late, not deaf, as long as new heartbeats come: the last one at
    /// most six intervals ago, or [`FIRST_PATIENCE`] if that is longer.
    pub(super) fn late(&self, interval: Duration, now: Instant) -> Option<String> {
        if self.catch_up.caught_up().is_some() {
            let lag = self.lag(now).filter(|lag| *lag > interval * LATE)?;
            return Some(format!("what comes through it is {} s late", lag.as_secs()));
        }
        self.given_up.as_ref().filter(|_| self.failure.is_none())?;
        let silence = now - self.catch_up.renewed()?;
        let patience = (interval * PATIENCE * 2).max(FIRST_PATIENCE);
        let text = format!("the last heartbeat came {} s ago, and it is opened anew", silence.as_secs());
        (silence < patience).then_some(text)
    }

    /// Processes an event that the feed has brought, repeats included. `feed` is the feed that a
    /// heartbeat names, if the heartbeat is awaited or its pod's newest; `None` for other events.
    /// Returns the skew if the event is an own heartbeat.
    pub(super) fn hear(&mut self, event: &Event, feed: Option<&str>, now: Instant) -> Option<Skew> {
        // A backlog is not silence: while older events come, the heartbeat is still behind them.
        let ahead = self.clock.unwrap_or_default();
        let by_our_clock = event.published.and_then(|published| shift(published, ahead));
        let is_behind = |own: &&mut InFlight| by_our_clock.is_some_and(|published| published < own.sent);
        for own in self.in_flight.iter_mut().filter(is_behind) {
            own.awaited = own.awaited.map(|_| now);
        }
        self.catch_up.hear(event, feed, now);
        let published = event.published.filter(|_| feed.is_some())?;
        let own = self.in_flight.iter().position(|own| own.id == event.id)?;
        // Heartbeats share an ordering key: an earlier one that is not back yet will not come any
        // more.
        let own = self.in_flight.drain(..=own).next_back()?;
        self.lag = Some(now - own.since);
        let skew = own.skew(published, now);
        self.clock = Some(skew.seconds);
        Some(skew)
    }

    /// Checks whether the feed has caught up just now. If so, returns what that proves about the
    /// events before.
    pub(super) fn settle(&mut self, now: Instant) -> Option<super::History> {
        let history = self.catch_up.settle(now)?;
        (self.obstacle, self.given_up) = (None, None);
        Some(history)
    }

    /// Records that an own heartbeat is on its way to the topic. `sent` is the pod's clock.
    pub(super) fn send(&mut self, id: Arc<str>, now: Instant, sent: SystemTime) {
        if self.in_flight.len() == MAX_IN_FLIGHT {
            self.in_flight.pop_back();
        }
        self.in_flight.push_back(InFlight { id, since: now, sent, taken: None, awaited: None });
    }

    /// Records whether the topic took the own heartbeat of this id.
    pub(super) fn sent(&mut self, id: &str, outcome: &Result<(), PublishError>, now: Instant) {
        self.failure = outcome.as_ref().err().map(ToString::to_string);
        match outcome {
            Ok(()) => {
                if std::mem::take(&mut self.failures) > 0 {
                    self.resumed = Some(now);
                }
                if let Some(own) = self.in_flight.iter_mut().find(|own| *own.id == *id) {
                    (own.taken, own.awaited) = (Some(now), Some(now));
                }
                return;
            }
            // The topic may have taken it all the same.
            Err(PublishError::TimedOut) => {}
            // The topic did not take it, so its absence proves nothing about the feed.
            Err(_) => self.in_flight.retain(|own| *own.id != *id),
        }
        self.failures = self.failures.saturating_add(1);
    }

    /// Returns what an open feed still waits for, in words for `/readyz`; `None` if the feed has
    /// caught up.
    pub(super) fn awaits(&self) -> Option<String> {
        if self.catch_up.caught_up().is_some() {
            return None;
        }
        Some(match &self.failure {
            Some(failure) => {
                let tries = self.failures;
                format!("no heartbeat of this pod can be published: {failure} (tried {tries} times)")
            }
            None => {
                let before = self.obstacle.as_ref().map(|why| format!("; the feed before: {why}"));
                format!("this pod's heartbeat has not come back yet{}", before.unwrap_or_default())
            }
        })
    }

    /// Returns why this pod cannot publish; `None` if it can. The heartbeats of other pods prove
    /// nothing about it.
    pub(super) fn cannot_publish(&self, interval: Duration, now: Instant) -> Option<String> {
        let is_deaf = self.catch_up.heard().is_some_and(|(heard, _)| now - heard >= interval * PATIENCE);
        let failure = self.failure.as_ref().filter(|_| is_deaf || self.failures >= UNPUBLISHABLE)?;
        Some(format!("{failure} (tried {} times)", self.failures))
    }

    /// Returns when the feed counts as silent, if nothing comes before. That is three intervals
    /// after the last event came through it. It is sooner if younger events come, but not an own
    /// heartbeat that the topic took three intervals ago. A new feed has [`FIRST_PATIENCE`] at
    /// least. While the topic takes no heartbeats, the time is three times as long: silence then
    /// proves little, and each new feed uses up the quota of administrative calls.
    pub(super) fn silent_at(&self, interval: Duration) -> Option<Instant> {
        let (heard, is_proven) = self.catch_up.heard()?;
        let heard = self.resumed.map_or(heard, |resumed| heard.max(resumed));
        let least = if is_proven { Duration::ZERO } else { FIRST_PATIENCE };
        let patience = (interval * PATIENCE).max(least);
        let patience = if self.failures > 0 { patience * PATIENCE } else { patience };
        let own = self.in_flight.iter().find_map(|own| own.awaited);
        Some(own.map_or(heard + patience, |awaited| (awaited + patience).min(heard + patience)))
    }
}

impl InFlight {
    /// Measures the clock by this heartbeat, which came back now. The topic took it about half-way
    /// between its sending and its acknowledgement, however late it comes back.
    fn skew(&self, published: SystemTime, now: Instant) -> Skew {
        let half = (self.taken.unwrap_or(now) - self.since) / 2;
        let (error, elapsed) = (half.as_secs_f64(), now - self.since - half);
        let seconds = match self.sent.duration_since(published) {
            Ok(ahead) => ahead.as_secs_f64(),
            Err(behind) => -behind.duration().as_secs_f64(),
        };
        Skew { now: published + elapsed, seconds: seconds + error, error }
    }
}

/// Returns the time this many seconds later, or earlier if negative.
fn shift(time: SystemTime, seconds: f64) -> Option<SystemTime> {
    let by = Duration::try_from_secs_f64(seconds.abs()).ok()?;
    if seconds < 0.0 { time.checked_sub(by) } else { time.checked_add(by) }
}

#[cfg(test)]
mod tests;
