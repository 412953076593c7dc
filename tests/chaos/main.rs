//! Chaos tests: pods restart, die and multiply, the broker fails in every way, and clients are
//! slow, absent or many. No client may miss an event without a gap notice, receive an event twice
//! on a connection, or receive one that does not match it.
//!
//! They use real processes, a real broker behind a proxy that breaks connections, and clients that
//! reconnect to any pod. The broker is Google's emulator, or what `RELAY_TEST_BROKER` names. An
//! oracle on the publishers' side computes what each client must receive. Each scenario has a short
//! form that always runs, and a long form at the promised size:
//! `cargo test --release --test chaos -- --ignored --test-threads 1 --nocapture`. No scenario may
//! share a topic with another.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]
#![expect(clippy::print_stdout, reason = "the measured figures are printed for readers")]

#[path = "../support/mod.rs"]
#[expect(dead_code, unused_imports, reason = "only the story binary uses some of it")]
mod support;

#[path = "../support/own_postgres.rs"]
#[expect(dead_code, reason = "only the tests of PostgreSQL use some of it")]
mod own;
#[path = "../support/proxy.rs"]
mod proxy;
#[path = "../support/resuming.rs"]
mod resuming;

mod broker;
mod counts;
mod crowds;
mod deployment;
mod hops;
mod oracle;
mod pods;
mod postgres;
mod rebalance;
mod repeats;
mod service;

use support::postgres as postgres_server;
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Lock that keeps measuring scenarios apart from all others.
static TURN: RwLock<()> = RwLock::const_new(());

/// Waits until no measuring scenario runs. The guard allows other scenarios in parallel.
async fn shared_turn() -> RwLockReadGuard<'static, ()> {
    TURN.read().await
}

/// Waits until no other scenario runs. A scenario that measures holds this guard.
async fn exclusive_turn() -> RwLockWriteGuard<'static, ()> {
    TURN.write().await
}
