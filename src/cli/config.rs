//! The command line and the environment, read once into typed settings.
//!
//! One table ([`SETTINGS`]) is what `--help`, `docs/CONFIG.md` and the parser share, so that none can know a setting that
//! another does not. Every problem is reported at once. It must never print a secret, and nothing else of ours reads the
//! environment.

mod command_line;
mod exit;
mod reader;
mod setting;
mod settings;
mod table;
mod value;

use std::{
    ffi::{OsStr, OsString},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

pub use self::{
    exit::{EX_USAGE, EarlyExit},
    reader::Environment,
    setting::{Concern, Fallback, Only, Setting, Unit, Values},
    settings::Settings,
    table::SETTINGS,
};
use self::{reader::Reader, table as t};
use crate::broker::open::BrokerUrl;

/// What the command line asks for.
#[derive(Debug)]
pub enum Command {
    /// Run one pod.
    Serve(Settings),
    /// Run several pods in one process, on neighbouring ports.
    Cluster {
        /// Settings that all the pods share. The cluster chooses names, addresses and broker.
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

impl Command {
    /// Those of its pods, if it has to do with any.
    #[must_use]
    pub const fn settings(&self) -> Option<&Settings> {
        match self {
            Self::Serve(settings) | Self::Cluster { settings, .. } | Self::Doctor { settings, .. } => {
                Some(settings)
            }
            Self::Schema | Self::Healthcheck(_) => None,
        }
    }
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

/// Reads the process's own arguments and environment. `directory` is asked what is wrong with the content of the file of
/// that setting, which is the domain's.
///
/// # Errors
/// A [`EarlyExit`], which names every problem that there is.
pub fn parse(directory: impl FnOnce(&Path) -> Result<(), String>) -> Result<Command, EarlyExit> {
    parse_from(std::env::args_os(), &std::env::vars_os().collect(), directory)
}

/// Reads these arguments, the first of which is the program's name, in this environment. Of the machine it touches only
/// the files that settings name, and its hosts if an address is one by name.
///
/// # Errors
/// As [`parse`].
pub fn parse_from(
    arguments: impl IntoIterator<Item = OsString>,
    environment: &Environment,
    directory: impl FnOnce(&Path) -> Result<(), String>,
) -> Result<Command, EarlyExit> {
    let matches = command_line::command().try_get_matches_from(arguments).map_err(|problem| EarlyExit {
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
        "doctor" => {
            Command::Doctor { settings: settings::one_pod(&mut reader), questions: questions(&mut reader) }
        }
        _ => Command::Serve(settings::one_pod(&mut reader)),
    };
    if let Some(path) = command.settings().and_then(|settings| settings.directory.as_deref())
        && let Err(problem) = directory(path)
    {
        reader.refuse(&t::DIRECTORY, &format!("names a file that cannot be used: {problem}"));
    }
    reader.finish().map(|()| command)
}

/// The pod beside us, which listens on all addresses or on one: loopback is among all.
fn healthcheck(reader: &mut Reader<'_>) -> Command {
    let (listen, admin_listen) = settings::addresses(reader);
    let mut address = admin_listen.unwrap_or(listen);
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    Command::Healthcheck(address)
}

fn questions(reader: &mut Reader<'_>) -> Questions {
    Questions {
        url: reader.optional(&t::URL, value::websocket_url),
        token_file: reader.optional(&t::TOKEN_FILE, value::readable_file),
        hold: reader.duration(&t::HOLD),
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
        settings: settings::shared(reader, BrokerUrl::Memory, &settings::CLUSTER_WAITS),
        pods,
        first_port,
        cloudsdk_root: reader.raw(&t::CLOUDSDK_ROOT_DIR).map(PathBuf::from),
        path: reader.raw(&t::PATH).map(OsStr::to_owned),
        emulator_host: reader.optional(&t::EMULATOR_HOST, value::host_port),
    }
}

#[cfg(test)]
mod tests;
