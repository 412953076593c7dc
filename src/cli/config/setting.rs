//! [`Setting`]: description of one setting.
//!
//! It is plain data that [`super::table`] fills in and that the parser and the help read. It must
//! never hold the value that a setting was given.

use std::fmt;

use super::value;

/// Description of a setting that has a variable, a flag or both.
#[derive(Debug)]
pub struct Setting {
    /// Environment variable; `None` if the setting exists only as a flag.
    pub variable: Option<&'static str>,
    /// Long flag, without its dashes. It wins over the variable. Secrets have none, because `ps`
    /// would show them.
    pub flag: Option<&'static str>,
    /// Default. An empty value counts as not set.
    pub fallback: Fallback,
    /// Values that it accepts.
    pub values: Values,
    /// Effect, in one line.
    pub meaning: &'static str,
    /// Command that it is for; `None`: all commands that have pods.
    pub only: Option<Only>,
}

/// Default of a setting.
#[derive(Clone, Copy, Debug)]
pub enum Fallback {
    /// This value, which the setting accepts.
    Is(&'static str),
    /// No value: this text describes what happens instead.
    Says(&'static str),
}

/// Values that a setting accepts.
#[derive(Clone, Copy, Debug)]
pub enum Values {
    /// Values of this form, in words.
    Form(&'static str),
    /// Amount between these two bounds, both included.
    Between(Unit, &'static str, &'static str),
}

/// Unit in which an amount is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// `10m`, `45s`.
    Duration,
    /// `64MiB`, `1000` (bytes).
    Size,
    /// `64`.
    Count,
}

/// Command that a setting is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Only {
    /// `relay serve`, and `relay doctor`, which checks the settings of `serve`.
    Serve,
    /// `relay cluster`.
    Cluster,
    /// `relay doctor`, which reads the settings of `serve` as well.
    Doctor,
}

/// Settings that belong together.
#[derive(Debug)]
pub struct Concern {
    /// Heading in the help and in `docs/CONFIG.md`.
    pub title: &'static str,
    /// Settings of the concern, the most used first.
    pub settings: &'static [&'static Setting],
}

impl Setting {
    pub(super) const fn new(
        variable: &'static str,
        fallback: Fallback,
        values: Values,
        meaning: &'static str,
    ) -> Self {
        Self { variable: Some(variable), flag: None, fallback, values, meaning, only: None }
    }

    pub(super) const fn flag(self, flag: &'static str) -> Self {
        Self { flag: Some(flag), ..self }
    }

    pub(super) const fn without_variable(self) -> Self {
        Self { variable: None, ..self }
    }

    pub(super) const fn only(self, only: Only) -> Self {
        Self { only: Some(only), ..self }
    }
}

/// Name in messages and help, such as `RELAY_LISTEN (--listen)`.
impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.variable, self.flag) {
            (Some(variable), Some(flag)) => write!(f, "{variable} (--{flag})"),
            (Some(variable), None) => f.write_str(variable),
            (None, flag) => write!(f, "--{}", flag.unwrap_or_default()),
        }
    }
}

impl fmt::Display for Fallback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Is(text) | Self::Says(text)) = self;
        f.write_str(text)
    }
}

impl fmt::Display for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Form(text) => f.write_str(text),
            Self::Between(_, least, most) => write!(f, "{least} to {most}"),
        }
    }
}

impl Unit {
    /// Parses an amount into nanoseconds, bytes or a plain count. Returns `None` if the text is not
    /// in this unit, or exceeds 64 bits.
    pub(super) fn parse(self, text: &str) -> Option<u64> {
        match self {
            Self::Duration => value::nanoseconds(text),
            Self::Size => value::bytes(text),
            Self::Count => text.parse().ok(),
        }
    }
}
