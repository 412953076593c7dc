//! [`PostgresServer`]: finds PostgreSQL's programs on this machine and runs a server of its own.
//!
//! `relay cluster` and the tests use the real server without any preparation. It must never touch a
//! server that another process started, and never leave a server or its files behind.

use std::{
    ffi::OsString,
    fs, io,
    net::{Ipv4Addr, TcpListener},
    os::unix::{fs::chown, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use thiserror::Error;
use tokio::{
    net::TcpStream,
    task::spawn_blocking,
    time::{Instant, sleep},
};
use uuid::Uuid;

/// Longest time until the server serves. On an idle machine it needs half a second.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// Number of ports to try; then the start fails.
const MAX_PORTS: usize = 5;

/// Folders in which packages install the programs, besides those of `PATH`. `*` is a version.
const WELL_KNOWN: [&str; 4] = [
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/pgsql/bin",
];

/// Shell script that makes the files, runs the server, and ends both when standard input ends. That
/// is when [`PostgresServer`] closes it, and also when this process is killed. 64 pods have room.
const GUARD: &str = r#"
set -e
[ -d "$2/data" ] || "$1/initdb" -D "$2/data" -U relay -A trust -E UTF8 --locale=C --no-sync >"$2/log" 2>&1
"$1/postgres" -D "$2/data" -k "$2" -p "$3" -c listen_addresses=127.0.0.1 -c fsync=off \
  -c max_connections=300 >>"$2/log" 2>&1 </dev/null &
while read -r _; do :; done
kill -QUIT $! 2>/dev/null && wait $! || true
rm -rf "$2"
"#;

/// User that runs the server if this process is root, since the server refuses root.
const USER: &str = "postgres";

/// Why there is no server.
#[derive(Debug, Error)]
pub enum PostgresError {
    /// PostgreSQL is not installed.
    #[error(
        "no PostgreSQL on this machine: install its server (Debian: postgresql, Fedora: \
         postgresql-server, Homebrew: postgresql@17), or add the folder of initdb to PATH"
    )]
    NotFound,
    /// This process is root, and there is no user to run the server.
    #[error("PostgreSQL refuses to run as root, and there is no user {USER}: add it, or be another user")]
    NoUser,
    /// The user that runs the server cannot reach its folder.
    #[error("the user {USER} cannot use {}: set TMPDIR to a folder that every user reaches", .0.display())]
    Folder(PathBuf),
    /// The server did not start. The text is its log.
    #[error("PostgreSQL did not start: {0}")]
    Start(String),
}

/// Server that this process runs on a free loopback port, in a folder of its own.
///
/// Dropping it ends the server and deletes its files. Both also happen when this process ends.
#[derive(Debug)]
pub struct PostgresServer {
    port: u16,
    folder: PathBuf,
    guard: Child,
}

impl PostgresServer {
    /// Starts a server and returns once it serves. `path` is `PATH`, where the programs are looked
    /// for first.
    ///
    /// # Errors
    /// [`PostgresError`], with what to install or with the server's log.
    pub async fn start(path: Option<&OsString>) -> Result<Self, PostgresError> {
        let programs = find(path, &WELL_KNOWN).ok_or(PostgresError::NotFound)?;
        let failed = |error: io::Error| PostgresError::Start(error.to_string());
        let folder = std::env::temp_dir().join(format!("relay-postgres-{}", Uuid::now_v7().simple()));
        fs::create_dir(&folder).map_err(failed)?;
        let user = match is_root() {
            true => Some(user_id(USER).ok_or(PostgresError::NoUser)?),
            false => None,
        };
        if let Some(user) = user {
            chown(&folder, Some(user), Some(user)).map_err(failed)?;
        }
        let mut log = String::new();
        for _ in 0..MAX_PORTS {
            let port = free_port().map_err(failed)?;
            let guard = spawn(&programs, &folder, port, user).map_err(|error| match error.kind() {
                io::ErrorKind::PermissionDenied if user.is_some() => {
                    // It is this process's, and empty.
                    fs::remove_dir(&folder).ok();
                    PostgresError::Folder(folder.clone())
                }
                _ => failed(error),
            })?;
            let mut server = Self { port, folder: folder.clone(), guard };
            match server.wait_until_ready().await {
                Ok(()) => return Ok(server),
                Err(output) => log = output,
            }
            spawn_blocking(|| drop(server)).await.ok();
            fs::create_dir(&folder).map_err(failed)?;
            if let Some(user) = user {
                chown(&folder, Some(user), Some(user)).map_err(failed)?;
            }
        }
        fs::remove_dir_all(&folder).ok();
        Err(PostgresError::Start(log))
    }

    /// Returns the server's address, `127.0.0.1:PORT`. Its user `relay` may do everything, without
    /// a password, in the database `postgres`.
    #[must_use]
    pub fn host(&self) -> String {
        format!("{}:{}", Ipv4Addr::LOCALHOST, self.port)
    }

    /// Ends the server and returns once its files are gone.
    pub async fn stop(self) {
        // An error would mean that the drop panicked.
        let _ = spawn_blocking(|| drop(self)).await;
    }

    /// Waits until the server answers. Returns its log if it ends or does not answer.
    async fn wait_until_ready(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
            // The port may be another process's, so the log counts as well.
            let is_ready = log.contains("database system is ready to accept connections")
                && TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await.is_ok();
            if is_ready {
                return Ok(());
            }
            let has_failed = log.contains("FATAL") || log.contains("error:");
            if has_failed || Instant::now() > deadline || !matches!(self.guard.try_wait(), Ok(None)) {
                return Err(log);
            }
            sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        // The server's immediate shutdown takes a moment only.
        if let Err(error) = self.guard.wait() {
            tracing::debug!(%error, "PostgreSQL's guard not waited for");
        }
    }
}

fn spawn(programs: &Path, folder: &Path, port: u16, user: Option<u32>) -> io::Result<Child> {
    let mut command = Command::new("sh");
    command.args(["-c", GUARD, "sh"]).args([programs, folder]).arg(port.to_string());
    if let Some(user) = user {
        command.uid(user).gid(user);
    }
    // In a process group of its own, so that a Ctrl-C does not end it before its users.
    command.current_dir(folder).process_group(0);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// Returns whether this process is root: then so is its own folder in `/proc`, or a new file.
fn is_root() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .any(|line| line.strip_prefix("Uid:").is_some_and(|ids| ids.split_whitespace().nth(1) == Some("0")))
}

/// Returns the number of the user of this name.
fn user_id(name: &str) -> Option<u32> {
    let users = fs::read_to_string("/etc/passwd").ok()?;
    users
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|user| user[0] == name)?
        .get(2)?
        .parse()
        .ok()
}

/// Returns the folder of the programs: of `PATH`, else of the newest version.
fn find(path: Option<&OsString>, well_known: &[&str]) -> Option<PathBuf> {
    let has_programs =
        |folder: &PathBuf| ["initdb", "postgres"].iter().all(|name| folder.join(name).is_file());
    let on_path = path.into_iter().flat_map(std::env::split_paths).find(has_programs);
    on_path.or_else(|| well_known.iter().flat_map(|pattern| versions(pattern)).find(has_programs))
}

/// Returns the folders that fit the pattern, the newest version first.
fn versions(pattern: &str) -> Vec<PathBuf> {
    let Some((before, after)) = pattern.split_once('*') else { return vec![pattern.into()] };
    let (parent, prefix) = before.rsplit_once('/').unwrap_or(("", before));
    let names = fs::read_dir(parent)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut found: Vec<u32> = names.filter_map(|name| name.strip_prefix(prefix)?.parse().ok()).collect();
    found.sort_unstable_by(|a, b| b.cmp(a));
    found.into_iter().map(|version| format!("{before}{version}{after}").into()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newest_version_comes_first() {
        let folder = std::env::temp_dir().join(format!("relay-versions-{}", Uuid::now_v7().simple()));
        for version in ["9", "15", "main"] {
            let programs = folder.join(version).join("bin");
            fs::create_dir_all(&programs).unwrap();
            for program in ["initdb", "postgres"] {
                fs::write(programs.join(program), "").unwrap();
            }
        }
        let pattern = format!("{}/*/bin", folder.display());
        assert_eq!(find(None, &[&pattern]), Some(folder.join("15/bin")));
        let path = std::env::join_paths([folder.join("9/bin")]).unwrap();
        assert_eq!(find(Some(&path), &[&pattern]), Some(folder.join("9/bin")));
        assert_eq!(find(None, &["/nonexistent/*/bin"]), None);
        fs::remove_dir_all(folder).unwrap();
    }
}
