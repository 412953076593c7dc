//! Commands that ask a pod: `relay watch`, `publish`, `revoke` and `explain`.
//!
//! Results go to standard output, one line each, and all other words to standard error. So a script
//! reads only results. They must never print a token, nor colour what a terminal does not show.

mod explain;
mod failure;
mod paint;
mod publish;
mod revoke;
mod target;
mod watch;

pub use self::{
    explain::{DebugToken, Explain, explain},
    failure::Failure,
    paint::Paint,
    publish::{Publish, publish},
    revoke::{Revoke, revoke},
    target::{Identity, Target},
    watch::{Watch, watch},
};
