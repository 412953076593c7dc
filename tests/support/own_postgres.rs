//! [`OwnPostgres`]: a PostgreSQL server of one test, which may stop, kill and configure it.
//!
//! Its programs and its user are those of the shared server. It must never outlive its test.

use std::{
    fs, io,
    net::TcpListener,
    os::unix::{
        fs::{MetadataExt as _, chown},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use tokio::{
    net::TcpStream,
    time::{Instant, sleep},
};
use tokio_postgres::Client;

use crate::postgres_server as postgres;

/// Longest time until the server serves, also after a crash.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Shell script that runs the server until standard input ends: `FOLDER COMMAND…`.
const GUARD: &str = r#"
folder=$1; shift
"$@" >>"$folder/log" 2>&1 </dev/null &
while read -r _; do :; done
kill -QUIT $! 2>/dev/null && wait $! || true
"#;

/// PostgreSQL server of one test. Its user `relay` may do everything, in the database `postgres`.
pub(crate) struct OwnPostgres {
    pub(crate) folder: PathBuf,
    programs: PathBuf,
    pub(crate) user: (u32, u32),
    port: u16,
    settings: Vec<String>,
    guard: Option<Child>,
}

impl OwnPostgres {
    /// Makes the files of a server. Without PostgreSQL it prints the reason and returns `None`.
    pub(crate) async fn make(test: &str) -> Option<Self> {
        let host = postgres::host(test).await?;
        let shared = postgres::connect(&host, "postgres").await;
        let ask = async |question: &str| shared.query_one(question, &[]).await.unwrap().get::<_, String>(0);
        let programs = ask("select setting from pg_config where name = 'BINDIR'").await.into();
        let data = fs::metadata(ask("show data_directory").await).unwrap();
        let server = Self::in_new_folder(programs, (data.uid(), data.gid()));
        let data = server.data();
        server.run("initdb", &["-D", &data, "-U", "relay", "-A", "trust", "-E", "UTF8", "--no-sync"]);
        Some(server)
    }

    /// Makes and starts a server with these settings (`name=value`).
    pub(crate) async fn start(test: &str, settings: &[&str]) -> Option<Self> {
        let mut server = Self::make(test).await?;
        server.settings = settings.iter().map(|&setting| setting.to_owned()).collect();
        server.launch().await;
        Some(server)
    }

    /// Starts a standby that follows this server.
    pub(crate) async fn standby(&self) -> Self {
        let mut standby = Self::in_new_folder(self.programs.clone(), self.user);
        let (data, port) = (standby.data(), self.port.to_string());
        let arguments = ["-D", &data, "-h", "127.0.0.1", "-p", &port, "-U", "relay", "-R", "-c", "fast"];
        standby.run("pg_basebackup", &arguments);
        standby.launch().await;
        standby
    }

    fn in_new_folder(programs: PathBuf, user: (u32, u32)) -> Self {
        let folder = std::env::temp_dir().join(format!("own-postgres-{}", uuid::Uuid::now_v7().simple()));
        fs::create_dir(&folder).unwrap();
        chown(&folder, Some(user.0), Some(user.1)).unwrap();
        let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        Self { folder, programs, user, port, settings: Vec::new(), guard: None }
    }

    /// Writes a file that only the server's user may read.
    pub(crate) fn write(&self, name: &str, content: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt as _;
        let path = self.folder.join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        chown(&path, Some(self.user.0), Some(self.user.1)).unwrap();
        path
    }

    /// Sets these settings from the next start on.
    pub(crate) fn set(&mut self, settings: &[&str]) {
        self.settings.extend(settings.iter().map(|&setting| setting.to_owned()));
    }

    /// Gives a user who has to log in a rule before all others.
    pub(crate) fn require_password(&self, user: &str) {
        let path = Path::new(&self.data()).join("pg_hba.conf");
        let rules = fs::read_to_string(&path).unwrap();
        fs::write(&path, format!("host all {user} 127.0.0.1/32 scram-sha-256\n{rules}")).unwrap();
    }

    /// Starts the server and waits until it serves.
    pub(crate) async fn launch(&mut self) {
        let began = Instant::now();
        while began.elapsed() < START_TIMEOUT {
            fs::write(self.folder.join("log"), "").unwrap();
            chown(self.folder.join("log"), Some(self.user.0), Some(self.user.1)).unwrap();
            let mut command = self.command("sh");
            command.args(["-c", GUARD, "sh"]).arg(&self.folder).arg(self.programs.join("postgres"));
            command.args(["-D", &self.data(), "-p", &self.port.to_string(), "-k"]).arg(&self.folder);
            command.args(["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]);
            for setting in &self.settings {
                command.args(["-c", setting]);
            }
            command.process_group(0).stdin(Stdio::piped());
            self.guard = Some(command.spawn().unwrap());
            if self.serves(began).await {
                return;
            }
            self.end_guard();
            // The memory of a killed server is freed when its last process has ended.
            sleep(Duration::from_millis(50)).await;
        }
        panic!("the server does not start: {}", self.log());
    }

    async fn serves(&self, began: Instant) -> bool {
        while began.elapsed() < START_TIMEOUT {
            let log = self.log();
            if log.contains("ready to accept") && TcpStream::connect(self.host()).await.is_ok() {
                return true;
            }
            if log.contains("FATAL") && !log.contains("starting up") {
                return false;
            }
            sleep(Duration::from_millis(20)).await;
        }
        false
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Returns `127.0.0.1:PORT`.
    pub(crate) fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    /// Connects as the user who may do everything.
    pub(crate) async fn connect(&self) -> Client {
        postgres::connect(&self.host(), "postgres").await
    }

    /// Sends a signal to every process of the server.
    pub(crate) fn signal(&self, name: &str) {
        for pid in self.processes() {
            // A process may have ended meanwhile.
            Command::new("kill").args([&format!("-{name}"), &pid]).stderr(Stdio::null()).status().unwrap();
        }
    }

    /// Kills every process of the server, as a power cut does, and waits until they are gone.
    pub(crate) async fn kill(&mut self) {
        while !self.processes().is_empty() {
            self.signal("KILL");
            sleep(Duration::from_millis(10)).await;
        }
        self.end_guard();
    }

    /// Returns the processes whose folder is that of the server's data.
    fn processes(&self) -> Vec<String> {
        let data = PathBuf::from(self.data());
        let all = fs::read_dir("/proc").unwrap().flatten();
        let ours = all.filter(|entry| fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd == data));
        ours.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    fn data(&self) -> String {
        self.folder.join("data").display().to_string()
    }

    /// Runs a program of PostgreSQL to its end.
    fn run(&self, program: &str, arguments: &[&str]) {
        let mut command = self.command(self.programs.join(program));
        let output = command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    /// Builds a command of the server's user.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.folder).stdout(Stdio::null()).stderr(Stdio::null());
        let own = fs::metadata("/proc/self").map(|own| own.uid());
        if !matches!(own, Ok(own) if own == self.user.0) {
            command.uid(self.user.0).gid(self.user.1);
        }
        command
    }

    fn end_guard(&mut self) {
        if let Some(mut guard) = self.guard.take() {
            drop(guard.stdin.take());
            guard.wait().unwrap();
        }
    }
}

impl Drop for OwnPostgres {
    fn drop(&mut self) {
        // A stopped process cannot end.
        self.signal("CONT");
        self.end_guard();
        let removed: io::Result<()> = fs::remove_dir_all(&self.folder);
        removed.ok();
    }
}
