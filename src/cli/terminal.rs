//! Commands that are clients of a pod: `relay watch`, `relay publish` and `relay revoke`.
//!
//! Results go to standard output, one line each, and all other words to standard error. So a script
//! reads only results. They must never print a token, nor colour what a terminal does not show.

mod failure;
mod paint;
mod publish;
mod revoke;
mod target;
mod watch;

pub use self::{
    failure::Failure,
    paint::Paint,
    publish::{Publish, publish},
    revoke::{Revoke, revoke},
    target::{Identity, Target},
    watch::{Watch, watch},
};
