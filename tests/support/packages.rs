//! Packages of other languages for the tests: npm's and Python's.
//!
//! With `CI=true` a missing program must never be skipped.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Installs the packages of the lock file, unless they are installed already.
pub(crate) fn install(project: &Path) {
    let (lock, installed) = (project.join("package-lock.json"), project.join("node_modules/.installed"));
    let wanted = fs::read(&lock).unwrap();
    if fs::read(&installed).is_ok_and(|installed| installed == wanted) {
        return;
    }
    let install = Command::new("npm").args(["ci", "--no-audit", "--no-fund"]).current_dir(project).status();
    assert!(install.unwrap().success(), "npm ci failed");
    fs::write(&installed, wanted).unwrap();
}

/// Installs the packages of the file in a virtual environment of this name, unless they are
/// installed already. Returns its Python.
pub(crate) fn install_python(name: &str, requirements: &Path) -> PathBuf {
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

pub(crate) fn has(program: &str) -> bool {
    let version = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    version.is_ok_and(|status| status.success())
}

/// Prints what is skipped. In CI nothing may be.
pub(crate) fn skip(what: &str) {
    assert!(environment("CI").as_deref() != Some("true"), "{what}");
    #[expect(clippy::print_stderr, reason = "a test has no log")]
    {
        eprintln!("skipped: {what}");
    }
}

#[expect(clippy::disallowed_methods, reason = "variables of the machine, not settings of the relay")]
pub(crate) fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
