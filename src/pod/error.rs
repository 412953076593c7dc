//! [`StartError`]: why a pod did not start.

use std::{io, net::SocketAddr};

use thiserror::Error;

use crate::{auth::SetupError, broker::ConnectError, telemetry::TelemetryError};

/// Why a pod did not start.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StartError {
    /// The address for clients cannot be listened on. Choose one that is free.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system reports.
        source: io::Error,
    },
    /// The address for probes and operators cannot be listened on. Choose one that is free.
    #[error("cannot listen on {address} for probes")]
    AdminListen {
        /// The address.
        address: SocketAddr,
        /// What the system reports.
        source: io::Error,
    },
    /// The metrics cannot be set up.
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    /// Tokens cannot be checked with these settings.
    #[error(transparent)]
    Auth(#[from] SetupError),
    /// The broker cannot be connected with these settings.
    #[error(transparent)]
    Broker(#[from] ConnectError),
}
