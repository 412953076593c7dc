//! Stock clients against real pods: starts the Node project beside this file, which starts the
//! pods.
//!
//! Only the real libraries show that they are served as they expect. Without npm the test prints
//! what it skips; with `CI=true` it must never skip.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

#[test]
fn relay_serves_stock_clients_as_they_expect() {
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
    if !has_npm() {
        assert!(!is_ci(), "npm is missing: install Node 20 or later");
        eprintln!("skipped: npm is missing");
        return;
    }
    install(&project);
    let tests = Command::new("npm")
        .args(["test", "--silent"])
        .current_dir(&project)
        .env("RELAY_BINARY", env!("CARGO_BIN_EXE_relay"))
        .env("TARGET_TMPDIR", env!("CARGO_TARGET_TMPDIR"))
        .status()
        .unwrap();
    assert!(tests.success(), "a client was not served as it expects: see above");
}

/// Installs the packages of the lock file, unless they are installed already.
fn install(project: &Path) {
    let (lock, installed) = (project.join("package-lock.json"), project.join("node_modules/.installed"));
    let wanted = fs::read(&lock).unwrap();
    if fs::read(&installed).is_ok_and(|installed| installed == wanted) {
        return;
    }
    let install = Command::new("npm").args(["ci", "--no-audit", "--no-fund"]).current_dir(project).status();
    assert!(install.unwrap().success(), "npm ci failed");
    fs::write(&installed, wanted).unwrap();
}

fn has_npm() -> bool {
    let version = Command::new("npm").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    version.is_ok_and(|status| status.success())
}

#[expect(clippy::disallowed_methods, reason = "a variable of the CI, not a setting of the relay")]
fn is_ci() -> bool {
    std::env::var("CI").is_ok_and(|ci| ci == "true")
}
