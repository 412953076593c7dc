//! [`Peer`]: what a handler can learn about the socket of its request.
//!
//! A handler needs the address, and keeps the socket's place taken. It must never reach the socket
//! itself.

use std::{net::IpAddr, sync::Arc};

use axum::http::Extensions;

use super::pending::Place;
use crate::budget::account_of;

/// The other end of a socket, with the socket's place among the pending ones.
#[derive(Clone, Debug)]
pub struct Peer {
    address: IpAddr,
    /// Taken for as long as this value exists, so that a request under way keeps its place.
    place: Arc<Place>,
}

impl Peer {
    pub(super) fn new(address: IpAddr, place: Place) -> Self {
        Self { address, place: Arc::new(place) }
    }

    /// Returns the peer of a request, which the server puts into its extensions.
    #[must_use]
    pub fn of(extensions: &Extensions) -> Option<&Self> {
        extensions.get()
    }

    /// Returns the address of the peer, or that of the load balancer in front of it.
    #[must_use]
    pub const fn address(&self) -> IpAddr {
        self.address
    }

    /// Returns the account of what the peer holds before a user is known.
    #[must_use]
    pub fn account(&self) -> Arc<str> {
        account_of(self.address)
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }
}
