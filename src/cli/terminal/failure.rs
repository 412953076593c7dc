//! [`Failure`]: why a command ended without success, what to do, and its exit code.

use std::{error::Error, iter::successors};

use thiserror::Error;

/// Exit code if no pod answers: `EX_UNAVAILABLE` of sysexits.h.
const EX_UNAVAILABLE: u8 = 69;

/// Why a command ended without success. The text says what to do.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Failure {
    /// An argument or a file is wrong.
    #[error("{0}")]
    Usage(String),
    /// No pod answers.
    #[error("{url} cannot be reached: {why}; start a pod there (relay cluster), or correct --url")]
    Unreachable {
        /// URL as it was asked.
        url: String,
        /// What the system reports.
        why: String,
    },
    /// Something else than a pod answers, or a proxy before it.
    #[error("{url} answers with {status}, as no pod does: correct --url; its path is mostly /graphql")]
    NoPod {
        /// URL as it was asked.
        url: String,
        /// HTTP status.
        status: u16,
    },
    /// Something else than the admin address of a pod answers.
    #[error(
        "{url} answers with {status}, as no admin address does: give that of RELAY_ADMIN_LISTEN by --url"
    )]
    NoAdmin {
        /// URL as it was asked.
        url: String,
        /// HTTP status.
        status: u16,
    },
    /// The pod refuses the action.
    #[error("nothing was done: {0}")]
    NotDone(String),
    /// The pod is full or drains.
    #[error("the pod at {url} has no room at present ({why}); try again")]
    Busy {
        /// URL as it was asked.
        url: String,
        /// Reason of the pod.
        why: String,
    },
    /// The pod refuses the token.
    #[error("the pod refuses the token: {0}; give another one with --as or --token-file")]
    Token(String),
    /// The pod refuses the document or its variables.
    #[error("the pod refuses the document: {0}")]
    Refused(String),
    /// The pod refuses the debug token.
    #[error("the pod refuses the debug token: set RELAY_DEBUG_TOKEN (or --token-file) to that of the pods")]
    DebugToken,
    /// What answers has no `/debug`.
    #[error(
        "{url} answers with {status} and has no /debug: give the admin address (RELAY_ADMIN_LISTEN) of a pod \
         that has a debug token"
    )]
    NoDebug {
        /// URL as it was asked.
        url: String,
        /// HTTP status.
        status: u16,
    },
    /// The domain's table of users does not have the user.
    #[error("there is no user {0}: give an id, an e-mail address or a demo name of the table of users")]
    UnknownUser(String),
    /// The output cannot be written.
    #[error("cannot write: {0}")]
    Output(String),
}

impl Failure {
    /// Returns the exit code: 64 for wrong arguments, 69 if no pod answers, 1 for a refusal.
    #[must_use]
    pub const fn code(&self) -> u8 {
        match self {
            Self::Usage(_) => super::super::config::EX_USAGE,
            Self::Unreachable { .. }
            | Self::NoPod { .. }
            | Self::NoAdmin { .. }
            | Self::NoDebug { .. }
            | Self::Busy { .. } => EX_UNAVAILABLE,
            Self::Token(_)
            | Self::Refused(_)
            | Self::NotDone(_)
            | Self::DebugToken
            | Self::UnknownUser(_)
            | Self::Output(_) => 1,
        }
    }

    /// Returns that no pod answers, with the root cause.
    pub(super) fn unreachable(url: &str, error: &(dyn Error + 'static)) -> Self {
        let root = successors(Some(error), |&cause| cause.source()).last();
        let why = root.map_or_else(String::new, ToString::to_string);
        Self::Unreachable { url: url.to_owned(), why }
    }
}
