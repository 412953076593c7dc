//! [`Report`]: one line for each [`Finding`].
//!
//! Each line is flushed at once, because checks take seconds. A finding must never span two lines.

use std::{
    error::Error,
    io::{self, Write},
    iter::successors,
};

/// Result of a check.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Finding {
    Ok(String),
    Wrong { what: String, cure: String },
    Skipped(String),
}

impl Finding {
    pub(super) fn ok(what: impl Into<String>) -> Self {
        Self::Ok(what.into())
    }

    pub(super) fn wrong(what: impl Into<String>, cure: impl Into<String>) -> Self {
        Self::Wrong { what: what.into(), cure: cure.into() }
    }

    pub(super) fn skipped(why: impl Into<String>) -> Self {
        Self::Skipped(why.into())
    }
}

/// Report on `out`, with the numbers of findings that are ok, wrong and skipped.
pub(super) struct Report<'a> {
    pub(super) out: &'a mut (dyn Write + Send),
    pub(super) counts: [usize; 3],
}

impl Report<'_> {
    /// Writes the line of a check and counts its finding.
    ///
    /// # Errors
    /// If `out` cannot be written.
    pub(super) fn add(&mut self, check: &str, finding: &Finding) -> io::Result<()> {
        let (kind, word, text) = match finding {
            Finding::Ok(what) => (0, "ok", what.clone()),
            Finding::Wrong { what, cure } => (1, "WRONG", format!("{what}. Cure: {cure}")),
            Finding::Skipped(why) => (2, "skipped", why.clone()),
        };
        self.counts[kind] += 1;
        // The cause of an error may contain line breaks.
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        writeln!(self.out, "{word:<8} {check:<12} {text}")?;
        self.out.flush()
    }
}

/// Returns the error and its root cause. The causes between them only repeat it in other words.
pub(super) fn brief(error: &(dyn Error + 'static)) -> String {
    match successors(error.source(), |&cause| cause.source()).last() {
        Some(root) => format!("{error}: {root}"),
        None => error.to_string(),
    }
}
