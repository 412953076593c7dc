//! The `relay` command: settings → telemetry → the chosen command → exit code.

use std::{
    ffi::OsString,
    future::pending,
    io::{self, Write as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use pubsub_relay::{
    auth,
    broker::memory,
    cluster::{self, Carrier},
    config::{self, Command, EX_USAGE, Questions, Settings},
    contract::Domain,
    doctor,
    domain::{self, Directory, Tutorial},
    emulator::Search,
    graphql::{self, Api},
    health,
    hub::window::Bounds,
    pod::{self, Broker, Drained, Pod},
    pubsub, shutdown,
    telemetry::{self, Traces},
    web::{self, Origins},
};
use tokio::{runtime::Runtime, select};
use tokio_util::sync::CancellationToken;

fn main() -> ExitCode {
    let command = match config::parse() {
        Ok(command) => command,
        Err(refusal) if refusal.to_stdout => return print(&refusal.text),
        Err(refusal) => return complain(&refusal.text, refusal.code.into()),
    };
    run(command).unwrap_or_else(|error| complain(&format!("relay: {error:#}\n"), ExitCode::FAILURE))
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    let (settings, laptop) = match command {
        Command::Schema => return Ok(print(&tutorial(Directory::built_in(), Duration::ZERO).1.sdl())),
        Command::Healthcheck(address) => {
            health::ask(address).with_context(|| format!("no pod lives at {address}"))?;
            return Ok(ExitCode::SUCCESS);
        }
        Command::Doctor { settings, questions } => return examine(settings, questions),
        Command::Serve(settings) => (settings, None),
        Command::Cluster { settings, pods, first_port, cloudsdk_root, path, emulator_host } => {
            let addresses = cluster::addresses(first_port, pods).collect();
            (settings, Some(Laptop { addresses, cloudsdk_root, path, emulator_host }))
        }
    };
    let directory = match directory(settings.directory.as_deref()) {
        Ok(directory) => directory,
        Err(problem) => {
            return Ok(complain(&format!("relay: RELAY_DIRECTORY: {problem}\n"), EX_USAGE.into()));
        }
    };
    let runtime = Runtime::new()?;
    let traces = {
        let _inside = runtime.enter();
        telemetry::init(&settings.telemetry)?
    };
    for name in &settings.unknown {
        tracing::warn!(name, "no such setting; see relay --help");
    }
    let drained = match laptop {
        None => runtime.block_on(serve(settings, directory, &traces)),
        Some(laptop) => runtime.block_on(run_cluster(settings, directory, laptop, &traces)),
    };
    Ok(match drained? {
        Drained::Cleanly => ExitCode::SUCCESS,
        Drained::CutOff => ExitCode::FAILURE,
    })
}

/// What a cluster needs besides the settings of its pods.
struct Laptop {
    addresses: Vec<SocketAddr>,
    cloudsdk_root: Option<PathBuf>,
    path: Option<OsString>,
    emulator_host: Option<String>,
}

async fn serve(settings: Settings, directory: Directory, traces: &Traces) -> anyhow::Result<Drained> {
    let window = settings.replay_window;
    let broker = match pubsub_settings(&settings, &settings.pod) {
        None => Broker::Memory(memory::Topic::new(window, settings.replay_bytes)),
        Some(pubsub) => Broker::PubSub(pubsub),
    };
    let (domain, api) = tutorial(directory, window);
    let pod = Pod::start(pod_settings(&settings, broker, traces), domain, api).await?;
    let signal = shutdown::requested().await?;
    tracing::info!(signal, "draining");
    drain(pod.drain()).await
}

async fn run_cluster(
    settings: Settings,
    directory: Directory,
    laptop: Laptop,
    traces: &Traces,
) -> anyhow::Result<Drained> {
    let Laptop { addresses, cloudsdk_root, path, emulator_host } = laptop;
    let window = settings.replay_window;
    let search = Search { cloudsdk_root, path };
    let carrier = Carrier::choose(emulator_host, &search, window, settings.replay_bytes).await;
    let mut pods = Vec::new();
    let ran = async {
        for (n, listen) in (1..).zip(addresses) {
            let pod = format!("pod-{n}");
            let broker = carrier.broker(&pod, window);
            let (domain, api) = tutorial(directory.clone(), window);
            let settings = Settings { pod, listen, ..settings.clone() };
            pods.push(Pod::start(pod_settings(&settings, broker, traces), domain, api).await?);
        }
        select! {
            () = cluster::wait_until_ready(&pods) => {}
            signal = shutdown::requested() => return signal.map_err(Into::into),
        }
        cluster::welcome(&mut io::stdout(), &carrier, &pods)?;
        Ok::<_, anyhow::Error>(shutdown::requested().await?)
    }
    .await;
    let drained = drain(cluster::drain(pods)).await;
    carrier.stop().await;
    ran.and(drained)
}

/// Checks what a pod of these settings would run on.
fn examine(settings: Settings, questions: Questions) -> anyhow::Result<ExitCode> {
    let origin = match &settings.allowed_origins {
        Origins::List(origins) => origins.first().cloned(),
        _ => None,
    };
    let Questions { url, token_file, hold, grace, in_kubernetes } = questions;
    let checks = doctor::Settings {
        broker: pubsub_settings(&settings, doctor::POD),
        pulse_interval: settings.pulse_interval,
        orphan_after: settings.orphan_after,
        auth: settings.auth,
        drain: settings.drain,
        grace,
        addresses: (settings.listen, settings.admin_listen),
        in_kubernetes,
        visit: url.map(|url| doctor::Visit { url, origin, token_file, hold }),
    };
    let is_well = Runtime::new()?.block_on(async {
        let (mut out, stop) = (io::stdout(), CancellationToken::new());
        let interrupted = async {
            shutdown::requested().await?;
            stop.cancel();
            pending::<io::Result<bool>>().await
        };
        select! {
            is_well = doctor::run(&checks, &mut out, &stop) => is_well,
            failed = interrupted => failed,
        }
    })?;
    Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The topic for a pod of this name, unless it is in memory.
fn pubsub_settings(settings: &Settings, pod: &str) -> Option<pubsub::Settings> {
    let config::Broker::PubSub { project, topic, emulator } = &settings.broker else { return None };
    Some(pubsub::Settings {
        project: project.clone(),
        topic: topic.clone(),
        pod: pod.to_owned(),
        emulator: emulator.clone(),
        replay_window: settings.replay_window,
    })
}

/// Drains, or ends at once on a second signal: somebody does not want to wait.
async fn drain(drain: impl Future<Output = Drained>) -> anyhow::Result<Drained> {
    select! {
        drained = drain => Ok(drained),
        signal = shutdown::requested() => {
            let signal = signal?;
            tracing::warn!(signal, "drain given up");
            Ok(Drained::CutOff)
        }
    }
}

/// The one place that names the domain: a team puts its own here.
fn tutorial(directory: Directory, retention: Duration) -> (Arc<dyn Domain>, Arc<dyn Api>) {
    let tutorial = Tutorial::new(directory, retention);
    (tutorial.clone(), graphql::build(domain::schema(tutorial)))
}

/// What the page opens with. A demo token is no secret; of others it only says where they belong.
fn tabs(auth: &auth::Settings) -> Vec<web::Tab> {
    let is_demo = matches!(auth, auth::Settings::Demo);
    let tab = |(user, query)| web::Tab { query, token: if is_demo { user } else { "TOKEN" } };
    domain::EXAMPLES.map(tab).into()
}

fn directory(path: Option<&Path>) -> Result<Directory, domain::DirectoryError> {
    path.map_or_else(|| Ok(Directory::built_in()), Directory::load)
}

fn pod_settings(settings: &Settings, broker: Broker, traces: &Traces) -> pod::Settings {
    pod::Settings {
        name: settings.pod.clone(),
        listen: settings.listen,
        admin_listen: settings.admin_listen,
        broker,
        auth: settings.auth.clone(),
        web: web::Settings {
            origins: settings.allowed_origins.clone(),
            queue_bytes: settings.queue_bytes,
            max_connections: settings.max_connections,
            max_connections_per_address: settings.max_connections_per_address,
            max_watchers: settings.max_watchers,
            debug_token: settings.debug_token.clone(),
            page: settings.page.then(|| tabs(&settings.auth)),
        },
        introspection: settings.introspection,
        window: Bounds { span: settings.replay_window, bytes: settings.replay_bytes },
        pulse_interval: settings.pulse_interval,
        orphan_after: settings.orphan_after,
        drain: settings.drain,
        otlp: settings.telemetry.otlp,
        traces: traces.clone(),
    }
}

/// The command line's own output.
fn print(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn complain(text: &str, code: ExitCode) -> ExitCode {
    // Nothing is left to complain to if this fails; the code still says that something is wrong.
    let _ = io::stderr().write_all(text.as_bytes());
    code
}
