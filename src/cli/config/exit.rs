//! [`EarlyExit`]: the end of a process that has no command to run.

/// Exit code for a command line or an environment that cannot be used: `EX_USAGE` of sysexits.h.
pub const EX_USAGE: u8 = 64;

/// Text and exit code of a process that has no command to run. It was asked for help or its
/// version, or settings are wrong.
#[derive(Debug, PartialEq, Eq)]
pub struct EarlyExit {
    /// Text to print, final newline included.
    pub text: String,
    /// Exit code: 0 for help and version, else [`EX_USAGE`].
    pub code: u8,
    /// Whether the text belongs on stdout: it was asked for. Problems belong on stderr.
    pub to_stdout: bool,
}
