//! [`TopicClock`]: the topic's time, as this pod's own heartbeats show it.
//!
//! The clock of a pod's machine may be wrong, and may step. Events carry the topic's times, so
//! ages must be measured by the topic's clock. Between two heartbeats this clock runs with the
//! monotonic clock of the process. It must never follow a step of the machine's clock.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

/// Clock of the topic. Until it is first set it shows the machine's time. Clones are one clock.
#[derive(Clone, Debug)]
pub struct TopicClock(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    began: Instant,
    /// Time of the topic at `began`, in nanoseconds since 1970. They reach to the year 2262.
    start: AtomicI64,
}

impl Default for TopicClock {
    fn default() -> Self {
        let clock = Self(Arc::new(Shared { began: Instant::now(), start: AtomicI64::new(0) }));
        clock.set(SystemTime::now());
        clock
    }
}

impl TopicClock {
    /// Sets the topic's present time.
    pub fn set(&self, now: SystemTime) {
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.0.start.store(nanos(since) - nanos(self.0.began.elapsed()), Ordering::Relaxed);
    }

    /// Returns the topic's present time.
    #[must_use]
    pub fn now(&self) -> SystemTime {
        let since = self.0.start.load(Ordering::Relaxed) + nanos(self.0.began.elapsed());
        SystemTime::UNIX_EPOCH + Duration::from_nanos(since.try_into().unwrap_or_default())
    }

    /// Returns how long ago an event of this time was published; zero for a time to come.
    #[must_use]
    pub fn age(&self, published: SystemTime) -> Duration {
        self.now().duration_since(published).unwrap_or_default()
    }
}

fn nanos(duration: Duration) -> i64 {
    duration.as_nanos().try_into().unwrap_or(i64::MAX / 2)
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn clock_runs_from_last_setting() {
        let hour = Duration::from_secs(3_600);
        let topic = SystemTime::now() - hour;
        let clock = TopicClock::default();
        assert!(clock.age(topic) >= hour, "at first it is the machine's");
        advance(hour).await;
        clock.set(topic);
        advance(Duration::from_secs(5)).await;
        assert_eq!(clock.now(), topic + Duration::from_secs(5));
        assert_eq!(clock.age(topic), Duration::from_secs(5));
        assert_eq!(clock.age(topic + hour), Duration::ZERO);
    }
}
