//! To come.
pub mod protocol;
