//! [`Emulator`]: finds Google's Pub/Sub emulator on this machine and runs a process of it.
//!
//! `relay cluster` and the tests use the real protocol without any preparation. It must never use
//! an emulator that another process started, and never leave an emulator running.

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

/// Longest time until the emulator serves. At the limit the start fails with
/// [`EmulatorError::Timeout`]. On an idle machine the emulator needs about one second.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// Longest time that [`Emulator::stop`] waits for the end of the killed process. At the limit it
/// logs and returns.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Number of ports to try; then the start fails. Each port was free a moment before, so even one
/// retry is rare.
const MAX_PORTS: usize = 5;

/// Options that halve the emulator's start time and memory. It is slower with them, but fast enough
/// for a laptop.
const JVM_OPTIONS: &str = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Xmx512m -XX:-UsePerfData";

/// Path of the emulator's launcher in a Cloud SDK.
const LAUNCHER: &str = "platform/pubsub-emulator/bin/cloud-pubsub-emulator";

/// Directories in which packages, images and Homebrew install the Cloud SDK.
const WELL_KNOWN_ROOTS: [&str; 6] = [
    "/usr/lib/google-cloud-sdk",
    "/usr/lib64/google-cloud-sdk",
    "/usr/local/share/google-cloud-sdk",
    "/opt/homebrew/share/google-cloud-sdk",
    "/opt/google-cloud-sdk",
    "/google-cloud-sdk",
];

/// Shell script that runs the launcher and kills it when standard input ends. That is when
/// [`Emulator`] closes it, and also when this process is killed; otherwise the emulator would
/// outlive it. The launcher's pid is the emulator's, because the launcher execs Java. Only the
/// emulator keeps standard output open, so the output ends when the emulator ends.
const GUARD: &str = r#""$0" "$@" 2>&1 & exec >&-; read -r _; kill -KILL $!"#;

/// Most bytes of the emulator's output that are kept for an error. Lines beyond it are left out.
const MAX_OUTPUT_BYTES: usize = 4_096;

/// Where to look for the Cloud SDK, besides the directories in which packages install it.
#[derive(Clone, Debug, Default)]
pub struct Search {
    /// Directory of the SDK, `CLOUDSDK_ROOT_DIR`. It is looked at first.
    pub cloudsdk_root: Option<PathBuf>,
    /// `PATH`, which may lead to a `gcloud` in the `bin` of its SDK. It is looked at second.
    pub path: Option<OsString>,
}

/// Why there is no emulator.
#[derive(Debug, Error)]
pub enum EmulatorError {
    /// The emulator is not installed where [`Search`] leads.
    #[error(
        "no Pub/Sub emulator on this machine: install it with `gcloud components install pubsub-emulator` \
         or the package google-cloud-cli-pubsub-emulator, and a Java runtime"
    )]
    NotFound,
    /// The emulator is installed, but Java is not.
    #[error(
        "the Pub/Sub emulator needs Java: install a runtime (default-jre-headless on Debian) or set JAVA_HOME"
    )]
    NoJava,
    /// The emulator ended instead of serving, or could not be run. The text is its output, or the
    /// error.
    #[error("Pub/Sub emulator did not start: {0}")]
    Start(String),
    /// The emulator neither served nor ended within 30 s. It was killed.
    #[error("Pub/Sub emulator was not ready within {} s", START_TIMEOUT.as_secs())]
    Timeout,
}

/// Emulator that this process runs on a free loopback port, with its state in memory.
///
/// Dropping it kills the emulator. The emulator also ends when this process ends, even if it is
/// killed. It has its own process group. So a Ctrl-C on the terminal does not end it before its
/// users have finished.
#[derive(Debug)]
pub struct Emulator {
    host: String,
    guard: Child,
    /// Thread that reads the emulator's output to its end, so that the emulator never blocks on a
    /// full pipe. It is not a task, because it may outlive the runtime in which it was started.
    reader: Option<JoinHandle<()>>,
}

/// Outcome of a start.
enum Startup {
    Serving,
    PortTaken,
    /// The emulator ended, with this output.
    Ended(String),
}

impl Emulator {
    /// Starts an emulator and returns once it serves.
    ///
    /// # Errors
    /// [`EmulatorError`], with what to install or with the emulator's output. Nothing is left
    /// running.
    pub async fn start(search: &Search) -> Result<Self, EmulatorError> {
        let launcher = find(search, &WELL_KNOWN_ROOTS).ok_or(EmulatorError::NotFound)?;
        timeout(START_TIMEOUT, Self::launch(&launcher)).await.map_err(|_elapsed| EmulatorError::Timeout)?
    }

    /// Returns the emulator's address, `127.0.0.1:PORT`, in the form of `PUBSUB_EMULATOR_HOST`.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Kills the emulator and returns once it has ended, or after five seconds. It has no state
    /// that a gentler end would save.
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
                // This emulator runs on without serving. It is dropped here, which kills it.
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
        // This takes a moment only: the guard's last act is one kill.
        if let Err(error) = self.guard.wait() {
            debug!(%error, "emulator's guard not waited for");
        }
    }
}

/// Reads the output of the emulator until it ends, and reports the outcome of the start. Only the
/// output counts. That the port answers proves nothing: an emulator that finds the port taken
/// prints so and runs on.
fn read(output: impl Read, announce: oneshot::Sender<Startup>) {
    let mut announce = Some(announce);
    let mut kept = String::new();
    for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line);
        debug!(%line, "emulator output");
        let startup = match &line {
            line if line.contains("Server started") => Startup::Serving,
            line if line.contains("BindException") => Startup::PortTaken,
            line => {
                if kept.len() + line.len() < MAX_OUTPUT_BYTES && !line.trim().is_empty() {
                    kept.push_str(line.trim());
                    kept.push(' ');
                }
                continue;
            }
        };
        // After a timeout the receiver is gone.
        announce.take().map(|announce| announce.send(startup).ok());
    }
    announce.take().map(|announce| announce.send(Startup::Ended(kept.trim_end().to_owned())).ok());
}

/// Returns the launcher of the first SDK that has one.
fn find(search: &Search, well_known: &[&str]) -> Option<PathBuf> {
    let on_path = search.path.iter().flat_map(std::env::split_paths).filter_map(|directory| {
        // Packages link gcloud into /usr/bin.
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

    /// Directory that is deleted when dropped.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new() -> Self {
            let path = std::env::temp_dir().join(format!("relay-emulator-{}", uuid::Uuid::now_v7()));
            fs::create_dir(&path).unwrap();
            Self(path)
        }

        /// Creates an SDK that has this shell script as its launcher.
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
    fn named_sdk_precedes_gcloud_and_well_known_ones() {
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
    async fn emulator_takes_second_port_and_ends_when_stopped() {
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
    async fn error_names_missing_java_or_output() {
        let scratch = Scratch::new();
        let no_java = scratch.sdk("no-java", "echo 'ERROR: JAVA_HOME is not set and no java'; exit 1");
        let broken = scratch.sdk("broken", "echo 'Unrecognized option'; exit 1");
        assert!(matches!(Emulator::start(&at(&no_java)).await, Err(EmulatorError::NoJava)));
        let error = Emulator::start(&at(&broken)).await.unwrap_err();
        assert!(matches!(&error, EmulatorError::Start(output) if output == "Unrecognized option"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn silent_emulator_is_given_up() {
        let scratch = Scratch::new();
        let silent = scratch.sdk("silent", "exec sleep 60");
        assert!(matches!(Emulator::start(&at(&silent)).await, Err(EmulatorError::Timeout)));
    }
}
