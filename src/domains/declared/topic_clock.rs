//! [`TopicClock`]: the time by the clock of the topic.
//!
//! Pods agree on what a projection has forgotten only if they all use one clock. That of a pod may
//! be hours off, or step. So the clock goes on from the newest time at which the topic published a
//! message. Until then it is the pod's own.

use std::{sync::Mutex, time::SystemTime};

use tokio::time::Instant;

use crate::lock::lock;

/// Clock of the topic, as the messages of the feed show it. It never steps back.
#[derive(Debug, Default)]
pub struct TopicClock(Mutex<Option<Reading>>);

/// Time by the topic's clock, and the moment at which the pod learned it.
#[derive(Clone, Copy, Debug)]
struct Reading {
    time: SystemTime,
    at: Instant,
}

impl Reading {
    /// Returns the time by the topic's clock now, or a moment before.
    fn now(&self) -> SystemTime {
        self.time.checked_add(self.at.elapsed()).unwrap_or(self.time)
    }
}

impl TopicClock {
    /// Takes the time at which the topic published a message. Messages of a replay are from the
    /// past and change nothing.
    pub fn hear(&self, published: SystemTime) {
        let mut latest = lock(&self.0);
        if latest.is_none_or(|latest| latest.now() < published) {
            *latest = Some(Reading { time: published, at: Instant::now() });
        }
    }

    /// Returns the time by the topic's clock.
    #[must_use]
    pub fn now(&self) -> SystemTime {
        lock(&self.0).map_or_else(SystemTime::now, |latest| latest.now())
    }
}
