//! Signals that ask the process to stop: SIGTERM from Kubernetes, Ctrl-C from a person.
//!
//! A listener receives every signal from its creation on, and keeps one that arrives while no task
//! waits. It must be created before anything is started that a sudden end would leave behind.

use std::io;

use tokio::{
    select,
    signal::unix::{Signal, SignalKind, signal},
};

/// Signals that ask the process to stop.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Listens from now on, so that neither signal ends the process at once any more. Must be
    /// called inside a runtime.
    ///
    /// # Errors
    /// The system's error, if a signal cannot be listened for.
    pub fn listen() -> io::Result<Self> {
        let [terminate, interrupt] = [SignalKind::terminate(), SignalKind::interrupt()].map(signal);
        Ok(Self { terminate: terminate?, interrupt: interrupt? })
    }

    /// Waits for the next signal and returns its name. Cancel-safe.
    pub async fn next(&mut self) -> &'static str {
        select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
