//! What there is to know of a setting.
//!
//! Plain data that [`super::table`] fills in and that parser, help and documents read. It must never hold the value that a
//! setting was given.

use std::fmt;

use super::value;

/// One thing that can be set, by a variable, a flag or both.
#[derive(Debug)]
pub struct Setting {
    /// The environment variable; `None` for a matter of one command line.
    pub variable: Option<&'static str>,
    /// The long flag, without its dashes. It wins over the variable. Secrets have none: `ps` would show them.
    pub flag: Option<&'static str>,
    /// What holds when it is not set. An empty value counts as not set.
    pub fallback: Fallback,
    /// What it accepts.
    pub values: Values,
    /// What it does, in one line.
    pub meaning: &'static str,
    /// The command that it is for, if not for all that run pods.
    pub only: Option<Only>,
}

/// What holds when a setting is not set.
#[derive(Clone, Copy, Debug)]
pub enum Fallback {
    /// This value.
    Is(&'static str),
    /// What this text says.
    Says(&'static str),
}

/// What a setting accepts.
#[derive(Clone, Copy, Debug)]
pub enum Values {
    /// What this text says.
    Form(&'static str),
    /// An amount between these two, both included.
    Between(Unit, &'static str, &'static str),
}

/// How an amount is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// `10m`, `45s`.
    Duration,
    /// `64MiB`, `1000` (bytes).
    Size,
    /// `64`.
    Count,
}

/// The command that a setting is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Only {
    /// `relay serve`, and `relay doctor`, which checks what that would run on.
    Serve,
    /// `relay cluster`.
    Cluster,
    /// `relay doctor`, which reads those of `serve`, too.
    Doctor,
}

/// Settings that belong together.
#[derive(Debug)]
pub struct Concern {
    /// Its heading.
    pub title: &'static str,
    /// Its settings, the most used first.
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

/// `RELAY_LISTEN (--listen)`: what messages and help call it.
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
    /// The amount in nanoseconds, bytes or ones; `None` if the text is not written in this unit, or is beyond all bounds.
    pub(super) fn parse(self, text: &str) -> Option<u64> {
        match self {
            Self::Duration => value::nanoseconds(text),
            Self::Size => value::bytes(text),
            Self::Count => text.parse().ok(),
        }
    }
}
