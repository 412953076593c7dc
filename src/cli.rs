//! The parts that only the program `relay` needs: settings, checks of a deployment, several pods on a laptop.
//!
//! Behind the feature `cli`, so that a program that embeds a pod does not depend on them. Nothing else of the library imports
//! this module.

pub mod cluster;
pub mod config;
pub mod cure;
pub mod doctor;
pub mod emulator;
