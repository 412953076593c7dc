//! To come.
pub mod index;
pub mod outbox;
pub mod watcher;
