//! [`Collector`]: a real OTLP collector, `oteltap` from PyPI, that prints what it is sent.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    net::TcpStream,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use serde_json::Value;

use super::{PATIENCE, environment, eventually, free_ports};

const VERSION: &str = "oteltap==1.0.0";

/// A collector that runs until it is dropped.
pub(crate) struct Collector {
    port: u16,
    child: Child,
    lines: Arc<Mutex<Vec<Value>>>,
}

impl Collector {
    /// `None` where Python cannot bring it, which says so; with `CI` set that is a failure.
    pub(crate) async fn start() -> Option<Self> {
        let program = match install() {
            Ok(program) => program,
            Err(why) => {
                assert!(environment("CI").is_none(), "no OTLP collector: {why}");
                // Past the test harness, which keeps to itself what a passing test prints
                io::stderr().write_all(format!("skipped: no OTLP collector: {why}\n").as_bytes()).unwrap();
                return None;
            }
        };
        let port = free_ports(1);
        let mut child = Command::new(program)
            .args(["--port", &port.to_string()])
            .env("PYTHONUNBUFFERED", "1")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (output, kept) = (child.stdout.take().unwrap(), lines.clone());
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                kept.lock().unwrap().extend(serde_json::from_str::<Value>(&line).ok());
            }
        });
        let collector = Self { port, child, lines };
        eventually("the collector listens", PATIENCE, async || TcpStream::connect(("127.0.0.1", port)).ok())
            .await;
        Some(collector)
    }

    /// What goes into `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The spans of this trace so far.
    pub(crate) fn spans(&self, trace: &str) -> Vec<Value> {
        self.lines.lock().unwrap().iter().filter(|line| line["traceId"] == trace).cloned().collect()
    }

    /// Whether it was sent a metric of this name.
    pub(crate) fn has_metric(&self, name: &str) -> bool {
        self.lines.lock().unwrap().iter().any(|line| line["name"] == name && line["spanId"].is_null())
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn install() -> Result<PathBuf, String> {
    let home = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("oteltap");
    let program = home.join("bin/oteltap");
    if !program.exists() {
        run(Command::new("python3").args(["-m", "venv"]).arg(&home))?;
        run(Command::new(home.join("bin/pip")).args(["install", "--quiet", VERSION]))?;
    }
    Ok(program)
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr))),
    }
}
