//! Authenticates clients: turns the authorization that a client sent into a session, or a refusal.
//!
//! Every transport uses the same [`Authenticator`], so HTTP and WebSocket cannot differ. It must
//! never log, store or return a token, nor accept a user that the domain does not have.

mod demo;
mod error;
#[doc(hidden)]
pub mod jwks;
#[doc(hidden)]
pub mod jwt;
#[doc(hidden)]
pub mod secret;
mod session;

use std::{sync::Arc, time::SystemTime};

#[doc(hidden)]
pub use self::{error::AuthError, session::Session};
#[doc(inline)]
pub use self::{
    error::{LoadError, SetupError},
    jwks::JwksSource,
    jwt::{Keys, Settings as JwtSettings, TrustedIssuer},
    secret::Secret,
};
use crate::{
    audience::Viewer,
    domain::{Claims, Domain, Found, Identity},
    revocations::Revocations,
};
use opentelemetry::{
    KeyValue,
    metrics::{Counter, Meter},
};

/// Longest authorization that is read, in bytes: twice what common proxies accept as one header. A
/// longer one is refused.
#[doc(hidden)]
pub const MAX_AUTHORIZATION: usize = 16 * 1024;

/// How tokens are checked.
#[derive(Clone, Debug)]
pub enum Settings {
    /// A token is the name of a user, and a client may send any name: for a laptop only.
    Demo,
    /// A token is a signed JWT.
    Jwt(jwt::Settings),
}

/// Checker of tokens. Clones are cheap and share one key set.
#[derive(Clone)]
#[doc(hidden)]
pub struct Authenticator {
    scheme: Arc<Scheme>,
    domain: Arc<dyn Domain>,
    /// Demo tokens, for a client that sent no valid one; empty with JWTs.
    names: Arc<str>,
    revocations: Option<Revocations>,
    failures: Counter<u64>,
}

enum Scheme {
    Demo,
    Jwt(Box<jwt::Verifier>),
}

impl Authenticator {
    /// Checks the settings and loads the keys. A JWKS address that does not answer only delays the
    /// call, by up to [`jwks::FETCH_TIMEOUT`]. It is asked again until it answers.
    ///
    /// # Errors
    /// [`SetupError`], if the settings cannot work.
    pub async fn open(
        settings: Settings,
        domain: Arc<dyn Domain>,
        meter: &Meter,
    ) -> Result<Self, SetupError> {
        let failures = meter.u64_counter("relay.auth.failures");
        let failures = failures.with_description("Tokens that were refused, by reason.").build();
        let scheme = match settings {
            Settings::Demo => Scheme::Demo,
            Settings::Jwt(settings) => Scheme::Jwt(Box::new(jwt::Verifier::open(settings).await?)),
        };
        let names = match &scheme {
            Scheme::Demo => domain.demo_names().join(", ").into(),
            Scheme::Jwt(_) => Arc::default(),
        };
        Ok(Self { scheme: Arc::new(scheme), domain, names, revocations: None, failures })
    }

    /// Refuses tokens that are revoked.
    #[must_use]
    pub fn with_revocations(mut self, revocations: Revocations) -> Self {
        self.revocations = Some(revocations);
        self
    }

    /// Returns why no token can be checked, or those of one issuer; `None` if all can.
    #[must_use]
    pub fn lack(&self) -> Option<String> {
        match &*self.scheme {
            Scheme::Demo => None,
            Scheme::Jwt(verifier) => verifier.lack(),
        }
    }

    /// Authenticates the user of this authorization: `Bearer <token>`, in any case, or the bare
    /// token.
    ///
    /// Returns at once, unless a key set must be loaded first (see [`jwks`]). Dropping the future
    /// does no harm.
    ///
    /// # Errors
    /// [`AuthError`] states why the client is refused.
    pub async fn authenticate(&self, authorization: Option<&str>) -> Result<Session, AuthError> {
        self.check(authorization).await.inspect_err(|error| self.count(error))
    }

    /// Checks that the token was not revoked after it was accepted.
    ///
    /// # Errors
    /// [`AuthError::Revoked`], or [`AuthError::Expired`] if a fresh token may have other rights.
    pub fn check_again(&self, session: &Session) -> Result<(), AuthError> {
        self.check_revoked(session).inspect_err(|error| self.count(error))
    }

    fn count(&self, error: &AuthError) {
        self.failures.add(1, &[KeyValue::new("reason", error.reason())]);
    }

    /// Returns the text of a refusal for the client: with the place of the token if there was none,
    /// and with demo tokens if names are tokens.
    #[must_use]
    pub fn explain(&self, error: &AuthError, place: &str) -> String {
        let mut text = error.to_string();
        if *error == AuthError::Missing {
            text = format!("{text}: {place}");
        }
        if matches!(error, AuthError::Missing | AuthError::UnknownUser) && !self.names.is_empty() {
            text = format!("{text}; demo: {}", self.names);
        }
        text
    }

    /// Returns the viewer with this user id, if the domain has one.
    #[must_use]
    pub fn viewer(&self, user: &str) -> Option<Viewer> {
        self.domain.viewer(Identity::Claims(&Claims::of_subject(user)))
    }

    /// Returns the user that an operator names by id, e-mail address or demo name.
    #[must_use]
    pub fn find(&self, name: &str) -> Found {
        self.domain.find(name)
    }

    /// Reports whether tokens are demo names, which are no secret.
    #[must_use]
    pub fn is_demo(&self) -> bool {
        matches!(*self.scheme, Scheme::Demo)
    }

    async fn check(&self, authorization: Option<&str>) -> Result<Session, AuthError> {
        let token = token(authorization)?;
        let session = match &*self.scheme {
            Scheme::Demo => {
                let now = self.revocations.as_ref().map_or_else(SystemTime::now, Revocations::now);
                demo::authenticate(token, &*self.domain, now)
            }
            Scheme::Jwt(verifier) => verifier.verify(token, &*self.domain).await,
        }?;
        self.check_revoked(&session)?;
        Ok(session)
    }

    fn check_revoked(&self, session: &Session) -> Result<(), AuthError> {
        let refused = self.revocations.as_ref().and_then(|them| them.refusal(&session.credentials));
        refused.map_or(Ok(()), |refused| Err(refused.into()))
    }
}

fn token(authorization: Option<&str>) -> Result<&str, AuthError> {
    let value = authorization.ok_or(AuthError::Missing)?;
    if value.len() > MAX_AUTHORIZATION {
        return Err(AuthError::TooLong);
    }
    let value = value.trim_matches(' ');
    if value.is_empty() || value.eq_ignore_ascii_case("bearer") {
        return Err(AuthError::Missing);
    }
    let token = match value.split_once(' ') {
        None => value,
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim_start_matches(' '),
        Some(_) => return Err(AuthError::Malformed),
    };
    if token.contains(char::is_whitespace) {
        return Err(AuthError::Malformed);
    }
    Ok(token)
}

#[cfg(test)]
pub(crate) mod tests {
    use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, get_current_timestamp, jwk::Jwk};
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        domain::{Fact, Identity, Unreadable},
        event::Event,
    };

    /// Domain with two users, `1` (ZELO) and `2` (ZEWI), and their e-mail addresses.
    struct TwoUsers;

    impl Domain for TwoUsers {
        fn viewer(&self, identity: Identity<'_>) -> Option<Viewer> {
            let user = match identity {
                Identity::Demo("ZELO") => "1",
                Identity::Demo("ZEWI") => "2",
                Identity::Claims(claims) => match (claims.subject(), claims.email()) {
                    (Some("1"), _) | (_, Some("user-1@gmail.com")) => "1",
                    (Some("2"), _) | (_, Some("user-2@gmail.com")) => "2",
                    _ => return None,
                },
                Identity::Demo(_) => return None,
            };
            Some(Viewer::new(user, Default::default()))
        }

        fn read(&self, _: &Event) -> Result<Fact, Unreadable> {
            Err(Unreadable::UnknownType)
        }

        fn apply(&self, _: &Event, _: &Fact) {}
    }

    pub(super) async fn open(settings: Settings) -> Result<Authenticator, SetupError> {
        let meter = opentelemetry::global::meter("test");
        Authenticator::open(settings, Arc::new(TwoUsers), &meter).await
    }

    /// Issuer of signed tokens.
    #[derive(Clone)]
    pub(super) struct Issuer {
        pub(super) header: Header,
        pub(super) key: EncodingKey,
    }

    impl Issuer {
        pub(super) fn secret(secret: &str) -> Self {
            Self { header: Header::new(Algorithm::HS256), key: EncodingKey::from_secret(secret.as_bytes()) }
        }

        /// Creates an issuer for ES256 with a new key.
        pub(super) fn ec(id: &str) -> Self {
            let key = rcgen::KeyPair::generate().unwrap();
            Self::with_id(id, Algorithm::ES256, EncodingKey::from_ec_der(key.serialized_der()))
        }

        /// Creates an issuer for RS256, always with the same key.
        pub(super) fn rsa(id: &str) -> Self {
            let key = include_bytes!("../tests/keys/test-only-rsa2048.der");
            Self::with_id(id, Algorithm::RS256, EncodingKey::from_rsa_der(key))
        }

        fn with_id(id: &str, algorithm: Algorithm, key: EncodingKey) -> Self {
            let header = Header { kid: Some(id.into()), ..Header::new(algorithm) };
            Self { header, key }
        }

        /// Returns an issuer with the same key that omits the key's id from its tokens.
        pub(super) fn without_key_id(&self) -> Self {
            Self { header: Header { kid: None, ..self.header.clone() }, key: self.key.clone() }
        }

        /// Returns the public key as a JWKS lists it.
        pub(super) fn jwk(&self) -> Value {
            let mut jwk = Jwk::from_encoding_key(&self.key, self.header.alg).unwrap();
            jwk.common.key_id.clone_from(&self.header.kid);
            serde_json::to_value(jwk).unwrap()
        }

        /// Returns an authorization with these claims.
        pub(super) fn sign(&self, claims: &Value) -> String {
            format!("Bearer {}", encode(&self.header, claims, &self.key).unwrap())
        }

        /// Returns an authorization of user `1` that is valid for a minute.
        pub(super) fn token(&self) -> String {
            self.sign(&json!({ "sub": "1", "exp": get_current_timestamp() + 60 }))
        }
    }

    async fn demo(authorization: Option<&str>) -> Result<Session, AuthError> {
        open(Settings::Demo).await.unwrap().authenticate(authorization).await
    }

    #[tokio::test]
    async fn demo_token_names_its_user_without_expiry() {
        for value in ["Bearer ZEWI", "bearer ZEWI", "BEARER   ZEWI", " Bearer ZEWI ", "ZEWI"] {
            let session = demo(Some(value)).await.expect(value);
            assert_eq!((&*session.viewer.user, session.expires), ("2", None), "{value:?}");
        }
    }

    #[tokio::test]
    async fn invalid_authorization_is_refused_with_reason() {
        let long = "x".repeat(MAX_AUTHORIZATION + 1);
        for (value, error) in [
            (None, AuthError::Missing),
            (Some(""), AuthError::Missing),
            (Some("  "), AuthError::Missing),
            (Some("Bearer"), AuthError::Missing),
            (Some("bearer  "), AuthError::Missing),
            (Some("Basic ZEWI"), AuthError::Malformed),
            (Some("Bearer ZEWI ZELO"), AuthError::Malformed),
            (Some("Bearer\tZEWI"), AuthError::Malformed),
            (Some("ZEWI\u{a0}"), AuthError::Malformed),
            (Some("Bearer NO_USER"), AuthError::UnknownUser),
            (Some(&long), AuthError::TooLong),
        ] {
            assert_eq!(demo(value).await.err(), Some(error), "{:?}", value.map(|value| value.get(..20)));
        }
        let longest = "x".repeat(MAX_AUTHORIZATION);
        assert_eq!(demo(Some(&longest)).await.err(), Some(AuthError::UnknownUser));
    }

    #[test]
    fn authenticator_is_shared_between_threads() {
        fn shared<T: Clone + Send + Sync + 'static>() {}
        shared::<Authenticator>();
    }
}
