//! Several whole pods in one process, on neighbouring ports: the way to try the relay on a laptop.
//!
//! Each pod has its own feed, hub, listener and state; the pods share nothing but the topic. It is
//! for development and must never run in production.

use std::{
    io::{self, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    panic::resume_unwind,
    sync::Arc,
    time::Duration,
};

use futures_util::future::join_all;
use thiserror::Error;
use tokio::{
    net::TcpStream,
    runtime::{Builder, Runtime},
    time::{Instant, sleep, timeout},
};

use crate::{
    auth::Secret,
    broker::{Broker, memory, postgres, pubsub, rabbitmq},
    cli::{
        config::Wanted,
        emulator::{Emulator, EmulatorError, Search},
        postgres::{PostgresError, PostgresServer},
        surroundings,
    },
    control::Secrets,
    pod::{self, Drained, Pod, StartError},
};

/// Project of the topic that all pods share, if the broker is an emulator.
const PROJECT: &str = "relay-cluster";
/// Name of the topic that all pods share, if the broker is an emulator.
const TOPIC: &str = "events";

/// Time that the pods have, together, to become ready. At the limit the cluster logs which pods are
/// not ready, and goes on.
const READY_TIMEOUT: Duration = Duration::from_secs(15);

/// Longest wait for the RabbitMQ server of this machine.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Broker that all pods of a cluster share.
pub enum ClusterBroker {
    /// Emulator that runs already, at this `host:port`.
    Running(String),
    /// Emulator that was started for this cluster and ends with it.
    Started(Emulator),
    /// PostgreSQL server that was started for this cluster and ends with it.
    Postgres(PostgresServer),
    /// RabbitMQ server that runs on this machine.
    RabbitMq(rabbitmq::Topic),
    /// Memory of this process, and the reason why no emulator could be started, if one was wanted.
    Memory(memory::Topic, Option<EmulatorError>),
}

/// Why the broker that the user asked for cannot be started.
#[derive(Debug, Error)]
pub enum NoBroker {
    /// There is no emulator.
    #[error("--broker pubsub: cannot be used: {0}")]
    Emulator(#[from] EmulatorError),
    /// There is no PostgreSQL server.
    #[error("--broker postgres: cannot be used: {0}")]
    Postgres(#[from] PostgresError),
    /// There is no RabbitMQ server.
    #[error(
        "--broker rabbitmq: cannot be used: nothing answers at {0}: start RabbitMQ there (docs/RABBITMQ.md), or \
         write rabbitmq:PORT"
    )]
    RabbitMq(SocketAddr),
}

impl ClusterBroker {
    /// Starts the broker that is wanted. An emulator at `running` is used as it is; else its
    /// program is looked for as `search` says. A topic in memory keeps events for `window`, at most
    /// `bytes` of them.
    ///
    /// # Errors
    /// [`NoBroker`], with what to install. Not for [`Wanted::Any`], which memory satisfies.
    pub async fn start(
        wanted: Wanted,
        running: Option<String>,
        search: &Search,
        window: Duration,
        bytes: usize,
    ) -> Result<Self, NoBroker> {
        let memory = |why| Self::Memory(memory::Topic::new(window, bytes), why);
        match (wanted, running) {
            (Wanted::Memory, _) => return Ok(memory(None)),
            (Wanted::Postgres, _) => {
                return Ok(Self::Postgres(PostgresServer::start(search.path.as_ref()).await?));
            }
            (Wanted::RabbitMq(port), _) => return local_rabbitmq(port).await,
            (Wanted::Any | Wanted::PubSub, Some(host)) => return Ok(Self::Running(host)),
            (Wanted::Any | Wanted::PubSub, None) => {}
        }
        match Emulator::start(search).await {
            Ok(emulator) => Ok(Self::Started(emulator)),
            Err(error) if wanted == Wanted::Any => Ok(memory(Some(error))),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns the broker that all pods share.
    #[must_use]
    pub fn broker(&self) -> Arc<dyn Broker> {
        let host = match self {
            Self::Memory(topic, _) => return Arc::new(topic.clone()),
            Self::Postgres(server) => {
                let topic = postgres::Topic::parse(&format!("{}/postgres", server.host()));
                return Arc::new(topic.expect("a loopback address is legal"));
            }
            Self::RabbitMq(topic) => return Arc::new(topic.clone()),
            Self::Running(host) => host,
            Self::Started(emulator) => emulator.host(),
        };
        let (project, id) = (PROJECT.to_owned(), TOPIC.to_owned());
        let emulator = Some(host.to_owned());
        Arc::new(pubsub::Topic { project, id, emulator, endpoint: None, proxy: None })
    }

    /// Returns the words for the broker in the welcome.
    fn describe(&self) -> String {
        match self {
            Self::Running(host) => format!("the Pub/Sub emulator at {host} (PUBSUB_EMULATOR_HOST)"),
            Self::Started(emulator) => format!("a Pub/Sub emulator at {}, started for you", emulator.host()),
            Self::Postgres(server) => format!(
                "a PostgreSQL server at {}, started for you (psql postgres://relay@{}/postgres)",
                server.host(),
                server.host()
            ),
            Self::RabbitMq(topic) => format!("RabbitMQ at {}, in the stream {}", topic.server, topic.stream),
            Self::Memory(_, Some(why)) => format!("the in-memory broker: {why}"),
            Self::Memory(_, None) => "the in-memory broker".to_owned(),
        }
    }

    /// Stops the server, if it was started for this cluster.
    pub async fn stop(self) {
        match self {
            Self::Started(emulator) => emulator.stop().await,
            Self::Postgres(server) => server.stop().await,
            Self::Running(_) | Self::RabbitMq(_) | Self::Memory(..) => {}
        }
    }
}

/// Returns the stream of a cluster on the RabbitMQ server of this machine, as the user `guest`.
async fn local_rabbitmq(port: u16) -> Result<ClusterBroker, NoBroker> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    match timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
        Ok(Ok(_)) => {
            let topic = rabbitmq::Topic::parse(&format!("{address}/%2f?stream=relay.cluster"), false);
            Ok(ClusterBroker::RabbitMq(topic.expect("a loopback address is legal")))
        }
        Ok(Err(_)) | Err(_) => Err(NoBroker::RabbitMq(address)),
    }
}

/// Threads of each pod. A laptop has few cores, and all pods share them.
const THREADS: usize = 2;

/// Pod of a cluster, on threads that bear its name. So each of its log lines can name it, also
/// those of libraries.
pub struct NamedPod {
    pod: Pod,
    name: String,
    threads: Threads,
}

/// Runtime that may be dropped inside another one.
struct Threads(Option<Runtime>);

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Threads {
    /// Runs the future on these threads.
    async fn run<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> T {
        let runtime = self.0.as_ref().expect("only a drop takes it");
        runtime.spawn(future).await.unwrap_or_else(|error| resume_unwind(error.into_panic()))
    }
}

impl NamedPod {
    /// Runs `start` on threads of this name. If the future is dropped, it leaves nothing behind.
    ///
    /// # Errors
    /// [`io::Error`] if there are no threads, or the pod's own error.
    pub async fn start(
        name: String,
        start: impl Future<Output = Result<Pod, StartError>> + Send + 'static,
    ) -> io::Result<Result<Self, StartError>> {
        let runtime =
            Builder::new_multi_thread().worker_threads(THREADS).thread_name(&name).enable_all().build()?;
        let threads = Threads(Some(runtime));
        let pod = threads.run(start).await;
        Ok(pod.map(|pod| Self { pod, name, threads }))
    }

    /// Returns the name of the pod.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the address for probes and operators.
    #[must_use]
    pub const fn admin_address(&self) -> Option<SocketAddr> {
        self.pod.admin_address()
    }

    /// Waits until an operator asks the pod to drain. Cancel-safe.
    pub async fn drain_asked(&self) {
        self.pod.drain_asked().await;
    }

    /// Drains the pod.
    pub async fn drain(self) -> Drained {
        let Self { pod, threads, .. } = self;
        threads.run(pod.drain()).await
    }
}

/// Secrets of a cluster's pods, which are made when the cluster starts and end with it.
pub struct ClusterSecrets {
    control: Secrets,
    debug_token: Secret,
    admin_token: Secret,
}

impl ClusterSecrets {
    /// Makes the tokens of operators and, unless one is given, the control secret.
    #[must_use]
    pub fn new(control: Option<Secrets>) -> Self {
        let control = control.unwrap_or_else(Secrets::random);
        Self { control, debug_token: Secret::random(), admin_token: Secret::random() }
    }

    /// Gives the secrets to a pod, and an admin address on a free port of this machine. Probes stay
    /// on the address for clients as well, where a user of a laptop looks for them.
    pub fn give(&self, pod: &mut pod::Settings) {
        pod.control_secrets = Some(self.control.clone());
        pod.web.debug_token = Some(self.debug_token.clone());
        pod.web.admin_token = Some(self.admin_token.clone());
        pod.admin_listen = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        pod.shares_probes = true;
    }
}

/// Returns the loopback addresses of `pods` pods, on the ports from `first_port` on. The caller
/// ensures that they end below 65536.
pub fn addresses(first_port: u16, pods: u16) -> impl Iterator<Item = SocketAddr> {
    (0..pods).map(move |n| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), first_port.saturating_add(n)))
}

/// Returns the ports after those of the pods, for as many pods, at most four; none if they do not
/// fit below 65536.
pub fn deaf_addresses(first_port: u16, pods: u16) -> Vec<SocketAddr> {
    let after = first_port.checked_add(pods).filter(|after| after.checked_add(3).is_some());
    after.map(|after| addresses(after, pods.min(4)).collect()).unwrap_or_default()
}

/// Waits until every pod is ready. After 15 seconds it logs each pod that is not, and returns.
pub async fn wait_until_ready(pods: &[NamedPod]) {
    let deadline = Instant::now() + READY_TIMEOUT;
    for NamedPod { pod, name, .. } in pods {
        while !pod.health().readiness().ready {
            if Instant::now() > deadline {
                let reasons = pod.health().readiness().reasons.join("; ");
                tracing::warn!(pod = name, address = %pod.address(), reasons, "pod is not ready yet");
                break;
            }
            sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Prints the broker, the address of each pod, the tokens of operators, and commands of this
/// program to try.
///
/// # Errors
/// If `out` cannot be written.
pub fn welcome(
    out: &mut impl Write,
    broker: &ClusterBroker,
    pods: &[NamedPod],
    secrets: &ClusterSecrets,
) -> io::Result<()> {
    writeln!(out, "pubsub-relay: {} pods on {}\n", pods.len(), broker.describe())?;
    for NamedPod { pod, name, .. } in pods {
        writeln!(out, "  {name}  http://{}/graphql", pod.address())?;
    }
    if let Some(pod) = pods.first().filter(|pod| pod.pod.shows_page()) {
        writeln!(out, "\nSee it in a browser: http://{}/", pod.pod.address())?;
    }
    let [Some(first), Some(second)] =
        [pods.first(), pods.get(1).or(pods.first())].map(|pod| pod.map(|pod| pod.pod.address()))
    else {
        return Ok(());
    };
    let program = surroundings::program();
    let admin = pods.iter().find_map(|pod| pod.pod.admin_address());
    if let Some(admin) = admin {
        let (debug_token, admin_token) = (secrets.debug_token.reveal(), secrets.admin_token.reveal());
        writeln!(
            out,
            "
For operators, at http://{admin} (pod-1), until the cluster ends:
  token that reads: {debug_token}
  token that acts:  {admin_token}

Revoke what ZOLO (user 4) may do, on every pod; --retry lets the client come back:
  RELAY_ADMIN_TOKEN={admin_token} {program} revoke --user 4 --retry --url {admin}
Console, which shows pods, events and people:
  http://{admin}/console#token={debug_token}
Why did ZOLO get an event, or not? (the console lists the ids)
  RELAY_DEBUG_TOKEN={debug_token} {program} explain --user ZOLO --url {admin} --event ID"
        )?;
    }
    writeln!(
        out,
        "
Watch as ZOLO (location 3) on one pod, in a second terminal:
  {program} watch --as ZOLO --url {second}
Add a template as ZOWI on another:
  {program} publish --as ZOWI Hello --share 3 --url {first}

ZOLO and ZEWI receive the event; ZOWI (the author) and ZELO (location 1) do not. Ctrl-C stops everything."
    )?;
    out.flush()
}

/// Drains all pods at the same time. Returns [`Drained::CutOff`] if any of them was cut off.
pub async fn drain(pods: Vec<NamedPod>) -> Drained {
    let ends = join_all(pods.into_iter().map(NamedPod::drain)).await;
    if ends.contains(&Drained::CutOff) { Drained::CutOff } else { Drained::Cleanly }
}
