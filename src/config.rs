//! The command line and the environment, read once into typed settings.
//!
//! One table ([`SETTINGS`]) is what `--help`, `docs/CONFIG.md` and the parser share, so that none can know a setting that
//! another does not. Every problem is reported at once. It must never print a secret, and nothing else reads the
//! environment.

mod command_line;
mod reader;
mod setting;
mod table;
mod value;

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use self::{reader::Reader, table as t};
pub use self::{
    setting::{Concern, Fallback, Only, Setting, Unit, Values},
    table::SETTINGS,
};
use crate::{
    auth::{self, secret::Secret},
    pod::Drain,
    telemetry::{self, Otlp},
    web::Origins,
};

/// The exit code of a command line or an environment that cannot be used: `EX_USAGE` of sysexits.h.
pub const EX_USAGE: u8 = 64;

/// The waits of a drain that are shorter in a cluster, unless they are given: on a laptop there is no balancer to wait for,
/// and a person waits for the prompt.
const CLUSTER_WAITS: [(&Setting, Duration); 2] =
    [(&t::DRAIN_DELAY, Duration::ZERO), (&t::DRAIN_SPREAD, Duration::from_secs(1))];

/// The environment, as the process was given it.
pub type Environment = BTreeMap<OsString, OsString>;

/// What the command line asks for.
#[derive(Debug)]
pub enum Command {
    /// Run one pod.
    Serve(Settings),
    /// Run several pods in one process, on neighbouring ports.
    Cluster {
        /// What all the pods share; [`Settings::listen`] is the first pod's, [`Settings::pod`] and [`Settings::broker`]
        /// are for the cluster to choose.
        settings: Settings,
        /// How many, 1 to 64.
        pods: u16,
        /// The first pod's port; those of all the others fit below 65536.
        first_port: u16,
        /// `CLOUDSDK_ROOT_DIR`: where the Cloud SDK is installed.
        cloudsdk_root: Option<PathBuf>,
        /// `PATH`: where to look for `gcloud`.
        path: Option<OsString>,
        /// `PUBSUB_EMULATOR_HOST`, as `HOST:PORT`: an emulator that runs already.
        emulator_host: Option<String>,
    },
    /// Check what a deploy gets wrong.
    Doctor {
        /// Those of the pod that it would run.
        settings: Settings,
        /// What the command line asks besides.
        questions: Questions,
    },
    /// Print the GraphQL schema.
    Schema,
    /// Ask the pod of this very environment whether it lives, at the address of its `/livez`.
    Healthcheck(SocketAddr),
}

/// What `relay doctor` is asked besides the settings of a pod.
#[derive(Debug)]
pub struct Questions {
    /// `--url`: where clients reach the pods, `ws://` or `wss://`.
    pub url: Option<String>,
    /// `--token-file`: a readable file.
    pub token_file: Option<PathBuf>,
    /// `--hold`: how long a WebSocket there is held open.
    pub hold: Duration,
    /// `--grace`: how long the orchestrator lets a pod end.
    pub grace: Option<Duration>,
    /// `POD_NAME` is set, as manifests do through the downward API.
    pub in_kubernetes: bool,
}

/// Everything that a pod can be told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `RELAY_LISTEN`, else `PORT` on all addresses: where clients connect.
    pub listen: SocketAddr,
    /// `RELAY_ADMIN_LISTEN`: where probes and metrics are served; `None`: on [`listen`](Self::listen).
    pub admin_listen: Option<SocketAddr>,
    /// `RELAY_BROKER`.
    pub broker: Broker,
    /// `RELAY_POD`, else `POD_NAME`, else random: 1 to 63 lowercase letters, digits and hyphens.
    pub pod: String,
    /// `RELAY_AUTH` and `RELAY_JWT_*`.
    pub auth: auth::Settings,
    /// `RELAY_DIRECTORY`: a readable file; `None`: the built-in directory. Its content is the domain's to check.
    pub directory: Option<PathBuf>,
    /// `RELAY_ALLOWED_ORIGINS`.
    pub allowed_origins: Origins,
    /// `RELAY_REPLAY_WINDOW`: how far back a client can resume.
    pub replay_window: Duration,
    /// `RELAY_REPLAY_BYTES`: what the window may hold.
    pub replay_bytes: usize,
    /// `RELAY_QUEUE_BYTES`: what may wait for one connection.
    pub queue_bytes: usize,
    /// `RELAY_MAX_CONNECTIONS`: for this pod.
    pub max_connections: usize,
    /// `RELAY_MAX_CONNECTIONS_PER_ADDRESS`: for this pod; 0: any number.
    pub max_connections_per_address: usize,
    /// `RELAY_INTROSPECTION`: whether clients may ask for the schema.
    pub introspection: bool,
    /// `RELAY_DEBUG_TOKEN`: what lets operators ask who is connected and who was told what; `None`: nobody may.
    pub debug_token: Option<Secret>,
    /// `RELAY_MAX_WATCHERS`: for each connection.
    pub max_watchers: usize,
    /// `RELAY_PAGE`: whether there is a page for people at `/`.
    pub page: bool,
    /// `RELAY_PULSE_INTERVAL`: between two pulses of this pod.
    pub pulse_interval: Duration,
    /// `RELAY_ORPHAN_AFTER`: how long a pod must have been silent for its feeds to be deleted by others.
    pub orphan_after: Duration,
    /// `RELAY_DRAIN_*`: how a pod ends.
    pub drain: Drain,
    /// `RELAY_LOG`, `RELAY_LOG_FORMAT`, and whether there are endpoints for OTLP.
    pub telemetry: telemetry::Settings,
    /// Variables that begin with `RELAY_` and are no setting: probably misspelt, worth a warning.
    pub unknown: Vec<String>,
}

/// Where events come from and go to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Broker {
    /// Inside this process: no other pod hears anything.
    Memory,
    /// A topic of Cloud Pub/Sub.
    PubSub {
        /// The project's id.
        project: String,
        /// The topic's id: at most 150 characters, so that a feed's name, which adds the pod's, stays within 255.
        topic: String,
        /// `HOST:PORT` of the emulator that stands in for Google.
        emulator: Option<String>,
    },
}

/// Why there is no command to run: help was asked for, or something is wrong. Print it and exit.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What to print, final newline included.
    pub text: String,
    /// The exit code: 0 for help and version, else [`EX_USAGE`].
    pub code: u8,
    /// Whether the text was asked for and belongs on stdout rather than stderr.
    pub to_stdout: bool,
}

/// Reads the process's own arguments and environment.
///
/// # Errors
/// A [`Refusal`], which names every problem that there is.
pub fn parse() -> Result<Command, Refusal> {
    parse_from(std::env::args_os(), &std::env::vars_os().collect())
}

/// Reads these arguments, the first of which is the program's name, in this environment. Of the machine it touches only
/// the files that settings name.
///
/// # Errors
/// As [`parse`].
pub fn parse_from(
    arguments: impl IntoIterator<Item = OsString>,
    environment: &Environment,
) -> Result<Command, Refusal> {
    let matches = command_line::command().try_get_matches_from(arguments).map_err(|problem| Refusal {
        text: problem.render().to_string(),
        code: if problem.use_stderr() { EX_USAGE } else { 0 },
        to_stdout: !problem.use_stderr(),
    })?;
    let (name, flags) = matches.subcommand().unwrap_or(("serve", &matches));
    let mut reader = Reader::new(flags, environment);
    let command = match name {
        "schema" => Command::Schema,
        "healthcheck" => healthcheck(&mut reader),
        "cluster" => cluster(&mut reader),
        "doctor" => Command::Doctor { settings: one_pod(&mut reader), questions: questions(&mut reader) },
        _ => Command::Serve(one_pod(&mut reader)),
    };
    reader.finish().map(|()| command)
}

/// Where clients connect, and where machines ask if that is somewhere else.
fn addresses(reader: &mut Reader<'_>) -> (SocketAddr, Option<SocketAddr>) {
    let port = match reader.is_given(&t::LISTEN) {
        true => None,
        false => reader.optional(&t::PORT, value::port),
    };
    let listen = match port {
        Some(port) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)),
        None => reader.required(&t::LISTEN, value::address),
    };
    (listen, reader.optional(&t::ADMIN_LISTEN, value::address))
}

/// The pod beside us, which listens on all addresses or on one: loopback is among all.
fn healthcheck(reader: &mut Reader<'_>) -> Command {
    let (listen, admin_listen) = addresses(reader);
    let mut address = admin_listen.unwrap_or(listen);
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    Command::Healthcheck(address)
}

/// One pod.
fn one_pod(reader: &mut Reader<'_>) -> Settings {
    let (listen, admin_listen) = addresses(reader);
    if admin_listen == Some(listen) && listen.port() != 0 {
        reader
            .refuse(&t::ADMIN_LISTEN, "is the clients' address: give another, or unset it to share that one");
    }
    let broker = match reader.required(&t::BROKER, value::broker) {
        Broker::PubSub { project, topic, .. } => {
            Broker::PubSub { project, topic, emulator: reader.optional(&t::EMULATOR_HOST, value::host_port) }
        }
        Broker::Memory => Broker::Memory,
    };
    let pod = match reader.is_given(&t::POD) {
        true => reader.optional(&t::POD, value::pod),
        false => reader.optional(&t::POD_NAME, value::pod),
    };
    let mut settings = Settings {
        listen,
        admin_listen,
        broker,
        pod: pod.unwrap_or_else(value::random_pod),
        debug_token: reader.debug_token(),
        ..shared(reader, &[])
    };
    if let Broker::PubSub { project, .. } = &settings.broker {
        settings.telemetry.project = Some(project.clone());
    }
    let is_real = matches!(settings.broker, Broker::PubSub { emulator: None, .. });
    if is_real && !reader.is_given(&t::EMULATOR_HOST) && reader.is_demo() {
        reader.refuse(
            &t::AUTH,
            "demo lets anybody in and is refused with a real Pub/Sub project: set it to jwt, or PUBSUB_EMULATOR_HOST",
        );
    }
    settings
}

fn questions(reader: &mut Reader<'_>) -> Questions {
    Questions {
        url: reader.optional(&t::URL, value::websocket_url),
        token_file: reader.optional(&t::TOKEN_FILE, value::readable_file),
        hold: Duration::from_nanos(reader.amount(&t::HOLD)),
        grace: reader.optional(&t::GRACE, value::duration),
        in_kubernetes: reader.is_given(&t::POD_NAME),
    }
}

/// Several pods.
fn cluster(reader: &mut Reader<'_>) -> Command {
    for setting in SETTINGS.iter().flat_map(|concern| concern.settings) {
        // PORT and POD_NAME belong to whatever the process runs in: nobody expects the cluster to follow them.
        let is_ours = setting.variable.is_some_and(|variable| variable.starts_with("RELAY_"));
        if setting.only == Some(Only::Serve) && is_ours && reader.is_given(setting) {
            reader.refuse(setting, "is not for cluster, which chooses its own: unset it, or run serve");
        }
    }
    let pods = u16::try_from(reader.amount(&t::PODS)).expect("the table bounds it");
    let first_port = u16::try_from(reader.amount(&t::FIRST_PORT)).expect("the table bounds it");
    if first_port.checked_add(pods - 1).is_none() {
        reader.refuse(&t::FIRST_PORT, "leaves too few ports below 65536 for all the pods: give a lower one");
    }
    Command::Cluster {
        settings: Settings {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, first_port)),
            ..shared(reader, &CLUSTER_WAITS)
        },
        pods,
        first_port,
        cloudsdk_root: reader.raw(&t::CLOUDSDK_ROOT_DIR).map(PathBuf::from),
        path: reader.raw(&t::PATH).map(OsStr::to_owned),
        emulator_host: reader.optional(&t::EMULATOR_HOST, value::host_port),
    }
}

/// The settings that both commands know, around placeholders for those that only one does.
fn shared(reader: &mut Reader<'_>, waits: &[(&Setting, Duration)]) -> Settings {
    let auth = reader.auth();
    let own = match auth {
        auth::Settings::Demo => Origins::Localhost,
        auth::Settings::Jwt(_) => Origins::Same,
    };
    Settings {
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        admin_listen: None,
        broker: Broker::Memory,
        pod: String::new(),
        auth,
        directory: reader.optional(&t::DIRECTORY, value::readable_file),
        allowed_origins: reader.optional(&t::ALLOWED_ORIGINS, value::origins).unwrap_or(own),
        replay_window: Duration::from_nanos(reader.amount(&t::REPLAY_WINDOW)),
        replay_bytes: reader.size(&t::REPLAY_BYTES),
        queue_bytes: reader.size(&t::QUEUE_BYTES),
        max_connections: reader.size(&t::MAX_CONNECTIONS),
        max_connections_per_address: reader.size(&t::MAX_CONNECTIONS_PER_ADDRESS),
        introspection: reader.required(&t::INTROSPECTION, value::switch),
        max_watchers: reader.size(&t::MAX_WATCHERS),
        debug_token: None,
        page: reader.required(&t::PAGE, value::switch),
        pulse_interval: Duration::from_nanos(reader.amount(&t::PULSE_INTERVAL)),
        orphan_after: Duration::from_nanos(reader.amount(&t::ORPHAN_AFTER)),
        drain: drain(reader, waits),
        telemetry: telemetry::Settings {
            log: reader.required(&t::LOG, value::log_filter),
            log_format: reader.required(&t::LOG_FORMAT, value::log_format),
            project: None,
            otlp: otlp(reader),
        },
        unknown: reader.unknown(),
    }
}

/// The endpoints are only checked here: the library reads them, with all else that the standard has.
fn otlp(reader: &mut Reader<'_>) -> Otlp {
    let [any, traces, metrics] = [&t::OTLP, &t::OTLP_TRACES, &t::OTLP_METRICS]
        .map(|setting| reader.optional(setting, value::url).is_some());
    let is_on = !reader.required(&t::OTEL_DISABLED, value::boolean);
    Otlp { traces: is_on && (any || traces), metrics: is_on && (any || metrics) }
}

/// How a pod ends; `waits` are other defaults.
fn drain(reader: &mut Reader<'_>, waits: &[(&Setting, Duration)]) -> Drain {
    let [delay, spread, deadline] = [&t::DRAIN_DELAY, &t::DRAIN_SPREAD, &t::DRAIN_DEADLINE].map(|setting| {
        let given = Duration::from_nanos(reader.amount(setting));
        let other =
            waits.iter().find(|(other, _)| std::ptr::eq(*other, setting) && !reader.is_given(setting));
        other.map_or(given, |(_, wait)| *wait)
    });
    if delay + spread >= deadline {
        reader.refuse(
            &t::DRAIN_DEADLINE,
            "is not longer than RELAY_DRAIN_DELAY and RELAY_DRAIN_SPREAD together: give more, or shorten these",
        );
    }
    Drain { delay, spread, deadline }
}

#[cfg(test)]
mod tests;
