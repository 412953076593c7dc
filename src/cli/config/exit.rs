//! [`EarlyExit`]: why there is no command to run.

/// The exit code of a command line or an environment that cannot be used: `EX_USAGE` of sysexits.h.
pub const EX_USAGE: u8 = 64;

/// The text and the exit code of a process that has no command to run: help was asked for, or something is wrong.
#[derive(Debug, PartialEq, Eq)]
pub struct EarlyExit {
    /// What to print, final newline included.
    pub text: String,
    /// The exit code: 0 for help and version, else [`EX_USAGE`].
    pub code: u8,
    /// Whether the text was asked for and belongs on stdout rather than stderr.
    pub to_stdout: bool,
}
