//! Stock clients against real pods: starts the Node project and the Python program beside this
//! file, which start the pods.
//!
//! Only the real libraries show that they are served as they expect. Without npm, Python or the
//! emulator a test prints what it skips; with `CI=true` it must never skip.
//!
//! The tests wait more than they compute, so each runs several files side by side. They start in
//! the order of their names, and the longest has the first.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

#[path = "support/packages.rs"]
mod packages;

use std::{path::Path, process::Command};

use packages::{environment, has, install, install_python, skip};
use pubsub_relay::cli::emulator::{Emulator, Search};
use tokio::runtime::Runtime;

#[test]
fn all_stock_clients_are_served_as_they_expect() {
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
    if !has("npm") {
        return skip("npm is missing: install Node 20.10 or later");
    }
    install(&project);
    let emulator = Started::new();
    let mut tests = Command::new("npm");
    tests.args(["test", "--silent"]).current_dir(&project);
    tests.env("RELAY_BINARY", env!("CARGO_BIN_EXE_relay"));
    tests.env("TARGET_TMPDIR", env!("CARGO_TARGET_TMPDIR"));
    tests.envs(emulator.variable());
    if has("python3") {
        let requirements = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/requirements.txt");
        tests.env("PUBLISHER_PYTHON", install_python("publisher", &requirements));
    } else {
        skip("the examples: Python is missing: install Python 3.11 or later");
    }
    assert!(tests.status().unwrap().success(), "a client was not served as it expects: see above");
}

#[test]
fn javascript_package_resumes_on_any_pod() {
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/js");
    if !has("npm") {
        return skip("npm is missing: install Node 20.10 or later");
    }
    install(&project);
    let emulator = Started::new();
    for script in ["build", "test"] {
        let mut npm = Command::new("npm");
        npm.args(["run", "--silent", script]).current_dir(&project).envs(emulator.variable());
        npm.env("RELAY_BINARY", env!("CARGO_BIN_EXE_relay"));
        assert!(npm.status().unwrap().success(), "`npm run {script}` failed: see above");
    }
}

#[test]
fn python_package_resumes_on_any_pod() {
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/python");
    if !has("python3") {
        return skip("Python is missing: install Python 3.11 or later");
    }
    let python = install_python("package", &project.join("tests/requirements.txt"));
    let emulator = Started::new();
    let mut tests = Command::new(python);
    tests.arg(project.join("tests/test_package.py")).envs(emulator.variable());
    tests.env("RELAY_BINARY", env!("CARGO_BIN_EXE_relay"));
    let tests = tests.output().unwrap();
    assert!(tests.status.success(), "{}", String::from_utf8_lossy(&tests.stderr));
}

/// Emulator that was started for a test; none if the environment names one, or there is none to
/// start.
struct Started {
    emulator: Option<Emulator>,
    // The emulator's tasks run on it.
    _runtime: Runtime,
}

impl Started {
    fn new() -> Self {
        let runtime = Runtime::new().unwrap();
        if environment("PUBSUB_EMULATOR_HOST").is_some() {
            return Self { emulator: None, _runtime: runtime };
        }
        let search = Search {
            cloudsdk_root: environment("CLOUDSDK_ROOT_DIR").map(Into::into),
            path: environment("PATH").map(Into::into),
        };
        let started = runtime.block_on(Emulator::start(&search));
        let started = started.inspect_err(|error| skip(&format!("tests on the emulator: {error}")));
        Self { emulator: started.ok(), _runtime: runtime }
    }

    /// Returns the variable that leads pods to the emulator.
    fn variable(&self) -> Option<(&str, &str)> {
        self.emulator.as_ref().map(|emulator| ("PUBSUB_EMULATOR_HOST", emulator.host()))
    }
}

#[test]
fn relay_serves_gql_for_python() {
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/gql");
    if !has("python3") {
        return skip("Python is missing: install Python 3.11 or later");
    }
    let python = install_python("gql", &project.join("requirements.txt"));
    let story = Command::new(python)
        .arg(project.join("story.py"))
        .env("RELAY_BINARY", env!("CARGO_BIN_EXE_relay"))
        .output()
        .unwrap();
    assert!(story.status.success(), "gql: {}", String::from_utf8_lossy(&story.stderr));
}
