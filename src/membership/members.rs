//! [`Members`]: the pods that live, as their heartbeats tell.
//!
//! Pure, and by the topic's clock alone: a pod whose own clock is wrong must neither die in the eyes of others nor think
//! them dead.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde::Serialize;

use super::Heartbeat;

/// A pod is alive for this many of its intervals after a heartbeat.
pub(super) const PATIENCE: u32 = 3;

/// Pods that are known at most: as many as a topic has feeds. Heartbeats of more are not noted.
const MAX_PODS: usize = 10_000;

/// Up to this many pods, each heartbeats at the interval of the settings. Beyond, the interval grows with the membership, so that a
/// pod never hears more heartbeats in that time than these.
const FREQUENT: usize = 50;

/// How large the membership is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Size {
    /// Pods that live.
    pub pods: u64,
    /// The connections that they hold together.
    pub connections: u64,
}

/// Who sent heartbeats lately.
#[derive(Debug)]
pub(super) struct Members {
    pods: HashMap<Arc<str>, Sign>,
    /// The newest time that the topic gave to a heartbeat: now, as far as anybody can tell.
    now: SystemTime,
}

/// The last sign of life of one pod.
#[derive(Debug)]
struct Sign {
    published: SystemTime,
    interval: Duration,
    connections: u64,
}

impl Members {
    pub(super) fn new() -> Self {
        Self { pods: HashMap::new(), now: SystemTime::UNIX_EPOCH }
    }

    pub(super) fn hear(&mut self, heartbeat: &Heartbeat, published: SystemTime) {
        self.now = self.now.max(published);
        if !self.pods.contains_key(&heartbeat.pod) {
            let now = self.now;
            self.pods.retain(|_, sign| sign.is_alive(now));
            if self.pods.len() >= MAX_PODS {
                return;
            }
        }
        let sign = Sign { published, interval: heartbeat.interval(), connections: heartbeat.connections };
        let known = self.pods.entry(heartbeat.pod.clone()).or_insert(Sign { published, ..sign });
        if known.published <= published {
            *known = sign;
        }
    }

    pub(super) fn size(&self) -> Size {
        let living = self.pods.values().filter(|sign| sign.is_alive(self.now));
        living.fold(Size::default(), |size, sign| Size {
            pods: size.pods + 1,
            connections: size.connections + sign.connections,
        })
    }

    /// How long a pod lets pass between two heartbeats.
    pub(super) fn interval(&self, base: Duration) -> Duration {
        let pods = usize::try_from(self.size().pods).unwrap_or(usize::MAX);
        base.mul_f64((pods as f64 / FREQUENT as f64).max(1.0))
    }

    /// Whether the pod of a feed that was created at this time has been silent for so long that it must be dead: by its
    /// last heartbeat, or, if none is known, by the feed's age. Only for one who has listened for that long itself.
    pub(super) fn is_orphan(&self, pod: &str, created: SystemTime, after: Duration) -> bool {
        let is_past = |time: SystemTime, patience| {
            self.now.duration_since(time).is_ok_and(|silence| silence >= patience)
        };
        let is_silent = |sign: &Sign| is_past(sign.published, after.max(sign.interval * PATIENCE));
        is_past(created, after) && self.pods.get(pod).is_none_or(is_silent)
    }
}

impl Sign {
    fn is_alive(&self, now: SystemTime) -> bool {
        now.duration_since(self.published).is_ok_and(|silence| silence <= self.interval * PATIENCE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEN: Duration = Duration::from_secs(10);

    fn at(second: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + second)
    }

    fn hear(members: &mut Members, pod: &str, second: u64, connections: usize) {
        let heartbeat = Heartbeat::new(pod.into(), format!("events.{pod}.1").into(), connections, TEN);
        members.hear(&heartbeat, at(second));
    }

    #[test]
    fn a_pod_is_alive_for_three_of_its_intervals() {
        let mut members = Members::new();
        hear(&mut members, "a", 0, 5);
        hear(&mut members, "b", 30, 7);
        assert_eq!(members.size(), Size { pods: 2, connections: 12 });
        hear(&mut members, "b", 31, 8);
        assert_eq!(members.size(), Size { pods: 1, connections: 8 });
        hear(&mut members, "b", 25, 99);
        assert_eq!(members.size().connections, 8, "what comes late is no news");
    }

    #[test]
    fn the_interval_grows_with_the_membership_and_its_cost_does_not() {
        let mut members = Members::new();
        for pods in 1..=400 {
            hear(&mut members, &format!("pod-{pods}"), 0, 0);
            let interval = members.interval(TEN);
            assert!(interval >= TEN);
            assert!(f64::from(pods) / interval.as_secs_f64() <= 5.001, "{pods} pods, {interval:?}");
        }
        assert_eq!(members.interval(TEN), Duration::from_secs(80));
    }

    #[test]
    fn an_orphan_is_old_and_its_pod_silent() {
        let after = Duration::from_secs(180);
        let mut members = Members::new();
        hear(&mut members, "living", 100, 0);
        hear(&mut members, "dead", 100, 0);
        hear(&mut members, "living", 285, 0);
        assert!(members.is_orphan("dead", at(0), after));
        assert!(members.is_orphan("unheard-of", at(0), after));
        assert!(!members.is_orphan("unheard-of", at(200), after), "its pod may not have sent_heartbeats yet");
        assert!(!members.is_orphan("living", at(0), after));
        assert!(!members.is_orphan("of-a-clock-ahead", at(9_999), after));
    }

    #[test]
    fn a_slow_heartbeat_is_no_death() {
        let mut members = Members::new();
        let slow = Heartbeat::new("slow".into(), "f".into(), 0, Duration::from_secs(100));
        members.hear(&slow, at(0));
        hear(&mut members, "other", 290, 0);
        assert!(!members.is_orphan("slow", at(0), Duration::from_secs(180)));
    }

    #[test]
    fn a_flood_of_names_is_not_noted() {
        let mut members = Members::new();
        for pod in 0..MAX_PODS + 10 {
            hear(&mut members, &pod.to_string(), 0, 0);
        }
        assert_eq!(members.pods.len(), MAX_PODS);
    }
}
