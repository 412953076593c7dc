//! JWTs: checks the signature and the claims, and asks the domain for the user that they name.
//!
//! The key decides the algorithm, so a token cannot choose a weaker one. The token's header only
//! helps to find the key. Before the signature has been checked, no claim may ever be used, except
//! `iss` to pick the issuer whose keys are tried.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, SystemTime},
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD as URL_SAFE_NO_PAD};
use futures_util::future::try_join_all;
use jsonwebtoken::{
    Algorithm, DecodingKey, Validation, decode, decode_header,
    errors::{Error, ErrorKind},
};
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::{
    error::{AuthError, SetupError},
    jwks::{Jwks, JwksSource},
    secret::Secret,
    session::Session,
};
use crate::{
    audience::Viewer,
    domain::{Claims, Domain, Identity, NoViewer},
    revocations::{Credentials, Issued, MAX_NAME},
};

/// Longest time by which a connection may outlast the `exp` of its token.
const MAX_JITTER: Duration = Duration::from_secs(15);

/// Shortest secret, in bytes: HS256 requires a key at least as long as its hash (RFC 7518, 3.2). A
/// shorter one is refused.
const MIN_SECRET: usize = 32;

/// The last second of the year 9999. A later `exp` is refused, so that no sum of times can
/// overflow.
const LAST_EXPIRY: f64 = 253_402_300_799.0;

/// Key and claims that a token must have.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Issuers whose tokens are accepted, one at least. A key of one never verifies a token of
    /// another.
    pub issuers: Vec<TrustedIssuer>,
    /// Required `aud`, or a member of it. `None`: a token with an `aud` is refused, because it was
    /// made for another service (RFC 7519, 4.1.3).
    pub audience: Option<String>,
    /// Age from which the keys of a JWKS are not used any more, if its source has failed since.
    /// Default: 24 h.
    pub max_key_age: Duration,
    /// Largest difference between the clocks of issuers and pod, in whole seconds. A token is
    /// accepted for this time after its `exp` and before its `nbf`. Default: 5 s.
    pub leeway: Duration,
    /// Longest life of a token. One is accepted for this time after its `iat`, if that is before
    /// its `exp`. Default: 24 h.
    pub max_life: Duration,
}

/// Issuer of tokens, and its keys.
#[derive(Clone, Debug)]
pub struct TrustedIssuer {
    /// Required `iss`; `None`: any, or none. It must be set if there are several issuers.
    pub name: Option<String>,
    /// Keys that verify the signature.
    pub keys: Keys,
}

impl Settings {
    /// Default of the largest difference between clocks.
    pub const DEFAULT_LEEWAY: Duration = Duration::from_secs(5);

    /// Default of the longest life of a token.
    pub const DEFAULT_MAX_LIFE: Duration = Duration::from_secs(24 * 60 * 60);

    /// Default of the greatest age of keys.
    pub const DEFAULT_MAX_KEY_AGE: Duration = Duration::from_secs(24 * 60 * 60);

    /// Creates the settings for these keys, for tokens of any issuer and without an audience.
    #[must_use]
    pub fn of(keys: Keys) -> Self {
        Self::of_issuers(vec![TrustedIssuer { name: None, keys }])
    }

    /// Creates the settings for tokens of these issuers without an audience.
    #[must_use]
    pub const fn of_issuers(issuers: Vec<TrustedIssuer>) -> Self {
        let (max_key_age, leeway) = (Self::DEFAULT_MAX_KEY_AGE, Self::DEFAULT_LEEWAY);
        Self { issuers, audience: None, max_key_age, leeway, max_life: Self::DEFAULT_MAX_LIFE }
    }
}

/// Keys that verify tokens.
#[derive(Clone, Debug)]
pub enum Keys {
    /// HS256 with a secret of at least 32 bytes, shared with the issuer.
    Secret(Secret),
    /// RS256 or ES256 with the issuer's public keys.
    Jwks(JwksSource),
}

/// Verifier of tokens.
pub(super) struct Verifier {
    issuers: Vec<Issuer>,
    leeway: Duration,
    max_life: Duration,
}

/// Verifier of the tokens of one issuer.
struct Issuer {
    /// `None`: any, or none.
    name: Option<String>,
    keyring: Keyring,
    /// All rules except the algorithm, which the key decides.
    rules: Validation,
}

enum Keyring {
    Secret(DecodingKey),
    Jwks(Arc<Jwks>),
}

/// Claims of a token. A registered claim of the wrong type makes the token malformed.
#[derive(Deserialize)]
struct Token {
    /// Seconds since 1970; issuers may write fractions.
    exp: Option<f64>,
    sub: Option<String>,
    email: Option<String>,
    #[serde(flatten)]
    others: Map<String, Value>,
}

impl From<Token> for Claims {
    fn from(Token { exp, sub, email, mut others }: Token) -> Self {
        let registered =
            [("exp", exp.map(Value::from)), ("sub", sub.map(Value::from)), ("email", email.map(Value::from))];
        others.extend(registered.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
        Self::new(others)
    }
}

/// The claim that picks the issuer.
#[derive(Deserialize)]
struct Named {
    iss: Option<String>,
}

impl Verifier {
    pub(super) async fn open(settings: Settings) -> Result<Self, SetupError> {
        let names: HashSet<_> = settings.issuers.iter().map(|issuer| issuer.name.as_ref()).collect();
        let is_clear = names.len() == settings.issuers.len() && (names.len() == 1 || !names.contains(&None));
        if !is_clear || names.is_empty() {
            return Err(SetupError::Issuers);
        }
        let Settings { issuers, audience, max_key_age, leeway, max_life } = settings;
        let opened =
            issuers.into_iter().map(|issuer| Issuer::open(issuer, audience.clone(), max_key_age, leeway));
        Ok(Self { issuers: try_join_all(opened).await?, leeway, max_life })
    }

    /// Returns why the keys of an issuer are missing; `None` if there are keys of all issuers.
    pub(super) fn lack(&self) -> Option<String> {
        self.issuers.iter().find_map(|issuer| match &issuer.keyring {
            Keyring::Secret(_) => None,
            Keyring::Jwks(jwks) => jwks.lack(),
        })
    }

    pub(super) async fn verify(&self, token: &str, domain: &dyn Domain) -> Result<Session, AuthError> {
        let claims = self.issuer(token)?.verify(token).await?;
        let issued = claims.others.get("iat").and_then(Value::as_f64);
        let expires = Some(expiry(self.end(claims.exp, issued)?)?);
        let id = claims.others.get("jti").and_then(Value::as_str);
        let id = id.filter(|id| id.len() <= MAX_NAME).map(Arc::from);
        let viewer = Arc::new(viewer(&claims.into(), domain)?);
        let issued = issued.map_or(Issued::Unknown, |seconds| Issued::At((seconds * 1_000.0) as u64));
        let credentials = Arc::new(Credentials { user: viewer.user.clone(), id, issued });
        Ok(Session { viewer, expires, credentials })
    }

    /// Returns the last second of a token: its `exp`, or the end of its longest life if that is
    /// earlier. That of a token without `iat` is counted from now.
    fn end(&self, exp: Option<f64>, issued: Option<f64>) -> Result<f64, AuthError> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let exp = exp.ok_or(AuthError::MissingExpiry)?;
        if exp > LAST_EXPIRY {
            return Err(AuthError::Malformed);
        }
        let end = exp.min(issued.unwrap_or(now) + self.max_life.as_secs_f64());
        if end + self.leeway.as_secs_f64() < now { Err(AuthError::Expired) } else { Ok(end) }
    }

    /// Returns the issuer that the token names. The issuer's rules check the name again, once the
    /// signature is right.
    fn issuer(&self, token: &str) -> Result<&Issuer, AuthError> {
        if let [only] = &self.issuers[..] {
            return Ok(only);
        }
        let payload = token.split('.').nth(1).and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
        let named = payload.and_then(|payload| serde_json::from_slice::<Named>(&payload).ok());
        let Named { iss } = named.ok_or(AuthError::Malformed)?;
        self.issuers.iter().find(|issuer| issuer.name == iss).ok_or(AuthError::WrongIssuer)
    }
}

impl Issuer {
    async fn open(
        TrustedIssuer { name, keys }: TrustedIssuer,
        audience: Option<String>,
        max_key_age: Duration,
        leeway: Duration,
    ) -> Result<Self, SetupError> {
        let keyring = match keys {
            Keys::Secret(secret) if secret.as_bytes().len() < MIN_SECRET => {
                return Err(SetupError::ShortSecret(secret.as_bytes().len()));
            }
            Keys::Secret(secret) => Keyring::Secret(DecodingKey::from_secret(secret.as_bytes())),
            Keys::Jwks(source) => Keyring::Jwks(Jwks::open(source, max_key_age).await?),
        };
        let mut rules = Validation { leeway: leeway.as_secs(), validate_nbf: true, ..Validation::default() };
        // The library does not compare an absent claim, so each configured claim is also required.
        let mut required = vec!["exp"];
        if let Some(name) = &name {
            rules.set_issuer(&[name]);
            required.push("iss");
        }
        if let Some(audience) = audience {
            rules.set_audience(&[audience]);
            required.push("aud");
        }
        rules.set_required_spec_claims(&required);
        Ok(Self { name, keyring, rules })
    }

    async fn verify(&self, token: &str) -> Result<Token, AuthError> {
        match &self.keyring {
            Keyring::Secret(key) => self.claims(token, key, Algorithm::HS256),
            Keyring::Jwks(jwks) => {
                let header = decode_header(token).map_err(refusal)?;
                // No key set can hold a key for another algorithm, so such a token must not cause a
                // load.
                if !matches!(header.alg, Algorithm::RS256 | Algorithm::ES256) {
                    return Err(AuthError::WrongAlgorithm);
                }
                let came = Instant::now();
                let key = jwks.key(header.kid.as_deref(), header.alg).await?;
                match self.claims(token, &key.decoding, key.algorithm) {
                    // A new key may have replaced the only one, and neither has an id.
                    Err(AuthError::BadSignature) if header.kid.is_none() => {
                        let is_current = jwks.reload(came).await;
                        let key = jwks.key(None, header.alg).await?;
                        self.claims(token, &key.decoding, key.algorithm).map_err(|error| match error {
                            AuthError::BadSignature if !is_current => AuthError::KeysUnavailable,
                            error => error,
                        })
                    }
                    claims => claims,
                }
            }
        }
    }

    fn claims(&self, token: &str, key: &DecodingKey, algorithm: Algorithm) -> Result<Token, AuthError> {
        let rules = Validation { algorithms: vec![algorithm], ..self.rules.clone() };
        let data = decode::<Token>(token, key, &rules).map_err(refusal)?;
        // A token with "critical" extensions that are not understood must be refused (RFC 7515,
        // 4.1.11). None is understood here.
        if data.header.crit.is_some() {
            return Err(AuthError::Malformed);
        }
        Ok(data.claims)
    }
}

/// Returns the time when a connection with this token must end: its last second plus a random
/// delay. So clients with tokens that were issued together do not reconnect together. The delay is
/// at most a tenth of the remaining time, and at most [`MAX_JITTER`].
fn expiry(exp: f64) -> Result<SystemTime, AuthError> {
    let since_1970 = Duration::try_from_secs_f64(exp).map_err(|_| AuthError::Malformed)?;
    let exp = SystemTime::UNIX_EPOCH + since_1970;
    let left = exp.duration_since(SystemTime::now()).unwrap_or_default();
    Ok(exp + (left / 10).min(MAX_JITTER).mul_f64(rand::random_range(0.0..1.0)))
}

/// Returns the user that the claims name.
fn viewer(claims: &Claims, domain: &dyn Domain) -> Result<Viewer, AuthError> {
    domain.admit(Identity::Claims(claims)).map_err(|refused| {
        match (refused, claims.get("email"), claims.email()) {
            (NoViewer::Unknown, Some(Value::String(_)), None) => AuthError::UnverifiedEmail,
            (refused, ..) => refused.into(),
        }
    })
}

#[expect(clippy::needless_pass_by_value, reason = "the signature that `map_err` requires")]
fn refusal(error: Error) -> AuthError {
    match error.kind() {
        ErrorKind::InvalidSignature => AuthError::BadSignature,
        ErrorKind::InvalidAlgorithm => AuthError::WrongAlgorithm,
        ErrorKind::ExpiredSignature => AuthError::Expired,
        ErrorKind::ImmatureSignature => AuthError::NotYetValid,
        ErrorKind::InvalidIssuer => AuthError::WrongIssuer,
        ErrorKind::InvalidAudience => AuthError::WrongAudience,
        ErrorKind::MissingRequiredClaim(claim) => match claim.as_str() {
            "iss" => AuthError::WrongIssuer,
            "aud" => AuthError::WrongAudience,
            _ => AuthError::MissingExpiry,
        },
        _ => AuthError::Malformed,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use jsonwebtoken::{EncodingKey, Header, get_current_timestamp};
    use serde_json::json;

    use super::*;
    use crate::auth::{
        self, Authenticator,
        tests::{Issuer, open},
    };

    const SECRET: &str = "thirty-two bytes are just enough";

    fn issuer() -> Issuer {
        Issuer::secret(SECRET)
    }

    async fn authenticator(keys: Keys, issuer: Option<&str>, audience: Option<&str>) -> Authenticator {
        let (name, audience) = (issuer.map(Into::into), audience.map(Into::into));
        let settings = Settings::of_issuers(vec![TrustedIssuer { name, keys }]);
        open(auth::Settings::Jwt(Settings { audience, ..settings })).await.unwrap()
    }

    fn secret() -> Keys {
        Keys::Secret(Secret::new(SECRET))
    }

    /// Creates an authenticator with a key set in a file.
    async fn with_jwks(issuers: &[&Issuer]) -> Authenticator {
        let keys: Vec<_> = issuers.iter().map(|issuer| issuer.jwk()).collect();
        let path = std::env::temp_dir().join(format!("jwks-{}.json", uuid::Uuid::now_v7()));
        std::fs::write(&path, json!({ "keys": keys }).to_string()).unwrap();
        let authenticator = authenticator(Keys::Jwks(JwksSource::File(path.clone())), None, None).await;
        std::fs::remove_file(path).unwrap();
        authenticator
    }

    async fn user(authenticator: &Authenticator, authorization: &str) -> Result<String, AuthError> {
        authenticator.authenticate(Some(authorization)).await.map(|session| session.viewer.user.to_string())
    }

    /// Authenticates a token of user `1`, valid for a minute, with these claims changed. `null`
    /// removes a claim.
    async fn user_with(authenticator: &Authenticator, changes: Value) -> Result<String, AuthError> {
        let mut claims = json!({ "sub": "1", "exp": get_current_timestamp() + 60 });
        for (name, value) in changes.as_object().unwrap() {
            claims[name] = value.clone();
        }
        claims.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        user(authenticator, &issuer().sign(&claims)).await
    }

    fn now() -> u64 {
        get_current_timestamp()
    }

    /// Writes a key set to a file that stays until the test ends the process.
    fn key_set(issuer: &Issuer) -> Keys {
        let path = std::env::temp_dir().join(format!("jwks-{}.json", uuid::Uuid::now_v7()));
        std::fs::write(&path, json!({ "keys": [issuer.jwk()] }).to_string()).unwrap();
        Keys::Jwks(JwksSource::File(path))
    }

    #[tokio::test]
    async fn issuer_of_token_picks_its_keys() {
        // The same key id, as issuers do not know of each other.
        let (one, two) = (Issuer::ec("key-1"), Issuer::ec("key-1"));
        let of = |name: &str, issuer| TrustedIssuer { name: Some(name.to_owned()), keys: key_set(issuer) };
        let settings = Settings::of_issuers(vec![of("https://one", &one), of("https://two", &two)]);
        let authenticator = open(auth::Settings::Jwt(settings)).await.unwrap();
        let claims = |iss: Value| json!({ "sub": "1", "exp": now() + 60, "iss": iss });
        for (signer, iss, expected) in [
            (&one, json!("https://one"), Ok("1")),
            (&two, json!("https://two"), Ok("1")),
            (&one, json!("https://two"), Err(AuthError::BadSignature)),
            (&two, json!("https://one"), Err(AuthError::BadSignature)),
            (&one, json!("https://one/"), Err(AuthError::WrongIssuer)),
            (&one, json!(null), Err(AuthError::WrongIssuer)),
            (&one, json!(["https://one"]), Err(AuthError::Malformed)),
        ] {
            let found = user(&authenticator, &signer.sign(&claims(iss.clone()))).await;
            assert_eq!(found.as_deref(), expected.as_deref(), "{iss}");
        }
        for token in ["x", "a.b", "..", "a.b.c", "e30.e30.e30", "é.é.é"] {
            let refused = user(&authenticator, token).await.unwrap_err();
            assert!(matches!(refused, AuthError::Malformed | AuthError::WrongIssuer), "{token}");
        }
    }

    #[tokio::test]
    async fn several_issuers_need_different_names() {
        let key = Issuer::ec("1");
        for names in [vec![], vec![None, Some("a")], vec![Some("a"), Some("a")], vec![None, None]] {
            let issuers =
                names.iter().map(|name| TrustedIssuer { name: name.map(str::to_owned), keys: key_set(&key) });
            let opened = open(auth::Settings::Jwt(Settings::of_issuers(issuers.collect()))).await;
            assert!(matches!(opened.err(), Some(SetupError::Issuers)), "{names:?}");
        }
    }

    #[tokio::test]
    async fn leeway_is_setting() {
        for (leeway, age, accepted) in [(0, 2, false), (60, 50, true), (60, 70, false)] {
            let leeway = Duration::from_secs(leeway);
            let settings = Settings { leeway, ..Settings::of(secret()) };
            let authenticator = open(auth::Settings::Jwt(settings)).await.unwrap();
            let found = user_with(&authenticator, json!({ "exp": now() - age })).await;
            assert_eq!(found.is_ok(), accepted, "{leeway:?} {age}: {found:?}");
        }
    }

    #[tokio::test]
    async fn each_algorithm_authenticates_its_user() {
        let (ec, rsa) = (Issuer::ec("ec"), Issuer::rsa("rsa"));
        let by_jwks = with_jwks(&[&ec, &rsa]).await;
        for (authenticator, issuer) in
            [(&authenticator(secret(), None, None).await, &issuer()), (&by_jwks, &ec), (&by_jwks, &rsa)]
        {
            assert_eq!(user(authenticator, &issuer.token()).await.as_deref(), Ok("1"));
        }
    }

    #[tokio::test]
    async fn foreign_or_changed_signature_is_refused() {
        let by_secret = authenticator(secret(), None, None).await;
        let foreign = Issuer::secret("some other secret of 32 bytes...").token();
        assert_eq!(user(&by_secret, &foreign).await, Err(AuthError::BadSignature));

        let (ec, namesake) = (Issuer::ec("ec"), Issuer::ec("ec"));
        assert_eq!(user(&with_jwks(&[&ec]).await, &namesake.token()).await, Err(AuthError::BadSignature));

        let token = issuer().token();
        let other = issuer().sign(&json!({ "sub": "2", "exp": now() + 60 }));
        let parts: Vec<_> = token.split('.').collect();
        let forged = [parts[0], other.split('.').nth(1).unwrap(), parts[2]].join(".");
        assert_eq!(user(&by_secret, &forged).await, Err(AuthError::BadSignature));
        let unsigned = [parts[0], parts[1], ""].join(".");
        assert_eq!(user(&by_secret, &unsigned).await, Err(AuthError::BadSignature));
    }

    #[tokio::test]
    async fn unsigned_token_is_malformed() {
        // {"alg":"none","typ":"JWT"} . {"sub":"1","exp":9999999999} . nothing
        let token = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.eyJzdWIiOiIxIiwiZXhwIjo5OTk5OTk5OTk5fQ.";
        for authenticator in
            [authenticator(secret(), None, None).await, with_jwks(&[&Issuer::ec("ec")]).await]
        {
            assert_eq!(user(&authenticator, token).await, Err(AuthError::Malformed));
        }
    }

    #[tokio::test]
    async fn key_decides_algorithm() {
        let (ec, rsa) = (Issuer::ec("ec"), Issuer::rsa("rsa"));
        let by_jwks = with_jwks(&[&ec, &rsa]).await;
        let wrong = Err(AuthError::WrongAlgorithm);

        // Any client can read the public key. As the secret of an HMAC it must not be accepted.
        let modulus = rsa.jwk()["n"].as_str().unwrap().to_owned();
        let bytes = format!("{}==", modulus.replace('-', "+").replace('_', "/"));
        let keys = [
            EncodingKey::from_base64_secret(&bytes).unwrap(),
            EncodingKey::from_secret(modulus.as_bytes()),
            EncodingKey::from_secret(rsa.jwk().to_string().as_bytes()),
        ];
        for key in keys {
            for kid in [None, Some("rsa".into()), Some("ec".into())] {
                let confused =
                    Issuer { header: Header { kid, ..Header::new(Algorithm::HS256) }, key: key.clone() };
                assert_eq!(user(&by_jwks, &confused.token()).await, wrong);
            }
        }

        // The id of one key, the algorithm of another.
        let mut borrowed = ec.clone();
        borrowed.header.kid = Some("rsa".into());
        assert_eq!(user(&by_jwks, &borrowed.token()).await, wrong);

        // The right key, with another algorithm than its own.
        for algorithm in [Algorithm::RS384, Algorithm::PS256] {
            let mut other = rsa.clone();
            other.header.alg = algorithm;
            assert_eq!(user(&by_jwks, &other.token()).await, wrong);
        }
        let by_secret = authenticator(secret(), None, None).await;
        let mut longer = issuer();
        longer.header.alg = Algorithm::HS512;
        for token in [longer.token(), rsa.token(), ec.token()] {
            assert_eq!(user(&by_secret, &token).await, wrong);
        }
    }

    #[tokio::test]
    async fn non_jwt_is_malformed() {
        let authenticators =
            [authenticator(secret(), None, None).await, with_jwks(&[&Issuer::ec("ec")]).await];
        let four_parts = format!("{}.x", issuer().token());
        for token in ["x", "a.b", "..", "a.b.c", "e30.e30.e30", "é.é.é", &four_parts] {
            for authenticator in &authenticators {
                assert_eq!(user(authenticator, token).await, Err(AuthError::Malformed), "{token}");
            }
        }
        let mut critical = issuer();
        critical.header.crit = Some(vec!["b64".into()]);
        assert_eq!(user(&authenticators[0], &critical.token()).await, Err(AuthError::Malformed));
        let array = issuer().sign(&json!(["sub", "1"]));
        assert_eq!(user(&authenticators[0], &array).await, Err(AuthError::Malformed));
    }

    #[tokio::test]
    async fn expiry_is_required_and_has_leeway() {
        let authenticator = authenticator(secret(), None, None).await;
        for (exp, refused) in [
            (json!(null), AuthError::MissingExpiry),
            (json!(now() - 8), AuthError::Expired),
            (json!(0), AuthError::Expired),
            (json!("9999999999"), AuthError::Malformed),
            (json!(-1), AuthError::MissingExpiry),
            (json!(253_402_300_800_u64), AuthError::Malformed),
            (json!(u64::MAX), AuthError::Malformed),
            (json!(1e300), AuthError::MissingExpiry),
        ] {
            assert_eq!(user_with(&authenticator, json!({ "exp": exp })).await, Err(refused), "{exp}");
        }
        for exp in [json!(now() - 3), json!(now() as f64 + 0.5), json!(253_402_300_799_u64)] {
            assert_eq!(user_with(&authenticator, json!({ "exp": exp })).await.as_deref(), Ok("1"), "{exp}");
        }
    }

    #[tokio::test]
    async fn token_outlives_no_longest_life() {
        const DAY: u64 = 24 * 60 * 60;
        let authenticator = authenticator(secret(), None, None).await;
        let check = async |claims: Value| {
            let token = issuer().sign(&claims);
            let session = authenticator.authenticate(Some(&token)).await?;
            let left = session.expires.unwrap().duration_since(SystemTime::now()).unwrap_or_default();
            Ok((left.as_secs(), session.credentials.issued, session.credentials.id.clone()))
        };
        let exp = now() + 365 * DAY;
        let issued = now() - DAY + 100;
        let (left, at, id) =
            check(json!({ "sub": "1", "exp": exp, "iat": issued, "jti": "t" })).await.unwrap();
        assert!((98..=110).contains(&left), "{left}");
        assert_eq!((at, id.as_deref()), (Issued::At(issued * 1_000), Some("t")));
        let (left, at, _) = check(json!({ "sub": "1", "exp": exp })).await.unwrap();
        assert!((DAY - 2..=DAY + 15).contains(&left) && at == Issued::Unknown, "{left}");
        let old = check(json!({ "sub": "1", "exp": exp, "iat": now() - DAY - 10 })).await;
        assert_eq!(old, Err(AuthError::Expired));
    }

    #[tokio::test]
    async fn session_ends_shortly_after_its_token() {
        let authenticator = authenticator(secret(), None, None).await;
        let most = |lifetime: u64| Duration::from_secs(lifetime).min(Duration::from_secs(150)) / 10;
        for lifetime in [3, 100, 3_600, 86_000] {
            let exp = now() + lifetime;
            let token = issuer().sign(&json!({ "sub": "1", "exp": exp }));
            let mut ends = HashSet::new();
            for _ in 0..20 {
                let expires = authenticator.authenticate(Some(&token)).await.unwrap().expires.unwrap();
                let late = expires.duration_since(SystemTime::UNIX_EPOCH + Duration::from_secs(exp)).unwrap();
                assert!(late <= most(lifetime), "{lifetime} s: {late:?}");
                ends.insert(expires);
            }
            assert!(ends.len() > 10, "tokens with one expiry end at different times: {ends:?}");
        }
        let exp = now() - 3;
        let token = issuer().sign(&json!({ "sub": "1", "exp": exp }));
        let expires = authenticator.authenticate(Some(&token)).await.unwrap().expires.unwrap();
        assert_eq!(
            expires,
            SystemTime::UNIX_EPOCH + Duration::from_secs(exp),
            "accepted, but already past its end"
        );
    }

    #[tokio::test]
    async fn token_before_its_nbf_is_refused() {
        let authenticator = authenticator(secret(), None, None).await;
        assert_eq!(
            user_with(&authenticator, json!({ "nbf": now() + 40 })).await,
            Err(AuthError::NotYetValid)
        );
        assert_eq!(user_with(&authenticator, json!({ "nbf": "now" })).await, Err(AuthError::Malformed));
        assert_eq!(user_with(&authenticator, json!({ "nbf": now() + 3 })).await.as_deref(), Ok("1"));
    }

    #[tokio::test]
    async fn issuer_and_audience_must_match_settings() {
        let strict = authenticator(secret(), Some("https://issuer"), Some("relay")).await;
        for (iss, aud, answer) in [
            (json!("https://issuer"), json!("relay"), Ok("1".to_owned())),
            (json!("https://issuer"), json!(["other", "relay"]), Ok("1".to_owned())),
            (json!("https://issuer/"), json!("relay"), Err(AuthError::WrongIssuer)),
            (json!(null), json!("relay"), Err(AuthError::WrongIssuer)),
            (json!(7), json!("relay"), Err(AuthError::WrongIssuer)),
            (json!("https://issuer"), json!("other"), Err(AuthError::WrongAudience)),
            (json!("https://issuer"), json!(["other"]), Err(AuthError::WrongAudience)),
            (json!("https://issuer"), json!([]), Err(AuthError::WrongAudience)),
            (json!("https://issuer"), json!(null), Err(AuthError::WrongAudience)),
        ] {
            assert_eq!(user_with(&strict, json!({ "iss": iss, "aud": aud })).await, answer, "{iss} {aud}");
        }
        let loose = authenticator(secret(), None, None).await;
        assert_eq!(user_with(&loose, json!({ "iss": "any" })).await.as_deref(), Ok("1"));
        assert_eq!(user_with(&loose, json!({ "aud": "other" })).await, Err(AuthError::WrongAudience));
    }

    #[tokio::test]
    async fn email_names_user_without_known_subject() {
        let authenticator = authenticator(secret(), None, None).await;
        let email = "user-2@gmail.com";
        for (claims, answer) in [
            (json!({ "sub": "1", "email": email }), Ok("1".to_owned())),
            (json!({ "sub": null, "email": email }), Err(AuthError::UnverifiedEmail)),
            (json!({ "sub": "auth0|5f", "email": email, "email_verified": true }), Ok("2".to_owned())),
            (json!({ "sub": null, "email": email, "email_verified": true }), Ok("2".to_owned())),
            (json!({ "sub": null, "email": email, "email_verified": "true" }), Ok("2".to_owned())),
            (json!({ "sub": "1", "email": email, "email_verified": false }), Ok("1".to_owned())),
            (
                json!({ "sub": null, "email": email, "email_verified": false }),
                Err(AuthError::UnverifiedEmail),
            ),
            (
                json!({ "sub": null, "email": email, "email_verified": "false" }),
                Err(AuthError::UnverifiedEmail),
            ),
            (json!({ "sub": null, "email": email, "email_verified": 0 }), Err(AuthError::UnverifiedEmail)),
            (
                json!({ "sub": null, "email": "user-9@gmail.com", "email_verified": true }),
                Err(AuthError::UnknownUser),
            ),
            (json!({ "sub": "9" }), Err(AuthError::UnknownUser)),
            (json!({ "sub": "" }), Err(AuthError::UnknownUser)),
            (json!({ "sub": null }), Err(AuthError::UnknownUser)),
            (json!({ "sub": 1 }), Err(AuthError::Malformed)),
        ] {
            assert_eq!(user_with(&authenticator, claims.clone()).await, answer, "{claims}");
        }
    }

    #[tokio::test]
    async fn short_secret_is_refused_and_never_shown() {
        let short = Settings::of(Keys::Secret(Secret::new(&SECRET[1..])));
        assert!(!format!("{short:?}").contains(&SECRET[1..]));
        let error = open(auth::Settings::Jwt(short)).await.err().expect("31 bytes are too few");
        assert!(matches!(error, SetupError::ShortSecret(31)));
        assert!(error.to_string().contains("the secret of tokens"));
    }
}
