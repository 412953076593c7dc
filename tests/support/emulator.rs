//! Google's Pub/Sub emulator for the tests of one binary.
//!
//! All tests of a binary share one, since its start takes seconds. With `CI=true` it must never be
//! skipped.

use std::io::{self, Write as _};

use pubsub_relay::cli::emulator::{Emulator, EmulatorError, Search};
use tokio::sync::OnceCell;

/// Returns the host of the emulator of the environment, or of one that all tests of this binary
/// share. Without an emulator it prints what is missing and returns `None`. An emulator started
/// here ends with the process, as [`Emulator`] guarantees.
pub(crate) async fn host(test: &str) -> Option<String> {
    static SHARED: OnceCell<Result<Emulator, String>> = OnceCell::const_new();
    if let Some(host) = environment("PUBSUB_EMULATOR_HOST") {
        return Some(host);
    }
    match SHARED.get_or_init(start).await {
        Ok(emulator) => Some(emulator.host().to_owned()),
        Err(missing) => {
            skip(test, missing);
            None
        }
    }
}

/// Starts an emulator, or returns what is missing for one. In CI nothing may be missing.
pub(crate) async fn start() -> Result<Emulator, String> {
    let search = Search {
        cloudsdk_root: environment("CLOUDSDK_ROOT_DIR").map(Into::into),
        path: environment("PATH").map(Into::into),
    };
    let in_ci = environment("CI").as_deref() == Some("true");
    match Emulator::start(&search).await {
        Err(missing @ (EmulatorError::NotFound | EmulatorError::NoJava)) if !in_ci => {
            Err(missing.to_string())
        }
        started => Ok(started.unwrap_or_else(|error| panic!("{error}"))),
    }
}

/// Prints what a test skips, to stderr directly: the test harness hides what a passing test prints.
pub(crate) fn skip(test: &str, missing: &str) {
    io::stderr().write_all(format!("skipped: {test}: {missing}\n").as_bytes()).unwrap();
}

#[expect(
    clippy::disallowed_methods,
    reason = "the place of the emulator is a matter of the tests, not a setting"
)]
pub(crate) fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
