//! The `relay` command: settings → telemetry → the chosen command → exit code.

mod domain_factory;

use std::{
    ffi::OsString,
    future::pending,
    io::{self, Write as _},
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::Context as _;
use pubsub_relay::{
    broker::memory,
    broker::pubsub,
    cli::cluster::{self, Carrier},
    cli::config::{self, Command, Questions, Settings},
    cli::doctor,
    cli::emulator::Search,
    health,
    pod::{self, Broker, Drained, Pod},
    shutdown::Signals,
    telemetry::{self, Traces},
    web::Origins,
};
use tokio::{runtime::Runtime, select};
use tokio_util::sync::CancellationToken;

use self::domain_factory::Seed;

fn main() -> ExitCode {
    let mut seed = Seed::built_in();
    let command = match config::parse(|path| Seed::load(path).map(|loaded| seed = loaded)) {
        Ok(command) => command,
        Err(refusal) if refusal.to_stdout => return print(&refusal.text),
        Err(refusal) => return complain(&refusal.text, refusal.code.into()),
    };
    run(command, &seed).unwrap_or_else(|error| complain(&format!("relay: {error:#}\n"), ExitCode::FAILURE))
}

fn run(command: Command, seed: &Seed) -> anyhow::Result<ExitCode> {
    let (settings, laptop) = match command {
        Command::Schema => return Ok(print(&seed.grow(Duration::ZERO).1.sdl())),
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
    let runtime = Runtime::new()?;
    let traces = {
        let _inside = runtime.enter();
        telemetry::init(&settings.telemetry)?
    };
    for name in &settings.unknown {
        tracing::warn!(name, "no such setting; see relay --help");
    }
    if settings.drain.is_cut_short() {
        tracing::warn!(
            drain = ?settings.drain,
            "the drain's deadline cuts connections off: it is not longer than delay and spread together"
        );
    }
    let drained = match laptop {
        None => runtime.block_on(serve(settings, seed, &traces)),
        Some(laptop) => runtime.block_on(run_cluster(settings, seed, laptop, &traces)),
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

async fn serve(settings: Settings, seed: &Seed, traces: &Traces) -> anyhow::Result<Drained> {
    let mut signals = Signals::listen()?;
    let window = settings.window.span;
    let broker = match pubsub_settings(&settings, &settings.pod) {
        None => Broker::Memory(memory::Topic::new(window, settings.window.bytes)),
        Some(pubsub) => Broker::PubSub(pubsub),
    };
    let (domain, api) = seed.grow(window);
    let pod = select! {
        pod = Pod::start(pod_settings(&settings, broker, traces), domain, api) => pod?,
        signal = signals.next() => {
            tracing::info!(signal, "stopped while starting");
            return Ok(Drained::Cleanly);
        }
    };
    let signal = signals.next().await;
    tracing::info!(signal, "draining");
    Ok(drain(pod.drain(), signals).await)
}

async fn run_cluster(
    settings: Settings,
    seed: &Seed,
    laptop: Laptop,
    traces: &Traces,
) -> anyhow::Result<Drained> {
    let mut signals = Signals::listen()?;
    let Laptop { addresses, cloudsdk_root, path, emulator_host } = laptop;
    let window = settings.window.span;
    let search = Search { cloudsdk_root, path };
    let carrier = select! {
        carrier = Carrier::choose(emulator_host, &search, window, settings.window.bytes) => carrier,
        _ = signals.next() => return Ok(Drained::Cleanly),
    };
    let mut pods = Vec::new();
    let start = async {
        for (n, listen) in (1..).zip(addresses) {
            let pod = format!("pod-{n}");
            let broker = carrier.broker(&pod, window);
            let (domain, api) = seed.grow(window);
            let settings = Settings { pod, listen, ..settings.clone() };
            pods.push(Pod::start(pod_settings(&settings, broker, traces), domain, api).await?);
        }
        cluster::wait_until_ready(&pods).await;
        cluster::welcome(&mut io::stdout(), &carrier, &pods)?;
        pending::<()>().await;
        anyhow::Ok(())
    };
    let ran = select! {
        ran = start => ran,
        _ = signals.next() => Ok(()),
    };
    let drained = drain(cluster::drain(pods), signals).await;
    carrier.stop().await;
    ran.map(|()| drained)
}

/// Checks what a pod of these settings would run on.
fn examine(settings: Settings, questions: Questions) -> anyhow::Result<ExitCode> {
    let origin = match &settings.web.origins {
        Origins::List(origins) => origins.first().cloned(),
        _ => None,
    };
    let Questions { url, token_file, hold, grace, in_kubernetes } = questions;
    let checks = doctor::Settings {
        broker: pubsub_settings(&settings, doctor::POD),
        heartbeat_interval: settings.heartbeat_interval,
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
        let mut signals = Signals::listen()?;
        let interrupted = async {
            signals.next().await;
            stop.cancel();
            pending().await
        };
        select! {
            is_well = doctor::run(&checks, &mut out, &stop) => is_well,
            never = interrupted => never,
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
        replay_window: settings.window.span,
    })
}

/// Drains, or ends at once on a second signal: somebody does not want to wait.
async fn drain(drain: impl Future<Output = Drained>, mut signals: Signals) -> Drained {
    select! {
        drained = drain => drained,
        signal = signals.next() => {
            tracing::warn!(signal, "drain given up");
            Drained::CutOff
        }
    }
}

fn pod_settings(settings: &Settings, broker: Broker, traces: &Traces) -> pod::Settings {
    let mut web = settings.web.clone();
    web.page = web.page.map(|_| domain_factory::tabs(&settings.auth));
    pod::Settings {
        name: settings.pod.clone(),
        listen: settings.listen,
        admin_listen: settings.admin_listen,
        broker,
        auth: settings.auth.clone(),
        web,
        introspection: settings.introspection,
        window: settings.window,
        heartbeat_interval: settings.heartbeat_interval,
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
