//! [`Checks`]: the deployment that the doctor checks.
//!
//! It is plain data that the program fills in from its settings. It must never run a check.

use std::{path::PathBuf, time::Duration};

use crate::{
    broker::{postgres, pubsub, rabbitmq},
    pod,
};

/// Name of the pod in the trial feed's name. No such pod sends heartbeats, so any janitor deletes a
/// trial feed that is left behind.
pub const POD: &str = "doctor";

/// Deployment to check.
pub struct Checks {
    /// Settings of the pods.
    pub pod: pod::Settings,
    /// Topic of the pods.
    pub target: Target,
    /// Time from SIGTERM until the orchestrator kills a pod; `None`: not checked.
    pub grace: Option<Duration>,
    /// Whether this process runs in a pod of Kubernetes.
    pub in_kubernetes: bool,
    /// Public URL of the pods and how to try it; `None`: not checked.
    pub visit: Option<Visit>,
}

/// Topic of the pods, by its broker.
pub enum Target {
    /// The in-memory broker.
    Memory,
    /// Pub/Sub, with the settings of a pod named [`POD`].
    PubSub(pubsub::Settings),
    /// PostgreSQL.
    Postgres(postgres::Topic),
    /// RabbitMQ.
    RabbitMq(rabbitmq::Topic),
}

/// Public URL of the pods and how to try it.
pub struct Visit {
    /// URL, `ws://` or `wss://`.
    pub url: String,
    /// Origin of the web page that the request claims to come from.
    pub origin: Option<String>,
    /// File with a token.
    pub token_file: Option<PathBuf>,
    /// Time for which the connection must stay open.
    pub hold: Duration,
}
