//! To come.
pub mod admin;
pub mod connection;
pub mod http;
pub mod ws;
