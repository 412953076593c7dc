//! One measurement: start a server, connect watchers, publish events, read one window.
//!
//! All scenarios share these steps so that their figures compare. It must never report a window
//! with unchecked deliveries.

use std::{env, path::PathBuf, time::Duration};

use anyhow::{Context as _, bail};
use tokio::time::Instant;

use super::{
    arguments::Options,
    process::{self, Kind, Server},
    swarm::{Swarm, Transport},
    tally::{Faults, Latencies},
};

/// Rate at which events are published.
#[derive(Clone, Copy)]
pub(crate) enum Pace {
    /// As fast as all watchers get them, with `--in-flight` events under way.
    Saturated,
    /// A fixed number of events a second, whether or not the server keeps up.
    Events(f64),
}

/// Figures of one window.
#[derive(Clone)]
pub(crate) struct Window {
    elapsed: f64,
    deliveries: f64,
    events: f64,
    /// CPU time of the server in seconds, if its process is known.
    cpu: Option<f64>,
    load_cpu: f64,
    latencies: Latencies,
}

impl Window {
    pub(crate) fn deliveries_per_second(&self) -> f64 {
        self.deliveries / self.elapsed
    }

    pub(crate) fn events_per_second(&self) -> f64 {
        self.events / self.elapsed
    }

    /// Returns the server's CPU time per delivery, in microseconds.
    pub(crate) fn cpu_per_delivery(&self) -> Option<f64> {
        self.cpu.map(|cpu| cpu * 1e6 / self.deliveries)
    }

    /// Returns the server's CPU time per event, in microseconds.
    pub(crate) fn cpu_per_event(&self) -> Option<f64> {
        self.cpu.map(|cpu| cpu * 1e6 / self.events)
    }

    /// Returns the number of cores that the server used.
    pub(crate) fn share(&self) -> Option<f64> {
        self.cpu.map(|cpu| cpu / self.elapsed)
    }

    /// Returns the number of cores that the load used.
    pub(crate) fn load_share(&self) -> f64 {
        self.load_cpu / self.elapsed
    }

    /// Returns the latency that this share of deliveries does not exceed, in milliseconds.
    pub(crate) fn latency(&self, share: f64) -> Option<f64> {
        self.latencies.percentile(share).map(|latency| latency.as_secs_f64() * 1e3)
    }
}

/// State that all scenarios share.
pub(crate) struct Bench {
    pub(crate) options: Options,
    /// Payload size of the relay's frames in bytes; the baselines send frames of the same size.
    pub(crate) frame_bytes: usize,
    pub(crate) faults: Faults,
}

impl Bench {
    /// Prepares the measurement and checks one delivery of the relay, so that a wrong option fails
    /// early.
    pub(crate) fn open(options: Options) -> anyhow::Result<Self> {
        let most = options.watchers.iter().copied().chain([options.connections]).max().unwrap_or_default();
        if let Some(files) = process::open_files().filter(|files| *files < most + 500) {
            bail!(
                "{most} connections need more than the {files} open files that are allowed: raise `ulimit -n`"
            );
        }
        if options.url.is_none() {
            process::pin_self(&options.load_cores)?;
        }
        let mut bench = Self { options, frame_bytes: 0, faults: Faults::default() };
        let server = bench.start(Kind::Relay)?;
        let mut swarm = bench.swarm(&server, Transport::WebSocket)?;
        swarm.connect(1, &bench.options.tokens, true)?;
        swarm.publishers(1)?;
        swarm.publish(Instant::now())?;
        let deadline = Instant::now() + Duration::from_secs(5);
        while swarm.tally.deliveries == 0 && swarm.complaint.is_none() && Instant::now() < deadline {
            swarm.turn(Duration::from_millis(10))?;
        }
        if swarm.tally.deliveries == 0 {
            let why = swarm
                .complaint
                .take()
                .unwrap_or_else(|| "do --tokens, --author and --location fit together?".into());
            bail!("the relay does not deliver a template: {why}");
        }
        bench.frame_bytes = swarm.tally.frame_bytes;
        Ok(bench)
    }

    /// Returns the servers to measure. With `--url` that is only the relay: the baselines would run
    /// on another machine, so there is nothing to compare it with.
    pub(crate) fn kinds(&self, kinds: &[Kind]) -> Vec<Kind> {
        let is_ours = self.options.url.is_none();
        kinds.iter().copied().filter(|kind| is_ours || *kind == Kind::Relay).collect()
    }

    pub(crate) fn start(&self, kind: Kind) -> anyhow::Result<Server> {
        self.start_on(kind, &self.options.pod_cores, &[])
    }

    /// Starts a server on these cores. The settings apply to a relay only.
    pub(crate) fn start_on(
        &self,
        kind: Kind,
        cores: &str,
        settings: &[(&str, &str)],
    ) -> anyhow::Result<Server> {
        if let Some(address) = self.options.url {
            return Server::running(address, self.options.pid);
        }
        let address = process::free_address()?;
        let probes = settings.iter().find(|(name, _)| *name == "RELAY_ADMIN_LISTEN");
        let probes = probes.map_or(Ok(address), |(_, admin)| admin.parse())?;
        let command = if kind == Kind::Relay {
            let mut command = process::pinned(cores, &self.relay()?);
            command
                .env("RELAY_LISTEN", address.to_string())
                .env("RELAY_LOG", "error")
                .env("RELAY_USER_EVENT_RATE", "off")
                .env("RELAY_USER_EVENT_BYTES", "off")
                .envs(settings.iter().copied());
            command
        } else {
            let mut command = process::pinned(cores, &env::current_exe()?);
            command.args(["baseline", kind.name(), "--listen", &address.to_string()]);
            command.args(["--frame-bytes", &self.frame_bytes.to_string()]);
            command
        };
        Server::start(kind, command, address, probes)
    }

    fn relay(&self) -> anyhow::Result<PathBuf> {
        if let Some(relay) = &self.options.relay {
            return Ok(relay.clone());
        }
        let here = env::current_exe()?;
        let relay = here.parent().and_then(|examples| examples.parent()).map(|build| build.join("relay"));
        relay
            .filter(|relay| relay.is_file())
            .context("no relay beside this build: run `cargo build --release`, or give --relay")
    }

    pub(crate) fn swarm(&self, server: &Server, transport: Transport) -> anyhow::Result<Swarm> {
        Swarm::new(server.address, transport, self.options.author.clone())
    }

    /// Publishes during the warm-up and the window, waits for events under way, and checks all
    /// deliveries.
    pub(crate) fn measure(
        &mut self,
        server: &Server,
        swarm: &mut Swarm,
        pace: Pace,
    ) -> anyhow::Result<Window> {
        self.drive(swarm, pace, self.options.warm_up)?;
        swarm.tally.latencies();
        swarm.tally.is_timing = matches!(pace, Pace::Events(_));
        let cpu = || server.pid.map(process::cpu).transpose();
        let (began, cpu_before, load_before) = (Instant::now(), cpu()?, process::cpu(std::process::id())?);
        let (deliveries, answers) = (swarm.tally.deliveries, swarm.answers);
        self.drive(swarm, pace, self.options.window)?;
        let window = Window {
            elapsed: began.elapsed().as_secs_f64(),
            deliveries: (swarm.tally.deliveries - deliveries) as f64,
            events: (swarm.answers - answers) as f64,
            cpu: cpu()?.zip(cpu_before).map(|(after, before)| (after - before).as_secs_f64()),
            load_cpu: (process::cpu(std::process::id())? - load_before).as_secs_f64(),
            latencies: swarm.tally.latencies(),
        };
        swarm.tally.is_timing = false;
        swarm.settle()?;
        Ok(window)
    }

    fn drive(&self, swarm: &mut Swarm, pace: Pace, duration: Duration) -> anyhow::Result<()> {
        let (until, mut due) = (Instant::now() + duration, Instant::now());
        loop {
            let now = Instant::now();
            if now >= until {
                return Ok(());
            }
            let wait = match pace {
                Pace::Saturated => {
                    while swarm.tally.in_flight() < self.options.in_flight && swarm.publish(now)? {}
                    Duration::from_millis(10)
                }
                Pace::Events(rate) => {
                    while due <= now && swarm.publish(due)? {
                        due += Duration::from_secs_f64(1.0 / rate);
                    }
                    // epoll waits for whole milliseconds: the last one is spent polling
                    (due - now).saturating_sub(Duration::from_millis(1))
                }
            };
            swarm.turn(wait.min(until - now))?;
            if swarm.tally.faults.wrong > 0 {
                bail!(
                    "the server failed under load: {}",
                    swarm.complaint.as_deref().unwrap_or("a wrong delivery")
                );
            }
        }
    }

    /// Disconnects the clients and adds their faults to those of earlier measurements.
    pub(crate) fn close(&mut self, mut swarm: Swarm) {
        swarm.disconnect();
        self.faults.add(swarm.tally.faults);
    }
}
