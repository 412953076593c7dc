//! [`End`]: why a connection ended, and how metrics and logs call the reason.
//!
//! The first reason counts. It must never name a client: reasons become labels of metrics.

use crate::hub::Overflow;

/// Reason for the end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The client closed the connection in good order.
    Left,
    /// The transport broke.
    Lost,
    /// The client did not answer pings, or took nothing of what was written.
    Dead,
    /// The client broke the protocol, or the protocol refused it. Holds the reason's label.
    Refused(&'static str),
    /// A message was over the limit.
    TooBig,
    /// Text was not UTF-8, or a frame was malformed. Holds the close code.
    Malformed(u16),
    /// The token expired. The client may reconnect with a fresh one.
    Expired,
    /// The token was revoked. A fresh one may be refused as well.
    Revoked,
    /// The client did not read its deliveries in time. It may reconnect.
    Slow,
    /// The results of the user's many subscriptions took too long. The client may reconnect.
    Behind,
    /// The pod had no room for the connection. The client may reconnect.
    Full,
    /// The pod had no room for another distinct subscription. The client may reconnect.
    TooManyOperations,
    /// The pod had no room for more results of this user, or of all. The client may reconnect.
    NoRoom,
    /// The pod had no room for another connection from this address. The client may reconnect.
    Crowded,
    /// The pod had no room for what the client sends. The client may reconnect.
    Overloaded,
    /// A message came too slowly. The client may reconnect.
    Late,
    /// The pod has more connections than others. The client may reconnect, to any pod.
    Moved,
    /// The pod drains. The client may reconnect, to another pod.
    Drained,
}

impl End {
    /// Returns the reason's name in metrics and logs.
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
            Self::Revoked => "revoked",
            Self::Slow => "slow",
            Self::Behind => "behind",
            Self::Full => "full",
            Self::TooManyOperations => "operations",
            Self::NoRoom => "no_room",
            Self::Crowded => "crowded",
            Self::Overloaded => "overloaded",
            Self::Late => "late",
            Self::Moved => "moved",
            Self::Drained => "drained",
        }
    }

    /// Returns the limit that was reached, if the reason is one.
    pub(super) const fn limit(&self) -> Option<&'static str> {
        Some(match self {
            Self::Full => "connections",
            Self::Crowded => "connections_per_address",
            Self::TooBig => "message",
            Self::Slow => "queue",
            Self::Behind => "turns",
            Self::Overloaded => "requests",
            Self::Late => "message_time",
            Self::NoRoom => "queues",
            _ => return None,
        })
    }
}

impl From<Overflow> for End {
    fn from(overflow: Overflow) -> Self {
        match overflow {
            Overflow::Slow => Self::Slow,
            Overflow::Behind => Self::Behind,
            Overflow::NoRoom => Self::NoRoom,
            Overflow::Revoked => Self::Revoked,
            Overflow::Outdated => Self::Expired,
            Overflow::Moved => Self::Moved,
        }
    }
}
