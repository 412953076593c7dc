//! [`Close`]: how the server ends a WebSocket, and the close codes of graphql-transport-ws in one place.
//!
//! Stock clients come back after 4403 and 4408 only, so no other of these codes may stand for what passes by itself.

use std::borrow::Cow;

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

    /// An operation before the acknowledgement.
    pub(super) const UNAUTHORIZED: Self = Self::new(4401, "Unauthorized");
    /// No `connection_init` in time.
    pub(super) const INIT_TIMEOUT: Self = Self::new(4408, "Connection initialisation timeout");
    /// A second `connection_init`.
    pub(super) const SECOND_INIT: Self = Self::new(4429, "Too many initialisation requests");

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
