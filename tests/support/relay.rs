//! [`Relay`]: the real binary in a process of its own, with nothing in its environment but what a test says.

use std::{
    collections::BTreeMap,
    io::{Read, Write as _},
    net::TcpListener,
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU16, Ordering},
    },
    thread,
    time::Duration,
};

use serde_json::{Value, json};

use super::{Answer, Http, PATIENCE, Topic, eventually};

/// A pod before its start.
pub(crate) struct Setup {
    name: String,
    port: u16,
    arguments: Vec<String>,
    variables: BTreeMap<String, String>,
}

impl Setup {
    /// `relay` on a free port and the in-memory broker.
    pub(crate) fn new(name: &str) -> Self {
        let port = free_ports(1);
        let variables = [
            ("RELAY_LISTEN", format!("127.0.0.1:{port}")),
            ("RELAY_POD", name.to_owned()),
            // No balancer stands before it, and nobody waits for the end of a test
            ("RELAY_DRAIN_DELAY", "0s".to_owned()),
            ("RELAY_DRAIN_SPREAD", "500ms".to_owned()),
        ];
        let variables = variables.map(|(name, value)| (name.to_owned(), value)).into();
        Self { name: name.to_owned(), port, arguments: Vec::new(), variables }
    }

    /// `relay cluster` on four free ports, `port` being the first.
    pub(crate) fn cluster() -> Self {
        let port = free_ports(4);
        let arguments = ["cluster", "--pods", "4", "--port", &port.to_string()].map(str::to_owned).into();
        Self { name: "cluster".to_owned(), port, arguments, variables: BTreeMap::new() }
    }

    /// Another command than `serve`, and its flags.
    pub(crate) fn command_line(mut self, arguments: &[&str]) -> Self {
        self.arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        self
    }

    pub(crate) fn set(mut self, variable: &str, value: impl Into<String>) -> Self {
        self.variables.insert(variable.to_owned(), value.into());
        self
    }

    /// On this port, which another pod has left.
    pub(crate) fn at(mut self, port: u16) -> Self {
        self.port = port;
        self.set("RELAY_LISTEN", format!("127.0.0.1:{port}"))
    }

    pub(crate) fn topic(self, topic: &Topic) -> Self {
        self.set("RELAY_BROKER", topic.broker()).set("PUBSUB_EMULATOR_HOST", topic.host())
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Starts it and waits until it is ready.
    pub(crate) async fn start(self) -> Relay {
        let mut relay = self.launch();
        relay.until_ready(PATIENCE).await;
        relay
    }

    /// Starts it and does not wait.
    pub(crate) fn launch(self) -> Relay {
        let mut child = self.command().spawn().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        drain(child.stdout.take().unwrap(), Arc::clone(&log));
        drain(child.stderr.take().unwrap(), Arc::clone(&log));
        Relay { http: Http::new(self.port), name: self.name, child, log }
    }

    /// Runs it to its own end, which must come soon.
    pub(crate) async fn run(self) -> Output {
        let output = tokio::process::Command::from(self.command()).kill_on_drop(true).output();
        tokio::time::timeout(PATIENCE, output).await.expect("it ends by itself").unwrap()
    }

    /// The shell only lifts the limit of open files to what the machine allows; the process becomes the relay.
    fn command(&self) -> Command {
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", r#"ulimit -S -n "$(ulimit -H -n)"; exec "$0" "$@""#, env!("CARGO_BIN_EXE_relay")])
            .args(&self.arguments)
            .env_clear()
            .envs(&self.variables)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }
}

/// A running pod, or cluster. It is killed when dropped; a test that fails shows what it said.
pub(crate) struct Relay {
    pub(crate) http: Http,
    name: String,
    child: Child,
    log: Arc<Mutex<Vec<u8>>>,
}

impl Relay {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn port(&self) -> u16 {
        self.http.port()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// All that it printed so far.
    pub(crate) fn said(&self) -> String {
        String::from_utf8_lossy(&self.log.lock().unwrap()).into_owned()
    }

    pub(crate) async fn until_ready(&mut self, limit: Duration) {
        let what = format!("{} is ready", self.name);
        eventually(&what, limit, async || {
            assert_eq!(self.child.try_wait().unwrap(), None, "it ended instead: {}", self.said());
            self.http.try_get("/readyz").await.filter(|answer| answer.status == 200)
        })
        .await;
    }

    /// Asks it to stop, as Kubernetes does, or a person.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.pid().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap().success());
    }

    /// What it holds in memory, in bytes.
    pub(crate) fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }

    /// Waits for the end of it.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        // Longer than the default of RELAY_DRAIN_DEADLINE
        let limit = Duration::from_secs(60);
        eventually("it ends", limit, async || self.child.try_wait().unwrap()).await
    }

    /// Kills it as `kill -9` does and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// The sum of a metric over all its labels.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        self.metric_of(name, "").await
    }

    /// The sum of a metric over those of its series that have this label (`reason="id"`).
    pub(crate) async fn metric_of(&self, name: &str, label: &str) -> f64 {
        let text = self.http.get("/metrics").await.text;
        let series = text.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            let labels = rest.rsplit_once(' ')?.0;
            ((labels.is_empty() || labels.starts_with('{')) && labels.contains(label)).then_some(rest)
        });
        series.map(|rest| rest.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()).sum()
    }

    /// Waits until a metric has exactly this value.
    pub(crate) async fn until_metric(&self, name: &str, value: f64) {
        let what = format!("{name} of {} is {value}", self.name);
        eventually(&what, PATIENCE, async || {
            let now = self.metric(name).await;
            ((now - value).abs() < 0.5).then_some(())
        })
        .await;
    }

    /// Adds a template as this user, asserts success, and returns its id.
    pub(crate) async fn add_template(&self, user: &str, name: &str, locations: Option<&[&str]>) -> String {
        let answer = self.http.add_template(user, name, locations).await;
        let added = &answer.json()["data"]["addTemplate"];
        assert_eq!(added["success"], json!(true), "{answer:?}");
        assert_eq!(added["template"]["name"], json!(name), "{answer:?}");
        added["template"]["id"].as_str().unwrap().to_owned()
    }

    /// The names of all templates, as this pod answers them, sorted.
    pub(crate) async fn template_names(&self) -> Vec<String> {
        let answer: Answer = self.http.graphql("ZOWI", "{ templates { name } }", Value::Null).await;
        let json = answer.json();
        let templates = json["data"]["templates"].as_array().unwrap_or_else(|| panic!("{answer:?}"));
        let mut names: Vec<_> =
            templates.iter().map(|template| template["name"].as_str().unwrap().to_owned()).collect();
        names.sort();
        names
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // An error says that it is gone already
        self.child.kill().ok();
        self.child.wait().ok();
        if thread::panicking() {
            let text = format!("--- {} said ---\n{}", self.name, self.said());
            std::io::stderr().write_all(text.as_bytes()).ok();
        }
    }
}

/// Reads to the end, lest the writer block on a full pipe.
fn drain(mut from: impl Read + Send + 'static, log: Arc<Mutex<Vec<u8>>>) {
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            log.lock().unwrap().extend_from_slice(&buffer[..length]);
        }
    });
}

/// The first of so many neighbouring ports that nobody uses, below those that systems hand out by themselves, so that
/// no outgoing connection takes one before its pod does.
pub(crate) fn free_ports(count: u16) -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 20_000 + u16::try_from(std::process::id() % 100).unwrap() * 100;
    for _ in 0..1_000 {
        let port = first + NEXT.fetch_add(count, Ordering::Relaxed) % 2_000;
        let is_free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
        if (port..port + count).all(is_free) {
            return port;
        }
    }
    panic!("no free ports from {first} on");
}
