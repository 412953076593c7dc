//! Stock clients against real pods: starts the Node project and the Python program beside this
//! file, which start the pods.
//!
//! Only the real libraries show that they are served as they expect. Without npm, Python or the
//! emulator a test prints what it skips; with `CI=true` it must never skip.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use pubsub_relay::cli::emulator::{Emulator, Search};
use tokio::runtime::Runtime;

#[test]
fn relay_serves_stock_clients_as_they_expect() {
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
    if !has("npm") {
        return skip("npm is missing: install Node 20 or later");
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
        return skip("npm is missing: install Node 20 or later");
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

/// Installs the packages of the file in a virtual environment of this name, unless they are
/// installed already. Returns its Python.
fn install_python(name: &str, requirements: &Path) -> PathBuf {
    let environment = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
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

/// Prints what is skipped. In CI nothing may be.
fn skip(what: &str) {
    assert!(environment("CI").as_deref() != Some("true"), "{what}");
    #[expect(clippy::print_stderr, reason = "a test has no log")]
    {
        eprintln!("skipped: {what}");
    }
}

#[expect(clippy::disallowed_methods, reason = "variables of the machine, not settings of the relay")]
fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
