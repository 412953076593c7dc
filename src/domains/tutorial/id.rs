//! Rules for ids, whatever their source.
//!
//! A user's id travels as the author of events, so its bound must not exceed the topic's. The other
//! ids keep the same bound.

/// Longest id, in bytes. A longer one is refused.
pub(super) const MAX_BYTES: usize = 256;

/// Returns whether the text may be an id: not empty, not too long, no control characters.
pub(super) fn is_valid(id: &str) -> bool {
    (1..=MAX_BYTES).contains(&id.len()) && !id.chars().any(char::is_control)
}

/// Text of the rule that [`is_valid`] checks.
pub(super) const RULE: &str = "1 to 256 bytes without control characters";
