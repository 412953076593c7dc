//! Scenarios: one for each goal in `docs/PERFORMANCE.md`.
//!
//! Each function runs one scenario on servers of its own and returns a sheet of figures. No
//! scenario may share a server with another.

use std::time::Duration;

use pubsub_relay::cli::emulator::{Emulator, Search};

use super::{
    bench::{Bench, Pace, Window},
    collector::{Console, Scraper, Sink},
    process::{self, Kind},
    progress,
    report::Sheet,
    swarm::Transport,
};

/// Time in which timers, allocator and sockets come to rest.
const SETTLE: Duration = Duration::from_secs(2);

/// Rounds of connecting and disconnecting in `memory`.
const ROUNDS: usize = 10;

/// Connections in `storm`.
const STORM: usize = 5_000;

/// In `selectivity`, one watcher in so many matches.
const SHARE: usize = 100;

/// In `console`, one watcher in so many matches: a pod on one core then keeps up with its rate.
const CONSOLE_SHARE: usize = 1_000;

/// Events a second in `console`, unless the command line has a rate.
const CONSOLE_RATE: f64 = 2_000.0;

/// Debug token in `console`.
const DEBUG_TOKEN: &str = "the debug token of a pod under load";

pub(crate) fn run(bench: &mut Bench, name: &str) -> anyhow::Result<Vec<Sheet>> {
    Ok(match name {
        "fan-out" => bench
            .options
            .watchers
            .clone()
            .into_iter()
            .map(|count| fan_out(bench, count))
            .collect::<Result<_, _>>()?,
        "selectivity" => vec![selectivity(bench)?],
        "memory" => vec![memory(bench, Transport::WebSocket)?, memory(bench, Transport::EventStream)?],
        "storm" => vec![storm(bench)?],
        "mutations" => vec![mutations(bench)?],
        "reads" => vec![reads(bench)?],
        "cores" => vec![cores(bench)?],
        "telemetry" => vec![telemetry(bench)?],
        "console" => vec![console(bench)?],
        _ => vec![broker(bench)?],
    })
}

fn add(sheet: &mut Sheet, row: &str, column: &'static str, value: Option<f64>) {
    if let Some(value) = value {
        sheet.add(row, column, value);
    }
}

/// Measures a fan-out in which all watchers match, first saturated, then paced.
fn fan_out(bench: &mut Bench, count: usize) -> anyhow::Result<Sheet> {
    let mut sheet = Sheet::new(format!("fan-out: {count} watchers, frames of {} bytes", bench.frame_bytes));
    // the loop runs first because it sets the pace of the round
    let kinds = bench.kinds(&[Kind::Loop, Kind::Relay, Kind::Shared]);
    for round in 1..=bench.options.alternations {
        let mut limits: Option<(Window, Window)> = None;
        for kind in &kinds {
            progress(&format!("fan-out, {count} watchers, round {round}: {}", kind.name()));
            let server = bench.start(*kind)?;
            let mut swarm = bench.swarm(&server, Transport::WebSocket)?;
            swarm.publishers(bench.options.in_flight as usize)?;
            swarm.connect(count, &bench.options.tokens, true)?;
            let full = bench.measure(&server, &mut swarm, Pace::Saturated)?;
            let fifth = limits.as_ref().map_or(&full, |(full, _)| full).deliveries_per_second() / 5.0;
            let rate = bench.options.rate.unwrap_or(fifth / count as f64);
            let paced = bench.measure(&server, &mut swarm, Pace::Events(rate))?;
            bench.close(swarm);
            let limits = limits.get_or_insert_with(|| (full.clone(), paced.clone()));
            compare(&mut sheet, kind.name(), [&full, &paced], [&limits.0, &limits.1]);
        }
    }
    Ok(sheet)
}

fn compare(
    sheet: &mut Sheet,
    row: &str,
    [full, paced]: [&Window; 2],
    [full_limit, paced_limit]: [&Window; 2],
) {
    let ratio = |of: fn(&Window) -> Option<f64>, a, b| of(a).zip(of(b)).map(|(a, b)| a / b);
    sheet.add(row, "deliveries/s", full.deliveries_per_second());
    sheet.add(row, "× loop", full.deliveries_per_second() / full_limit.deliveries_per_second());
    add(sheet, row, "CPU µs/delivery", full.cpu_per_delivery());
    add(sheet, row, "× loop (CPU)", ratio(Window::cpu_per_delivery, full, full_limit));
    add(sheet, row, "cores: server", full.share());
    sheet.add(row, "cores: load", full.load_share());
    sheet.add(row, "paced events/s", paced.events_per_second());
    add(sheet, row, "paced CPU µs/delivery", paced.cpu_per_delivery());
    add(sheet, row, "× loop (paced CPU)", ratio(Window::cpu_per_delivery, paced, paced_limit));
    add(sheet, row, "p50 ms", paced.latency(0.5));
    add(sheet, row, "p99 ms", paced.latency(0.99));
    add(sheet, row, "p99.9 ms", paced.latency(0.999));
    add(sheet, row, "× loop (p99)", ratio(|window| window.latency(0.99), paced, paced_limit));
}

/// Measures a few watchers that match: first alone, then among many that do not match.
fn selectivity(bench: &mut Bench) -> anyhow::Result<Sheet> {
    let matching = (bench.options.connections / SHARE).max(1);
    let others = bench.options.connections - matching;
    let mut sheet = Sheet::new(format!(
        "selectivity: {matching} match, alone and among {} connected",
        bench.options.connections
    ));
    for round in 1..=bench.options.alternations {
        let mut alone = None;
        for (row, others) in [("alone", 0), ("among others", others)] {
            progress(&format!("selectivity, round {round}: {row}"));
            let server = bench.start(Kind::Relay)?;
            let mut swarm = bench.swarm(&server, Transport::WebSocket)?;
            swarm.publishers(bench.options.in_flight as usize)?;
            swarm.connect(others, &bench.options.idle_tokens, false)?;
            swarm.connect(matching, &bench.options.tokens, true)?;
            let window = bench.measure(&server, &mut swarm, Pace::Saturated)?;
            bench.close(swarm);
            sheet.add(row, "events/s", window.events_per_second());
            add(&mut sheet, row, "CPU µs/event", window.cpu_per_event());
            if let Some(cpu) = window.cpu_per_event() {
                sheet.add(row, "× alone (CPU)", cpu / *alone.get_or_insert(cpu));
            }
        }
    }
    Ok(sheet)
}

/// Measures the memory of idle connections over repeated rounds of connecting and disconnecting.
fn memory(bench: &mut Bench, transport: Transport) -> anyhow::Result<Sheet> {
    let count = bench.options.connections;
    let mut sheet = Sheet::new(format!("memory: {count} idle subscribed connections, {transport:?}"));
    let kinds =
        if transport == Transport::WebSocket { &[Kind::Loop, Kind::Relay][..] } else { &[Kind::Relay] };
    for kind in bench.kinds(kinds) {
        let server = bench.start(kind)?;
        let Some(pid) = server.pid else {
            sheet.note("Not measured: the memory of a relay that runs elsewhere is unknown without --pid.");
            return Ok(sheet);
        };
        let mut swarm = bench.swarm(&server, transport)?;
        let mut empty = vec![process::rss(pid)?];
        let mut full = Vec::new();
        for round in 1..=ROUNDS {
            progress(&format!("memory, {transport:?}, round {round}: {}", kind.name()));
            if let Err(error) = swarm.connect(count, &bench.options.tokens, false) {
                sheet.note(format!("{} cannot serve it: {error:#}", kind.name()));
                return Ok(sheet);
            }
            swarm.idle(SETTLE)?;
            full.push(process::rss(pid)?);
            swarm.disconnect();
            swarm.idle(SETTLE)?;
            empty.push(process::rss(pid)?);
        }
        bench.close(swarm);
        let each = |round: usize| (full[round - 1] - empty[0]) / count as f64;
        sheet.add(kind.name(), "KiB/connection, round 1", each(1));
        sheet.add(kind.name(), "round 2", each(2));
        sheet.add(kind.name(), "round 10", each(ROUNDS));
        sheet.add(kind.name(), "MiB before", empty[0] / 1024.0);
        sheet.add(kind.name(), "MiB empty after round 2", empty[2] / 1024.0);
        sheet.add(kind.name(), "MiB empty after round 10", empty[ROUNDS] / 1024.0);
    }
    Ok(sheet)
}

/// Measures the time from the first connection to the last subscription.
fn storm(bench: &mut Bench) -> anyhow::Result<Sheet> {
    let mut sheet = Sheet::new(format!("storm: {STORM} connections accepted, acknowledged and subscribed"));
    for round in 1..=bench.options.alternations {
        let mut limit = None;
        for kind in bench.kinds(&[Kind::Loop, Kind::Relay]) {
            progress(&format!("storm, round {round}: {}", kind.name()));
            let server = bench.start(kind)?;
            let mut swarm = bench.swarm(&server, Transport::WebSocket)?;
            let cpu = || server.pid.map(process::cpu).transpose();
            let before = cpu()?;
            let seconds = swarm.connect(STORM, &bench.options.tokens, true)?.as_secs_f64();
            let used = cpu()?.zip(before).map(|(after, before)| (after - before).as_secs_f64());
            bench.close(swarm);
            sheet.add(kind.name(), "seconds", seconds);
            sheet.add(kind.name(), "× loop", seconds / *limit.get_or_insert(seconds));
            add(&mut sheet, kind.name(), "CPU µs/connection", used.map(|used| used * 1e6 / STORM as f64));
        }
    }
    Ok(sheet)
}

/// Measures mutations while there is no watcher.
fn mutations(bench: &mut Bench) -> anyhow::Result<Sheet> {
    let mut sheet =
        Sheet::new(format!("mutations: addTemplate over HTTP, {} in flight", bench.options.in_flight));
    for round in 1..=bench.options.alternations {
        let mut naive = None;
        for kind in bench.kinds(&[Kind::Naive, Kind::Relay, Kind::Loop]) {
            progress(&format!("mutations, round {round}: {}", kind.name()));
            let server = bench.start(kind)?;
            let mut swarm = bench.swarm(&server, Transport::WebSocket)?;
            swarm.publishers(bench.options.in_flight as usize)?;
            let window = bench.measure(&server, &mut swarm, Pace::Saturated)?;
            bench.close(swarm);
            let rate = window.events_per_second();
            sheet.add(kind.name(), "mutations/s", rate);
            sheet.add(kind.name(), "× naive", rate / *naive.get_or_insert(rate));
            add(&mut sheet, kind.name(), "CPU µs/mutation", window.cpu_per_event());
            add(&mut sheet, kind.name(), "cores: server", window.share());
            sheet.add(kind.name(), "cores: load", window.load_share());
        }
    }
    Ok(sheet)
}

/// Measures a query without a token of a write, then with one whose event is applied already.
fn reads(bench: &mut Bench) -> anyhow::Result<Sheet> {
    let mut sheet = Sheet::new(format!(
        "reads: templateById over HTTP, {} in flight, without and with the token of a write",
        bench.options.in_flight
    ));
    let server = bench.start(Kind::Relay)?;
    let mut swarm = bench.swarm(&server, Transport::WebSocket)?;
    swarm.publishers(bench.options.in_flight as usize)?;
    let (id, token) = swarm.write()?;
    for round in 1..=bench.options.alternations {
        let mut without = None;
        for (row, token) in [("without", None), ("with a token", Some(&*token))] {
            progress(&format!("reads, round {round}: {row}"));
            swarm.ask(&id, token);
            let window = bench.measure(&server, &mut swarm, Pace::Saturated)?;
            let cpu = window.cpu_per_event();
            sheet.add(row, "queries/s", window.events_per_second());
            add(&mut sheet, row, "CPU µs/query", cpu);
            let ratio = cpu.map(|cpu| cpu / *without.get_or_insert(cpu));
            add(&mut sheet, row, "× without (CPU)", ratio);
            add(&mut sheet, row, "cores: server", window.share());
            sheet.add(row, "cores: load", window.load_share());
        }
    }
    bench.close(swarm);
    Ok(sheet)
}

/// Measures a fan-out by a pod on one core, then on two.
fn cores(bench: &mut Bench) -> anyhow::Result<Sheet> {
    let count = bench.options.watchers[0];
    let mut sheet = Sheet::new(format!("cores: fan-out to {count} watchers, a pod of one core and of two"));
    sheet.note("The load keeps its own cores: where they are also the pod's, the two share them.");
    for round in 1..=bench.options.alternations {
        let mut one = None;
        for (row, cores) in [("one core", "0"), ("two cores", "0-1")] {
            progress(&format!("cores, round {round}: {row}"));
            let server = bench.start_on(Kind::Relay, cores, &[])?;
            let mut swarm = bench.swarm(&server, Transport::WebSocket)?;
            swarm.publishers(bench.options.in_flight as usize)?;
            swarm.connect(count, &bench.options.tokens, true)?;
            let window = bench.measure(&server, &mut swarm, Pace::Saturated)?;
            bench.close(swarm);
            let rate = window.deliveries_per_second();
            sheet.add(row, "deliveries/s", rate);
            sheet.add(row, "× one core", rate / *one.get_or_insert(rate));
            add(&mut sheet, row, "CPU µs/delivery", window.cpu_per_delivery());
            add(&mut sheet, row, "cores: server", window.share());
            sheet.add(row, "cores: load", window.load_share());
        }
    }
    Ok(sheet)
}

/// Measures a fan-out without telemetry, then with a collector, a scraper, and one trace in a
/// hundred.
fn telemetry(bench: &mut Bench) -> anyhow::Result<Sheet> {
    let count = bench.options.watchers[0];
    let mut sheet = Sheet::new(format!("telemetry: fan-out to {count} watchers, telemetry off and on"));
    if bench.options.url.is_some() {
        sheet.note("Not measured: this bench cannot change the telemetry of a relay that already runs.");
        return Ok(sheet);
    }
    let sink = Sink::open()?;
    let endpoint = format!("http://{}", sink.address);
    // spans and metrics are exported every second, and thus within each window
    let on = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
        ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
        ("OTEL_TRACES_SAMPLER_ARG", "0.01"),
        ("OTEL_BSP_SCHEDULE_DELAY", "1000"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "1000"),
    ];
    let off = [("OTEL_SDK_DISABLED", "true")];
    for round in 1..=bench.options.alternations {
        let mut without = None;
        for (row, settings) in [("off", &off[..]), ("on", &on)] {
            progress(&format!("telemetry, {count} watchers, round {round}: {row}"));
            let server = bench.start_on(Kind::Relay, &bench.options.pod_cores, settings)?;
            let mut swarm = bench.swarm(&server, Transport::WebSocket)?;
            swarm.publishers(bench.options.in_flight as usize)?;
            swarm.connect(count, &bench.options.tokens, true)?;
            let scraper = (row == "on").then(|| Scraper::start(server.address));
            let window = bench.measure(&server, &mut swarm, Pace::Saturated)?;
            let scrapes = scraper.map(Scraper::stop).transpose()?;
            bench.close(swarm);
            let rate = window.deliveries_per_second();
            sheet.add(row, "deliveries/s", rate);
            sheet.add(row, "× off", rate / *without.get_or_insert(rate));
            add(&mut sheet, row, "CPU µs/delivery", window.cpu_per_delivery());
            add(&mut sheet, row, "cores: server", window.share());
            sheet.add(row, "cores: load", window.load_share());
            sheet.add(row, "OTLP posts", sink.posts() as f64);
            add(&mut sheet, row, "scrapes", scrapes.map(f64::from));
        }
    }
    Ok(sheet)
}

/// Measures a pod with many connections and events, without an open console and then with one.
fn console(bench: &mut Bench) -> anyhow::Result<Sheet> {
    let (rate, connections) = (bench.options.rate.unwrap_or(CONSOLE_RATE), bench.options.connections);
    let matching = (connections / CONSOLE_SHARE).max(1);
    let mut sheet = Sheet::new(format!(
        "console: {rate} events/s to {matching} of {connections} connections, closed and open"
    ));
    if bench.options.url.is_some() {
        sheet.note("Not measured: this bench does not know the debug token of a relay that already runs.");
        return Ok(sheet);
    }
    for round in 1..=bench.options.alternations {
        let mut closed = None;
        for row in ["closed", "open"] {
            progress(&format!("console, round {round}: {row}"));
            let admin = process::free_address()?;
            let listen = admin.to_string();
            let settings = [("RELAY_ADMIN_LISTEN", listen.as_str()), ("RELAY_DEBUG_TOKEN", DEBUG_TOKEN)];
            let server = bench.start_on(Kind::Relay, &bench.options.pod_cores, &settings)?;
            let mut swarm = bench.swarm(&server, Transport::WebSocket)?;
            swarm.publishers(bench.options.in_flight as usize)?;
            swarm.connect(connections - matching, &bench.options.idle_tokens, false)?;
            swarm.connect(matching, &bench.options.tokens, true)?;
            let open = (row == "open").then(|| Console::open(admin, DEBUG_TOKEN)).transpose()?;
            let window = bench.measure(&server, &mut swarm, Pace::Events(rate))?;
            let read = open.map(Console::close).transpose()?;
            bench.close(swarm);
            sheet.add(row, "events/s", window.events_per_second());
            add(&mut sheet, row, "CPU µs/event", window.cpu_per_event());
            if let Some(cpu) = window.cpu_per_event() {
                sheet.add(row, "× closed (CPU)", cpu / *closed.get_or_insert(cpu));
            }
            add(&mut sheet, row, "p99 ms", window.latency(0.99));
            add(&mut sheet, row, "cores: server", window.share());
            sheet.add(row, "cores: load", window.load_share());
            if let Some((messages, bytes)) = read {
                sheet.add(row, "messages", f64::from(messages));
                sheet.add(row, "KiB/message", bytes as f64 / 1024.0 / f64::from(messages.max(1)));
            }
        }
    }
    Ok(sheet)
}

/// Measures as many events as the emulator delivers.
fn broker(bench: &mut Bench) -> anyhow::Result<Sheet> {
    /// The emulator delivers 100 events every 50 ms; with fewer under way it would wait for the
    /// load.
    const IN_FLIGHT: u32 = 256;
    const WATCHERS: usize = 100;
    let mut sheet =
        Sheet::new(format!("broker: Pub/Sub emulator, {WATCHERS} watchers, {IN_FLIGHT} events under way"));
    let runtime = tokio::runtime::Runtime::new()?;
    let (started, host) = match bench.options.emulator.clone() {
        Some(host) => (None, host),
        None => {
            let emulator = runtime.block_on(Emulator::start(&Search::default()))?;
            let host = emulator.host().to_owned();
            (Some(emulator), host)
        }
    };
    let in_flight = std::mem::replace(&mut bench.options.in_flight, IN_FLIGHT);
    for round in 1..=bench.options.alternations {
        progress(&format!("broker, round {round}"));
        let topic = format!("pubsub://load/round-{}-{round}", std::process::id());
        let settings = [("RELAY_BROKER", topic.as_str()), ("PUBSUB_EMULATOR_HOST", host.as_str())];
        let server = bench.start_on(Kind::Relay, &bench.options.pod_cores, &settings)?;
        let mut swarm = bench.swarm(&server, Transport::WebSocket)?;
        swarm.publishers(IN_FLIGHT as usize)?;
        swarm.connect(WATCHERS, &bench.options.tokens, true)?;
        let window = bench.measure(&server, &mut swarm, Pace::Saturated)?;
        bench.close(swarm);
        sheet.add("relay", "events/s", window.deliveries_per_second() / WATCHERS as f64);
        add(&mut sheet, "relay", "cores: server", window.share());
        add(&mut sheet, "relay", "CPU µs/event", window.cpu_per_event());
        sheet.add("relay", "cores: load", window.load_share());
    }
    bench.options.in_flight = in_flight;
    drop(started);
    Ok(sheet)
}
