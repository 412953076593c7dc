//! Memory that the pod may use, as its container limits it.
//!
//! It reads the files of the kernel and no environment. It must never fail: a pod without a limit
//! takes the default.

use std::{fs, path::Path};

/// Memory for the pools if there is no limit, in bytes: 768 MiB. It is 75 % of the 1 GiB of the
/// manifests.
pub const DEFAULT: usize = 768 << 20;

/// Files that hold the container's limit in bytes: of version 2 of cgroups, then of version 1.
const FILES: [&str; 2] = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];

/// Returns the memory limit of the process' container, in bytes; `None` if there is none.
#[must_use]
pub fn limit() -> Option<usize> {
    FILES.iter().find_map(|file| read(Path::new(file)))
}

/// Returns the memory for the pools: 75 % of the container's limit, else [`DEFAULT`].
#[must_use]
pub fn available() -> usize {
    limit().map_or(DEFAULT, |limit| limit / 4 * 3)
}

fn read(file: &Path) -> Option<usize> {
    parse(&fs::read_to_string(file).ok()?)
}

/// Returns the limit that the file's text states. Version 2 writes `max` for none, version 1 a
/// number that no machine has.
fn parse(text: &str) -> Option<usize> {
    text.trim().parse().ok().filter(|limit| *limit < 1 << 50)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_without_limit_has_none() {
        assert_eq!(parse("max\n"), None);
        assert_eq!(parse("9223372036854771712\n"), None);
        assert_eq!(parse("1073741824\n"), Some(1 << 30));
    }
}
