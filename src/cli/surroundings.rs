//! What a pod needs of the process around it: room for open files, and no proxy before loopback.
//!
//! Both are limits that operators otherwise meet by surprise. It must never change what a setting
//! says.

use std::{env, io, os::unix::process::CommandExt as _, process::Command};

use super::config;

/// Open files that are not connections of clients: log, broker, probes, sockets on their way.
const RESERVE: u64 = 256;

/// Raises the soft limit of open files to the hard one. Returns the limit.
///
/// # Errors
/// If the system refuses.
pub fn raise_open_files() -> io::Result<u64> {
    rlimit::increase_nofile_limit(u64::MAX)
}

/// Returns how to call this program in a shell.
#[must_use]
pub fn program() -> String {
    let path = env::current_exe().ok();
    path.map_or_else(|| "relay".to_owned(), |path| path.display().to_string())
}

/// Returns how many connections fit into this many open files.
#[must_use]
pub fn connections_within(open_files: u64) -> usize {
    let reserve = RESERVE.min(open_files / 4);
    usize::try_from(open_files - reserve).unwrap_or(usize::MAX)
}

/// Replaces this process by one whose variables exempt loopback from proxies, if a proxy is set for
/// plain HTTP. Google's client would ask even an emulator on this machine through it. Returns if
/// nothing is to be done.
///
/// # Errors
/// If the program cannot be started again.
pub fn exempt_loopback_from_proxies() -> io::Result<()> {
    let Some(exempt) = config::proxy_exemptions() else { return Ok(()) };
    let mut again = Command::new(env::current_exe()?);
    again.args(env::args_os().skip(1)).env("NO_PROXY", &exempt).env("no_proxy", exempt);
    Err(again.exec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_room_for_other_files() {
        assert_eq!([64, 1_024, 20_000].map(connections_within), [48, 768, 19_744]);
    }
}
