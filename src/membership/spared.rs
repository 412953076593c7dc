//! [`Spared`]: pods whose feeds must stay although nothing proves their heartbeats.
//!
//! A rollout is always mixed: a pod of another release, or without the secret, sends heartbeats
//! that this pod cannot read or verify. They must have no other effect than to spare the pod's
//! feed.

use std::{collections::HashMap, sync::Arc, time::SystemTime};

/// Most pods that are remembered: as many as a topic has feeds. While there are more, every feed is
/// spared.
const MAX_PODS: usize = 10_000;

/// Pods with heartbeats that nothing proves. All times are by the topic's clock.
#[derive(Debug, Default)]
pub(super) struct Spared {
    until: HashMap<Arc<str>, SystemTime>,
    /// Time until which every feed is spared, since a pod found no room.
    all_until: Option<SystemTime>,
}

impl Spared {
    /// Spares the feeds of the pod until this time.
    pub(super) fn spare(&mut self, pod: &Arc<str>, until: SystemTime, now: SystemTime) {
        if self.until.len() >= MAX_PODS && !self.until.contains_key(pod) {
            self.until.retain(|_, until| *until > now);
            if self.until.len() >= MAX_PODS {
                self.all_until = self.all_until.max(Some(until));
                return;
            }
        }
        let latest = self.until.entry(pod.clone()).or_insert(until);
        *latest = until.max(*latest);
    }

    /// Returns whether the feeds of the pod must stay.
    pub(super) fn is_spared(&self, pod: &str, now: SystemTime) -> bool {
        self.until.get(pod).copied().max(self.all_until).is_some_and(|until| until > now)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn crowd_of_names_spares_every_feed() {
        let at = |second| SystemTime::UNIX_EPOCH + Duration::from_secs(second);
        let mut spared = Spared::default();
        for pod in 0..MAX_PODS {
            spared.spare(&pod.to_string().into(), at(100), at(0));
        }
        assert!(!spared.is_spared("other", at(50)));
        spared.spare(&"real".into(), at(130), at(50));
        assert_eq!(spared.until.len(), MAX_PODS);
        assert!(spared.is_spared("real", at(129)) && spared.is_spared("other", at(129)));
        assert!(!spared.is_spared("other", at(130)), "only silence makes an orphan");
        spared.spare(&"real".into(), at(330), at(150));
        assert_eq!(spared.until.len(), 1, "the crowd went silent");
        assert!(spared.is_spared("real", at(329)) && !spared.is_spared("other", at(151)));
    }
}
