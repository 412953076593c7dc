//! [`Membership::run`]: publishes this pod's heartbeats, and asks for a new feed when nothing comes
//! back.
//!
//! It must never stop while the pod runs: a heartbeat that the topic does not take is tried again.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use opentelemetry::KeyValue;
use tokio::{
    select,
    sync::watch,
    time::{Instant, sleep, sleep_until},
};

use super::{Heartbeat, KeyCounts, Membership};
use crate::{
    broker::{Publish, Reopen},
    event::Event,
};

/// Longest pause after a heartbeat that the topic did not take.
const RETRY: Duration = Duration::from_secs(1);

/// Part of an interval that is at least between two heartbeats that come before their time, and the
/// largest jitter of one.
const HASTE: f64 = 0.5;
const JITTER: f64 = 0.02;

/// Outcomes of publishing a heartbeat, as labels of metrics.
const ACKNOWLEDGED: &str = "acknowledged";
const FAILED: &str = "failed";
pub(super) const OUTCOMES: [&str; 2] = [ACKNOWLEDGED, FAILED];

impl Membership {
    /// Publishes heartbeats, and asks for a new feed when nothing comes back. Runs until it is
    /// dropped. Cancel-safe.
    pub async fn run(&self, publisher: &dyn Publish, reopen: &Reopen, connections: impl Fn() -> usize) {
        tokio::join!(self.publish_heartbeats(publisher, connections), self.watch_for_silence(reopen));
    }

    async fn publish_heartbeats(&self, publisher: &dyn Publish, connections: impl Fn() -> usize) {
        let mut generations = self.0.generation.subscribe();
        let mut hastened = Instant::now();
        loop {
            let Some(generation) = open_generation(&mut generations).await else { return };
            let interval = self.announce();
            let pod = self.0.settings.pod.clone();
            let mut heartbeat = Heartbeat::new(pod, generation, connections(), interval);
            heartbeat.status = self.0.status.get().and_then(|status| status());
            heartbeat.counts = self.count();
            let mut event = heartbeat.event();
            // Without a secret nothing proves a heartbeat.
            let _ = self.sign(&mut event);
            let pause = match self.publish(&event, publisher).await {
                // Never longer than announced, and not in step with pods that started at the same
                // time.
                Ok(()) => interval.mul_f64(rand::random_range(0.8..1.0)),
                Err(_) => RETRY.min(interval),
            };
            select! {
                () = sleep(pause) => {}
                () = self.0.news.notified() => {}
                // A new generation needs its first heartbeat at once.
                _ = generations.changed() => {}
                () = self.until_hastened(hastened, interval) => hastened = Instant::now(),
            }
        }
    }

    /// Returns the counts for a heartbeat, and notes their keys.
    fn count(&self) -> Option<KeyCounts> {
        let counts = self.0.counts.get().and_then(|counts| counts()).unwrap_or_default();
        self.state().counted = (!counts.is_partial).then(|| counts.counted.keys().cloned().collect());
        (!counts.is_empty()).then_some(counts)
    }

    /// Waits until a heartbeat is wanted before its time. `last` is when that was so before.
    async fn until_hastened(&self, last: Instant, interval: Duration) {
        self.0.hasten.notified().await;
        let jitter = interval.mul_f64(rand::random_range(0.0..JITTER));
        sleep_until((last + interval.mul_f64(HASTE)).max(Instant::now() + jitter)).await;
    }

    async fn publish(&self, event: &Event, publisher: &dyn Publish) -> Result<(), ()> {
        self.state().feed.send(event.id.clone(), Instant::now(), SystemTime::now());
        let outcome = publisher.publish(event).await;
        let label = if outcome.is_ok() { ACKNOWLEDGED } else { FAILED };
        self.0.heartbeats.add(1, &[KeyValue::new("outcome", label)]);
        let tries = {
            let mut state = self.state();
            state.feed.sent(&event.id, &outcome, Instant::now());
            state.feed.failures()
        };
        outcome.map_err(|error| {
            // Repeats are logged ever less often, and counted by a metric.
            if tries.is_power_of_two() {
                let pod = &*self.0.settings.pod;
                tracing::warn!(pod, %error, tries, "heartbeat not published");
            }
        })
    }

    /// Asks for a new feed whenever the present one is silent.
    async fn watch_for_silence(&self, reopen: &Reopen) {
        let mut generations = self.0.generation.subscribe();
        loop {
            let Some(generation) = open_generation(&mut generations).await else { return };
            let Some(silent) = self.silent_at() else { continue };
            select! {
                () = sleep_until(silent) => {}
                _ = generations.changed() => continue,
            }
            if self.silent_at().is_some_and(|silent| silent <= Instant::now()) {
                tracing::warn!(feed = &*generation, "feed is silent");
                self.0.silences.add(1, &[]);
                self.give_up();
                reopen.ask(&generation);
                // An error means that the pod is gone.
                let _ = generations.changed().await;
            }
        }
    }

    /// Returns the longest time until this pod's next heartbeat, which the next one announces.
    fn announce(&self) -> Duration {
        let mut state = self.state();
        state.announced = state.members.interval(self.0.settings.interval);
        state.announced
    }

    fn give_up(&self) {
        let mut state = self.state();
        let interval = self.judged_interval(&state);
        state.feed.give_up(interval, Instant::now());
    }

    /// Returns when the feed counts as silent, if nothing comes before.
    fn silent_at(&self) -> Option<Instant> {
        let state = self.state();
        state.feed.silent_at(self.judged_interval(&state))
    }
}

/// Waits for an open feed and returns its generation; `None` if there will be none.
async fn open_generation(generations: &mut watch::Receiver<Option<Arc<str>>>) -> Option<Arc<str>> {
    generations.wait_for(Option::is_some).await.ok()?.clone()
}
