//! Domains that the program `relay` can serve.

pub mod declared;
pub mod tutorial;
