//! [`Collector`]: a real OTLP collector from PyPI that prints what it receives: `oteltap` over
//! HTTP, `rotel` over gRPC.
//!
//! A collector of our own could share the relay's mistakes. It must never be skipped with `CI` set.

use std::{
    fs,
    io::{self, BufRead as _, BufReader, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, OnceLock},
    thread,
};

use serde_json::Value;

use super::{PATIENCE, environment, eventually, free_ports};

const PACKAGES: [&str; 2] = ["oteltap==1.0.0", "rotel==0.0.1a15"];

/// Collector that runs until it is dropped.
pub(crate) struct Collector {
    port: u16,
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Collector {
    /// Starts a collector for OTLP over HTTP. If Python cannot install it, prints the reason and
    /// returns `None`; with `CI` set that fails the test.
    pub(crate) async fn start() -> Option<Self> {
        let mut command = Command::new(installed()?.join("bin/oteltap"));
        let port = free_ports(1);
        command.args(["--port", &port.to_string()]);
        Some(Self::run(command, port).await)
    }

    /// Starts a collector for OTLP over gRPC, which prints spans only.
    pub(crate) async fn start_grpc() -> Option<Self> {
        let mut command = Command::new(agent(installed()?));
        let port = free_ports(2);
        let [grpc, http] = [port, port + 1].map(|port| format!("127.0.0.1:{port}"));
        command.args(["start", "--otlp-grpc-endpoint", &grpc, "--otlp-http-endpoint", &http]);
        command.args([
            "--exporter",
            "blackhole",
            "--debug-log",
            "traces",
            "--debug-log-verbosity",
            "detailed",
        ]);
        Some(Self::run(command, port).await)
    }

    async fn run(mut command: Command, port: u16) -> Self {
        let command = command.env("PYTHONUNBUFFERED", "1").stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (output, kept) = (child.stdout.take().unwrap(), lines.clone());
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                kept.lock().unwrap().push(line);
            }
        });
        let collector = Self { port, child, lines };
        eventually("the collector listens", PATIENCE, async || TcpStream::connect(("127.0.0.1", port)).ok())
            .await;
        collector
    }

    /// Returns the value for `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Returns its output so far.
    pub(crate) fn output(&self) -> String {
        self.lines.lock().unwrap().join("\n")
    }

    /// Returns the spans of this trace so far; only the collector over HTTP has them.
    pub(crate) fn spans(&self, trace: &str) -> Vec<Value> {
        self.lines_with(trace).into_iter().filter(|line| line["traceId"] == trace).collect()
    }

    /// Returns whether it received a metric of this name; only the collector over HTTP prints
    /// metrics.
    pub(crate) fn has_metric(&self, name: &str) -> bool {
        self.lines_with(name).iter().any(|line| line["name"] == name && line["spanId"].is_null())
    }

    fn lines_with(&self, text: &str) -> Vec<Value> {
        let lines = self.lines.lock().unwrap();
        lines.iter().filter(|line| line.contains(text)).flat_map(|line| serde_json::from_str(line)).collect()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the directory of both, installed once per binary and kept for later runs.
fn installed() -> Option<&'static Path> {
    static HOME: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    match HOME.get_or_init(install) {
        Ok(home) => Some(home),
        Err(why) => {
            assert!(environment("CI").is_none(), "no OTLP collector: {why}");
            // Written to stderr directly, because the harness hides what a passing test prints
            io::stderr().write_all(format!("skipped: no OTLP collector: {why}\n").as_bytes()).unwrap();
            None
        }
    }
}

fn install() -> Result<PathBuf, String> {
    let home = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("collectors");
    // The stamp marks a complete installation
    let stamp = home.join(PACKAGES.join("+"));
    if !stamp.exists() {
        run(Command::new("python3").args(["-m", "venv"]).arg(&home))?;
        run(Command::new(home.join("bin/pip")).args(["install", "--quiet"]).args(PACKAGES))?;
        fs::write(stamp, "").map_err(|error| error.to_string())?;
    }
    Ok(home)
}

/// Returns the path of the program that the package `rotel` contains beside its modules.
fn agent(home: &Path) -> PathBuf {
    let pythons = fs::read_dir(home.join("lib")).unwrap().map(|python| python.unwrap().path());
    let agents = pythons.map(|python| python.join("site-packages/rotel/rotel-agent"));
    agents.into_iter().find(|agent| agent.is_file()).expect("the package brings it")
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr))),
    }
}
