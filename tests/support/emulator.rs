//! Google's emulator for the tests of one binary.

use std::io::{self, Write as _};

use pubsub_relay::cli::emulator::{Emulator, EmulatorError, Search};
use tokio::sync::OnceCell;

/// The emulator of the environment, else one for all tests of this binary; `None`, and a word about it, if there is none.
/// One of ours ends with the process, however it ends, as [`Emulator`] promises: nothing here has to.
pub(crate) async fn host(test: &str) -> Option<String> {
    static OURS: OnceCell<Result<Emulator, String>> = OnceCell::const_new();
    if let Some(host) = environment("PUBSUB_EMULATOR_HOST") {
        return Some(host);
    }
    match OURS.get_or_init(start).await {
        Ok(emulator) => Some(emulator.host().to_owned()),
        Err(missing) => {
            skip(test, missing);
            None
        }
    }
}

/// An emulator, or what is missing for one. In CI nothing may be missing.
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

/// Past the test harness, which keeps to itself what a passing test prints.
pub(crate) fn skip(test: &str, missing: &str) {
    io::stderr().write_all(format!("skipped: {test}: {missing}\n").as_bytes()).unwrap();
}

#[expect(
    clippy::disallowed_methods,
    reason = "where the emulator is, is the tests' own matter and no setting"
)]
pub(crate) fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
