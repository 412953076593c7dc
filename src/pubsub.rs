//! To come.
pub mod admin;
pub mod feed;
pub mod publisher;
