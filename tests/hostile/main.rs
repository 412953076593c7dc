//! Attacks of one user, or of a peer without a token: they must cost the others nothing.
//!
//! Each module attacks one budget of a pod while other users work. The tests assert what those
//! users notice, and the memory that the process takes. They run against the real binary over real
//! sockets, and must never use the relay's internals.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

#[path = "../support/mod.rs"]
#[expect(dead_code, unused_imports, reason = "only the story binary uses some of it")]
mod support;

mod addresses;
mod answers;
mod attacks;
mod liveness;
mod long;
mod operations;
mod places;
mod queues;
mod rates;
mod raw;
mod requests;
mod window;
