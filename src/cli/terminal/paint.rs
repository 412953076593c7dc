//! [`Paint`]: colours, which only a terminal gets.

use std::fmt::Display;

/// Colours of one output.
#[derive(Clone, Copy, Debug, Default)]
pub struct Paint {
    /// Whether the output shows colours.
    pub is_on: bool,
}

impl Paint {
    /// Marks what went well.
    pub(super) fn good(self, text: impl Display) -> String {
        self.with("32", text)
    }

    /// Marks what passes by itself.
    pub(super) fn warning(self, text: impl Display) -> String {
        self.with("33", text)
    }

    /// Marks what needs action.
    pub(super) fn bad(self, text: impl Display) -> String {
        self.with("31", text)
    }

    /// Marks what is less important.
    pub(super) fn dim(self, text: impl Display) -> String {
        self.with("2", text)
    }

    fn with(self, code: &str, text: impl Display) -> String {
        if self.is_on { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_string() }
    }
}
