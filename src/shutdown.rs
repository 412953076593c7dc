//! Signals that ask the process to stop: SIGTERM from Kubernetes, SIGQUIT from images, SIGHUP from
//! terminals, Ctrl-C from a person.
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
    hangup: Signal,
    quit: Signal,
}

impl Signals {
    /// Listens from now on, so that no such signal ends the process at once any more. Must be
    /// called inside a runtime.
    ///
    /// # Errors
    /// The system's error, if a signal cannot be listened for.
    pub fn listen() -> io::Result<Self> {
        let kinds =
            [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup(), SignalKind::quit()];
        let [terminate, interrupt, hangup, quit] = kinds.map(signal);
        Ok(Self { terminate: terminate?, interrupt: interrupt?, hangup: hangup?, quit: quit? })
    }

    /// Waits for the next signal and returns its name. Cancel-safe.
    pub async fn next(&mut self) -> &'static str {
        select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.hangup.recv() => "SIGHUP",
            _ = self.quit.recv() => "SIGQUIT",
        }
    }
}
