//! Stock clients against real pods: starts the Node project and the Python program beside this
//! file, which start the pods.
//!
//! Only the real libraries show that they are served as they expect. Without npm or Python a test
//! prints what it skips; with `CI=true` it must never skip.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

#[test]
fn relay_serves_stock_clients_as_they_expect() {
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
    if !has("npm") {
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

#[test]
fn relay_serves_gql_for_python() {
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/gql");
    if !has("python3") {
        assert!(!is_ci(), "Python is missing: install Python 3.11 or later");
        eprintln!("skipped: Python is missing");
        return;
    }
    let python = install_gql(&project.join("requirements.txt"));
    let story = Command::new(python)
        .arg(project.join("story.py"))
        .env("RELAY_BINARY", env!("CARGO_BIN_EXE_relay"))
        .output()
        .unwrap();
    assert!(story.status.success(), "gql: {}", String::from_utf8_lossy(&story.stderr));
}

/// Installs the packages of the file in a virtual environment, unless they are installed already.
/// Returns its Python.
fn install_gql(requirements: &Path) -> PathBuf {
    let environment = Path::new(env!("CARGO_TARGET_TMPDIR")).join("gql");
    let (python, installed) = (environment.join("bin/python"), environment.join("installed"));
    let wanted = fs::read(requirements).unwrap();
    if fs::read(&installed).is_ok_and(|installed| installed == wanted) {
        return python;
    }
    let made = Command::new("python3").args(["-m", "venv", "--clear"]).arg(&environment).status();
    assert!(made.unwrap().success(), "no virtual environment");
    let install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"];
    let install = Command::new(&python).args(install).arg(requirements).status();
    assert!(install.unwrap().success(), "pip install failed");
    fs::write(&installed, wanted).unwrap();
    python
}

fn has(program: &str) -> bool {
    let version = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    version.is_ok_and(|status| status.success())
}

#[expect(clippy::disallowed_methods, reason = "a variable of the CI, not a setting of the relay")]
fn is_ci() -> bool {
    std::env::var("CI").is_ok_and(|ci| ci == "true")
}
