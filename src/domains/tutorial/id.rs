//! What an id may be, wherever one comes from.
//!
//! A user's id travels as the author of events, so the bound is the topic's; the other ids keep the same one.

/// Longest id, in bytes.
pub(super) const MAX_BYTES: usize = 256;

/// Whether this may be an id: not empty, not too long, no control characters.
pub(super) fn is_valid(id: &str) -> bool {
    (1..=MAX_BYTES).contains(&id.len()) && !id.chars().any(char::is_control)
}

/// What [`is_valid`] asks for, for people.
pub(super) const RULE: &str = "1 to 256 bytes without control characters";
