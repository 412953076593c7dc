//! [`Settings`] of one pod on a topic, the limits of Pub/Sub, and the names that follow from both.

use std::time::{Duration, SystemTime};

use google_cloud_auth::{
    build_errors,
    credentials::{Credentials, anonymous},
};

use super::credentials::Renewing;
use crate::broker::Limits;

/// Limits of Pub/Sub. It accepts messages of 10,000,000 bytes, with attributes and framing. A
/// larger one fails together with all messages in its batch. It retains messages for 10 minutes at
/// least.
pub const LIMITS: Limits =
    Limits { payload_bytes: 9_000_000, least_retention: Duration::from_secs(600), fetched_bytes: 20 << 20 };

/// Endpoint of Google's service for all regions.
const GLOBAL_ENDPOINT: &str = "pubsub.googleapis.com";

/// Longest id of a subscription that Pub/Sub accepts, in characters.
pub(super) const MAX_NAME: usize = 255;

/// Settings of one pod on a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The project's id.
    pub project: String,
    /// The topic's id.
    pub topic: String,
    /// The pod's name. It is part of the names of its feeds, and identifies those of earlier
    /// generations.
    pub pod: String,
    /// The `host:port` of an emulator; `None`: Google's service, with application default
    /// credentials.
    pub emulator: Option<String>,
    /// URL of another endpoint of Google's service, such as a region's; `None`: the global one.
    pub endpoint: Option<String>,
    /// The `host:port` of the HTTP proxy through which this process asks the endpoint, for the
    /// texts of errors.
    pub proxy: Option<String>,
    /// Time back to which a new feed reaches.
    pub replay_window: Duration,
}

impl Settings {
    /// Returns the longest legal id of a topic, in characters, for a pod of this name. With a
    /// longer one, the names of the pod's feeds would be illegal.
    #[must_use]
    pub fn longest_topic(pod: &str) -> usize {
        MAX_NAME - ".".len() * 2 - pod.len() - generation().len()
    }

    /// Returns the full name of the topic.
    #[must_use]
    pub fn topic_name(&self) -> String {
        format!("projects/{}/topics/{}", self.project, self.topic)
    }

    /// Returns the access to the service or to the emulator.
    ///
    /// # Errors
    /// If the file of the credentials cannot be used.
    pub(super) fn access(&self) -> Result<Access, build_errors::Error> {
        Ok(match &self.emulator {
            Some(host) => {
                Access { url: Some(format!("http://{host}")), credentials: anonymous::Builder::new().build() }
            }
            None => {
                Access { url: self.endpoint.clone(), credentials: Renewing::credentials(self.proxy.clone())? }
            }
        })
    }

    /// Returns the URL of the endpoint.
    pub(crate) fn endpoint_url(&self) -> String {
        match (&self.emulator, &self.endpoint) {
            (Some(host), _) => format!("http://{host}"),
            (None, Some(url)) => url.clone(),
            (None, None) => format!("https://{GLOBAL_ENDPOINT}"),
        }
    }

    /// Returns the endpoint as people name it, without a scheme.
    pub(super) fn endpoint_name(&self) -> &str {
        let endpoint = self.emulator.as_deref().or(self.endpoint.as_deref()).unwrap_or(GLOBAL_ENDPOINT);
        endpoint.rsplit_once("://").map_or(endpoint, |(_, name)| name)
    }
}

/// Access of one pod to Pub/Sub, which all its clients share.
#[derive(Clone, Debug)]
pub(super) struct Access {
    /// URL of the endpoint; `None`: that of Google's crate.
    pub(super) url: Option<String>,
    pub(super) credentials: Credentials,
}

/// Returns a suffix that no generation of any feed had before: the time, and enough randomness for
/// two in the same millisecond.
pub(super) fn generation() -> String {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    format!("{:x}-{:08x}", since.as_millis(), rand::random::<u32>())
}
