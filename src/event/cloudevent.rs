//! Events as CloudEvents 1.0 in Pub/Sub's binary mode: attributes beside the data, both ways.
//!
//! Other programs publish to the topic too, so reading must never panic and never trusts a length.

use thiserror::Error;

/// Why a message holds no event. It is acknowledged, counted with [`Undecodable::reason`] and logged with its message id.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{reason}")]
pub struct Undecodable {
    /// placeholder
    pub reason: &'static str,
}
