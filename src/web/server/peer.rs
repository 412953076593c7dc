//! [`Peer`]: what a handler can learn about the socket of its request.
//!
//! A handler needs the address, and keeps the socket's place taken. It must never reach the socket
//! itself.

use std::{net::IpAddr, sync::Arc};

use axum::http::{Extensions, HeaderMap};

use super::{pending::Place, proxies::client_block};
use crate::budget::account_of;

/// The other end of a socket, with the socket's place among the pending ones.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The address of the socket's other end; of IPv6 its /64.
    address: IpAddr,
    /// Taken for as long as this value exists, so that a request under way keeps its place.
    place: Arc<Place>,
}

impl Peer {
    pub(super) fn new(address: IpAddr, place: Place) -> Self {
        Self { address: client_block(address), place: Arc::new(place) }
    }

    /// Returns the client of a request with these headers. It is the peer itself, or what a trusted
    /// proxy says.
    pub(super) fn of_request(&self, headers: &HeaderMap) -> Self {
        Self { address: self.place.activity.client(headers), place: self.place.clone() }
    }

    /// Returns the peer of a request, which the server puts into its extensions.
    #[must_use]
    pub fn of(extensions: &Extensions) -> Option<&Self> {
        extensions.get()
    }

    /// Returns the address of the client; of IPv6 its /64. Behind a load balancer that is not
    /// trusted it is the address of the balancer.
    #[must_use]
    pub const fn address(&self) -> IpAddr {
        self.address
    }

    /// Records that the request is of this user. Its socket no longer counts for its address alone.
    pub fn is_of(&self, user: &Arc<str>) {
        self.place.activity.on_user(user);
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
