//! To come.
pub mod error;
pub mod mutation;
pub mod operation;
pub mod subscription;
