//! [`Members`]: the pods that are alive, as their heartbeats show.
//!
//! It is pure, and uses the topic's clock alone: a pod with a wrong clock must never count as dead
//! for that, nor take other pods for dead.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde::Serialize;

use super::{Heartbeat, KeyCounts, PodStatus, balance::View};

/// Number of its own intervals for which a pod counts as alive after a heartbeat.
pub(super) const PATIENCE: u32 = 3;

/// Most pods that are remembered: as many as a topic has feeds. A further one replaces the oldest
/// that has sent one heartbeat. If there is none, it is ignored.
const MAX_PODS: usize = 10_000;

/// Largest membership in which each pod sends heartbeats at the interval of the settings. Beyond it
/// the interval grows with the membership. So a pod never receives more than this many heartbeats
/// in the settings' interval.
const FREQUENT: usize = 50;

/// Heartbeats after which a pod counts for the interval. One heartbeat costs its sender nothing,
/// and may be of a pod that does not exist.
const REPEATED: u32 = 2;

/// Part of its own interval for which the counts of a pod stand after a heartbeat. So a pod that
/// has crashed is not counted two intervals later.
const COUNTS: f64 = 1.5;

/// Part of an interval by which the present time may be after the newest heartbeat, so that counts
/// do not age on in an outage. A smaller part would keep a crashed pod for too long.
const SILENCE: f64 = 0.7;

/// Most pods whose counts are kept. The counts of further ones are dropped.
const MAX_COUNTING: usize = 1_000;

/// Longest interval of the settings. With a larger membership a pod may announce a longer one, in
/// proportion. What it announces beyond that does not keep it alive.
const MAX_INTERVAL: Duration = Duration::from_secs(60);

/// Size of the membership.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Size {
    /// Number of live pods.
    pub pods: u64,
    /// Number of connections of all live pods.
    pub connections: u64,
}

/// Live pod, as its last heartbeat shows it.
#[derive(Clone, Debug)]
pub struct Member {
    /// Name of the pod.
    pub pod: Arc<str>,
    /// Number of its connections.
    pub connections: u64,
    /// Age of its last heartbeat, by the newest heartbeat of all.
    pub age: Duration,
    /// What it reports of itself; `None` for an older release.
    pub status: Option<PodStatus>,
}

/// Pods that sent heartbeats lately.
#[derive(Debug)]
pub(super) struct Members {
    pods: HashMap<Arc<str>, LastHeartbeat>,
    /// Newest time that the topic gave to a heartbeat. It stands for the present time, for want of
    /// a better clock.
    now: SystemTime,
}

/// Last heartbeat of one pod.
#[derive(Debug)]
struct LastHeartbeat {
    published: SystemTime,
    /// Time of signing; `None` if it was not signed.
    sent: Option<SystemTime>,
    interval: Duration,
    connections: u64,
    feed: Arc<str>,
    status: Option<PodStatus>,
    counts: Option<Box<KeyCounts>>,
    /// Number of the pod's heartbeats, up to [`REPEATED`].
    count: u32,
}

impl Members {
    pub(super) fn new() -> Self {
        Self { pods: HashMap::new(), now: SystemTime::UNIX_EPOCH }
    }

    /// Processes a heartbeat that was signed at this time, if it was signed. Returns whether it
    /// counts, as the pod's newest.
    pub(super) fn hear(
        &mut self,
        heartbeat: &Heartbeat,
        published: SystemTime,
        sent: Option<SystemTime>,
    ) -> bool {
        self.advance(published);
        if !self.pods.contains_key(&heartbeat.pod) {
            let now = self.now;
            // By what it announced, since a living pod's feed must be spared.
            self.pods.retain(|_, last| last.is_alive(now, Duration::MAX));
            if self.pods.len() >= MAX_PODS && !self.forget_one() {
                return false;
            }
        }
        let (interval, connections) = (heartbeat.interval(), heartbeat.connections);
        let (feed, status) = (heartbeat.feed.clone(), heartbeat.status.clone());
        let counts = heartbeat.counts.clone().filter(|_| self.has_room_for_counts(&heartbeat.pod));
        let counts = counts.map(Box::new);
        let last = LastHeartbeat { published, sent, interval, connections, feed, status, counts, count: 1 };
        match self.pods.entry(heartbeat.pod.clone()) {
            Entry::Vacant(entry) => {
                entry.insert(last);
                true
            }
            Entry::Occupied(mut entry) if entry.get().is_before(&last) => {
                let count = (entry.get().count + 1).min(REPEATED);
                entry.insert(LastHeartbeat { count, ..last });
                true
            }
            // A repeat, a late one, or a recorded one.
            Entry::Occupied(_) => false,
        }
    }

    fn has_room_for_counts(&self, pod: &str) -> bool {
        let others = self.pods.iter().filter(|(other, last)| ***other != *pod && last.counts.is_some());
        others.count() < MAX_COUNTING
    }

    /// Passes the counts of each other pod that has sent a heartbeat lately; `None` for a pod that
    /// sends none. `now` is the present time by the topic's clock.
    pub(super) fn counts(&self, own: &str, now: SystemTime) -> impl Iterator<Item = Option<&KeyCounts>> {
        let longest = self.interval(MAX_INTERVAL);
        let others = self.pods.iter().filter(move |(pod, _)| ***pod != *own);
        let is_recent = move |last: &LastHeartbeat| {
            let interval = last.interval.min(longest);
            let now = now.min(self.now + interval.mul_f64(SILENCE)).max(self.now);
            now.duration_since(last.published).is_ok_and(|age| age <= interval.mul_f64(COUNTS))
        };
        others.filter(move |(_, last)| is_recent(last)).map(|(_, last)| last.counts.as_deref())
    }

    /// Returns whether the pod's last heartbeat was of this feed.
    pub(super) fn knows(&self, pod: &str, feed: &str) -> bool {
        self.pods.get(pod).is_some_and(|last| *last.feed == *feed)
    }

    /// Records that the topic's clock shows this time.
    pub(super) fn advance(&mut self, published: SystemTime) {
        self.now = self.now.max(published);
    }

    /// Returns the newest time on the topic's clock.
    pub(super) const fn now(&self) -> SystemTime {
        self.now
    }

    /// Forgets the oldest of the pods that have sent one heartbeat. Returns `false` if there is
    /// none.
    fn forget_one(&mut self) -> bool {
        let single = self.pods.iter().filter(|(_, last)| last.count < REPEATED);
        let oldest = single.min_by_key(|(_, last)| last.published).map(|(pod, _)| pod.clone());
        oldest.is_some_and(|pod| self.pods.remove(&pod).is_some())
    }

    pub(super) fn size(&self) -> Size {
        let longest = self.interval(MAX_INTERVAL);
        let living = self.pods.values().filter(|last| last.is_alive(self.now, longest));
        living.fold(Size::default(), |size, last| Size {
            pods: size.pods + 1,
            connections: size.connections + last.connections,
        })
    }

    /// Returns the live pods, in any order.
    pub(super) fn list(&self) -> Vec<Member> {
        let longest = self.interval(MAX_INTERVAL);
        let living = self.pods.iter().filter(|(_, last)| last.is_alive(self.now, longest));
        let member = |(pod, last): (&Arc<str>, &LastHeartbeat)| Member {
            pod: pod.clone(),
            connections: last.connections,
            age: self.now.duration_since(last.published).unwrap_or_default(),
            status: last.status.clone(),
        };
        living.map(member).collect()
    }

    /// Returns the names of the live pods, in any order.
    pub(super) fn names(&self) -> Vec<Arc<str>> {
        let longest = self.interval(MAX_INTERVAL);
        let living = self.pods.iter().filter(|(_, last)| last.is_alive(self.now, longest));
        living.map(|(pod, _)| pod.clone()).collect()
    }

    /// Returns the members as a pod sees them that holds `own` connections.
    pub(super) fn view(&self, own: u64) -> View {
        let longest = self.interval(MAX_INTERVAL);
        let living: Vec<_> = self.pods.iter().filter(|(_, last)| last.is_alive(self.now, longest)).collect();
        let version = living.first().and_then(|(_, last)| Some(&last.status.as_ref()?.version));
        let is_fit = |last: &LastHeartbeat| {
            let status = last.status.as_ref().filter(|status| status.ready && !status.draining);
            last.sent.is_some() && status.is_some_and(|status| Some(&status.version) == version)
        };
        View {
            pods: living.len(),
            members: living.iter().fold(0, |members, (pod, _)| members ^ hash(pod)),
            total: living.iter().map(|(_, last)| last.connections).sum(),
            own,
            is_calm: version.is_some() && living.iter().all(|(_, last)| is_fit(last)),
        }
    }

    /// Returns the longest time between two heartbeats of a pod. Only pods count that have sent
    /// several.
    pub(super) fn interval(&self, base: Duration) -> Duration {
        let counts = |last: &&LastHeartbeat| last.count >= REPEATED && last.is_alive(self.now, Duration::MAX);
        let pods = self.pods.values().filter(counts).count();
        base.mul_f64((pods as f64 / FREQUENT as f64).max(1.0))
    }

    /// Returns whether the pod of a feed must be dead. The feed must have been created at least
    /// `after` ago. The pod's last heartbeat, if one is known, must be at least `after` and three
    /// of the pod's intervals old. Only valid on a pod that has itself received heartbeats for that
    /// long.
    pub(super) fn is_orphan(&self, pod: &str, created: SystemTime, after: Duration) -> bool {
        let is_past = |time: SystemTime, patience| {
            self.now.duration_since(time).is_ok_and(|silence| silence >= patience)
        };
        let is_silent = |last: &LastHeartbeat| is_past(last.published, after.max(last.interval * PATIENCE));
        is_past(created, after) && self.pods.get(pod).is_none_or(is_silent)
    }
}

fn hash(pod: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    pod.hash(&mut hasher);
    hasher.finish()
}

impl LastHeartbeat {
    /// Returns whether the pod sent the other one later. A recorded heartbeat that is published
    /// again has the time of signing of an earlier one.
    fn is_before(&self, other: &Self) -> bool {
        let is_signed_later = self.sent.zip(other.sent).is_none_or(|(sent, later)| sent < later);
        self.published < other.published && is_signed_later
    }

    /// Returns whether the pod is alive, if its interval is at most `longest`.
    fn is_alive(&self, now: SystemTime, longest: Duration) -> bool {
        let interval = self.interval.min(longest);
        now.duration_since(self.published).is_ok_and(|silence| silence <= interval * PATIENCE)
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
        members.hear(&heartbeat, at(second), None);
    }

    #[test]
    fn pod_stays_alive_for_three_intervals() {
        let mut members = Members::new();
        hear(&mut members, "a", 0, 5);
        hear(&mut members, "b", 30, 7);
        assert_eq!(members.size(), Size { pods: 2, connections: 12 });
        hear(&mut members, "b", 31, 8);
        assert_eq!(members.size(), Size { pods: 1, connections: 8 });
        hear(&mut members, "b", 25, 99);
        assert_eq!(members.size().connections, 8, "a late heartbeat changes nothing");
    }

    #[test]
    fn interval_grows_with_membership_at_constant_cost() {
        let mut members = Members::new();
        for pods in 1..=400 {
            hear(&mut members, &format!("pod-{pods}"), 0, 0);
            hear(&mut members, &format!("pod-{pods}"), 1, 0);
            let interval = members.interval(TEN);
            assert!(interval >= TEN);
            assert!(f64::from(pods) / interval.as_secs_f64() <= 5.001, "{pods} pods, {interval:?}");
        }
        assert_eq!(members.interval(TEN), Duration::from_secs(80));
    }

    #[test]
    fn orphan_is_old_and_its_pod_silent() {
        let after = Duration::from_secs(180);
        let mut members = Members::new();
        hear(&mut members, "living", 100, 0);
        hear(&mut members, "dead", 100, 0);
        hear(&mut members, "living", 285, 0);
        assert!(members.is_orphan("dead", at(0), after));
        assert!(members.is_orphan("unheard-of", at(0), after));
        assert!(
            !members.is_orphan("unheard-of", at(200), after),
            "its pod may not have sent a heartbeat yet"
        );
        assert!(!members.is_orphan("living", at(0), after));
        assert!(!members.is_orphan("of-a-clock-ahead", at(9_999), after));
    }

    #[test]
    fn slow_heartbeat_keeps_pod_alive() {
        let mut members = Members::new();
        let slow = Heartbeat::new("slow".into(), "f".into(), 0, Duration::from_secs(100));
        members.hear(&slow, at(0), None);
        hear(&mut members, "other", 290, 0);
        assert!(!members.is_orphan("slow", at(0), Duration::from_secs(180)));
    }

    #[test]
    fn invented_pods_neither_slow_heartbeats_nor_stay() {
        let mut members = Members::new();
        for pod in 0..1_000 {
            let long = Duration::from_secs(3_600);
            members.hear(&Heartbeat::new(format!("ghost-{pod}").into(), "f".into(), 0, long), at(0), None);
        }
        assert_eq!(members.interval(TEN), TEN);
        hear(&mut members, "real", 181, 0);
        assert_eq!(members.size().pods, 1, "no membership of this size has such an interval");
        assert!(!members.is_orphan("ghost-1", at(0), Duration::from_secs(180)), "but its feed is spared");
    }

    #[test]
    fn view_is_calm_only_if_all_members_serve() {
        let serving = PodStatus { version: "1.0.0".into(), ready: true, ..PodStatus::default() };
        let view = |pods: &[(&str, Option<&PodStatus>)], sent: Option<SystemTime>| {
            let mut members = Members::new();
            for (pod, status) in pods {
                let mut heartbeat = Heartbeat::new((*pod).into(), "f".into(), 4, TEN);
                heartbeat.status = status.cloned();
                members.hear(&heartbeat, at(0), sent);
            }
            members.view(7)
        };
        let fit = Some(&serving);
        let calm = view(&[("a", fit), ("b", fit)], Some(at(0)));
        assert_eq!((calm.pods, calm.total, calm.own, calm.is_calm), (2, 8, 7, true));
        assert_ne!(calm.members, view(&[("a", fit), ("c", fit)], Some(at(0))).members);
        assert!(!view(&[("a", fit), ("b", fit)], None).is_calm, "nothing proves them");
        for other in [
            PodStatus { ready: false, ..serving.clone() },
            PodStatus { draining: true, ..serving.clone() },
            PodStatus { version: "1.0.1".into(), ..serving.clone() },
        ] {
            assert!(!view(&[("a", fit), ("b", Some(&other))], Some(at(0))).is_calm, "{other:?}");
        }
        assert!(!view(&[("a", fit), ("b", None)], Some(at(0))).is_calm, "another release");
    }

    #[test]
    fn members_are_bounded() {
        let mut members = Members::new();
        for pod in 0..MAX_PODS + 10 {
            hear(&mut members, &pod.to_string(), 0, 0);
        }
        assert_eq!(members.pods.len(), MAX_PODS);
    }
}
