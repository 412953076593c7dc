//! Program `relay`: settings → telemetry → the chosen command → exit code.
//!
//! Every part has a home in the library, so this file only connects them. It must never read the
//! environment itself.

mod check;
mod cluster;
mod domain_factory;
mod terminal;

use std::{
    future::pending,
    io::{self, Write as _},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context as _;
use pubsub_relay::{
    broker::{open::BrokerUrl, postgres},
    cli::{
        config::{self, Command, Questions, Settings},
        cure::cure,
        doctor,
        surroundings::{connections_within, exempt_loopback_from_proxies, raise_open_files},
        terminal::Failure,
    },
    health,
    pod::{Drain, Drained, Pod, Settings as PodSettings},
    shutdown::Signals,
    telemetry,
    web::{AllowedOrigin, Origins},
};
use tokio::{runtime::Runtime, select};
use tokio_util::sync::CancellationToken;

use self::domain_factory::DomainFactory;

fn main() -> ExitCode {
    // Without it the emulator may be out of reach, and then the pod says so.
    exempt_loopback_from_proxies().ok();
    let mut domains = DomainFactory::built_in();
    let command = match config::parse(|files| DomainFactory::load(files).map(|loaded| domains = loaded)) {
        Ok(command) => command,
        Err(exit) if exit.to_stdout => return print(&exit.text),
        Err(exit) => return complain(&exit.text, exit.code.into()),
    };
    run(command, &domains).unwrap_or_else(|error| complain(&format!("relay: {error:#}\n"), ExitCode::FAILURE))
}

/// Runs the command. Returns the exit code.
fn run(command: Command, domains: &DomainFactory) -> anyhow::Result<ExitCode> {
    let (mut settings, parts) = match command {
        Command::Schema(_) => return Ok(print(&domains.make(Duration::ZERO).1.sdl())),
        Command::Tables(topic) => return Ok(print(&postgres::schema::script(&topic))),
        Command::Directives => return Ok(print(domain_factory::directives())),
        Command::Check(check) => {
            return Ok(match check::run(&check) {
                Ok(text) => print(&text),
                Err((text, code)) => complain(&text, code.into()),
            });
        }
        Command::Healthcheck(address) => {
            health::ask(address).with_context(|| format!("no pod is alive at {address}"))?;
            return Ok(ExitCode::SUCCESS);
        }
        Command::Doctor { settings, questions } => return examine(settings, questions),
        Command::Watch(client, count) => return Ok(ended(terminal::watch(client, count))),
        Command::Publish(client) => return Ok(ended(terminal::publish(client))),
        Command::Revoke(revoke) => return Ok(ended(terminal::revoke(&revoke))),
        Command::Explain(explain) => return Ok(ended(terminal::explain(&explain))),
        Command::Print(text) => return Ok(print(&text)),
        Command::Serve(settings) => (settings, None),
        Command::Cluster { settings, pods, first_port, wanted, cloudsdk_root, path, emulator_host } => {
            (settings, Some(cluster::Parts { first_port, pods, wanted, cloudsdk_root, path, emulator_host }))
        }
    };
    let runtime = Runtime::new()?;
    settings.pod.traces = {
        let _inside = runtime.enter();
        telemetry::init(&settings.telemetry)?
    };
    if let Some(tabs) = &mut settings.pod.web.page {
        *tabs = domains.tabs(&settings.pod.auth);
    }
    limit_connections(&mut settings.pod);
    for name in &settings.unknown {
        tracing::warn!(name, "no such setting; see relay --help");
    }
    if settings.pod.drain.is_cut_short() {
        let Drain { delay, spread, deadline } = settings.pod.drain;
        let [delay, spread, deadline] = [delay, spread, deadline].map(|span| span.as_secs_f64());
        tracing::warn!(
            delay,
            spread,
            deadline,
            "the drain's deadline cuts connections off: it is not longer than delay and spread together"
        );
    }
    let drained = match parts {
        None => runtime.block_on(serve(settings, domains)),
        Some(parts) => runtime.block_on(cluster::run(settings.pod, domains, parts)),
    };
    telemetry::flush_log();
    Ok(match drained? {
        Drained::Cleanly => ExitCode::SUCCESS,
        Drained::CutOff => ExitCode::FAILURE,
    })
}

/// Takes all open files that the system allows, and no more connections than fit.
fn limit_connections(pod: &mut PodSettings) {
    let open_files = match raise_open_files() {
        Ok(open_files) => open_files,
        Err(error) => return tracing::warn!(%error, "limit of open files not raised"),
    };
    let (wanted, room) = (pod.web.max_connections, connections_within(open_files));
    pod.web.max_connections = wanted.min(room);
    let max_connections = pod.web.max_connections;
    tracing::info!(open_files, max_connections, "room for connections");
    if room < wanted && wanted != PodSettings::DEFAULT_CONNECTIONS {
        tracing::warn!(
            wanted,
            room,
            "too few open files for RELAY_MAX_CONNECTIONS: raise ulimit -Hn, or lower it"
        );
    }
}

/// Runs one pod until a signal, and drains it.
async fn serve(settings: Settings, domains: &DomainFactory) -> anyhow::Result<Drained> {
    let mut signals = Signals::listen()?;
    let (domain, api) = domains.make(settings.pod.window.span);
    let pod = select! {
        pod = Pod::start(settings.pod, domain, api) => pod.map_err(cure)?,
        signal = signals.next() => {
            tracing::info!(signal, "stopped while starting");
            return Ok(Drained::Cleanly);
        }
    };
    let is_asked = select! {
        signal = signals.next() => {
            tracing::info!(signal, "draining");
            false
        }
        () = pod.drain_asked() => {
            tracing::info!("draining, as an operator asks");
            true
        }
    };
    let second = async {
        if is_asked {
            // The first signal asks for what goes on already.
            signals.next().await;
        }
        signals.next().await
    };
    Ok(drain(pod.drain(), second).await)
}

/// Checks the deployment that a pod with these settings would run in.
fn examine(settings: Settings, questions: Questions) -> anyhow::Result<ExitCode> {
    let pod = settings.pod;
    let origin = match &pod.web.origins {
        Origins::List(origins) => origins.iter().find_map(AllowedOrigin::example),
        _ => None,
    };
    let Questions { url, token_file, hold, grace, in_kubernetes } = questions;
    let target = match settings.broker {
        BrokerUrl::PubSub(topic) => doctor::Target::PubSub(topic.settings(doctor::POD, pod.window.span)),
        BrokerUrl::Postgres(topic) => doctor::Target::Postgres(topic),
        BrokerUrl::RabbitMq(topic) => doctor::Target::RabbitMq(topic),
        _ => doctor::Target::Memory,
    };
    let visit = url.map(|url| doctor::Visit { url, origin, token_file, hold });
    let checks = doctor::Checks { pod, target, grace, in_kubernetes, visit };
    let nothing_is_wrong = Runtime::new()?.block_on(async {
        let (mut out, stop) = (io::stdout(), CancellationToken::new());
        let mut signals = Signals::listen()?;
        let interrupted = async {
            signals.next().await;
            stop.cancel();
            pending().await
        };
        select! {
            nothing_is_wrong = doctor::run(&checks, &mut out, &stop) => nothing_is_wrong,
            never = interrupted => never,
        }
    })?;
    Ok(if nothing_is_wrong { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Drains. A second signal ends the drain at once.
async fn drain(drain: impl Future<Output = Drained>, second: impl Future<Output = &'static str>) -> Drained {
    select! {
        drained = drain => drained,
        signal = second => {
            tracing::warn!(signal, "drain given up");
            Drained::CutOff
        }
    }
}

/// Prints why a client ended without success. Returns its exit code.
fn ended(ended: Result<(), Failure>) -> ExitCode {
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => complain(&format!("relay: {failure}\n"), failure.code().into()),
    }
}

/// Prints the output of a command. Returns the exit code.
fn print(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Prints an error to stderr. Returns this exit code.
fn complain(text: &str, code: ExitCode) -> ExitCode {
    // If this fails, no channel is left to report it; the exit code still does.
    let _ = io::stderr().write_all(text.as_bytes());
    code
}
