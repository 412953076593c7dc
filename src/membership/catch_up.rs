//! [`CatchUp`]: what a feed has brought in its present life, and what that proves.
//!
//! Pure: it is told what came and when, and answers whether the pod has caught up with the topic, and whether something
//! between two lives of its feed was lost.
//!
//! **The barrier.** The pod publishes a heartbeat when its feed opens, and has caught up once that heartbeat has come back and
//! nothing older than it has come for [`SETTLE`]. All heartbeats share one lane, and a lane keeps its order: what was published
//! before in *that* lane has certainly come. Other lanes have an order of their own, so for them the barrier is as good as
//! the wait: a backlog comes without a pause, and each old event begins the wait anew. An event that comes later still is
//! told to those who watch, like any other, and lies within the margin that cursors have.
//!
//! **What was lost.** A feed that is opened anew begins before the last heartbeat that was heard, so that this heartbeat must come
//! once more, and before our own new one, which was published later in the same lane. If it comes, then the topic is the
//! same one and still has all that it took since then, for it forgets the oldest first. If ours comes and that one does
//! not, the topic has lost it (a topic made anew, an emulator restarted empty, an absence longer than its retention), and
//! with it whatever it took since. Since seeking a feed is exact in what comes and not in when, the verdict waits one
//! interval more; an old heartbeat that comes even later has cost its watchers a needless notice, and never a silent loss.
//!
//! **The first life** has no heartbeat to look for. But whoever gave out a cursor had caught up then, so that a heartbeat of its
//! own stood on the topic before: if nothing as old as the cursor has come, its history is not here.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

use crate::event::Event;

/// How long nothing older than our first heartbeat must have come.
const SETTLE: Duration = Duration::from_millis(200);

/// What one pod's feed has shown.
#[derive(Debug)]
pub(super) struct CatchUp {
    /// How long a heartbeat that is missing may be late.
    grace: Duration,
    /// The newest heartbeat of any pod.
    newest: Option<(SystemTime, Arc<str>)>,
    /// The oldest event of any kind.
    oldest: Option<SystemTime>,
    has_caught_up_before: bool,
    generation: Option<Generation>,
}

/// One life of the feed.
#[derive(Debug)]
struct Generation {
    feed: Arc<str>,
    /// The heartbeat that must come again, until it has.
    awaited: Option<Arc<str>>,
    barrier: Option<Barrier>,
    caught_up: Option<Instant>,
    /// When anything came last; at first, when the life began.
    heard: Instant,
}

/// Our own first heartbeat of this life has come back.
#[derive(Debug)]
struct Barrier {
    event: Event,
    came: Instant,
    settles: Instant,
}

/// The feed has caught up: what is known of the events before.
#[derive(Debug, PartialEq, Eq)]
pub enum History {
    /// Nothing was lost since the last life.
    Whole,
    /// The first life.
    First {
        /// Nothing published since this moment is missing.
        since: SystemTime,
        /// When our own first heartbeat was published, by the topic's clock.
        own: SystemTime,
        /// When it came back.
        came: Instant,
    },
    /// What was published before this event may be lost.
    Lost(Event),
}

impl CatchUp {
    pub(super) const fn new(grace: Duration) -> Self {
        Self { grace, newest: None, oldest: None, has_caught_up_before: false, generation: None }
    }

    /// The feed has a new life.
    pub(super) fn begin(&mut self, feed: Arc<str>, now: Instant) {
        let awaited = self.newest.as_ref().map(|(_, id)| id.clone());
        self.generation = Some(Generation { feed, awaited, barrier: None, caught_up: None, heard: now });
    }

    /// The feed is not open.
    pub(super) fn end(&mut self) {
        self.generation = None;
    }

    /// Something came, repeats included. `feed` is the one that a heartbeat names, for heartbeats.
    pub(super) fn hear(&mut self, event: &Event, feed: Option<&str>, now: Instant) {
        let Some(published) = event.published else { return };
        self.oldest = Some(self.oldest.map_or(published, |oldest| oldest.min(published)));
        if feed.is_some() && self.newest.as_ref().is_none_or(|(newest, _)| *newest < published) {
            self.newest = Some((published, event.id.clone()));
        }
        let Some(generation) = &mut self.generation else { return };
        generation.heard = now;
        generation.awaited.take_if(|awaited| *awaited == event.id);
        match &mut generation.barrier {
            None if feed == Some(&generation.feed) => {
                generation.barrier = Some(Barrier { event: event.clone(), came: now, settles: now + SETTLE });
            }
            Some(barrier) if Some(published) < barrier.event.published => barrier.settles = now + SETTLE,
            _ => {}
        }
    }

    /// When to ask [`settle`](Self::settle), if nothing comes before.
    pub(super) fn due(&self) -> Option<Instant> {
        let generation = self.generation.as_ref().filter(|generation| generation.caught_up.is_none())?;
        let barrier = generation.barrier.as_ref()?;
        Some(match generation.awaited {
            None => barrier.settles,
            Some(_) => barrier.settles.max(barrier.came + self.grace),
        })
    }

    /// Whether the feed has caught up just now, and what that says of the events before.
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

    /// Since when the feed has been caught up without a break.
    pub(super) fn caught_up(&self) -> Option<Instant> {
        self.generation.as_ref()?.caught_up
    }

    /// When anything came last, and whether our own first heartbeat was among it.
    pub(super) fn heard(&self) -> Option<(Instant, bool)> {
        self.generation.as_ref().map(|generation| (generation.heard, generation.barrier.is_some()))
    }
}

#[cfg(test)]
mod tests;
