//! [`End`]: why a connection ended, and what that means to metrics and to its client.

/// Why a connection ended. The first reason counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The client left in good order.
    Left,
    /// The transport broke.
    Lost,
    /// The client did not answer our pings.
    Dead,
    /// The client broke the protocol, or was refused by it.
    Refused(&'static str),
    /// A message over the limit.
    TooBig,
    /// Text that is not UTF-8, or a frame that is not one.
    Malformed(u16),
    /// Its token expired; it may come back with a fresh one.
    Expired,
    /// It did not read what was meant for it in time; it may come back.
    Slow,
    /// There was no room for it; it may come back.
    Full,
    /// There was no room for another from its address; it may come back.
    Crowded,
    /// The pod drains; it may come back, to another pod.
    Drained,
}

impl End {
    /// The reason as metrics and logs name it.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Left => "left",
            Self::Lost => "lost",
            Self::Dead => "dead",
            Self::Refused(label) => label,
            Self::TooBig => "too_big",
            Self::Malformed(_) => "malformed",
            Self::Expired => "expired",
            Self::Slow => "slow",
            Self::Full => "full",
            Self::Crowded => "crowded",
            Self::Drained => "drained",
        }
    }

    /// The limit that was hit, if it was one.
    pub(super) const fn limit(&self) -> Option<&'static str> {
        Some(match self {
            Self::Full => "connections",
            Self::Crowded => "connections_per_address",
            Self::TooBig => "message",
            Self::Slow => "queue",
            _ => return None,
        })
    }
}
