//! [`Heartbeat`]: what a pod reports of itself on the topic, and its JSON form there.
//!
//! Every publisher on the topic can send one, so [`Heartbeat::read`] refuses data that is out of
//! bounds. Invalid data must never be believed, and must never be fatal.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Deserializer, Serialize};

use super::{
    key_counts::{self, KeyCounts},
    status::PodStatus,
};
use crate::event::{Event, HEARTBEAT, PODS};

/// Longest name of a feed, in bytes. A heartbeat with a longer one is refused.
const MAX_FEED: usize = 255;

/// Longest name of a pod, in bytes. A heartbeat with a longer one is refused.
const MAX_POD: usize = 63;

/// Most connections that are believed: more than any pod holds.
const MAX_CONNECTIONS: u64 = 10_000_000;

/// Longest interval that is believed, in seconds. It bounds the time for which a dead pod counts as
/// live.
const MAX_INTERVAL: f64 = 3_600.0;

/// Heartbeat of one pod.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Name of the pod.
    pub pod: Arc<str>,
    /// Name of the pod's feed, which is new for each generation of the feed.
    pub feed: Arc<str>,
    /// Number of connections that the pod holds.
    pub connections: u64,
    /// Longest time until the pod's next heartbeat, in seconds.
    interval: f64,
    /// Whether a checkup of the deployment sent it. Then it makes no member.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub probe: bool,
    /// What the pod reports of itself; `None` for an older release, and for a status that cannot be
    /// read.
    #[serde(default, deserialize_with = "readable", skip_serializing_if = "Option::is_none")]
    pub status: Option<PodStatus>,
    /// Viewers who listen to keys that clients ask for; `None` if none is asked for, for an older
    /// release, and for counts that cannot be read.
    #[serde(default, deserialize_with = "key_counts::readable", skip_serializing_if = "Option::is_none")]
    pub counts: Option<KeyCounts>,
}

/// Reads a status. One that cannot be read makes no heartbeat unreadable.
fn readable<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PodStatus>, D::Error> {
    let status = serde_json::Value::deserialize(deserializer)?;
    Ok(serde_json::from_value(status).ok().filter(PodStatus::is_sound))
}

impl Heartbeat {
    /// Creates a heartbeat. `interval` is the longest time until the next one.
    #[must_use]
    pub fn new(pod: Arc<str>, feed: Arc<str>, connections: usize, interval: Duration) -> Self {
        Self {
            pod,
            feed,
            connections: connections as u64,
            interval: interval.as_secs_f64(),
            probe: false,
            status: None,
            counts: None,
        }
    }

    /// Creates the heartbeat of a checkup, which makes no member of its sender.
    #[must_use]
    pub fn probe(sender: Arc<str>, feed: Arc<str>) -> Self {
        Self { probe: true, ..Self::new(sender, feed, 0, Duration::ZERO) }
    }

    /// Returns the longest time until the pod's next heartbeat.
    #[must_use]
    pub fn interval(&self) -> Duration {
        Duration::from_secs_f64(self.interval)
    }

    /// Returns a new event that carries the heartbeat.
    #[must_use]
    pub fn event(&self) -> Event {
        let data = serde_json::to_vec(self).expect("names and numbers have a JSON form");
        Event::new(format!("{PODS}{}", self.pod).into(), HEARTBEAT, None, data.into())
    }

    /// Reads the heartbeat in an event of the kind [`HEARTBEAT`]; `None` if it holds none.
    #[must_use]
    pub fn read(event: &Event) -> Option<Self> {
        let data = Some(&event.data).filter(|_| *event.kind == *HEARTBEAT)?;
        let heartbeat: Self = serde_json::from_slice(data).ok()?;
        let is_sound = is_name(&heartbeat.pod, MAX_POD)
            && is_name(&heartbeat.feed, MAX_FEED)
            && heartbeat.connections <= MAX_CONNECTIONS
            && (0.0..=MAX_INTERVAL).contains(&heartbeat.interval);
        is_sound.then_some(heartbeat)
    }
}

/// Returns the pod that the source of an event names; `None` if no pod has published it.
#[must_use]
pub fn sender(event: &Event) -> Option<Arc<str>> {
    event.source.strip_prefix(PODS).filter(|pod| is_name(pod, MAX_POD)).map(Into::into)
}

fn is_name(name: &str, most: usize) -> bool {
    !name.is_empty() && name.len() <= most && name.is_ascii()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn heartbeat_survives_round_trip() {
        let heartbeat =
            Heartbeat::new("pod-1".into(), "events.pod-1.1f".into(), 7, Duration::from_millis(1_500));
        let event = heartbeat.event();
        assert_eq!((&*event.kind, event.author.clone()), (HEARTBEAT, None));
        assert_eq!(Heartbeat::read(&event), Some(heartbeat));
    }

    #[test]
    fn status_is_read_or_dropped() {
        let status = PodStatus { version: "1.2.3".into(), ready: true, lag: Some(5), ..PodStatus::default() };
        let ten = Duration::from_secs(10);
        let mut heartbeat = Heartbeat::new("pod-1".into(), "f".into(), 7, ten);
        heartbeat.status = Some(status);
        assert_eq!(Heartbeat::read(&heartbeat.event()), Some(heartbeat.clone()));
        let long = PodStatus { version: "x".repeat(33).into(), ..PodStatus::default() };
        let with_long = Heartbeat { status: Some(long), ..heartbeat.clone() };
        assert_eq!(
            Heartbeat::read(&with_long.event()),
            Some(Heartbeat { status: None, ..heartbeat.clone() })
        );
        let data = r#"{"pod":"p","feed":"f","connections":1,"interval":10,"status":{"a":[1]}}"#;
        let newer = Event::new("/pods/p".into(), HEARTBEAT, None, data.into());
        assert_eq!(Heartbeat::read(&newer).map(|heartbeat| heartbeat.status), Some(None));
    }

    #[test]
    fn counts_are_read_or_dropped() {
        let ten = Duration::from_secs(10);
        let counts = KeyCounts { asked: ["room:1".into()].into(), ..KeyCounts::default() };
        let mut heartbeat = Heartbeat::new("pod-1".into(), "f".into(), 7, ten);
        heartbeat.counts = Some(counts);
        assert_eq!(Heartbeat::read(&heartbeat.event()), Some(heartbeat));
        let data = r#"{"pod":"p","feed":"f","connections":1,"interval":10,"counts":[1]}"#;
        let newer = Event::new("/pods/p".into(), HEARTBEAT, None, data.into());
        assert_eq!(Heartbeat::read(&newer).map(|heartbeat| heartbeat.counts), Some(None));
    }

    #[test]
    fn garbage_is_not_read() {
        let long = "x".repeat(256);
        for data in [
            "",
            "{}",
            "[]",
            r#"{"pod":"","feed":"f","connections":1,"interval":10}"#,
            r#"{"pod":"p","feed":"f","connections":-1,"interval":10}"#,
            r#"{"pod":"p","feed":"f","connections":1,"interval":-1}"#,
            r#"{"pod":"p","feed":"f","connections":1,"interval":1e300}"#,
            r#"{"pod":"p","feed":"f","connections":99999999,"interval":10}"#,
            &format!(r#"{{"pod":"p","feed":"{long}","connections":1,"interval":10}}"#),
        ] {
            let data = Bytes::copy_from_slice(data.as_bytes());
            let event = Event::new("/pods/p".into(), HEARTBEAT, None, data);
            assert_eq!(Heartbeat::read(&event), None, "{event:?}");
        }
    }
}
