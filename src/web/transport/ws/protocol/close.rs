//! [`Close`]: how the server ends a WebSocket, with every code that it sends except those for
//! malformed frames.
//!
//! Stock clients reconnect after 1012, 1013, 4403 and 4408. So no other code may stand for a
//! condition that passes by itself.

use std::borrow::Cow;

use crate::web::connection::End;

/// Close of a WebSocket by the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Close {
    /// The close code.
    pub code: u16,
    /// Text for people, at most [`Close::MAX_REASON`] bytes.
    pub reason: Cow<'static, str>,
}

impl Close {
    /// The longest reason, in bytes. A control frame holds 125; the code takes two of them (RFC
    /// 6455, 5.5).
    pub const MAX_REASON: usize = 123;

    /// Stands for a close without a code. It is never sent (RFC 6455, 7.4.1).
    pub const NO_CODE: u16 = 1005;

    /// The client wishes to end.
    pub(in crate::web) const NORMAL: Self = Self::new(1000, "");
    /// A message was over the limit.
    pub(in crate::web) const TOO_BIG: Self = Self::new(1009, "message too big");
    /// The pod drains.
    pub(in crate::web) const DRAINED: Self = Self::new(1012, "service restart");
    /// The pod has more connections than others.
    pub(in crate::web) const MOVED: Self = Self::new(1012, "moved to another pod");
    /// The client did not read its deliveries in time.
    pub(in crate::web) const SLOW: Self = Self::new(1013, "too slow");
    /// The results of the user's many subscriptions took too long.
    pub(in crate::web) const BEHIND: Self =
        Self::new(1013, "too many distinct subscriptions to keep up with");
    /// The pod has no room for the connection.
    pub(in crate::web) const FULL: Self = Self::new(1013, "too many connections");
    /// The pod has no room for another distinct subscription.
    pub(in crate::web) const TOO_MANY_OPERATIONS: Self =
        Self::new(1013, "too many distinct subscriptions on this pod");
    /// The pod has no room for more results.
    pub(in crate::web) const NO_ROOM: Self = Self::new(1013, "too many unread results");
    /// The pod has no room for another connection from this address.
    pub(in crate::web) const CROWDED: Self = Self::new(1013, "too many connections from this address");
    /// The pod has no room for what the client sends.
    pub(in crate::web) const OVERLOADED: Self = Self::new(1013, "overloaded");
    /// A message of the client came too slowly.
    pub(in crate::web) const LATE: Self = Self::new(1013, "message too slow");
    /// The token has expired.
    pub(in crate::web) const EXPIRED: Self = Self::new(4403, "token expired");
    /// The token was revoked.
    pub(in crate::web) const REVOKED: Self = Self::new(4403, "TOKEN_REVOKED");
    /// The client offers no subprotocol that the server speaks.
    pub(in crate::web) const BAD_SUBPROTOCOL: Self = Self::new(4406, "Subprotocol not acceptable");
    /// An operation came before the acknowledgement.
    pub(super) const UNAUTHORIZED: Self = Self::new(4401, "Unauthorized");
    /// `connection_init` did not come in time.
    pub(super) const INIT_TIMEOUT: Self = Self::new(4408, "Connection initialisation timeout");
    /// `connection_init` came a second time.
    pub(super) const SECOND_INIT: Self = Self::new(4429, "Too many initialisation requests");

    /// Returns the close of a connection that ended for this reason. `None` if nothing can be sent
    /// any more, or if the protocol has chosen a close of its own.
    #[must_use]
    pub fn of(end: &End) -> Option<Self> {
        Some(match end {
            End::Left | End::Lost | End::Dead | End::Refused(_) => return None,
            End::TooBig => Self::TOO_BIG,
            End::Malformed(code) => Self::new(*code, "malformed frame"),
            End::Expired => Self::EXPIRED,
            End::Revoked => Self::REVOKED,
            End::Slow => Self::SLOW,
            End::Behind => Self::BEHIND,
            End::Full => Self::FULL,
            End::TooManyOperations => Self::TOO_MANY_OPERATIONS,
            End::NoRoom => Self::NO_ROOM,
            End::Crowded => Self::CROWDED,
            End::Overloaded => Self::OVERLOADED,
            End::Late => Self::LATE,
            End::Moved => Self::MOVED,
            End::Drained => Self::DRAINED,
        })
    }

    /// Creates a close with a fixed reason.
    #[must_use]
    pub const fn new(code: u16, reason: &'static str) -> Self {
        Self { code, reason: Cow::Borrowed(reason) }
    }

    /// Creates the close for a frame that the dialect does not know.
    pub(super) fn bad_message(reason: &str) -> Self {
        Self::cut(4400, format!("Invalid message: {reason}"))
    }

    /// Creates the close for a viewer that is not acknowledged.
    pub(super) fn forbidden(reason: &str) -> Self {
        Self::cut(4403, format!("Forbidden: {reason}"))
    }

    /// Creates the close for an operation with the id of another one.
    pub(super) fn id_in_use(id: &str) -> Self {
        // Only the id is cut, so that the text around it stays whole.
        let room = Self::MAX_REASON - "Subscriber for  already exists".len();
        let id = &id[..id.floor_char_boundary(room)];
        Self::cut(4409, format!("Subscriber for {id} already exists"))
    }

    fn cut(code: u16, mut reason: String) -> Self {
        reason.truncate(reason.floor_char_boundary(Self::MAX_REASON));
        Self { code, reason: Cow::Owned(reason) }
    }

    /// Returns the name of the code in metrics and logs.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self.code {
            4400 => "bad_message",
            4401 => "unauthorized",
            4403 => "forbidden",
            4406 => "bad_subprotocol",
            4408 => "init_timeout",
            4409 => "id_in_use",
            4429 => "second_init",
            _ => "refused",
        }
    }
}
