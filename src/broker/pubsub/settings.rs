//! [`Settings`] of one pod on a topic, the limits of Pub/Sub, and the names that follow from both.

use std::time::{Duration, SystemTime};

use google_cloud_auth::credentials::{Credentials, anonymous};

use crate::broker::Limits;

/// The limits of Pub/Sub. It takes 10,000,000 bytes of a message with its attributes and framing; a larger message fails
/// together with all that share its batch. It retains for 10 minutes at least.
pub const LIMITS: Limits = Limits { payload_bytes: 9_000_000, least_retention: Duration::from_secs(600) };

/// Longest id of a subscription that Pub/Sub accepts, in characters.
pub(super) const MAX_NAME: usize = 255;

/// Which topic, and who listens to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The project's id.
    pub project: String,
    /// The topic's id.
    pub topic: String,
    /// The pod's name: part of its feeds' names, and how it knows those of its earlier lives.
    pub pod: String,
    /// The `host:port` of an emulator; `None`: Google's service, with application default credentials.
    pub emulator: Option<String>,
    /// How far back a new feed reaches.
    pub replay_window: Duration,
}

impl Settings {
    /// The longest that a topic's id may be, in characters, for feeds of a pod of this name to have legal names.
    #[must_use]
    pub fn longest_topic(pod: &str) -> usize {
        MAX_NAME - ".".len() * 2 - pod.len() - generation().len()
    }

    /// Returns the full name of the topic.
    #[must_use]
    pub fn topic_name(&self) -> String {
        format!("projects/{}/topics/{}", self.project, self.topic)
    }

    /// Returns the endpoint and anonymous credentials of the emulator, if one is configured.
    pub(super) fn emulator(&self) -> Option<(String, Credentials)> {
        let host = self.emulator.as_ref()?;
        Some((format!("http://{host}"), anonymous::Builder::new().build()))
    }
}

/// Returns a suffix that no generation of any feed had before: the time, and enough randomness for
/// two in the same millisecond.
pub(super) fn generation() -> String {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    format!("{:x}-{:08x}", since.as_millis(), rand::random::<u32>())
}
