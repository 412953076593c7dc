//! Parses a JWKS and picks the keys that can verify tokens.
//!
//! The format is parsed here, because a key of a kind that a library lacks must not spoil the set.
//! A symmetric key must never be accepted, since a public document cannot hold one. Each key must
//! be for exactly one algorithm.

use std::sync::Arc;

use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind};
use serde::Deserialize;
use serde_json::Value;

/// Shortest RSA key, in bits: RS256 requires it (RFC 7518, 3.3). A shorter key is skipped.
const MIN_RSA_BITS: usize = 2048;

/// A key, and the one algorithm that it is for.
pub(in crate::auth) struct Key {
    pub(super) id: Option<String>,
    pub(in crate::auth) algorithm: Algorithm,
    pub(in crate::auth) decoding: DecodingKey,
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<Value>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

/// Parses a set and returns its usable keys. A key of an unknown kind does not spoil the others.
pub(super) fn parse(bytes: &[u8]) -> Result<Vec<Arc<Key>>, serde_json::Error> {
    let set: Set = serde_json::from_slice(bytes)?;
    let count = set.keys.len();
    let keys: Vec<_> = set.keys.into_iter().filter_map(usable).map(Arc::new).collect();
    if keys.len() < count {
        tracing::debug!(skipped = count - keys.len(), "jwks holds keys of no use here");
    }
    Ok(keys)
}

fn usable(key: Value) -> Option<Key> {
    let jwk: Jwk = serde_json::from_value(key).ok()?;
    if jwk.purpose.is_some_and(|purpose| purpose != "sig") {
        return None;
    }
    let (algorithm, name, decoding) = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
        ("RSA", _) => (Algorithm::RS256, "RS256", DecodingKey::from_rsa_components(&jwk.n?, &jwk.e?)),
        ("EC", Some("P-256")) => {
            (Algorithm::ES256, "ES256", DecodingKey::from_ec_components(&jwk.x?, &jwk.y?))
        }
        _ => return None,
    };
    let decoding = decoding.ok()?;
    let is_weak =
        matches!(decoding.kind(), DecodingKeyKind::RsaModulusExponent { n, .. } if bits(n) < MIN_RSA_BITS);
    let is_other = jwk.alg.is_some_and(|alg| alg != name);
    (!is_weak && !is_other).then_some(Key { id: jwk.kid, algorithm, decoding })
}

/// Returns the length of a big-endian number, in bits.
fn bits(number: &[u8]) -> usize {
    let Some(first) = number.iter().position(|&byte| byte != 0) else { return 0 };
    (number.len() - first) * 8 - number[first].leading_zeros() as usize
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::auth::tests::Issuer;

    #[test]
    fn keys_unfit_for_verification_are_skipped() {
        let (ec, rsa) = (Issuer::ec("ec").jwk(), Issuer::rsa("rsa").jwk());
        let with = |key: &Value, field: &str, value: Value| {
            let mut key = key.clone();
            key[field] = value;
            key
        };
        for key in [&ec, &rsa, &with(&ec, "use", json!("sig")), &with(&rsa, "unknown", json!({}))] {
            assert!(usable(key.clone()).is_some(), "{key}");
        }
        let weak = "_".repeat(2040 / 6);
        for key in [
            with(&ec, "use", json!("enc")),
            with(&ec, "crv", json!("P-384")),
            with(&ec, "x", json!("?")),
            with(&ec, "y", Value::Null),
            with(&rsa, "alg", json!("RS512")),
            with(&rsa, "alg", json!("RSA-OAEP")),
            with(&rsa, "n", json!(weak)),
            with(&rsa, "n", json!(format!("AAAA{weak}"))),
            with(&rsa, "e", json!(65537)),
            json!({ "kty": "oct", "k": "c2VjcmV0", "alg": "HS256" }),
            json!({ "kty": "OKP", "crv": "Ed25519", "x": "AA" }),
            json!("key"),
        ] {
            assert!(usable(key.clone()).is_none(), "{key}");
        }
    }
}
