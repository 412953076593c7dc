//! The relay from outside: real processes, a real broker, real sockets. Each module tests one part
//! of the story. The broker is Google's emulator, or what `RELAY_TEST_BROKER` names.
//!
//! To prove that a client does *not* receive an event, no test may ever sleep. Instead it waits
//! until some watcher on each pod has received the event in question. Then it publishes a last
//! template that matches every viewer. A pod dispatches events one after the other and a connection
//! delivers in that order: a client that receives the last template has received all before it.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "only the chaos binary uses some of it")]
mod support;

#[path = "../support/own_postgres.rs"]
#[expect(dead_code, reason = "each binary uses only some of it")]
mod own;

mod admin;
mod closes;
mod cluster;
mod cookies;
mod counts;
mod crowd;
mod declared;
mod doctor;
mod doctor_postgres;
mod doctor_rabbitmq;
mod drain;
mod envelope;
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
mod nulls;
mod presence;
mod questions;
mod quickstart;
mod refusals;
mod replayed;
mod revoke;
mod revoke_load;
mod rooms;
mod service;
mod sse;
mod start;
mod surroundings;
mod terminal;
mod tokens;
mod traces;
mod truth;
mod tutorial;
mod written;

use support::postgres as postgres_server;
