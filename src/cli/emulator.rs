//! [`Emulator`]: finds Google's Pub/Sub emulator on this machine and runs one of our own.
//!
//! `relay cluster` and the tests want the real protocol without anybody having to start a thing. It must never use an
//! emulator that somebody else started, and never leave one running behind.

use std::{
    ffi::OsString,
    io::{self, BufRead, BufReader, Read},
    net::{Ipv4Addr, TcpListener},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::{self, JoinHandle},
    time::Duration,
};

use thiserror::Error;
use tokio::{sync::oneshot, task::spawn_blocking, time::timeout};
use tracing::debug;

/// How long the emulator may take until it serves; it needs about one second on an idle machine.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// How long [`Emulator::stop`] waits for the end of a process that was killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// How many ports to try: each was free a moment before, so that even one retry is rare.
const MAX_PORTS: usize = 5;

/// Starts in half the time and takes half the memory, at a speed that no laptop will miss.
const JVM_OPTIONS: &str = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Xmx512m -XX:-UsePerfData";

const LAUNCHER: &str = "platform/pubsub-emulator/bin/cloud-pubsub-emulator";

/// Where packages, images and Homebrew put the Cloud SDK.
const WELL_KNOWN_ROOTS: [&str; 6] = [
    "/usr/lib/google-cloud-sdk",
    "/usr/lib64/google-cloud-sdk",
    "/usr/local/share/google-cloud-sdk",
    "/opt/homebrew/share/google-cloud-sdk",
    "/opt/google-cloud-sdk",
    "/google-cloud-sdk",
];

/// Runs the launcher and kills it when standard input ends: when we close it, and also when we are killed ourselves, since
/// the emulator would outlive us. The launcher's pid is the emulator's, because it execs Java. Only the emulator holds on
/// to standard output, so that the end of it is the emulator's.
const GUARD: &str = r#""$0" "$@" 2>&1 & exec >&-; read -r _; kill -KILL $!"#;

/// What the emulator keeps of its output for an error, in bytes.
const MAX_OUTPUT_BYTES: usize = 4_096;

/// Where to look for the Cloud SDK, beside the places where packages put it.
#[derive(Clone, Debug, Default)]
pub struct Search {
    /// The SDK's directory, `CLOUDSDK_ROOT_DIR`; looked at first.
    pub cloudsdk_root: Option<PathBuf>,
    /// The `PATH` on which a `gcloud` may stand, in its SDK's `bin`.
    pub path: Option<OsString>,
}

/// Why there is no emulator.
#[derive(Debug, Error)]
pub enum EmulatorError {
    /// It is not installed where [`Search`] leads.
    #[error(
        "no Pub/Sub emulator on this machine: install it with `gcloud components install pubsub-emulator` \
         or the package google-cloud-cli-pubsub-emulator, and a Java runtime"
    )]
    NotFound,
    /// It is installed, but there is no Java to run it.
    #[error(
        "the Pub/Sub emulator needs Java: install a runtime (default-jre-headless on Debian) or set JAVA_HOME"
    )]
    NoJava,
    /// It ended instead of serving, or could not be run; the text is what it said last.
    #[error("Pub/Sub emulator did not start: {0}")]
    Start(String),
    /// It neither served nor ended in time. It was killed.
    #[error("Pub/Sub emulator was not ready within {} s", START_TIMEOUT.as_secs())]
    Timeout,
}

/// An emulator of our own, on a free port of the loopback address, with all its state in memory.
///
/// Dropped, it is killed; it also ends when this process does, in whatever way. It stands in a process group of its own:
/// a Ctrl-C on the terminal does not reach it before those who use it have finished.
#[derive(Debug)]
pub struct Emulator {
    host: String,
    guard: Child,
    /// Reads its output to the end, lest it block on a full pipe; a thread, for it may outlive the runtime of its start.
    reader: Option<JoinHandle<()>>,
}

/// How a start came out.
enum Startup {
    Serving,
    PortTaken,
    Ended(String),
}

impl Emulator {
    /// Starts an emulator and returns once it serves.
    ///
    /// # Errors
    /// [`EmulatorError`] says what to install, or what the emulator said. Nothing is left running.
    pub async fn start(search: &Search) -> Result<Self, EmulatorError> {
        let launcher = find(search, &WELL_KNOWN_ROOTS).ok_or(EmulatorError::NotFound)?;
        timeout(START_TIMEOUT, Self::launch(&launcher)).await.map_err(|_elapsed| EmulatorError::Timeout)?
    }

    /// Its address, `127.0.0.1:PORT`, as `PUBSUB_EMULATOR_HOST` has it.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Kills it and returns once it is gone, or after five seconds. It has no state worth a gentler end.
    pub async fn stop(mut self) {
        let reader = self.reader.take();
        let gone = spawn_blocking(move || {
            drop(self);
            reader.map(JoinHandle::join)
        });
        if timeout(STOP_TIMEOUT, gone).await.is_err() {
            debug!("emulator still running after it was killed");
        }
    }

    async fn launch(launcher: &Path) -> Result<Self, EmulatorError> {
        for _ in 0..MAX_PORTS {
            let (emulator, startup) =
                Self::spawn(launcher).map_err(|error| EmulatorError::Start(error.to_string()))?;
            match startup.await {
                Ok(Startup::Serving) => return Ok(emulator),
                // It goes on running without serving
                Ok(Startup::PortTaken) => {}
                Ok(Startup::Ended(output)) if output.contains("JAVA_HOME") => {
                    return Err(EmulatorError::NoJava);
                }
                Ok(Startup::Ended(output)) => return Err(EmulatorError::Start(output)),
                Err(_) => return Err(EmulatorError::Start("output unreadable".to_owned())),
            }
        }
        Err(EmulatorError::Start(format!("{MAX_PORTS} ports were taken")))
    }

    fn spawn(launcher: &Path) -> io::Result<(Self, oneshot::Receiver<Startup>)> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let mut guard = Command::new("sh")
            .args(["-c", GUARD])
            .arg(launcher)
            .args(["--host=127.0.0.1".to_owned(), format!("--port={port}")])
            .env("CLOUD_PUBSUB_EMULATOR_OPTS", JVM_OPTIONS)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        let output = guard.stdout.take().expect("standard output is piped");
        let mut emulator = Self { host: format!("127.0.0.1:{port}"), guard, reader: None };
        let (announce, startup) = oneshot::channel();
        let reader = thread::Builder::new().name("emulator-output".to_owned());
        emulator.reader = Some(reader.spawn(move || read(output, announce))?);
        Ok((emulator, startup))
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        // A moment: the guard has nothing left to do but one kill
        if let Err(error) = self.guard.wait() {
            debug!(%error, "emulator's guard not waited for");
        }
    }
}

/// Reads the output of the emulator until it ends, and announces how the start came out. Only its own word counts: that
/// the port answers says nothing, for an emulator that finds it taken prints so and goes on running.
fn read(output: impl Read, announce: oneshot::Sender<Startup>) {
    let mut announce = Some(announce);
    let mut said = String::new();
    for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line);
        debug!(%line, "emulator output");
        let startup = match &line {
            line if line.contains("Server started") => Startup::Serving,
            line if line.contains("BindException") => Startup::PortTaken,
            line => {
                if said.len() + line.len() < MAX_OUTPUT_BYTES && !line.trim().is_empty() {
                    said.push_str(line.trim());
                    said.push(' ');
                }
                continue;
            }
        };
        // Nobody waits any more after a timeout
        announce.take().map(|announce| announce.send(startup).ok());
    }
    announce.take().map(|announce| announce.send(Startup::Ended(said.trim_end().to_owned())).ok());
}

/// The launcher in the first SDK that has one.
fn find(search: &Search, well_known: &[&str]) -> Option<PathBuf> {
    let on_path = search.path.iter().flat_map(std::env::split_paths).filter_map(|directory| {
        // Packages link it into /usr/bin
        let gcloud = directory.join("gcloud").canonicalize().ok()?;
        Some(gcloud.parent()?.parent()?.to_owned())
    });
    let roots =
        search.cloudsdk_root.iter().cloned().chain(on_path).chain(well_known.iter().map(PathBuf::from));
    roots.map(|root| root.join(LAUNCHER)).find(|launcher| launcher.is_file())
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{PermissionsExt, symlink},
    };

    use super::*;

    /// A directory that goes with it.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new() -> Self {
            let path = std::env::temp_dir().join(format!("relay-emulator-{}", uuid::Uuid::now_v7()));
            fs::create_dir(&path).unwrap();
            Self(path)
        }

        /// An SDK whose launcher is this shell script.
        fn sdk(&self, name: &str, script: &str) -> PathBuf {
            let root = self.0.join(name);
            let launcher = root.join(LAUNCHER);
            fs::create_dir_all(launcher.parent().unwrap()).unwrap();
            fs::write(&launcher, format!("#!/bin/sh\ncd '{}'\n{script}\n", root.display())).unwrap();
            fs::set_permissions(&launcher, fs::Permissions::from_mode(0o755)).unwrap();
            root
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).ok();
        }
    }

    fn at(root: &Path) -> Search {
        Search { cloudsdk_root: Some(root.to_owned()), path: None }
    }

    #[test]
    fn the_named_sdk_comes_before_the_one_of_gcloud_and_that_before_the_well_known() {
        let scratch = Scratch::new();
        let [named, gclouds, known] = ["named", "gclouds", "known"].map(|name| scratch.sdk(name, ""));
        let bin = scratch.0.join("bin");
        fs::create_dir_all(gclouds.join("bin")).unwrap();
        fs::create_dir(&bin).unwrap();
        fs::write(gclouds.join("bin/gcloud"), "").unwrap();
        symlink("../gclouds/bin/gcloud", bin.join("gcloud")).unwrap();

        let well_known = ["/nonexistent", known.to_str().unwrap()];
        let path = Some(std::env::join_paths(["/nonexistent".as_ref(), bin.as_path()]).unwrap());
        let mut search = Search { cloudsdk_root: Some(named.clone()), path };
        assert_eq!(find(&search, &well_known), Some(named.join(LAUNCHER)));
        search.cloudsdk_root = Some("/nonexistent".into());
        let resolved = gclouds.canonicalize().unwrap().join(LAUNCHER);
        assert_eq!(find(&search, &well_known), Some(resolved));
        search.path = None;
        assert_eq!(find(&search, &well_known), Some(known.join(LAUNCHER)));
        assert_eq!(find(&search, &[]), None);
    }

    #[tokio::test]
    async fn it_serves_on_the_second_port_if_the_first_was_taken_and_ends_when_stopped() {
        let scratch = Scratch::new();
        let root = scratch.sdk(
            "sdk",
            "echo \"$2\" >> ports
             if [ -e tried ]; then echo 'INFO: Server started, listening' >&2
             else touch tried; echo 'java.net.BindException: Address already in use' >&2; fi
             exec sleep 60",
        );
        let emulator = Emulator::start(&at(&root)).await.unwrap();
        let ports = fs::read_to_string(root.join("ports")).unwrap();
        let ports: Vec<&str> = ports.lines().map(|line| line.trim_start_matches("--port=")).collect();
        assert_eq!(ports.len(), 2);
        assert_eq!(emulator.host(), format!("127.0.0.1:{}", ports[1]));

        let start = tokio::time::Instant::now();
        emulator.stop().await;
        assert!(start.elapsed() < STOP_TIMEOUT, "still running");
    }

    #[tokio::test]
    async fn what_stands_in_the_way_is_said() {
        let scratch = Scratch::new();
        let no_java = scratch.sdk("no-java", "echo 'ERROR: JAVA_HOME is not set and no java'; exit 1");
        let broken = scratch.sdk("broken", "echo 'Unrecognized option'; exit 1");
        assert!(matches!(Emulator::start(&at(&no_java)).await, Err(EmulatorError::NoJava)));
        let error = Emulator::start(&at(&broken)).await.unwrap_err();
        assert!(matches!(&error, EmulatorError::Start(said) if said == "Unrecognized option"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_says_nothing_is_given_up() {
        let scratch = Scratch::new();
        let silent = scratch.sdk("silent", "exec sleep 60");
        assert!(matches!(Emulator::start(&at(&silent)).await, Err(EmulatorError::Timeout)));
    }
}
