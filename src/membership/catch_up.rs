//! [`CatchUp`]: decides, from the heartbeats received, whether the feed has caught up and whether
//! events were lost.
//!
//! It is pure: its caller passes each event with the time of its arrival. It must never read a
//! clock or do I/O.
//!
//! **The barrier.** The pod publishes a heartbeat when its feed opens. The feed has caught up once
//! that heartbeat has come back and nothing older than it has come for a while (0.2 s, or 2 s where
//! a replay may come late). All heartbeats share one ordering key, and the topic keeps the order of
//! a key. So everything that was published before with *that* key has certainly come. Other keys
//! have an order of their own, so for them the barrier is only as good as the wait. A backlog comes
//! without a pause, and each old event begins the wait anew. An event that comes even later is
//! delivered like any other, and lies within the margin of cursors.
//!
//! **Losses.** A feed that is opened anew begins before the last heartbeat received. So this
//! heartbeat must come once more. It must come before the pod's own new heartbeat, which was
//! published later with the same key. If it comes, the topic is the same one. It then still has
//! everything that it took since, because it forgets the oldest first. If only the own heartbeat
//! comes, the topic has lost the last one, and with it whatever it took since. Causes are a topic
//! made anew, an emulator restarted empty, or an absence longer than the topic's retention. A seek
//! is exact in what comes, but not in when it comes, so the verdict waits one interval more. If the
//! last heartbeat comes even later, watchers have got a needless gap notice, but never a silent
//! loss.
//!
//! **With one order for all events** ([`Order::Total`]) the newest event of any kind must come
//! again, not only the newest heartbeat. So a topic that lost the last seconds before a failover is
//! found out as well. No wait is needed: what comes before the own heartbeat is all that there is.
//!
//! **The first generation** has no earlier heartbeat to look for. But a pod that gives out a cursor
//! has caught up, so its own heartbeat was on the topic before. If nothing as old as the cursor has
//! come, the history of the cursor is not on this pod.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

use crate::{broker::Order, event::Event};

/// Evidence that one pod's feed has brought so far.
#[derive(Debug)]
pub(super) struct CatchUp {
    /// How late a missing heartbeat of a feed with lanes may come. After that time it counts as
    /// lost.
    grace: Duration,
    /// How long nothing older than the pod's own first heartbeat must have come.
    settle: Duration,
    /// Newest heartbeat of any pod, and newest event of any kind.
    newest_heartbeat: Newest,
    newest_event: Newest,
    /// Time at which the newest heartbeat came first.
    renewed: Option<Instant>,
    /// Time before which a missing heartbeat does not count as lost.
    patient_until: Option<Instant>,
    /// Time of publishing of the oldest event, of any kind.
    oldest: Option<SystemTime>,
    has_caught_up_before: bool,
    generation: Option<Generation>,
}

/// Time of publishing and id of the newest event of a kind; `None` before the first.
type Newest = Option<(SystemTime, Arc<str>)>;

/// One generation of the feed.
#[derive(Debug)]
struct Generation {
    feed: Arc<str>,
    /// How late the awaited event may come.
    grace: Duration,
    /// Event that must come again, until it has come: its time of publishing and its id.
    awaited: Newest,
    barrier: Option<Barrier>,
    caught_up: Option<Instant>,
    /// Time at which the last event came; at first, the time at which the generation began.
    heard: Instant,
}

/// Return of the pod's own first heartbeat of this generation.
#[derive(Debug)]
struct Barrier {
    event: Event,
    came: Instant,
    settles: Instant,
}

/// What a feed that has caught up proves about the events before.
#[derive(Debug, PartialEq, Eq)]
pub enum History {
    /// Nothing was lost since the last generation.
    Whole,
    /// This is the first generation of the feed.
    First {
        /// No event published since this moment is missing.
        since: SystemTime,
        /// Time of publishing of the pod's own first heartbeat, by the topic's clock.
        own: SystemTime,
        /// Time at which that heartbeat came back.
        came: Instant,
    },
    /// Events published before this event may be lost.
    Lost(Event),
}

impl CatchUp {
    /// Creates the state of a feed. `grace` is how late a heartbeat of a feed with lanes may come.
    pub(super) const fn new(grace: Duration, settle: Duration) -> Self {
        Self {
            grace,
            settle,
            newest_heartbeat: None,
            newest_event: None,
            renewed: None,
            patient_until: None,
            oldest: None,
            has_caught_up_before: false,
            generation: None,
        }
    }

    /// Counts no heartbeat as lost before this time.
    pub(super) const fn be_patient(&mut self, until: Instant) {
        self.patient_until = Some(until);
    }

    /// Begins a new generation of the feed, which has this order.
    pub(super) fn begin(&mut self, feed: Arc<str>, order: Order, now: Instant) {
        let (newest, grace) = match order {
            Order::Total => (&self.newest_event, Duration::ZERO),
            Order::Lanes => (&self.newest_heartbeat, self.grace),
        };
        let awaited = newest.clone();
        self.generation =
            Some(Generation { feed, grace, awaited, barrier: None, caught_up: None, heard: now });
    }

    /// Ends the generation: the feed is not open.
    pub(super) fn end(&mut self) {
        self.generation = None;
    }

    /// Processes an event, repeats included. `feed` is the feed that a heartbeat names, if the
    /// heartbeat is its pod's newest; `None` for other events.
    pub(super) fn hear(&mut self, event: &Event, feed: Option<&str>, now: Instant) {
        let Some(published) = event.published else { return };
        self.oldest = Some(self.oldest.map_or(published, |oldest| oldest.min(published)));
        let is_newer = |newest: &Newest| newest.as_ref().is_none_or(|(newest, _)| *newest < published);
        if is_newer(&self.newest_event) {
            self.newest_event = Some((published, event.id.clone()));
        }
        if feed.is_some() && is_newer(&self.newest_heartbeat) {
            self.newest_heartbeat = Some((published, event.id.clone()));
            self.renewed = Some(now);
        }
        let settle = self.settle;
        let Some(generation) = &mut self.generation else { return };
        generation.heard = now;
        generation.awaited.take_if(|(at, id)| (*at, &*id) == (published, &event.id));
        match &mut generation.barrier {
            None if feed == Some(&generation.feed) => {
                generation.barrier = Some(Barrier { event: event.clone(), came: now, settles: now + settle });
            }
            Some(barrier) if Some(published) < barrier.event.published => barrier.settles = now + settle,
            _ => {}
        }
    }

    /// Returns when to call [`settle`](Self::settle), if no event comes before.
    pub(super) fn due(&self) -> Option<Instant> {
        let generation = self.generation.as_ref().filter(|generation| generation.caught_up.is_none())?;
        let barrier = generation.barrier.as_ref()?;
        Some(match generation.awaited {
            None => barrier.settles,
            Some(_) => {
                let late = barrier.settles.max(barrier.came + generation.grace);
                self.patient_until.map_or(late, |until| late.max(until))
            }
        })
    }

    /// Checks whether the feed has caught up just now. If so, returns what that proves about the
    /// events before.
    pub(super) fn settle(&mut self, now: Instant) -> Option<History> {
        if self.due()? > now {
            return None;
        }
        let generation = self.generation.as_mut()?;
        generation.caught_up = Some(now);
        let is_first = !std::mem::replace(&mut self.has_caught_up_before, true);
        let barrier = generation.barrier.as_ref()?;
        Some(match (&generation.awaited, self.oldest, barrier.event.published) {
            (Some(_), ..) => History::Lost(barrier.event.clone()),
            (None, Some(since), Some(own)) if is_first => History::First { since, own, came: barrier.came },
            _ => History::Whole,
        })
    }

    /// Returns the name of the present generation.
    pub(super) fn feed(&self) -> Option<&Arc<str>> {
        self.generation.as_ref().map(|generation| &generation.feed)
    }

    /// Returns when a heartbeat last came that is newer than all before.
    pub(super) const fn renewed(&self) -> Option<Instant> {
        self.renewed
    }

    /// Returns since when the feed has been caught up without a break.
    pub(super) fn caught_up(&self) -> Option<Instant> {
        self.generation.as_ref()?.caught_up
    }

    /// Returns when the last event came, and whether the pod's own first heartbeat has come.
    pub(super) fn heard(&self) -> Option<(Instant, bool)> {
        self.generation.as_ref().map(|generation| (generation.heard, generation.barrier.is_some()))
    }
}

#[cfg(test)]
mod tests;
