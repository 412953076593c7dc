//! [`Secrets`]: proves that a control event comes from a pod of the deployment.
//!
//! Many programs may publish to the topic, and control events such as heartbeats steer pods. A pod
//! with secrets appends two members to the JSON object that a control event holds: `sent`, its time
//! by the topic's clock in milliseconds, and `hmac`, an HMAC-SHA256 in hexadecimal. The HMAC covers
//! type, source, id and all data before it. The relay must never act on the content of a control
//! event that [`Secrets::verify`] refuses.

use std::{
    fmt::Write as _,
    sync::Arc,
    time::{Duration, SystemTime},
};

use aws_lc_rs::hmac;
use bytes::Bytes;
use serde::Deserialize;
use thiserror::Error;

use crate::event::Event;

/// Shortest secret, in bytes: the size of the hash. A shorter one is refused.
pub const MIN_SECRET: usize = 32;

/// Most secrets: the new one and the old one while the secret is changed.
const MAX_SECRETS: usize = 2;

/// Largest data of a control event, in bytes. More is refused unread, as the HMAC takes time in
/// proportion.
const MAX_DATA: usize = 64 << 10;

/// Longest time between the signing of a control event and its publishing. An older one is a
/// recorded event that was published again.
const MAX_AGE: Duration = Duration::from_secs(60);

/// Begin of the member that holds the HMAC, which is the last one.
const HMAC: &str = ",\"hmac\":\"";

/// End of the member that holds the HMAC, and of the object.
const END: &str = "\"}";

/// Bytes of an HMAC in hexadecimal.
const DIGITS: usize = 64;

/// Secrets that the pods of a deployment share. Pods sign with the first and accept every one. No
/// log or debug print shows them. Clones are cheap.
#[derive(Clone, Debug)]
pub struct Secrets(Arc<[hmac::Key]>);

/// Why secrets cannot be used.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum BadSecrets {
    /// There is no secret, or there are more than two.
    #[error("must hold one secret, or two with a comma between them: the new one, the old one")]
    Number,
    /// A secret has fewer than [`MIN_SECRET`] bytes.
    #[error("is too short a secret: give 32 bytes or more")]
    Short,
}

/// Why a control event proves nothing.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Unproven {
    /// It carries no HMAC, so a pod without the secret or another program has published it.
    #[error("it has no HMAC")]
    Unsigned,
    /// Its HMAC is of no known secret, or what the HMAC covers was changed.
    #[error("its HMAC is wrong")]
    Forged,
    /// It was signed too long before or after it was published.
    #[error("it was signed at another time than it was published")]
    Stale,
}

impl Unproven {
    /// All reasons, for metrics.
    pub const ALL: [Self; 3] = [Self::Unsigned, Self::Forged, Self::Stale];

    /// Returns the reason as a metric's label. The labels are stable.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Unsigned => "unsigned",
            Self::Forged => "forged",
            Self::Stale => "stale",
        }
    }
}

/// Member that [`Secrets::sign`] adds before the HMAC.
#[derive(Deserialize)]
struct Signed {
    /// Milliseconds since 1970, by the topic's clock as far as the sender knows it.
    sent: u64,
}

impl Secrets {
    /// Creates the secrets from a text with one or two of them, the new one first. Commas or line
    /// ends separate them.
    ///
    /// # Errors
    /// [`BadSecrets`], which never shows the text.
    pub fn parse(text: &str) -> Result<Self, BadSecrets> {
        let secrets: Vec<&str> =
            text.split([',', '\n']).map(str::trim).filter(|secret| !secret.is_empty()).collect();
        if secrets.is_empty() || secrets.len() > MAX_SECRETS {
            return Err(BadSecrets::Number);
        }
        if secrets.iter().any(|secret| secret.len() < MIN_SECRET) {
            return Err(BadSecrets::Short);
        }
        let key = |secret: &str| hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        Ok(Self(secrets.into_iter().map(key).collect()))
    }

    /// Creates one random secret, for pods of one process.
    #[must_use]
    pub fn random() -> Self {
        Self(Arc::new([hmac::Key::new(hmac::HMAC_SHA256, &rand::random::<[u8; MIN_SECRET]>())]))
    }

    /// Signs a control event, whose data is a JSON object with at least one member. `now` is the
    /// time by the topic's clock.
    pub fn sign(&self, event: &mut Event, now: SystemTime) {
        let since_1970 = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let object = event.data.strip_suffix(b"}").unwrap_or(&event.data);
        let mut data = [object, format!(",\"sent\":{}", since_1970.as_millis()).as_bytes()].concat();
        let mut member = HMAC.to_owned();
        for byte in hmac::sign(&self.0[0], &covered(event, &data)).as_ref() {
            // A String takes whatever is written.
            let _ = write!(member, "{byte:02x}");
        }
        data.extend_from_slice(member.as_bytes());
        data.extend_from_slice(END.as_bytes());
        event.data = data.into();
    }

    /// Returns when the control event was signed, by the topic's clock, if a pod with one of the
    /// secrets has signed it. The time of the comparison does not depend on the HMAC.
    ///
    /// # Errors
    /// [`Unproven`] if the HMAC is absent or wrong.
    pub fn verify(&self, event: &Event) -> Result<SystemTime, Unproven> {
        let (data, digits) = split(&event.data).ok_or(Unproven::Unsigned)?;
        let tag = unhex(digits).ok_or(Unproven::Forged)?;
        let covered = covered(event, data);
        if !self.0.iter().any(|key| hmac::verify(key, &covered, &tag).is_ok()) {
            return Err(Unproven::Forged);
        }
        let Signed { sent } = serde_json::from_slice(&event.data).map_err(|_| Unproven::Forged)?;
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(sent)).ok_or(Unproven::Forged)
    }
}

/// Checks that a control event was published when it was signed. A recorded one that is published
/// again later is refused.
///
/// # Errors
/// [`Unproven::Stale`]
pub fn check_age(sent: SystemTime, published: SystemTime) -> Result<(), Unproven> {
    let age = published.duration_since(sent).unwrap_or_else(|error| error.duration());
    if age > MAX_AGE { Err(Unproven::Stale) } else { Ok(()) }
}

/// Splits the data into what the HMAC covers, and the HMAC; `None` if there is no HMAC.
fn split(data: &Bytes) -> Option<(&[u8], &[u8])> {
    let signed = data.strip_suffix(END.as_bytes()).filter(|_| data.len() <= MAX_DATA)?;
    let (object, digits) = signed.split_at_checked(signed.len().checked_sub(DIGITS)?)?;
    Some((object.strip_suffix(HMAC.as_bytes())?, digits))
}

/// Returns the bytes that the HMAC covers. Each attribute stands behind its length, so that no two
/// events have the same bytes.
fn covered(event: &Event, data: &[u8]) -> Vec<u8> {
    let mut covered = Vec::with_capacity(data.len() + 256);
    for attribute in [&event.kind, &event.source, &event.id] {
        covered.extend_from_slice(&(attribute.len() as u64).to_be_bytes());
        covered.extend_from_slice(attribute.as_bytes());
    }
    covered.extend_from_slice(data);
    covered
}

fn unhex(digits: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let byte = |pair: &[u8]| u8::try_from(digit(pair[0])? << 4 | digit(pair[1])?).ok();
    digits.chunks_exact(2).map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "an-old-secret-of-thirty-two-bytes";
    const NEW: &str = "a-new-secret-of-thirty-two-bytes!";

    fn secrets(text: &str) -> Secrets {
        Secrets::parse(text).unwrap()
    }

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(1_764_000_000_123)
    }

    fn signed(by: &Secrets) -> Event {
        let mut event = Event::new("/pods/a".into(), "relay.test.v1", None, "{\"a\":1}".into());
        by.sign(&mut event, now());
        event
    }

    #[test]
    fn signed_event_is_proven_and_stays_json() {
        let secrets = secrets(NEW);
        let event = signed(&secrets);
        assert_eq!(secrets.verify(&event), Ok(now()));
        let data: serde_json::Value = serde_json::from_slice(&event.data).unwrap();
        assert_eq!((&data["a"], &data["sent"]), (&1.into(), &1_764_000_000_123_u64.into()));
        assert_eq!(data["hmac"].as_str().unwrap().len(), DIGITS);
    }

    #[test]
    fn each_changed_byte_makes_event_unproven() {
        let secrets = secrets(NEW);
        let event = signed(&secrets);
        for at in 0..event.data.len() {
            let mut data = event.data.to_vec();
            data[at] ^= 1;
            assert!(secrets.verify(&Event { data: data.into(), ..event.clone() }).is_err(), "{at}");
        }
        for changed in [
            Event { kind: "relay.other.v1".into(), ..event.clone() },
            Event { source: "/pods/b".into(), ..event.clone() },
            Event { id: "1".into(), ..event.clone() },
        ] {
            assert_eq!(secrets.verify(&changed), Err(Unproven::Forged));
        }
        let plain = Event { data: "{\"a\":1}".into(), ..event };
        assert_eq!(secrets.verify(&plain), Err(Unproven::Unsigned));
    }

    #[test]
    fn secrets_rotate_without_break() {
        let steps = [OLD.to_owned(), format!("{OLD},{NEW}"), format!("{NEW},{OLD}\n"), NEW.to_owned()];
        let steps = steps.map(|text| secrets(&text));
        for pair in steps.windows(2) {
            assert_eq!(pair[0].verify(&signed(&pair[1])), Ok(now()));
            assert_eq!(pair[1].verify(&signed(&pair[0])), Ok(now()));
        }
        assert_eq!(steps[3].verify(&signed(&steps[0])), Err(Unproven::Forged));
    }

    #[test]
    fn event_published_long_after_signing_is_stale() {
        assert_eq!(check_age(now(), now() + MAX_AGE), Ok(()));
        assert_eq!(check_age(now(), now() - MAX_AGE), Ok(()));
        let later = MAX_AGE + Duration::from_millis(1);
        assert_eq!(check_age(now(), now() + later), Err(Unproven::Stale));
        assert_eq!(check_age(now(), now() - later), Err(Unproven::Stale));
    }

    #[test]
    fn bad_secrets_are_refused_and_never_shown() {
        for (text, error) in [
            ("", BadSecrets::Number),
            (" , \n", BadSecrets::Number),
            (&format!("{OLD},{NEW},{OLD}"), BadSecrets::Number),
            (&NEW[..31], BadSecrets::Short),
            (&format!("{NEW},short"), BadSecrets::Short),
        ] {
            assert_eq!(Secrets::parse(text).unwrap_err(), error, "{text}");
        }
        assert!(!format!("{:?}", secrets(NEW)).contains("secret-of"));
    }

    #[test]
    fn overlong_data_is_refused_unread() {
        let secrets = secrets(NEW);
        let data = format!("{{\"a\":\"{}\"}}", "x".repeat(MAX_DATA));
        let mut event = Event::new("/pods/a".into(), "relay.test.v1", None, data.into());
        secrets.sign(&mut event, now());
        assert_eq!(secrets.verify(&event), Err(Unproven::Unsigned));
    }
}
