//! [`Checks`]: what the doctor is asked to check.

use std::{path::PathBuf, time::Duration};

use crate::{broker::pubsub, pod};

/// The pod whose name the trial feed bears. It never heartbeats, so that any janitor deletes what it may leave.
pub const POD: &str = "doctor";

/// What is checked.
pub struct Checks {
    /// Settings of the pods.
    pub pod: pod::Settings,
    /// The topic, for the pod named [`POD`]; `None`: the in-memory broker.
    pub topic: Option<pubsub::Settings>,
    /// How long the orchestrator lets a pod end.
    pub grace: Option<Duration>,
    /// Whether this process runs as a pod of Kubernetes would.
    pub in_kubernetes: bool,
    /// The public way to the pods, if it is to be tried.
    pub visit: Option<Visit>,
}

/// How the public way to the pods is tried.
pub struct Visit {
    /// `ws://` or `wss://`.
    pub url: String,
    /// The web page that we pretend to be.
    pub origin: Option<String>,
    /// The file with a token.
    pub token_file: Option<PathBuf>,
    /// How long a connection must live.
    pub hold: Duration,
}
