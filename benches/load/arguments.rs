//! Command line of the load: what to measure, on which cores, with which watchers.
//!
//! All options stand in one place so that `--help` is complete. It must never start anything
//! itself.

use std::{
    net::{SocketAddr, ToSocketAddrs as _},
    path::PathBuf,
    rc::Rc,
    str::FromStr,
    time::Duration,
};

use anyhow::{Context as _, bail};
use clap::{Arg, ArgAction, ArgMatches, Command, builder::PossibleValuesParser, value_parser};

use super::{baseline::Writes, process::Kind, swarm::Author};

/// Scenarios, in the order in which they run.
pub(crate) const SCENARIOS: [&str; 10] = [
    "fan-out",
    "selectivity",
    "memory",
    "storm",
    "mutations",
    "reads",
    "cores",
    "telemetry",
    "console",
    "broker",
];

/// Task of this process.
pub(crate) enum Task {
    Measure(Box<Options>),
    /// Serves as one of the servers that the relay is compared with.
    Baseline {
        kind: Kind,
        listen: SocketAddr,
        frame_bytes: usize,
    },
}

/// Options of a measurement.
pub(crate) struct Options {
    pub(crate) scenarios: Vec<String>,
    pub(crate) url: Option<SocketAddr>,
    pub(crate) pid: Option<u32>,
    pub(crate) relay: Option<PathBuf>,
    pub(crate) tokens: Vec<Rc<str>>,
    pub(crate) idle_tokens: Vec<Rc<str>>,
    pub(crate) author: Author,
    pub(crate) watchers: Vec<usize>,
    pub(crate) connections: usize,
    pub(crate) rate: Option<f64>,
    pub(crate) in_flight: u32,
    pub(crate) warm_up: Duration,
    pub(crate) window: Duration,
    pub(crate) alternations: usize,
    pub(crate) pod_cores: String,
    pub(crate) load_cores: String,
    pub(crate) emulator: Option<String>,
    pub(crate) is_json: bool,
}

fn option(name: &'static str, value: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name(value).help(help)
}

fn list(name: &'static str, value: &'static str, help: &'static str) -> Arg {
    option(name, value, help).value_delimiter(',')
}

fn command() -> Command {
    let kinds = PossibleValuesParser::new(Kind::BASELINES.map(Kind::name));
    let baseline = Command::new("baseline")
        .about("Serves one of the baselines until it is killed")
        .arg(Arg::new("kind").required(true).value_parser(kinds))
        .arg(option("listen", "IP:PORT", "Where").default_value("127.0.0.1:4000"))
        .arg(option("frame-bytes", "N", "Size of a frame's payload").default_value("300"));
    Command::new("load")
        .about("Measures a relay beside hand-written baselines, and checks every delivery")
        .args_conflicts_with_subcommands(true)
        .subcommand(baseline)
        .arg(
            Arg::new("scenario")
                .num_args(0..)
                .value_parser(PossibleValuesParser::new(SCENARIOS))
                .help("What to measure; all of it by default"),
        )
        .arg(option(
            "url",
            "ws://HOST:PORT",
            "Measure this relay, alone; by default a pod is started for each run",
        ))
        .arg(option("pid", "PID", "The process behind --url, for its CPU and memory"))
        .arg(option("relay", "FILE", "The relay to start; by default the one of the same build"))
        .arg(list("tokens", "TOKEN,..", "Users of the watchers that match, in turn").default_value("ZOLO"))
        .arg(list("idle-tokens", "TOKEN,..", "Users of the watchers that do not match").default_value("ZELO"))
        .arg(option("author", "TOKEN", "User that adds the templates").default_value("ZOWI"))
        .arg(option("location", "ID", "Where they are shared").default_value("3"))
        .arg(option("name-chars", "N", "Length of their names, 15 to 200").default_value("15"))
        .arg(list("watchers", "N,..", "How many watchers, in fan-out").default_value("1000,5000"))
        .arg(
            option("connections", "N", "How many, in selectivity, memory and console").default_value("10000"),
        )
        .arg(option(
            "rate",
            "EVENTS/S",
            "Paced rate; by default 2000 in console, else a fifth of what the loop does when saturated",
        ))
        .arg(option("in-flight", "N", "Events under way when saturated, 1 to 256").default_value("32"))
        .arg(option("warm-up", "SECONDS", "Before each window").default_value("1"))
        .arg(option("seconds", "SECONDS", "Length of each window").default_value("3"))
        .arg(option("alternations", "N", "Rounds, each of all servers in turn").default_value("5"))
        .arg(option("pod-cores", "LIST", "Where servers run").default_value("0"))
        .arg(option("load-cores", "LIST", "Where the load runs").default_value("1"))
        .arg(option("emulator", "HOST:PORT", "Pub/Sub emulator for broker; by default one is started"))
        .arg(Arg::new("json").long("json").action(ArgAction::SetTrue).help("Print the result as JSON"))
        .mut_args(|arg| match arg.get_id().as_str() {
            "watchers" | "connections" | "alternations" => {
                arg.value_parser(value_parser!(u32).range(1..=60_000))
            }
            "in-flight" => arg.value_parser(value_parser!(u32).range(1..=256)),
            "name-chars" => arg.value_parser(value_parser!(u32).range(15..=200)),
            _ => arg,
        })
}

/// Reads the command line. A command line that clap cannot parse ends the process with a message.
///
/// Fails on a value that has the right form but no meaning, such as an address that does not
/// resolve.
pub(crate) fn read() -> anyhow::Result<Task> {
    let matches = command().get_matches();
    if let Some(("baseline", matches)) = matches.subcommand() {
        let name = text(matches, "kind");
        let kind = Kind::BASELINES.into_iter().find(|kind| kind.name() == name);
        let kind = kind.context("no such baseline")?;
        let listen = parse(&text(matches, "listen"), "--listen")?;
        return Ok(Task::Baseline {
            kind,
            listen,
            frame_bytes: parse(&text(matches, "frame-bytes"), "--frame-bytes")?,
        });
    }
    let number = |name| matches.get_one::<u32>(name).map_or(0, |number| *number);
    let seconds =
        |name| Ok::<_, anyhow::Error>(Duration::from_secs_f64(positive(&text(&matches, name), name)?));
    let given = |name| matches.get_one::<String>(name).cloned();
    let tokens = |name| {
        matches.get_many::<String>(name).into_iter().flatten().map(|token| token.as_str().into()).collect()
    };
    let scenarios: Vec<String> = matches.get_many("scenario").into_iter().flatten().cloned().collect();
    let all = || SCENARIOS.map(str::to_owned).to_vec();
    Ok(Task::Measure(Box::new(Options {
        scenarios: if scenarios.is_empty() { all() } else { scenarios },
        url: given("url").map(|url| address(&url)).transpose()?,
        pid: given("pid").map(|pid| parse(&pid, "--pid")).transpose()?,
        relay: given("relay").map(PathBuf::from),
        tokens: tokens("tokens"),
        idle_tokens: tokens("idle-tokens"),
        author: Author {
            token: text(&matches, "author"),
            location: text(&matches, "location"),
            name_chars: number("name-chars") as usize,
        },
        watchers: matches.get_many::<u32>("watchers").into_iter().flatten().map(|n| *n as usize).collect(),
        connections: number("connections") as usize,
        rate: given("rate").map(|rate| positive(&rate, "rate")).transpose()?,
        in_flight: number("in-flight"),
        warm_up: seconds("warm-up")?,
        window: seconds("seconds")?,
        alternations: number("alternations") as usize,
        pod_cores: text(&matches, "pod-cores"),
        load_cores: text(&matches, "load-cores"),
        emulator: given("emulator"),
        is_json: matches.get_flag("json"),
    })))
}

impl Kind {
    /// Returns how the hand-written loop of this name writes, or `None` if it is another server.
    pub(crate) const fn writes(self) -> Option<Writes> {
        match self {
            Self::Loop => Some(Writes::Each),
            Self::Shared => Some(Writes::Together),
            Self::Relay | Self::Naive => None,
        }
    }
}

fn text(matches: &ArgMatches, name: &str) -> String {
    matches.get_one::<String>(name).cloned().unwrap_or_default()
}

fn parse<T: FromStr>(text: &str, name: &str) -> anyhow::Result<T> {
    text.parse().ok().with_context(|| format!("{name}: `{text}` is not what it takes"))
}

fn positive(text: &str, name: &str) -> anyhow::Result<f64> {
    let number: f64 = parse(text, &format!("--{name}"))?;
    if !(0.001..=1e6).contains(&number) {
        bail!("--{name}: must be from 0.001 to 1000000");
    }
    Ok(number)
}

fn address(url: &str) -> anyhow::Result<SocketAddr> {
    let rest =
        url.strip_prefix("ws://").with_context(|| format!("--url: `{url}` does not begin with ws://"))?;
    let host = rest.split('/').next().unwrap_or_default();
    let mut addresses =
        host.to_socket_addrs().with_context(|| format!("--url: `{host}` is not HOST:PORT"))?;
    addresses.next().with_context(|| format!("--url: `{host}` has no address"))
}
