//! Reads the command line and the environment once, into typed settings.
//!
//! One table ([`SETTINGS`]) feeds the parser and `--help`, and a test compares `docs/CONFIG.md`
//! with it. So all three know the same settings. Every problem is reported at once. It must never
//! print a secret, and nothing else in this crate may read the environment.

mod command_line;
mod exit;
mod otel;
mod proxy;
mod reader;
mod setting;
mod settings;
mod table;
mod value;

use std::{
    ffi::{OsStr, OsString},
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

pub use self::{
    exit::{EX_USAGE, EarlyExit},
    reader::Environment,
    setting::{Concern, Fallback, Only, Setting, Unit, Values},
    settings::{BadFile, DomainFiles, Settings},
    table::SETTINGS,
    value::Wanted,
};
use clap::ArgMatches;

use self::{reader::Reader, table as t};
use super::terminal::{DebugToken, Explain, Identity, Revoke};
use crate::{auth::Secret, broker::open::BrokerUrl};

/// Command to run, with its settings.
#[derive(Debug)]
pub enum Command {
    /// Runs one pod.
    Serve(Settings),
    /// Runs several pods in one process, on neighbouring ports.
    Cluster {
        /// Settings that all pods share. The cluster chooses names, addresses and broker.
        settings: Settings,
        /// Number of pods, 1 to 64; 4 by default.
        pods: u16,
        /// Port of the first pod, 3001 by default. The ports of all pods are below 65536.
        first_port: u16,
        /// `--broker`: broker that the pods share.
        wanted: Wanted,
        /// `CLOUDSDK_ROOT_DIR`: directory of the Cloud SDK.
        cloudsdk_root: Option<PathBuf>,
        /// `PATH`: directories in which `gcloud` and `initdb` are looked for.
        path: Option<OsString>,
        /// `PUBSUB_EMULATOR_HOST`, as `HOST:PORT`: emulator that runs already.
        emulator_host: Option<String>,
    },
    /// Checks a deployment for common faults.
    Doctor {
        /// Settings of the pod that the deployment would run.
        settings: Settings,
        /// Arguments of the check itself.
        questions: Questions,
    },
    /// Prints the GraphQL schema of the domain of these files.
    Schema(DomainFiles),
    /// Prints the definitions of the directives of schema files.
    Directives,
    /// Prints the script that makes the tables of this topic in PostgreSQL.
    Tables(String),
    /// Checks a schema file, and perhaps tries its rules.
    Check(Check),
    /// Checks that the pod of this environment is alive. This is the address of its `/livez`.
    Healthcheck(SocketAddr),
    /// Subscribes to a pod.
    Watch(Client, Option<u64>),
    /// Runs a mutation on a pod.
    Publish(Client),
    /// Refuses tokens on every pod.
    Revoke(Revoke),
    /// Asks why a user did or did not receive an event.
    Explain(Explain),
    /// Prints a text, such as completions.
    Print(String),
}

/// Arguments of commands that are clients of a pod.
#[derive(Debug)]
pub struct Client {
    /// `--url`: the pod.
    pub url: String,
    /// `--as` or `--token-file`: the user.
    pub identity: Identity,
    /// `--document`: file with a GraphQL document; `None`: the tutorial's.
    pub document: Option<PathBuf>,
    /// `--variables`: JSON that begins with `{`, or a file.
    pub variables: Option<String>,
    /// Name of a template to add, and `--share`: the locations to share it with.
    pub template: Option<(String, Option<String>)>,
    /// Whether `NO_COLOR` is set.
    pub no_colour: bool,
}

impl Command {
    /// Returns the files of the domain that the command serves or shows.
    const fn domain_files(&self) -> Option<&DomainFiles> {
        match self {
            Self::Schema(files) => Some(files),
            _ => match self.settings() {
                Some(settings) => Some(&settings.domain),
                None => None,
            },
        }
    }

    /// Returns the settings of the command's pods, if the command has any.
    #[must_use]
    pub const fn settings(&self) -> Option<&Settings> {
        match self {
            Self::Serve(settings) | Self::Cluster { settings, .. } | Self::Doctor { settings, .. } => {
                Some(settings)
            }
            Self::Schema(_)
            | Self::Directives
            | Self::Tables(_)
            | Self::Check(_)
            | Self::Healthcheck(_)
            | Self::Watch(..)
            | Self::Publish(_)
            | Self::Revoke(_)
            | Self::Explain(_)
            | Self::Print(_) => None,
        }
    }
}

/// Arguments of `relay check`.
#[derive(Debug)]
pub struct Check {
    /// The schema file and, for a trial, the file with its tables.
    pub files: DomainFiles,
    /// Event to try the rules on.
    pub trial: Option<Trial>,
}

/// Event, viewer and arguments that the rules of a schema file are tried on. A value that begins
/// with `{` is JSON itself; any other names a file.
#[derive(Debug)]
pub struct Trial {
    /// `--event`: data of an event, or an event in structured mode.
    pub event: String,
    /// `--type`: type of the event; `None`: the event is in structured mode.
    pub kind: Option<String>,
    /// `--author`: id of the author of data.
    pub author: Option<String>,
    /// `--attributes`: attributes of the message that a pod would read; `None`: they are not
    /// tried.
    pub attributes: Option<String>,
    /// `--viewer`: claims of the viewer's token.
    pub viewer: String,
    /// `--arguments`: arguments of the subscription.
    pub arguments: Option<String>,
}

/// Arguments of `relay doctor` besides the settings of a pod.
#[derive(Debug)]
pub struct Questions {
    /// `--url`: public URL of the pods, `ws://` or `wss://`; `None`: not checked.
    pub url: Option<String>,
    /// `--token-file`: readable file with a token for the WebSocket at `url`.
    pub token_file: Option<PathBuf>,
    /// `--hold`: time for which the WebSocket is held open, 1 s to 1 h; 40 s by default.
    pub hold: Duration,
    /// `--grace`: time from SIGTERM until the orchestrator kills a pod; `None`: not checked.
    pub grace: Option<Duration>,
    /// Whether `POD_NAME` is set, as manifests do through the downward API.
    pub in_kubernetes: bool,
}

/// Reads the arguments and the environment of this process. `domain` checks the content of the
/// files that `RELAY_SCHEMA` and `RELAY_DIRECTORY` name, since only the domain can read them. It is
/// not called without such a file.
///
/// # Errors
/// [`EarlyExit`], with every problem that was found, or with the text of `--help` or `--version`.
pub fn parse(domain: impl FnOnce(&DomainFiles) -> Result<(), BadFile>) -> Result<Command, EarlyExit> {
    parse_from(std::env::args_os(), &std::env::vars_os().collect(), domain)
}

/// Returns the value of `NO_PROXY` that exempts this machine from the proxies of this process's
/// environment; `None` if it is exempt, or there is no proxy for plain HTTP.
#[must_use]
pub fn proxy_exemptions() -> Option<OsString> {
    proxy::exemptions(&std::env::vars_os().collect())
}

/// Reads these arguments in this environment. The first argument is the program's name. Besides
/// them it reads only the files that settings name, and looks up the hosts of addresses.
///
/// # Errors
/// The same as [`parse`].
pub fn parse_from(
    arguments: impl IntoIterator<Item = OsString>,
    environment: &Environment,
    domain: impl FnOnce(&DomainFiles) -> Result<(), BadFile>,
) -> Result<Command, EarlyExit> {
    let matches = command_line::command().try_get_matches_from(arguments).map_err(|problem| EarlyExit {
        text: problem.render().to_string(),
        code: if problem.use_stderr() { EX_USAGE } else { 0 },
        to_stdout: !problem.use_stderr(),
    })?;
    let (name, flags) = matches.subcommand().unwrap_or(("serve", &matches));
    let mut reader = Reader::new(flags, environment);
    let command = match name {
        "schema" if flags.get_flag("directives") => Command::Directives,
        "schema" if flags.get_flag("postgres") => Command::Tables(settings::topic(&mut reader)),
        "schema" => Command::Schema(settings::domain_files(&mut reader)),
        "check" => Command::Check(check(flags, &reader)),
        "healthcheck" => healthcheck(&mut reader),
        "watch" => Command::Watch(client(flags, environment), count(flags)?),
        "publish" => Command::Publish(client(flags, environment)),
        "revoke" => revoke(flags, &mut reader),
        "explain" => Command::Explain(explain(flags, environment)),
        "completions" => {
            let shell = flags.get_one("SHELL").copied().expect("it is required");
            Command::Print(command_line::completions(shell))
        }
        "version" => Command::Print(format!("relay {}\n", env!("CARGO_PKG_VERSION"))),
        "cluster" => cluster(&mut reader),
        "doctor" => {
            Command::Doctor { settings: settings::one_pod(&mut reader), questions: questions(&mut reader) }
        }
        _ => Command::Serve(settings::one_pod(&mut reader)),
    };
    let files = command.domain_files().filter(|files| **files != DomainFiles::default());
    match files.map_or(Ok(()), domain) {
        Ok(()) => {}
        Err(BadFile::Directory(problem)) => {
            reader.refuse(&t::DIRECTORY, &format!("names a file that cannot be used: {problem}"));
        }
        Err(BadFile::NoDirectory) => {
            reader.refuse(
                &t::DIRECTORY,
                "is not set, but the schema names tables: give the file that has them",
            );
        }
        Err(BadFile::Schema(problems)) => {
            for problem in problems {
                reader.refuse(&t::SCHEMA, &format!("names a file with a mistake: {problem}"));
            }
        }
    }
    reader.finish().map(|()| command)
}

/// Returns the arguments of `relay check`.
fn check(flags: &ArgMatches, reader: &Reader<'_>) -> Check {
    let text = |name| flags.get_one::<String>(name).cloned();
    let trial = text("event").map(|event| Trial {
        event,
        kind: text("type"),
        author: text("author"),
        attributes: text("attributes"),
        viewer: text("viewer").unwrap_or_default(),
        arguments: text("arguments"),
    });
    let directory = reader.raw(&t::DIRECTORY).map(PathBuf::from);
    let schema = text("FILE").map(PathBuf::from);
    Check { files: DomainFiles { schema, directory }, trial }
}

/// Reads the command that refuses tokens. Its token comes from the environment, since `ps` shows
/// flags.
fn revoke(flags: &ArgMatches, reader: &mut Reader<'_>) -> Command {
    let text = |name| flags.get_one::<String>(name).cloned();
    let admin_token = reader.admin_token();
    if admin_token.is_none() {
        reader.refuse(
            &t::ADMIN_TOKEN,
            "is needed to act: set it, or RELAY_ADMIN_TOKEN_FILE, to the pod's token",
        );
    }
    Command::Revoke(Revoke {
        url: text("url").unwrap_or_default(),
        user: text("user"),
        token: text("token"),
        retry: flags.get_flag("retry"),
        admin_token: admin_token.unwrap_or_else(|| Secret::new("")),
    })
}

/// Returns the arguments of a command that is a client of a pod.
fn client(flags: &ArgMatches, environment: &Environment) -> Client {
    let text = |name| flags.try_get_one::<String>(name).ok().flatten().cloned();
    let identity = match text("token-file") {
        Some(file) => Identity::File(file.into()),
        None => Identity::Demo(text("as").unwrap_or_default()),
    };
    Client {
        url: text("url").unwrap_or_default(),
        identity,
        document: text("document").map(PathBuf::from),
        variables: text("variables"),
        template: text("NAME").map(|name| (name, text("share"))),
        no_colour: environment.get(OsStr::new("NO_COLOR")).is_some_and(|value| !value.is_empty()),
    }
}

/// Returns the arguments of `relay explain`.
fn explain(flags: &ArgMatches, environment: &Environment) -> Explain {
    let text = |name| flags.get_one::<String>(name).cloned().unwrap_or_default();
    let variable = |name: &str| environment.get(OsStr::new(name)).filter(|value| !value.is_empty());
    let inline = || Some(DebugToken::Text(variable("RELAY_DEBUG_TOKEN")?.to_string_lossy().into_owned()));
    let file = || Some(DebugToken::File(variable("RELAY_DEBUG_TOKEN_FILE")?.into()));
    let flag = flags.get_one::<String>("token-file").map(|file| DebugToken::File(file.into()));
    let token = flag.or_else(inline).or_else(file);
    Explain { url: text("url"), token, event: text("event"), user: text("user") }
}

/// Returns the number of results after which `relay watch` ends.
fn count(flags: &ArgMatches) -> Result<Option<u64>, EarlyExit> {
    let Some(text) = flags.get_one::<String>("count") else { return Ok(None) };
    match text.parse() {
        Ok(count @ 1..) => Ok(Some(count)),
        _ => {
            let text = "relay: --count is no number of results: write it like 1\n".to_owned();
            Err(EarlyExit { text, code: EX_USAGE, to_stdout: false })
        }
    }
}

/// Returns the command that checks the pod of this environment. A pod that listens on all addresses
/// is asked on loopback.
fn healthcheck(reader: &mut Reader<'_>) -> Command {
    let (listen, admin_listen) = settings::addresses(reader);
    let mut address = admin_listen.unwrap_or(listen);
    if address.ip().is_unspecified() {
        // `[::]` is IPv4 as well, and on some machines nothing else.
        address.set_ip(Ipv4Addr::LOCALHOST.into());
    }
    Command::Healthcheck(address)
}

/// Reads the arguments of `relay doctor` besides the settings of a pod.
fn questions(reader: &mut Reader<'_>) -> Questions {
    Questions {
        url: reader.optional(&t::URL, value::websocket_url),
        token_file: reader.optional(&t::TOKEN_FILE, value::readable_file),
        hold: reader.duration(&t::HOLD),
        grace: reader.optional(&t::GRACE, value::duration),
        in_kubernetes: reader.is_given(&t::POD_NAME),
    }
}

/// Reads the command that runs several pods.
fn cluster(reader: &mut Reader<'_>) -> Command {
    for setting in SETTINGS.iter().flat_map(|concern| concern.settings) {
        // PORT and POD_NAME belong to the environment of the process, so a cluster ignores them.
        let is_ours = setting.variable.is_some_and(|variable| variable.starts_with("RELAY_"));
        if setting.only == Some(Only::Serve) && is_ours && reader.is_in_environment(setting) {
            reader.refuse(setting, "is not for cluster, which chooses its own: unset it, or run serve");
        }
    }
    let pods = u16::try_from(reader.amount(&t::PODS)).expect("the table bounds it");
    let first_port = u16::try_from(reader.amount(&t::FIRST_PORT)).expect("the table bounds it");
    if first_port.checked_add(pods - 1).is_none() {
        reader.refuse(&t::FIRST_PORT, "leaves too few ports below 65536 for all the pods: give a lower one");
    }
    let mut settings = settings::shared(reader, BrokerUrl::Memory, &settings::CLUSTER_WAITS);
    settings.telemetry.names_threads = true;
    // Pods of one process start together, and a user of a laptop watches single connections.
    settings.pod.rebalances &= reader.is_given(&t::REBALANCE);
    Command::Cluster {
        settings,
        pods,
        first_port,
        wanted: reader.optional(&t::CLUSTER_BROKER, value::cluster_broker).unwrap_or_default(),
        cloudsdk_root: reader.raw(&t::CLOUDSDK_ROOT_DIR).map(PathBuf::from),
        path: reader.raw(&t::PATH).map(OsStr::to_owned),
        emulator_host: reader.optional(&t::EMULATOR_HOST, value::host_port),
    }
}

#[cfg(test)]
mod tests;
