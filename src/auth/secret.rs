//! [`Secret`]: what must be known to be let in, and shown to nobody.

use std::fmt;

use subtle::ConstantTimeEq as _;

/// A secret, which no log or debug print shows.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// Hides the text.
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    /// Whether this is the secret, told in a time that depends on the length alone.
    #[must_use]
    pub fn is(&self, given: &str) -> bool {
        self.0.as_bytes().ct_eq(given.as_bytes()).into()
    }

    /// The secret itself, to hash with.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}
