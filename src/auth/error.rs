//! Errors of authentication: why tokens cannot be checked ([`SetupError`]), and why one is refused
//! ([`AuthError`]).
//!
//! Operators read the first, clients the second. No text may ever hold a token, a secret or an
//! address's password.

use std::{io, path::PathBuf};

use thiserror::Error;

use crate::{domain::NoViewer, revocations::Refused};

/// Why a key set could not be loaded. The keys loaded before, if any, stay in use.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("cannot read the file")]
    Read(#[from] io::Error),
    /// The address does not answer in time, or redirects too often or to another scheme.
    #[error("cannot fetch the address")]
    Fetch(#[source] reqwest::Error),
    /// The address answers with something other than success.
    #[error("the address answers with status {0}")]
    Status(u16),
    /// More than 1 MiB.
    #[error("the key set is larger than 1 MiB")]
    TooLarge,
    /// The address does not answer in time.
    #[error("no answer in time")]
    TooSlow,
    /// The issuer's configuration is of another issuer.
    #[error("its openid-configuration is that of another issuer, {0:?}")]
    OtherIssuer(String),
    /// The issuer's configuration has no safe `jwks_uri`.
    #[error("its openid-configuration has no jwks_uri that begins with https://")]
    JwksUri,
    /// Not an issuer's configuration.
    #[error("its openid-configuration is no JSON object with issuer and jwks_uri")]
    Configuration(#[source] serde_json::Error),
    /// Not a JSON object with `keys`.
    #[error("not a JSON object with a list of keys")]
    Syntax(#[from] serde_json::Error),
    /// Not one RSA key of at least 2048 bits or EC key on P-256 for signatures.
    #[error("no usable key: RSA of at least 2048 bits or EC on P-256, for signatures")]
    NoKeys,
}

/// Why the authenticator cannot be opened. The operator can repair each cause; no text names a
/// secret.
#[derive(Debug, Error)]
pub enum SetupError {
    /// A short secret can be guessed from one token.
    #[error(
        "the secret of tokens has {0} bytes, HS256 needs at least 32: make one with `openssl rand -base64 48`"
    )]
    ShortSecret(usize),
    /// The key set's file is absent, unreadable or not a key set.
    #[error("cannot use the JWKS file {}: name a readable JSON file {{\"keys\": [...]}}", path.display())]
    JwksFile {
        /// The file as configured.
        path: PathBuf,
        /// What is wrong with it.
        source: LoadError,
    },
    /// The address is not an `http` or `https` URL. An address that merely does not answer is no
    /// error.
    #[error("the JWKS address is not a URL that starts with http:// or https://")]
    JwksUrl,
    /// The issuer is not a URL that can be asked for its configuration.
    #[error("the issuer to discover is not a URL that starts with https:// (http:// on this machine only)")]
    Discovery,
    /// Several issuers without names, or with the same one.
    #[error("of several issuers each must have a name of its own")]
    Issuers,
    /// No HTTP client: the system's root certificates cannot be read.
    #[error("cannot set up HTTPS for the JWKS address: are the system's CA certificates installed?")]
    HttpClient(#[source] reqwest::Error),
}

/// Why a client is refused. The text is fit for the client: it holds nothing of the token.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum AuthError {
    /// There is no token.
    #[error("a token is required")]
    Missing,
    /// Longer than [`MAX_AUTHORIZATION`](super::MAX_AUTHORIZATION), so it was not read.
    #[error("the token is too long")]
    TooLong,
    /// Not `Bearer <token>`, or not a JWT that can be read.
    #[error("the token is malformed")]
    Malformed,
    /// The header asks for an algorithm that is not the key's.
    #[error("the token's algorithm is not accepted")]
    WrongAlgorithm,
    /// Signed with another key, or changed since.
    #[error("the token's signature is wrong")]
    BadSignature,
    /// No `exp`: a token that never ends is not accepted.
    #[error("the token has no expiry")]
    MissingExpiry,
    /// Past its `exp`. The client may retry with a fresh one.
    #[error("the token has expired")]
    Expired,
    /// Revoked before its `exp`.
    #[error("TOKEN_REVOKED: the token was revoked; sign in again")]
    Revoked,
    /// Before its `nbf`. The client may retry later.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// `iss` is not the configured one.
    #[error("the token is from another issuer")]
    WrongIssuer,
    /// `aud` does not hold the configured audience, or names one where none is configured.
    #[error("the token is for another audience")]
    WrongAudience,
    /// The issuer does not state that the e-mail address is verified, and no other claim names a
    /// user.
    #[error("the token's e-mail is not verified")]
    UnverifiedEmail,
    /// No key of the set, or more than one, could have signed the token.
    #[error("the token's key is unknown")]
    UnknownKey,
    /// The token is genuine, but the domain has no such user.
    #[error("the token's user is unknown")]
    UnknownUser,
    /// The token is genuine, and the domain refuses its user for this reason.
    #[error("{0}")]
    Forbidden(String),
    /// The key set cannot be loaded, or may hold the token's key since it was loaded. So the token
    /// cannot be checked. The client may retry it.
    #[error("tokens cannot be checked at the moment")]
    KeysUnavailable,
}

impl AuthError {
    /// Returns a stable label for metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::TooLong => "too_long",
            Self::Malformed => "malformed",
            Self::WrongAlgorithm => "wrong_algorithm",
            Self::BadSignature => "bad_signature",
            Self::MissingExpiry => "missing_expiry",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
            Self::NotYetValid => "not_yet_valid",
            Self::WrongIssuer => "wrong_issuer",
            Self::WrongAudience => "wrong_audience",
            Self::UnverifiedEmail => "unverified_email",
            Self::UnknownKey => "unknown_key",
            Self::UnknownUser => "unknown_user",
            Self::Forbidden(_) => "forbidden",
            Self::KeysUnavailable => "keys_unavailable",
        }
    }
}

impl From<NoViewer> for AuthError {
    fn from(refused: NoViewer) -> Self {
        match refused {
            NoViewer::Unknown => Self::UnknownUser,
            NoViewer::Forbidden(text) => Self::Forbidden(text),
        }
    }
}

impl From<Refused> for AuthError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Revoked => Self::Revoked,
            Refused::Outdated => Self::Expired,
        }
    }
}
