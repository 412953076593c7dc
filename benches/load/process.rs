//! The processes under measurement: started on cores of their own, watched through `/proc`, ended with their owner.

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

/// The clock ticks of `/proc/PID/stat`: 100 a second on every Linux.
const TICKS: f64 = 100.0;

/// How long a server may take until it answers.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A pod.
    Relay,
    /// The hand-written loop: one `send` a frame.
    Loop,
    /// The same, all frames that wait for a socket in one `send`.
    Shared,
    /// axum, async-graphql and a broadcast channel, as one would write it in an afternoon.
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

/// A server that is ready. Dropped, it is killed if it was started here.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    /// Unknown for a server that somebody else started.
    pub(crate) pid: Option<u32>,
    child: Option<Child>,
}

/// A command that is bound to cores, such as `0` or `0-1`.
pub(crate) fn pinned(cores: &str, program: &PathBuf) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", cores]).arg(program);
    command
}

/// Binds this process, all threads of it, to cores.
pub(crate) fn pin_self(cores: &str) -> anyhow::Result<()> {
    let pid = std::process::id().to_string();
    let pinned = Command::new("taskset").args(["-apc", cores, &pid]).output();
    let pinned = pinned.context("cannot run taskset (util-linux): is this Linux?")?;
    if !pinned.status.success() {
        bail!("cannot use cores {cores}: {}", String::from_utf8_lossy(&pinned.stderr).trim());
    }
    Ok(())
}

/// A port that was free a moment ago.
pub(crate) fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr()
}

impl Server {
    /// Runs the command, which serves on `address`, and returns once it does.
    pub(crate) fn start(kind: Kind, mut command: Command, address: SocketAddr) -> anyhow::Result<Self> {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        let child = child.with_context(|| format!("cannot start {}", kind.name()))?;
        // taskset becomes the program that it runs, so that the process is the server's own
        let mut server = Self { address, pid: Some(child.id()), child: Some(child) };
        let deadline = Instant::now() + START_TIMEOUT;
        while !is_ready(address) {
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

    /// A relay that runs already.
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
            // it may have ended by itself; either way nothing is left of it
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Whether the server says that it is ready.
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

/// The CPU time that a process has used, its own and the kernel's for it.
pub(crate) fn cpu(pid: u32) -> anyhow::Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // the program's name may hold anything, also spaces and parentheses
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let [user, system] = [11, 12].map(|index| fields.get(index).and_then(|field| field.parse::<f64>().ok()));
    let ticks = user.zip(system).map(|(user, system)| user + system).context("unreadable /proc/PID/stat")?;
    Ok(Duration::from_secs_f64(ticks / TICKS))
}

/// The memory of a process that is in RAM, in KiB.
pub(crate) fn rss(pid: u32) -> anyhow::Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()).and_then(|kib| kib.parse().ok());
    kib.context("unreadable /proc/PID/status")
}

/// How many files this process may open.
pub(crate) fn open_files() -> Option<usize> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find(|line| line.starts_with("Max open files"))?;
    line.split_whitespace().nth(3)?.parse().ok()
}
