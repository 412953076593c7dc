//! Several whole pods in one process on neighbouring ports: the way to see the relay work on a laptop.
//!
//! They share nothing but the topic: each has its own feed, hub, listener and state. For development only.

use std::{
    io::{self, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use futures_util::future::join_all;
use tokio::time::{Instant, sleep};

use crate::{
    broker::{Broker, memory, pubsub},
    cli::emulator::{Emulator, EmulatorError, Search},
    pod::{Drained, Pod},
};

/// The project and topic of a cluster's pods.
const PROJECT: &str = "relay-cluster";
const TOPIC: &str = "events";

/// How long the pods may take to hear the topic before the cluster says that they do not.
const READY_TIMEOUT: Duration = Duration::from_secs(15);

/// What carries the events of a cluster.
pub enum ClusterBroker {
    /// An emulator that runs already, at this `host:port`.
    Running(String),
    /// An emulator that was started for this cluster and ends with it.
    Started(Emulator),
    /// Nothing but this process's memory, because no emulator could be had.
    Memory(memory::Topic, EmulatorError),
}

impl ClusterBroker {
    /// The emulator at `running`, else one that it finds and starts, else memory.
    pub async fn choose(running: Option<String>, search: &Search, window: Duration, bytes: usize) -> Self {
        if let Some(host) = running {
            return Self::Running(host);
        }
        match Emulator::start(search).await {
            Ok(emulator) => Self::Started(emulator),
            Err(error) => Self::Memory(memory::Topic::new(window, bytes), error),
        }
    }

    /// Returns the broker that all the pods share.
    #[must_use]
    pub fn broker(&self) -> Arc<dyn Broker> {
        let host = match self {
            Self::Memory(topic, _) => return Arc::new(topic.clone()),
            Self::Running(host) => host,
            Self::Started(emulator) => emulator.host(),
        };
        let (project, id) = (PROJECT.to_owned(), TOPIC.to_owned());
        Arc::new(pubsub::Topic { project, id, emulator: Some(host.to_owned()) })
    }

    fn describe(&self) -> String {
        match self {
            Self::Running(host) => format!("the Pub/Sub emulator at {host} (PUBSUB_EMULATOR_HOST)"),
            Self::Started(emulator) => format!("a Pub/Sub emulator at {}, started for you", emulator.host()),
            Self::Memory(_, why) => format!("the in-memory broker: {why}"),
        }
    }

    /// Ends what was started.
    pub async fn stop(self) {
        if let Self::Started(emulator) = self {
            emulator.stop().await;
        }
    }
}

/// The addresses of `pods` pods from `first_port` on.
pub fn addresses(first_port: u16, pods: u16) -> impl Iterator<Item = SocketAddr> {
    (0..pods).map(move |n| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), first_port.saturating_add(n)))
}

/// Waits until every pod is ready, or says at the end which ones are not.
pub async fn wait_until_ready(pods: &[Pod]) {
    let deadline = Instant::now() + READY_TIMEOUT;
    for pod in pods {
        while !pod.health().readiness().ready {
            if Instant::now() > deadline {
                let reasons = pod.health().readiness().reasons;
                tracing::warn!(address = %pod.address(), ?reasons, "pod is not ready yet");
                break;
            }
            sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Tells what runs where and what to try.
///
/// # Errors
/// If `out` cannot be written.
pub fn welcome(out: &mut impl Write, broker: &ClusterBroker, pods: &[Pod]) -> io::Result<()> {
    writeln!(out, "pubsub-relay: {} pods on {}\n", pods.len(), broker.describe())?;
    for (n, pod) in pods.iter().enumerate() {
        writeln!(out, "  pod-{}  http://{}/graphql", n + 1, pod.address())?;
    }
    let [Some(first), Some(second)] =
        [pods.first(), pods.get(1).or(pods.first())].map(|pod| pod.map(Pod::address))
    else {
        return Ok(());
    };
    writeln!(
        out,
        "
Watch as ZOLO (location 3) on one pod:
  npx wscat -s graphql-transport-ws -c ws://{second}/graphql -w 600 \\
    -x '{{\"type\":\"connection_init\",\"payload\":{{\"token\":\"Bearer ZOLO\"}}}}' \\
    -x '{{\"type\":\"subscribe\",\"id\":\"1\",\"payload\":{{\"query\":\"subscription {{ templateAdded {{ id name }} }}\"}}}}'
Add a template as ZOWI on another:
  curl http://{first}/graphql -H 'authorization: Bearer ZOWI' -H 'content-type: application/json' \\
    -d '{{\"query\":\"mutation {{ addTemplate(templateInput: {{name: \\\"Hello\\\", shareLocationIds: [3]}}) {{ success }} }}\"}}'

ZOLO and ZEWI are told, ZOWI (the author) and ZELO (location 1) are not. Ctrl-C stops everything."
    )?;
    out.flush()
}

/// Drains all the pods at once.
pub async fn drain(pods: Vec<Pod>) -> Drained {
    let ends = join_all(pods.into_iter().map(Pod::drain)).await;
    if ends.contains(&Drained::CutOff) { Drained::CutOff } else { Drained::Cleanly }
}
