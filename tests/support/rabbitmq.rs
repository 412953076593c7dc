//! RabbitMQ for the tests of one binary: a node of its own, with its own ports, name and folder.
//!
//! All tests of a binary share one, since its start takes seconds; each uses a stream of its own.
//! With `CI=true` it must never be skipped, and nothing of it may outlive the process.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

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

/// Node of RabbitMQ. Dropped, it is killed, and its folder deleted.
pub(crate) struct Node {
    pub(crate) port: u16,
    /// Ports of the node's distribution and of epmd.
    inner: [u16; 2],
    folder: PathBuf,
    guard: Option<Child>,
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
