//! Chaos: pods restart, die and multiply, the broker fails in every way, clients are slow, asleep or many; and nobody
//! misses an event, hears one twice on a connection, or hears one that is not for them, or else is told of a gap.
//!
//! Real processes, Google's emulator behind a proxy that breaks the line, clients that come back wherever they can. An
//! oracle on the publishers' side knows what each client should have. Each scenario has a short form that runs always, and
//! a long one, at the size of the promise: `cargo test --release --test chaos -- --ignored --test-threads 1 --nocapture`.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]
#![expect(clippy::print_stdout, reason = "what was measured is for people to read")]

#[path = "../support/mod.rs"]
#[expect(dead_code, unused_imports, reason = "some of it is for the story only")]
mod support;

#[path = "../support/proxy.rs"]
mod proxy;
#[path = "../support/resuming.rs"]
mod resuming;

mod broker;
mod crowds;
mod deployment;
mod hops;
mod oracle;
mod pods;
mod repeats;

use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

static TURN: RwLock<()> = RwLock::const_new(());

/// For a scenario that may run beside others.
async fn at_a_time() -> RwLockReadGuard<'static, ()> {
    TURN.read().await
}

/// For a scenario that measures.
async fn alone() -> RwLockWriteGuard<'static, ()> {
    TURN.write().await
}
