//! The transports: how the results of subscriptions reach a client.
//!
//! [`ws`] holds a WebSocket. [`sse`] and [`multipart`] are formats of one long response, which
//! [`stream`] writes. [`ws`] and [`stream`] must never depend on each other.

pub mod multipart;
pub mod sse;
pub mod stream;
pub mod ws;
