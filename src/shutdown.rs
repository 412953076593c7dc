//! The wish to stop, from outside: SIGTERM from Kubernetes, Ctrl-C from a person.
//!
//! Whoever listens has every signal from then on; one that comes while nobody waits is kept. It must be listened to before
//! anything is begun that a sudden end would leave behind.

use std::io;

use tokio::{
    select,
    signal::unix::{Signal, SignalKind, signal},
};

/// The signals that ask the process to stop.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Listens from now on, inside a runtime; nothing ends the process at once any more.
    ///
    /// # Errors
    /// If the process cannot listen to signals.
    pub fn listen() -> io::Result<Self> {
        let [terminate, interrupt] = [SignalKind::terminate(), SignalKind::interrupt()].map(signal);
        Ok(Self { terminate: terminate?, interrupt: interrupt? })
    }

    /// Waits for the next one and names it. Cancel-safe.
    pub async fn next(&mut self) -> &'static str {
        select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
