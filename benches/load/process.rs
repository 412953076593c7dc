//! Processes under measurement: pinned to cores, watched through `/proc`, killed with their owner.
//!
//! Each server gets its own cores so that the load does not disturb it. It must never leave a
//! process behind.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::Duration,
};

use anyhow::{Context as _, bail};
use tokio::time::Instant;

/// Clock ticks of `/proc/PID/stat`: 100 a second on every Linux.
const TICKS: f64 = 100.0;

/// Time that a server may take until it is ready; then the start fails.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// Kind of server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A pod.
    Relay,
    /// The hand-written loop: one `send` per frame.
    Loop,
    /// The same loop: one `send` for all frames that wait for a socket.
    Shared,
    /// The naive relay: axum, async-graphql and a broadcast channel.
    Naive,
}

impl Kind {
    pub(crate) const BASELINES: [Self; 3] = [Self::Loop, Self::Shared, Self::Naive];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Relay => "relay",
            Self::Loop => "loop",
            Self::Shared => "shared",
            Self::Naive => "naive",
        }
    }
}

/// Server that is ready. When dropped, it is killed if it was started here.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    /// `None` for a relay that already ran, if `--pid` is missing.
    pub(crate) pid: Option<u32>,
    child: Option<Child>,
}

/// Returns a command that is bound to cores, such as `0` or `0-1`.
pub(crate) fn pinned(cores: &str, program: &PathBuf) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", cores]).arg(program);
    command
}

/// Binds all threads of this process to cores.
pub(crate) fn pin_self(cores: &str) -> anyhow::Result<()> {
    let pid = std::process::id().to_string();
    let pinned = Command::new("taskset").args(["-apc", cores, &pid]).output();
    let pinned = pinned.context("cannot run taskset (util-linux): is this Linux?")?;
    if !pinned.status.success() {
        bail!("cannot use cores {cores}: {}", String::from_utf8_lossy(&pinned.stderr).trim());
    }
    Ok(())
}

/// Returns an address with a port that was free a moment ago.
pub(crate) fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr()
}

impl Server {
    /// Runs the command, which serves on `address`, and returns once it is ready, as it says at
    /// `probes`.
    pub(crate) fn start(
        kind: Kind,
        mut command: Command,
        address: SocketAddr,
        probes: SocketAddr,
    ) -> anyhow::Result<Self> {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        let child = child.with_context(|| format!("cannot start {}", kind.name()))?;
        // taskset becomes the program that it runs, so that the process is the server's own
        let mut server = Self { address, pid: Some(child.id()), child: Some(child) };
        let deadline = Instant::now() + START_TIMEOUT;
        while !is_ready(probes) {
            if let Some(Ok(Some(status))) = server.child.as_mut().map(Child::try_wait) {
                bail!("{} ended at its start: {status}", kind.name());
            }
            if Instant::now() > deadline {
                bail!("{} was not ready within {} s", kind.name(), START_TIMEOUT.as_secs());
            }
            sleep(Duration::from_millis(50));
        }
        Ok(server)
    }

    /// Returns a relay that already runs.
    pub(crate) fn running(address: SocketAddr, pid: Option<u32>) -> anyhow::Result<Self> {
        TcpStream::connect(address)
            .with_context(|| format!("no relay at {address}: start one, or leave --url out"))?;
        if let Some(pid) = pid {
            cpu(pid).with_context(|| format!("no process {pid} on this machine"))?;
        }
        Ok(Self { address, pid, child: None })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // it may have ended by itself; in both cases nothing of it is left
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Returns whether the server reports that it is ready.
fn is_ready(address: SocketAddr) -> bool {
    let ask = || {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        write!(stream, "GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
        let mut status = [0; 12];
        stream.read_exact(&mut status)?;
        Ok::<_, io::Error>(&status == b"HTTP/1.1 200")
    };
    ask().unwrap_or(false)
}

/// Returns the CPU time of a process, in user mode and in the kernel.
pub(crate) fn cpu(pid: u32) -> anyhow::Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // the program's name may contain spaces and parentheses
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let [user, system] = [11, 12].map(|index| fields.get(index).and_then(|field| field.parse::<f64>().ok()));
    let ticks = user.zip(system).map(|(user, system)| user + system).context("unreadable /proc/PID/stat")?;
    Ok(Duration::from_secs_f64(ticks / TICKS))
}

/// Returns the resident memory of a process, in KiB.
pub(crate) fn rss(pid: u32) -> anyhow::Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()).and_then(|kib| kib.parse().ok());
    kib.context("unreadable /proc/PID/status")
}

/// Returns the number of files that this process may open.
pub(crate) fn open_files() -> Option<usize> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find(|line| line.starts_with("Max open files"))?;
    line.split_whitespace().nth(3)?.parse().ok()
}
