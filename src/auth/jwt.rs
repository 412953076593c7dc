//! JWTs: checks the signature and the claims, and asks the domain for the user they name.
//!
//! The key decides which algorithm is used, so that a token cannot choose a weaker one; the token's header only helps to
//! find the key. It must never look at a claim before the signature has been checked.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use jsonwebtoken::{
    Algorithm, DecodingKey, Validation, decode, decode_header,
    errors::{Error, ErrorKind},
};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{
    error::{AuthError, SetupError},
    jwks::{Jwks, JwksSource},
    secret::Secret,
    session::Session,
};
use crate::{
    audience::Viewer,
    domain::{Claims, Domain, Identity},
};

/// How far the clocks of issuer and pod may be apart: so long after its `exp`, and before its `nbf`, a token still lets in.
pub const LEEWAY: Duration = Duration::from_secs(5);

/// How long after the `exp` a connection may end at most.
const MAX_JITTER: Duration = Duration::from_secs(15);

/// HS256 wants a key at least as long as its hash (RFC 7518, 3.2).
const MIN_SECRET: usize = 32;

/// The last second of the year 9999. A later `exp` is refused, so that no sum of times can overflow.
const LAST_EXPIRY: f64 = 253_402_300_799.0;

/// What a token must be signed with and say.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What it must be signed with.
    pub keys: Keys,
    /// The `iss` that it must have; `None`: any, or none.
    pub issuer: Option<String>,
    /// What its `aud` must be or hold. `None`: it must have no `aud`, as a token made for somebody else would pass
    /// otherwise (RFC 7519, 4.1.3).
    pub audience: Option<String>,
}

/// What tokens are signed with.
#[derive(Clone, Debug)]
pub enum Keys {
    /// HS256 with a secret of at least 32 bytes, shared with the issuer.
    Secret(Secret),
    /// RS256 or ES256 with the issuer's public keys.
    Jwks(JwksSource),
}

/// Checks tokens.
pub(super) struct Verifier {
    ring: Ring,
    /// All rules but the algorithm, which each key brings.
    rules: Validation,
}

enum Ring {
    Secret(DecodingKey),
    Jwks(Arc<Jwks>),
}

/// A token's claims. A registered claim of another type than its own makes the token malformed.
#[derive(Deserialize)]
struct Token {
    /// Seconds since 1970, of which issuers may write fractions.
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

impl Verifier {
    pub(super) async fn open(settings: Settings) -> Result<Self, SetupError> {
        let ring = match settings.keys {
            Keys::Secret(secret) if secret.as_bytes().len() < MIN_SECRET => {
                return Err(SetupError::ShortSecret(secret.as_bytes().len()));
            }
            Keys::Secret(secret) => Ring::Secret(DecodingKey::from_secret(secret.as_bytes())),
            Keys::Jwks(source) => Ring::Jwks(Arc::new(Jwks::open(source).await?)),
        };
        let mut rules = Validation { leeway: LEEWAY.as_secs(), validate_nbf: true, ..Validation::default() };
        // A claim that is absent is not compared by the library, so what is configured is also required.
        let mut required = vec!["exp"];
        if let Some(issuer) = settings.issuer {
            rules.set_issuer(&[issuer]);
            required.push("iss");
        }
        if let Some(audience) = settings.audience {
            rules.set_audience(&[audience]);
            required.push("aud");
        }
        rules.set_required_spec_claims(&required);
        Ok(Self { ring, rules })
    }

    pub(super) async fn verify(&self, token: &str, domain: &dyn Domain) -> Result<Session, AuthError> {
        let claims = match &self.ring {
            Ring::Secret(key) => self.claims(token, key, Algorithm::HS256)?,
            Ring::Jwks(jwks) => {
                let header = decode_header(token).map_err(refusal)?;
                // Refused here, as a key set cannot hold a key for it and must not be loaded again in search of one.
                if !matches!(header.alg, Algorithm::RS256 | Algorithm::ES256) {
                    return Err(AuthError::WrongAlgorithm);
                }
                let key = jwks.key(header.kid.as_deref(), header.alg).await?;
                self.claims(token, &key.decoding, key.algorithm)?
            }
        };
        let expires = Some(expiry(claims.exp)?);
        Ok(Session { viewer: Arc::new(viewer(&claims.into(), domain)?), expires })
    }

    fn claims(&self, token: &str, key: &DecodingKey, algorithm: Algorithm) -> Result<Token, AuthError> {
        let rules = Validation { algorithms: vec![algorithm], ..self.rules.clone() };
        let data = decode::<Token>(token, key, &rules).map_err(refusal)?;
        // "Critical" extensions must be understood or the token refused (RFC 7515, 4.1.11), and we know none.
        if data.header.crit.is_some() {
            return Err(AuthError::Malformed);
        }
        Ok(data.claims)
    }
}

/// Returns the moment when a connection with this token must end: at the `exp`, or later by chance, so that tokens which
/// were issued together do not come back together. It is later by a tenth of the remaining life at most.
fn expiry(exp: Option<f64>) -> Result<SystemTime, AuthError> {
    let exp = exp.ok_or(AuthError::MissingExpiry)?;
    if exp > LAST_EXPIRY {
        return Err(AuthError::Malformed);
    }
    let since_1970 = Duration::try_from_secs_f64(exp).map_err(|_| AuthError::Malformed)?;
    let exp = SystemTime::UNIX_EPOCH + since_1970;
    let left = exp.duration_since(SystemTime::now()).unwrap_or_default();
    Ok(exp + (left / 10).min(MAX_JITTER).mul_f64(rand::random_range(0.0..1.0)))
}

/// Returns the user that the claims name.
fn viewer(claims: &Claims, domain: &dyn Domain) -> Result<Viewer, AuthError> {
    let unknown = match (claims.get("email"), claims.email()) {
        (Some(Value::String(_)), None) => AuthError::UnverifiedEmail,
        _ => AuthError::UnknownUser,
    };
    domain.viewer(Identity::Claims(claims)).ok_or(unknown)
}

#[expect(clippy::needless_pass_by_value, reason = "the signature that `map_err` wants")]
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

    async fn gate(keys: Keys, issuer: Option<&str>, audience: Option<&str>) -> Authenticator {
        let (issuer, audience) = (issuer.map(Into::into), audience.map(Into::into));
        open(auth::Settings::Jwt(Settings { keys, issuer, audience })).await.unwrap()
    }

    fn secret() -> Keys {
        Keys::Secret(Secret::new(SECRET))
    }

    /// A key set in a file, and the gate behind it.
    async fn public(issuers: &[&Issuer]) -> Authenticator {
        let keys: Vec<_> = issuers.iter().map(|issuer| issuer.jwk()).collect();
        let path = std::env::temp_dir().join(format!("jwks-{}.json", uuid::Uuid::now_v7()));
        std::fs::write(&path, json!({ "keys": keys }).to_string()).unwrap();
        let gate = gate(Keys::Jwks(JwksSource::File(path.clone())), None, None).await;
        std::fs::remove_file(path).unwrap();
        gate
    }

    async fn user(gate: &Authenticator, authorization: &str) -> Result<String, AuthError> {
        gate.authenticate(Some(authorization)).await.map(|session| session.viewer.user.to_string())
    }

    /// The user of a token of user `1` for a minute with these claims changed; `null` takes a claim away.
    async fn claiming(gate: &Authenticator, changes: Value) -> Result<String, AuthError> {
        let mut claims = json!({ "sub": "1", "exp": get_current_timestamp() + 60 });
        for (name, value) in changes.as_object().unwrap() {
            claims[name] = value.clone();
        }
        claims.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        user(gate, &issuer().sign(&claims)).await
    }

    fn now() -> u64 {
        get_current_timestamp()
    }

    #[tokio::test]
    async fn each_algorithm_lets_its_user_in() {
        let (ec, rsa) = (Issuer::ec("ec"), Issuer::rsa("rsa"));
        let gate_of_set = public(&[&ec, &rsa]).await;
        for (gate, issuer) in
            [(&gate(secret(), None, None).await, &issuer()), (&gate_of_set, &ec), (&gate_of_set, &rsa)]
        {
            assert_eq!(user(gate, &issuer.token()).await.as_deref(), Ok("1"));
        }
    }

    #[tokio::test]
    async fn a_foreign_or_changed_signature_is_refused() {
        let gate_of_secret = gate(secret(), None, None).await;
        let foreign = Issuer::secret("some other secret of 32 bytes...").token();
        assert_eq!(user(&gate_of_secret, &foreign).await, Err(AuthError::BadSignature));

        let (ec, namesake) = (Issuer::ec("ec"), Issuer::ec("ec"));
        assert_eq!(user(&public(&[&ec]).await, &namesake.token()).await, Err(AuthError::BadSignature));

        let token = issuer().token();
        let other = issuer().sign(&json!({ "sub": "2", "exp": now() + 60 }));
        let parts: Vec<_> = token.split('.').collect();
        let forged = [parts[0], other.split('.').nth(1).unwrap(), parts[2]].join(".");
        assert_eq!(user(&gate_of_secret, &forged).await, Err(AuthError::BadSignature));
        let unsigned = [parts[0], parts[1], ""].join(".");
        assert_eq!(user(&gate_of_secret, &unsigned).await, Err(AuthError::BadSignature));
    }

    #[tokio::test]
    async fn no_algorithm_is_no_token() {
        // {"alg":"none","typ":"JWT"} . {"sub":"1","exp":9999999999} . nothing
        let token = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.eyJzdWIiOiIxIiwiZXhwIjo5OTk5OTk5OTk5fQ.";
        for gate in [gate(secret(), None, None).await, public(&[&Issuer::ec("ec")]).await] {
            assert_eq!(user(&gate, token).await, Err(AuthError::Malformed));
        }
    }

    #[tokio::test]
    async fn the_key_and_not_the_token_chooses_the_algorithm() {
        let (ec, rsa) = (Issuer::ec("ec"), Issuer::rsa("rsa"));
        let gate_of_set = public(&[&ec, &rsa]).await;
        let wrong = Err(AuthError::WrongAlgorithm);

        // The public key is known to all: as the secret of an HMAC it must open nothing.
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
                assert_eq!(user(&gate_of_set, &confused.token()).await, wrong);
            }
        }

        // The id of one key, the algorithm of another.
        let mut borrowed = ec.clone();
        borrowed.header.kid = Some("rsa".into());
        assert_eq!(user(&gate_of_set, &borrowed.token()).await, wrong);

        // The right key, an algorithm beside the one it is for.
        for algorithm in [Algorithm::RS384, Algorithm::PS256] {
            let mut other = rsa.clone();
            other.header.alg = algorithm;
            assert_eq!(user(&gate_of_set, &other.token()).await, wrong);
        }
        let gate_of_secret = gate(secret(), None, None).await;
        let mut longer = issuer();
        longer.header.alg = Algorithm::HS512;
        for token in [longer.token(), rsa.token(), ec.token()] {
            assert_eq!(user(&gate_of_secret, &token).await, wrong);
        }
    }

    #[tokio::test]
    async fn what_is_no_jwt_is_malformed() {
        let gates = [gate(secret(), None, None).await, public(&[&Issuer::ec("ec")]).await];
        let four_parts = format!("{}.x", issuer().token());
        for token in ["x", "a.b", "..", "a.b.c", "e30.e30.e30", "é.é.é", &four_parts] {
            for gate in &gates {
                assert_eq!(user(gate, token).await, Err(AuthError::Malformed), "{token}");
            }
        }
        let mut critical = issuer();
        critical.header.crit = Some(vec!["b64".into()]);
        assert_eq!(user(&gates[0], &critical.token()).await, Err(AuthError::Malformed));
        let array = issuer().sign(&json!(["sub", "1"]));
        assert_eq!(user(&gates[0], &array).await, Err(AuthError::Malformed));
    }

    #[tokio::test]
    async fn an_expiry_is_required_and_stretched_by_the_leeway_only() {
        let gate = gate(secret(), None, None).await;
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
            assert_eq!(claiming(&gate, json!({ "exp": exp })).await, Err(refused), "{exp}");
        }
        for exp in [json!(now() - 3), json!(now() as f64 + 0.5), json!(253_402_300_799_u64)] {
            assert_eq!(claiming(&gate, json!({ "exp": exp })).await.as_deref(), Ok("1"), "{exp}");
        }
    }

    #[tokio::test]
    async fn a_pass_ends_with_its_token_or_by_chance_a_little_later() {
        let gate = gate(secret(), None, None).await;
        let most = |life: u64| Duration::from_secs(life).min(Duration::from_secs(150)) / 10;
        for life in [3, 100, 3_600, 1_000_000] {
            let exp = now() + life;
            let token = issuer().sign(&json!({ "sub": "1", "exp": exp }));
            let mut ends = HashSet::new();
            for _ in 0..20 {
                let expires = gate.authenticate(Some(&token)).await.unwrap().expires.unwrap();
                let late = expires.duration_since(SystemTime::UNIX_EPOCH + Duration::from_secs(exp)).unwrap();
                assert!(late <= most(life), "{life} s: {late:?}");
                ends.insert(expires);
            }
            assert!(ends.len() > 10, "tokens of one moment end at many: {ends:?}");
        }
        let exp = now() - 3;
        let token = issuer().sign(&json!({ "sub": "1", "exp": exp }));
        let expires = gate.authenticate(Some(&token)).await.unwrap().expires.unwrap();
        assert_eq!(expires, SystemTime::UNIX_EPOCH + Duration::from_secs(exp), "let in, and not for long");
    }

    #[tokio::test]
    async fn a_token_of_tomorrow_is_refused_today() {
        let gate = gate(secret(), None, None).await;
        assert_eq!(claiming(&gate, json!({ "nbf": now() + 40 })).await, Err(AuthError::NotYetValid));
        assert_eq!(claiming(&gate, json!({ "nbf": "now" })).await, Err(AuthError::Malformed));
        assert_eq!(claiming(&gate, json!({ "nbf": now() + 3 })).await.as_deref(), Ok("1"));
    }

    #[tokio::test]
    async fn issuer_and_audience_must_be_the_configured_ones() {
        let strict = gate(secret(), Some("https://issuer"), Some("relay")).await;
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
            assert_eq!(claiming(&strict, json!({ "iss": iss, "aud": aud })).await, answer, "{iss} {aud}");
        }
        let loose = gate(secret(), None, None).await;
        assert_eq!(claiming(&loose, json!({ "iss": "anybody" })).await.as_deref(), Ok("1"));
        assert_eq!(claiming(&loose, json!({ "aud": "somebody" })).await, Err(AuthError::WrongAudience));
    }

    #[tokio::test]
    async fn an_email_names_the_user_when_the_subject_does_not() {
        let gate = gate(secret(), None, None).await;
        let email = "user-2@gmail.com";
        for (claims, answer) in [
            (json!({ "sub": "1", "email": email }), Ok("1".to_owned())),
            (json!({ "sub": null, "email": email }), Ok("2".to_owned())),
            (json!({ "sub": "auth0|5f", "email": email }), Ok("2".to_owned())),
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
            (json!({ "sub": null, "email": "user-9@gmail.com" }), Err(AuthError::UnknownUser)),
            (json!({ "sub": "9" }), Err(AuthError::UnknownUser)),
            (json!({ "sub": "" }), Err(AuthError::UnknownUser)),
            (json!({ "sub": null }), Err(AuthError::UnknownUser)),
            (json!({ "sub": 1 }), Err(AuthError::Malformed)),
        ] {
            assert_eq!(claiming(&gate, claims.clone()).await, answer, "{claims}");
        }
    }

    #[tokio::test]
    async fn a_short_secret_does_not_open_and_no_secret_is_shown() {
        let short = Settings { keys: Keys::Secret(Secret::new(&SECRET[1..])), issuer: None, audience: None };
        assert!(!format!("{short:?}").contains(&SECRET[1..]));
        let error = open(auth::Settings::Jwt(short)).await.err().expect("31 bytes are too few");
        assert!(matches!(error, SetupError::ShortSecret(31)));
        assert!(error.to_string().contains("the secret of tokens"));
    }
}
