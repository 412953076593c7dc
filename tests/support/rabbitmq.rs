//! RabbitMQ for the tests of one binary: a node of its own, with its own ports, name and folder.
//!
//! All tests of a binary share one, since its start takes seconds; each uses a stream of its own.
//! With `CI=true` it must never be skipped, and nothing of it may outlive the process.

use std::{
    collections::HashMap,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, SystemTime},
};

use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties,
    options::{BasicPublishOptions, ConfirmSelectOptions},
    types::{AMQPValue, FieldTable},
    uri::AMQPUri,
};
use serde_json::Value;
use tokio::{
    sync::{OnceCell, oneshot},
    time::timeout,
};

use super::{
    emulator::{environment, skip},
    free_ports,
};

/// Launcher of Debian's package. Those in `/usr/sbin` change to another user.
const LAUNCHER: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";

/// Longest time for the start of a node on a busy machine.
const START_TIMEOUT: Duration = Duration::from_secs(180);

/// Shell script that runs epmd and the node, and kills both at a line of standard input. At its end
/// instead, which is when the process of the tests ends, it also deletes the folder. Both are
/// children, so that no daemon stays behind.
const GUARD: &str = r#"
epmd & epmd=$!
"$0" & node=$!
exec >&-
read -r keep
kill -KILL $node $epmd
wait
[ -n "$keep" ] || rm -rf "$1"
"#;

/// Users besides `guest`: the password of each is its name. `relay` has the rights of
/// docs/RABBITMQ.md, `reader` may not publish.
const DEFINITIONS: &str = r#"{
    "vhosts": [{"name": "/"}, {"name": "other/one"}],
    "users": [
        {"name": "guest", "password": "guest", "tags": "administrator"},
        {"name": "relay", "password": "relay", "tags": ""},
        {"name": "reader", "password": "reader", "tags": ""}
    ],
    "permissions": [
        {"user": "guest", "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"},
        {"user": "guest", "vhost": "other/one", "configure": ".*", "write": ".*", "read": ".*"},
        {"user": "relay", "vhost": "/", "configure": "^relay\\.", "write": "^(amq\\.default|relay\\..*)$", "read": "^relay\\."},
        {"user": "reader", "vhost": "/", "configure": "", "write": "", "read": "^relay\\."}
    ]
}"#;

/// Program that lists and ends connections.
const CONTROL: &str = "/usr/lib/rabbitmq/bin/rabbitmqctl";

/// Node of RabbitMQ. Dropped, it is killed, and its folder deleted.
pub(crate) struct Node {
    pub(crate) port: u16,
    /// Ports of the node's distribution and of epmd.
    inner: [u16; 2],
    folder: PathBuf,
    guard: Option<Child>,
}

/// Keeps Erlang from writing a dump into the project's folder, when a test ends before a program
/// that it started.
const NO_DUMP: (&str, &str) = ("ERL_CRASH_DUMP_SECONDS", "0");

/// Access to a node for what AMQP cannot do.
#[derive(Clone)]
pub(crate) struct Control {
    /// Names of the node, of its home and of its epmd.
    environment: [(&'static str, String); 3],
}

impl Control {
    /// Returns the connection of this pod's feed, by the broker's name for it, if there is one.
    pub(crate) async fn feed_of(&self, pod: &str) -> Option<String> {
        let list = self.run(&["list_connections", "pid", "client_properties"]).await;
        let is_feed = |line: &&str| line.contains(&format!("\"relay/{pod} feed\""));
        list.lines().find(is_feed)?.split_whitespace().next().map(str::to_owned)
    }

    /// Ends a connection, as an operator does.
    pub(crate) async fn end(&self, connection: &str) {
        self.run(&["close_connection", connection, "by the test"]).await;
    }

    async fn run(&self, arguments: &[&str]) -> String {
        let mut command = tokio::process::Command::new(CONTROL);
        command.arg("--quiet").args(arguments).envs(self.environment.clone()).envs([NO_DUMP]);
        let output = command.output().await.unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

/// Opens a channel that confirms. The connection must be held.
pub(crate) async fn channel(host: &str) -> (Connection, Channel) {
    let mut uri = AMQPUri::default();
    let (name, port) = host.rsplit_once(':').unwrap();
    (uri.authority.host, uri.authority.port) = (name.to_owned(), port.parse().unwrap());
    (uri.authority.userinfo.username, uri.authority.userinfo.password) = ("guest".into(), "guest".into());
    let connection = Connection::connect_uri(uri, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    (connection, channel)
}

/// Publishes one message with these attributes, as a foreign program does, and returns once the
/// broker has confirmed it. An event without a time gets one, since this broker does not stamp.
pub(crate) async fn publish(
    channel: &Channel,
    stream: &str,
    mut attributes: HashMap<String, String>,
    data: Vec<u8>,
) {
    let content_type = attributes.remove("content-type").unwrap_or_default();
    let mut data = data;
    let now = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
    if content_type.starts_with("application/cloudevents+json") {
        if let Ok(mut event) = serde_json::from_slice::<Value>(&data) {
            event["time"] = now.into();
            data = event.to_string().into_bytes();
        }
    } else if attributes.contains_key("ce-id") {
        attributes.entry("ce-time".into()).or_insert(now);
    }
    let is_event = attributes.contains_key("ce-id");
    let mut headers = FieldTable::default();
    for (name, value) in attributes {
        headers.insert(name.into(), AMQPValue::LongString(value.into()));
    }
    let mut properties = BasicProperties::default().with_headers(headers);
    if !content_type.starts_with("application/cloudevents") && !is_event {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        properties = properties.with_timestamp(since.as_secs());
    }
    if !content_type.is_empty() {
        properties = properties.with_content_type(content_type.into());
    }
    let options = BasicPublishOptions { mandatory: true, ..Default::default() };
    let confirm = channel.basic_publish("".into(), stream.into(), options, &data, properties);
    let confirmation = confirm.await.unwrap().await.unwrap();
    assert!(confirmation.is_ack() && confirmation.take_message().is_none(), "the stream took it");
}

/// Returns the node that all tests of this binary share. Without RabbitMQ it prints what is missing
/// and returns `None`.
pub(crate) async fn shared(test: &str) -> Option<&'static Node> {
    static SHARED: OnceCell<Option<Node>> = OnceCell::const_new();
    let node = SHARED.get_or_init(Node::start).await;
    if node.is_none() {
        skip(test, "no RabbitMQ on this machine: install rabbitmq-server");
    }
    node.as_ref()
}

impl Node {
    /// Starts a node, empty. Returns `None` if RabbitMQ is not installed; in CI that fails.
    pub(crate) async fn start() -> Option<Self> {
        if !Path::new(LAUNCHER).exists() {
            assert_ne!(environment("CI").as_deref(), Some("true"), "RabbitMQ is not installed");
            return None;
        }
        let port = free_ports(4);
        let folder = std::env::temp_dir().join(format!("relay-rabbitmq-{}", uuid::Uuid::now_v7()));
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("plugins"), "[].").unwrap();
        fs::write(folder.join("definitions.json"), DEFINITIONS).unwrap();
        let identity = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        fs::write(folder.join("certificate.pem"), identity.cert.pem()).unwrap();
        fs::write(folder.join("key.pem"), identity.signing_key.serialize_pem()).unwrap();
        let (place, tls_port) = (folder.display(), port + 1);
        let settings = format!(
            "load_definitions = {place}/definitions.json\n\
             listeners.ssl.default = 127.0.0.1:{tls_port}\n\
             ssl_options.cacertfile = {place}/certificate.pem\n\
             ssl_options.certfile = {place}/certificate.pem\n\
             ssl_options.keyfile = {place}/key.pem\n"
        );
        fs::write(folder.join("rabbitmq.conf"), settings).unwrap();
        let mut node = Self { port, inner: [port + 2, port + 3], folder, guard: None };
        node.launch().await;
        Some(node)
    }

    /// Returns the port for TLS, and the file of the authority that signed the certificate of
    /// `localhost` there.
    pub(crate) fn tls(&self) -> (u16, PathBuf) {
        (self.port + 1, self.folder.join("certificate.pem"))
    }

    /// Returns the access to the node for what AMQP cannot do.
    pub(crate) fn control(&self) -> Control {
        let node = ("RABBITMQ_NODENAME", format!("relay-{}@localhost", self.port));
        let home = ("HOME", self.folder.display().to_string());
        Control { environment: [node, home, ("ERL_EPMD_PORT", self.inner[1].to_string())] }
    }

    /// Kills the node as `kill -9` does.
    pub(crate) fn kill(&mut self) {
        let mut guard = self.guard.take().expect("the node runs");
        guard.stdin.take().unwrap().write_all(b"keep\n").unwrap();
        guard.wait().unwrap();
    }

    /// Has a killed node forget everything.
    pub(crate) fn forget(&self) {
        fs::remove_dir_all(self.folder.join("data")).unwrap();
    }

    /// Starts the node with what its disk holds.
    pub(crate) async fn launch(&mut self) {
        let file = |name: &str| self.folder.join(name);
        let [distribution, epmd] = self.inner.map(|port| port.to_string());
        let mut guard = Command::new("sh")
            .args(["-c", GUARD, LAUNCHER])
            .arg(&self.folder)
            // Makes the launcher become the node, so that its pid is the node's.
            .env("RUNNING_UNDER_SYSTEMD", "true")
            .env("HOME", &self.folder)
            .envs([NO_DUMP])
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("ERL_EPMD_PORT", epmd)
            .env("RABBITMQ_NODENAME", format!("relay-{}@localhost", self.port))
            .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODE_PORT", self.port.to_string())
            .env("RABBITMQ_DIST_PORT", distribution)
            .env("RABBITMQ_MNESIA_BASE", file("data"))
            .env("RABBITMQ_LOG_BASE", file("log"))
            .env("RABBITMQ_PID_FILE", file("pid"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", file("plugins"))
            .env("RABBITMQ_CONFIG_FILE", file("rabbitmq"))
            .env("RABBITMQ_CONF_ENV_FILE", file("none"))
            .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "-kernel inet_dist_use_interface {127,0,0,1}")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        let output = guard.stdout.take().unwrap();
        self.guard = Some(guard);
        let (announce, started) = oneshot::channel();
        thread::spawn(move || {
            let (mut announce, mut text) = (Some(announce), String::new());
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if line.contains("completed with") {
                    announce.take().map(|announce| announce.send(Ok(())).ok());
                }
                if announce.is_some() {
                    text += &line;
                }
            }
            announce.take().map(|announce| announce.send(Err(text)).ok());
        });
        timeout(START_TIMEOUT, started).await.expect("the node starts in time").unwrap().unwrap();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut guard) = self.guard.take() {
            drop(guard.stdin.take());
            guard.wait().unwrap();
        }
    }
}
