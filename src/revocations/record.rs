//! [`Record`]: tokens that are refused; [`Credentials`]: what a record is compared with.
//!
//! Names come from the topic and from operators, so they are bounded.

use std::{sync::Arc, time::SystemTime};

use serde::{Deserialize, Serialize};

/// Longest name of a user or of a token, in bytes. A record with a longer one is refused.
pub const MAX_NAME: usize = 255;

/// Subject of a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Subject {
    /// All tokens of a user, by the id that the domain gives the user.
    User(Arc<str>),
    /// The token with this `jti`.
    Token(Arc<str>),
}

impl Subject {
    /// Returns the name, if it has 1 to [`MAX_NAME`] bytes and no control characters.
    #[must_use]
    pub fn name(&self) -> Option<&Arc<str>> {
        let (Self::User(name) | Self::Token(name)) = self;
        let is_sound = (1..=MAX_NAME).contains(&name.len()) && !name.chars().any(char::is_control);
        is_sound.then_some(name)
    }
}

/// Record of a revocation: tokens of the subject that were issued until a moment are refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Subject whose tokens are refused.
    #[serde(flatten)]
    pub subject: Subject,
    /// Last moment of issue that is refused, in milliseconds since 1970.
    pub before: u64,
    /// Whether the tokens count as expired only, so that clients come back with fresh ones.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub retry: bool,
}

/// Time at which a token was issued, in milliseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Issued {
    /// The token's `iat`.
    At(u64),
    /// The token has no `iat`, so it may be of any time.
    Unknown,
    /// The token is the name of a demo user and never changes. The time is that of its check.
    Checked(u64),
}

/// Parts of an accepted token that records are compared with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// User of the token.
    pub user: Arc<str>,
    /// The token's `jti`, if it has one of at most [`MAX_NAME`] bytes.
    pub id: Option<Arc<str>>,
    /// Time of issue.
    pub issued: Issued,
}

/// Why a token is refused that was good before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It was revoked.
    Revoked,
    /// It counts as expired: a fresh one may have other rights.
    Outdated,
}

impl Issued {
    /// Creates the time of a name that is checked now.
    #[must_use]
    pub fn checked(now: SystemTime) -> Self {
        Self::Checked(millis(now))
    }

    /// Reports whether a record of this kind, with this moment, refuses the token.
    pub(super) const fn is_refused(self, before: u64, retry: bool) -> bool {
        match self {
            Self::At(issued) => issued <= before,
            Self::Unknown => true,
            // A name cannot be issued anew. A connection with it can still be begun anew.
            Self::Checked(checked) => !retry || checked <= before,
        }
    }
}

/// Returns the time in milliseconds since 1970.
pub(super) fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
