//! To come.
pub mod demo;
pub mod jwt;
