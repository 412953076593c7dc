//! [`Rates`]: how many events, and how many bytes of them, one author may publish.
//!
//! Each author has a token bucket on each pod. A mutation takes from it before it publishes. Events
//! that other pods publish for the same author drain it when they come through the feed. So all
//! pods share one rate without a store. It must never refuse an event that the topic already has.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::time::Instant;

use crate::lock::lock;

/// Seconds of the rate of events that may be published at once.
const EVENTS_BURST: f64 = 4.0;

/// Seconds of the rate of bytes that may be published at once: by default 16 of the largest
/// templates.
const BYTES_BURST: f64 = 64.0;

/// Buckets that are kept without a look whether they are full again.
const FEW_BUCKETS: usize = 1_024;

/// Amounts of events and of their bytes.
#[derive(Clone, Copy, Debug)]
struct Amount {
    events: f64,
    bytes: f64,
}

/// Rates of every author of a pod.
#[derive(Debug)]
pub struct Rates {
    /// What one author may publish each second; infinite: no limit.
    rate: Amount,
    buckets: Mutex<Buckets>,
}

#[derive(Debug, Default)]
struct Buckets {
    by_author: HashMap<Arc<str>, Bucket>,
    /// Number of buckets at which those that are full again are dropped.
    sweep_at: usize,
}

/// What an author has published lately.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    /// Amount above the rate. It shrinks with time.
    excess: Amount,
    since: Instant,
}

impl Rates {
    /// Creates the rates of a pod: events and bytes that an author may publish each second. `None`:
    /// no limit.
    #[must_use]
    pub fn new(events: Option<u64>, bytes: Option<u64>) -> Self {
        let rate = |limit: Option<u64>| limit.map_or(f64::INFINITY, |limit| limit as f64);
        Self { rate: Amount { events: rate(events), bytes: rate(bytes) }, buckets: Mutex::default() }
    }

    /// Takes an event of this many bytes from the author's bucket.
    ///
    /// # Errors
    /// The time after which the bucket has room, if it has none now. Nothing is taken then.
    pub fn take(&self, author: &Arc<str>, bytes: usize) -> Result<(), Duration> {
        self.change(author, |rate, bucket| {
            let wait = (bucket.events + 1.0 - rate.events * EVENTS_BURST) / rate.events;
            // An event that is larger than the burst needs an empty bucket.
            let burst = (rate.bytes * BYTES_BURST).max(bytes as f64);
            let wait = wait.max((bucket.bytes + bytes as f64 - burst) / rate.bytes);
            if wait > 0.0 {
                return Err(Duration::from_secs_f64(wait.min(86_400.0)));
            }
            bucket.add(bytes);
            Ok(())
        })
    }

    /// Takes an event that another pod has published for this author, whatever the bucket has.
    pub fn drain(&self, author: &Arc<str>, bytes: usize) {
        let _ = self.change(author, |_, bucket| {
            bucket.add(bytes);
            Ok(())
        });
    }

    /// Takes bytes that an event of this author has besides its data, whatever the bucket has.
    pub fn drain_bytes(&self, author: &Arc<str>, bytes: usize) {
        let _ = self.change(author, |_, bucket| {
            bucket.bytes += bytes as f64;
            Ok(())
        });
    }

    fn change(
        &self,
        author: &Arc<str>,
        change: impl FnOnce(Amount, &mut Amount) -> Result<(), Duration>,
    ) -> Result<(), Duration> {
        let rate = self.rate;
        if rate.events.is_infinite() && rate.bytes.is_infinite() {
            return Ok(());
        }
        let (now, mut buckets) = (Instant::now(), lock(&self.buckets));
        buckets.sweep(rate, now);
        let empty = Bucket { excess: Amount { events: 0.0, bytes: 0.0 }, since: now };
        let bucket = buckets.by_author.entry(author.clone()).or_insert(empty);
        *bucket = Bucket { excess: bucket.left(rate, now), since: now };
        change(rate, &mut bucket.excess)
    }
}

impl Default for Rates {
    fn default() -> Self {
        Self::new(None, None)
    }
}

impl Amount {
    fn add(&mut self, bytes: usize) {
        self.events += 1.0;
        self.bytes += bytes as f64;
    }
}

impl Bucket {
    /// Returns what is left of the excess.
    fn left(&self, rate: Amount, now: Instant) -> Amount {
        let seconds = now.duration_since(self.since).as_secs_f64();
        // Without a limit there is no excess, at no time.
        let left = |excess: f64, rate: f64| match rate.is_infinite() {
            true => 0.0,
            false => (excess - seconds * rate).max(0.0),
        };
        Amount { events: left(self.excess.events, rate.events), bytes: left(self.excess.bytes, rate.bytes) }
    }
}

impl Buckets {
    /// Drops the buckets of authors who have been quiet, when there are many.
    fn sweep(&mut self, rate: Amount, now: Instant) {
        if self.by_author.len() < self.sweep_at.max(FEW_BUCKETS) {
            return;
        }
        self.by_author.retain(|_, bucket| {
            let left = bucket.left(rate, now);
            left.events > 0.0 || left.bytes > 0.0
        });
        self.sweep_at = 2 * self.by_author.len();
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn burst_passes_and_then_the_rate() {
        let (rates, author) = (Rates::new(Some(10), None), "a".into());
        let taken = |most: usize| (0..most).take_while(|_| rates.take(&author, 1_000_000).is_ok()).count();
        assert_eq!(taken(100), 40);
        let wait = rates.take(&author, 1).unwrap_err();
        assert!(wait <= SECOND / 10, "{wait:?}");
        assert!(rates.take(&"b".into(), 1).is_ok(), "another author has a bucket of its own");
        advance(wait).await;
        assert_eq!(taken(100), 1);
        advance(SECOND).await;
        assert_eq!(taken(100), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_are_limited_like_events() {
        let (rates, author) = (Rates::new(None, Some(100)), "a".into());
        assert!(rates.take(&author, 6_000).is_ok());
        assert_eq!(rates.take(&author, 500).unwrap_err(), SECOND);
        assert!(rates.take(&author, 400).is_ok());
        advance(64 * SECOND).await;
        assert!(rates.take(&author, 10_000).is_ok(), "a large event passes an empty bucket");
        advance(64 * SECOND).await;
        assert!(rates.take(&author, 10_000).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn events_of_other_pods_drain_the_bucket() {
        let (rates, author) = (Rates::new(Some(1), None), "a".into());
        for _ in 0..8 {
            rates.drain(&author, 0);
        }
        let wait = rates.take(&author, 0).unwrap_err();
        assert_eq!(wait, 5 * SECOND, "what others took above the burst is waited for as well");
    }

    #[tokio::test(start_paused = true)]
    async fn keys_count_as_bytes() {
        let (rates, author) = (Rates::new(Some(100), Some(100)), "a".into());
        rates.drain_bytes(&author, 6_400);
        assert_eq!(rates.take(&author, 100).unwrap_err(), SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn quiet_authors_leave_nothing() {
        let rates = Rates::new(Some(1), Some(1));
        for n in 0..10 * FEW_BUCKETS {
            rates.take(&n.to_string().into(), 1).unwrap();
            if n % 100 == 0 {
                advance(10 * SECOND).await;
            }
        }
        assert!(lock(&rates.buckets).by_author.len() <= FEW_BUCKETS);
    }
}
