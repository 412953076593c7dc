//! Domains that the program `relay` can serve.

pub mod tutorial;
