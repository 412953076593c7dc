//! [`Heard`]: what the doctor received through its trial feed.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::{
    broker::pubsub::cause::Cause,
    event::Event,
    membership::{Heartbeat, sender},
};

/// What came through the trial feed.
#[derive(Default)]
pub(super) struct Heard {
    /// Last heartbeat of each pod: its time of publishing, and the longest time to the next one.
    last: HashMap<Arc<str>, (SystemTime, Duration)>,
    /// Time of publishing of the newest heartbeat. It stands for the present time, since this
    /// machine's clock may be wrong.
    newest: Option<SystemTime>,
    /// Whether any heartbeat came.
    pub(super) is_open: bool,
    /// Times at which the doctor's own heartbeat was published, on Pub/Sub's clock and on this
    /// machine's; `None` if it did not come back.
    pub(super) own: Option<(SystemTime, SystemTime)>,
    /// Why Pub/Sub refuses to send.
    pub(super) refusal: Option<Cause>,
}

impl Heard {
    /// Records a heartbeat, the doctor's own included. As for a janitor, one that cannot be read or
    /// proven shows that its pod lives.
    pub(super) fn hear(&mut self, event: &Event) {
        let Some(published) = event.published else { return };
        self.newest = self.newest.max(Some(published));
        let (pod, interval) = match Heartbeat::read(event) {
            Some(heartbeat) if heartbeat.probe => (None, Duration::ZERO),
            Some(heartbeat) => (Some(heartbeat.pod.clone()), heartbeat.interval()),
            None => (sender(event), Duration::ZERO),
        };
        if let Some(pod) = pod {
            let last = self.last.entry(pod).or_insert((published, interval));
            if last.0 <= published {
                *last = (published, interval);
            }
        }
    }

    /// Returns the pods that send heartbeats. A retained heartbeat may be the last one of a dead
    /// pod: a janitor waits for `after`, and three intervals, as well.
    pub(super) fn live_pods(&self, after: Duration) -> HashSet<Arc<str>> {
        let is_live = |(published, interval): &(SystemTime, Duration)| {
            self.newest.is_some_and(|newest| *published + after.max(*interval * 3) >= newest)
        };
        self.last.iter().filter(|(_, last)| is_live(last)).map(|(pod, _)| pod.clone()).collect()
    }
}
