//! [`Close`]: how the server ends a WebSocket, and every code that it sends, those of broken frames aside.
//!
//! Stock clients come back after 1012, 1013, 4403 and 4408, so no other code may stand for what passes by itself.

use std::borrow::Cow;

use crate::web::connection::End;

/// How the server ends a WebSocket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Close {
    /// The close code.
    pub code: u16,
    /// For people to read; at most [`Close::MAX_REASON`] bytes.
    pub reason: Cow<'static, str>,
}

impl Close {
    /// The longest reason in bytes: a control frame holds 125, of which the code takes two (RFC 6455, 5.5).
    pub const MAX_REASON: usize = 123;

    /// Stands for a close without a code, and is never sent (RFC 6455, 7.4.1).
    pub const NO_CODE: u16 = 1005;

    /// As the client wishes.
    pub(in crate::web) const NORMAL: Self = Self::new(1000, "");
    /// A message over the limit.
    pub(in crate::web) const TOO_BIG: Self = Self::new(1009, "message too big");
    /// The pod drains.
    pub(in crate::web) const DRAINED: Self = Self::new(1012, "service restart");
    /// The client did not read what was meant for it.
    pub(in crate::web) const SLOW: Self = Self::new(1013, "too slow");
    /// There is no room.
    pub(in crate::web) const FULL: Self = Self::new(1013, "too many connections");
    /// There is no room for another from this address.
    pub(in crate::web) const CROWDED: Self = Self::new(1013, "too many connections from this address");
    /// The token is not good any more.
    pub(in crate::web) const EXPIRED: Self = Self::new(4403, "token expired");
    /// No subprotocol that we speak.
    pub(in crate::web) const BAD_SUBPROTOCOL: Self = Self::new(4406, "Subprotocol not acceptable");
    /// An operation before the acknowledgement.
    pub(super) const UNAUTHORIZED: Self = Self::new(4401, "Unauthorized");
    /// No `connection_init` in time.
    pub(super) const INIT_TIMEOUT: Self = Self::new(4408, "Connection initialisation timeout");
    /// A second `connection_init`.
    pub(super) const SECOND_INIT: Self = Self::new(4429, "Too many initialisation requests");

    /// Returns the close of a connection that ended for this reason; `None` if nothing can be sent any more, or if the
    /// protocol has chosen a close of its own.
    #[must_use]
    pub fn of(end: &End) -> Option<Self> {
        Some(match end {
            End::Left | End::Lost | End::Dead | End::Refused(_) => return None,
            End::TooBig => Self::TOO_BIG,
            End::Malformed(code) => Self::new(*code, "malformed frame"),
            End::Expired => Self::EXPIRED,
            End::Slow => Self::SLOW,
            End::Full => Self::FULL,
            End::Crowded => Self::CROWDED,
            End::Drained => Self::DRAINED,
        })
    }

    /// A close with a fixed reason.
    #[must_use]
    pub const fn new(code: u16, reason: &'static str) -> Self {
        Self { code, reason: Cow::Borrowed(reason) }
    }

    /// A frame that the dialect does not know.
    pub(super) fn bad_message(reason: &str) -> Self {
        Self::cut(4400, format!("Invalid message: {reason}"))
    }

    /// A viewer who is not let in.
    pub(super) fn forbidden(reason: &str) -> Self {
        Self::cut(4403, format!("Forbidden: {reason}"))
    }

    /// An operation under the id of another.
    pub(super) fn id_in_use(id: &str) -> Self {
        // The id is cut, not the words around it.
        let room = Self::MAX_REASON - "Subscriber for  already exists".len();
        let id = &id[..id.floor_char_boundary(room)];
        Self::cut(4409, format!("Subscriber for {id} already exists"))
    }

    fn cut(code: u16, mut reason: String) -> Self {
        reason.truncate(reason.floor_char_boundary(Self::MAX_REASON));
        Self { code, reason: Cow::Owned(reason) }
    }

    /// The code as metrics and logs name it.
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
