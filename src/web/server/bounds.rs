//! [`Bounds`]: what the pending sockets of a listener may hold, and where it is charged.

use super::proxies::TrustedProxies;
use crate::{budget::Pool, telemetry::Refusals};

/// Bounds of what the pending sockets of a listener hold.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// Pool that heads are charged to, in accounts of the peers' addresses.
    pub requests: Pool,
    /// Counter of heads that found no room.
    pub refusals: Refusals,
    /// Load balancers that may name the address of a client.
    pub trusted: TrustedProxies,
}
