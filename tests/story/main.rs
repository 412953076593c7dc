//! The relay from outside: real processes, Google's emulator, real sockets. Each module tells one part of the story.
//!
//! To prove that somebody was *not* told, no test sleeps. It publishes a last template for everybody once the pods are
//! known to have passed the one in question (some watcher on each of them was told of it): a pod dispatches one event
//! after the other and a connection delivers in that order, so whoever hears of the last has heard all before it.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "some of it is for the tests of chaos only")]
mod support;

mod closes;
mod cluster;
mod crowd;
mod doctor;
mod drain;
mod explain;
mod faults;
mod flood;
mod foreign;
mod frames;
mod http;
mod limits;
mod logs;
mod machines;
mod membership;
mod multipart;
mod sse;
mod start;
mod tokens;
mod traces;
mod truth;
mod tutorial;
