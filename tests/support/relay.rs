//! [`Relay`]: the real binary in a process of its own, with an environment of only what a test
//! sets.
//!
//! Tests run what users run. A process must never outlive its test.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write as _},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
    time::Duration,
};

use serde_json::{Value, json};

use super::{Answer, Http, PATIENCE, Topic, eventually, free_ports, topic::Kind};

/// Pod before its start.
pub(crate) struct Setup {
    name: String,
    port: u16,
    arguments: Vec<String>,
    variables: BTreeMap<String, String>,
}

impl Setup {
    /// Creates a setup of `relay` on a free port with the in-memory broker.
    pub(crate) fn new(name: &str) -> Self {
        let port = free_ports(1);
        let variables = [
            ("RELAY_LISTEN", format!("127.0.0.1:{port}")),
            ("RELAY_POD", name.to_owned()),
            // There is no load balancer, and a test should not wait for a drain
            ("RELAY_DRAIN_DELAY", "0s".to_owned()),
            ("RELAY_DRAIN_SPREAD", "500ms".to_owned()),
            // A test may publish as fast as it can
            ("RELAY_USER_EVENT_RATE", "off".to_owned()),
            ("RELAY_USER_EVENT_BYTES", "off".to_owned()),
        ];
        let variables = variables.map(|(name, value)| (name.to_owned(), value)).into();
        Self { name: name.to_owned(), port, arguments: Vec::new(), variables }
    }

    /// Creates a setup of `relay cluster` on four free ports; `port` is the first.
    pub(crate) fn cluster() -> Self {
        let port = free_ports(4);
        let arguments = ["cluster", "--pods", "4", "--port", &port.to_string()].map(str::to_owned).into();
        Self { name: "cluster".to_owned(), port, arguments, variables: BTreeMap::new() }
    }

    /// Sets another command than `serve`, with its flags.
    pub(crate) fn command_line(mut self, arguments: &[&str]) -> Self {
        self.arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        self
    }

    pub(crate) fn set(mut self, variable: &str, value: impl Into<String>) -> Self {
        self.variables.insert(variable.to_owned(), value.into());
        self
    }

    /// Sets the port, for example one that another pod has left.
    pub(crate) fn at(mut self, port: u16) -> Self {
        self.port = port;
        self.set("RELAY_LISTEN", format!("127.0.0.1:{port}"))
    }

    pub(crate) fn topic(self, topic: &Topic) -> Self {
        let setup = self.set("RELAY_BROKER", topic.broker());
        match topic.kind() {
            Kind::PubSub => setup.set("PUBSUB_EMULATOR_HOST", topic.host()),
            Kind::Postgres | Kind::RabbitMq => setup,
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Starts the process and waits until it is ready.
    pub(crate) async fn start(self) -> Relay {
        let mut relay = self.launch();
        relay.until_ready(PATIENCE).await;
        relay
    }

    /// Starts the process without waiting.
    pub(crate) fn launch(self) -> Relay {
        let mut child = self.command().spawn().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let readers = vec![
            drain(child.stdout.take().unwrap(), Arc::clone(&log)),
            drain(child.stderr.take().unwrap(), Arc::clone(&log)),
        ];
        Relay { http: Http::new(self.port), name: self.name, child, log, readers }
    }

    /// Starts the process with a log that nothing reads while the returned pipe is open, and waits
    /// until it is ready.
    pub(crate) async fn start_with_unread_log(self) -> (Relay, io::PipeReader) {
        let (reader, writer) = io::pipe().unwrap();
        let child = self.command().stdout(writer.try_clone().unwrap()).stderr(writer).spawn().unwrap();
        let (http, log, readers) = (Http::new(self.port), Arc::default(), Vec::new());
        let mut relay = Relay { http, name: self.name, child, log, readers };
        relay.until_ready(PATIENCE).await;
        (relay, reader)
    }

    /// Runs the process until it ends by itself, within [`PATIENCE`].
    pub(crate) async fn run(self) -> Output {
        let output = tokio::process::Command::from(self.command()).kill_on_drop(true).output();
        tokio::time::timeout(PATIENCE, output).await.expect("the process ends by itself").unwrap()
    }

    /// Builds the command. The shell only raises the limit of open files to the machine's maximum;
    /// its process then becomes the relay.
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

/// Running pod or cluster. It is killed when dropped, and a failing test prints its output.
pub(crate) struct Relay {
    pub(crate) http: Http,
    name: String,
    child: Child,
    log: Arc<Mutex<Vec<u8>>>,
    /// Threads that read its output into the log.
    readers: Vec<JoinHandle<()>>,
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

    /// Returns its output so far.
    pub(crate) fn output(&self) -> String {
        String::from_utf8_lossy(&self.log.lock().unwrap()).into_owned()
    }

    /// Waits until its output contains this text. Returns the output so far.
    pub(crate) async fn until_output(&self, text: &str) -> String {
        let what = format!("{} writes {text}", self.name);
        eventually(&what, PATIENCE, async || Some(self.output()).filter(|output| output.contains(text))).await
    }

    pub(crate) async fn until_ready(&mut self, limit: Duration) {
        let what = format!("{} is ready", self.name);
        eventually(&what, limit, async || {
            assert_eq!(self.child.try_wait().unwrap(), None, "the process ended instead: {}", self.output());
            self.http.try_get("/readyz").await.filter(|answer| answer.status == 200)
        })
        .await;
    }

    /// Sends a signal, such as `TERM` from Kubernetes or `INT` from a terminal.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.pid().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap().success());
    }

    /// Returns its resident memory, in bytes.
    pub(crate) fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }

    /// Waits until the process ends, for 60 s at most, and until its output is read.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        // Longer than the default of RELAY_DRAIN_DEADLINE
        let limit = Duration::from_secs(60);
        let status = eventually("it ends", limit, async || self.child.try_wait().unwrap()).await;
        eventually("its output is read", limit, async || {
            self.readers.iter().all(JoinHandle::is_finished).then_some(())
        })
        .await;
        status
    }

    /// Kills the process as `kill -9` does and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Returns the sum of a metric over all its labels.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        self.metric_of(name, "").await
    }

    /// Returns the sum of a metric over the series that have this label (`reason="id"`).
    pub(crate) async fn metric_of(&self, name: &str, label: &str) -> f64 {
        let text = self.http.get("/metrics").await.text;
        let series = text.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            let labels = rest.rsplit_once(' ')?.0;
            ((labels.is_empty() || labels.starts_with('{')) && labels.contains(label)).then_some(rest)
        });
        series.map(|rest| rest.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()).sum()
    }

    /// Waits until a metric, over the series that have this label, is as it should be.
    pub(crate) async fn until_metric_is(&self, name: &str, label: &str, is_right: impl Fn(f64) -> bool) {
        let what = format!("{name} with {label} of {}", self.name);
        eventually(&what, PATIENCE, async || is_right(self.metric_of(name, label).await).then_some(())).await;
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

    /// Returns the names of all templates on this pod, sorted.
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
        // An error means that the process is gone already
        self.child.kill().ok();
        self.child.wait().ok();
        if thread::panicking() {
            let text = format!("--- output of {} ---\n{}", self.name, self.output());
            std::io::stderr().write_all(text.as_bytes()).ok();
        }
    }
}

/// Reads a pipe to its end, so that the process never blocks on a full pipe.
fn drain(mut from: impl Read + Send + 'static, log: Arc<Mutex<Vec<u8>>>) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            log.lock().unwrap().extend_from_slice(&buffer[..length]);
        }
    })
}
