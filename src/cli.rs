//! Parts that only the program `relay` needs: settings, checks of a deployment, several pods on a
//! laptop, clients of a terminal.
//!
//! They are behind the feature `cli`, so that a program that embeds a pod does not depend on them.
//! Nothing else in the library may import this module.

pub mod cluster;
pub mod config;
pub mod cure;
pub mod doctor;
pub mod emulator;
pub mod postgres;
pub mod surroundings;
pub mod terminal;
mod websocket;
