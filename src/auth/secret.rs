//! [`Secret`]: a text that grants access, so that no log or debug print may ever show it.

use std::fmt::{self, Write as _};

use subtle::ConstantTimeEq as _;

/// A secret, which no log or debug print shows.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// Wraps the text.
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    /// Creates a random secret of 64 hexadecimal digits.
    #[must_use]
    pub fn random() -> Self {
        let mut text = String::with_capacity(64);
        for byte in rand::random::<[u8; 32]>() {
            // A String takes whatever is written.
            let _ = write!(text, "{byte:02x}");
        }
        Self(text)
    }

    /// Returns whether the given text is the secret. The time of the comparison depends on the
    /// length alone.
    #[must_use]
    pub fn is(&self, given: &str) -> bool {
        self.0.as_bytes().ct_eq(given.as_bytes()).into()
    }

    /// Returns the secret itself, for the user of a laptop whose program has made it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Returns the secret itself, as a key for hashing.
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
