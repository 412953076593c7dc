//! The wish to stop, from outside: SIGTERM from Kubernetes, Ctrl-C from a person.

use std::io;

use tokio::{
    select,
    signal::{
        ctrl_c,
        unix::{SignalKind, signal},
    },
};

/// Waits for the first signal that asks the process to stop, and names it.
///
/// # Errors
/// If the process cannot listen to signals.
pub async fn requested() -> io::Result<&'static str> {
    let mut terminate = signal(SignalKind::terminate())?;
    select! {
        _ = terminate.recv() => Ok("SIGTERM"),
        pressed = ctrl_c() => pressed.map(|()| "SIGINT"),
    }
}
