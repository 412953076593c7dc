//! Check of this machine's clock by the clock of a broker that is a server of its own.
//!
//! Cursors and resumes go by the broker's time. It is pure: it reads no clock.

use std::time::{Duration, SystemTime};

use humantime::format_duration as span;

use super::report::Finding;

/// Largest difference between the clocks that is no fault, as for Pub/Sub.
pub(super) const MAX_SKEW: Duration = Duration::from_secs(3);

/// Judges this machine's clock, `ours`, by that of the broker, `theirs`, which has the name
/// `whose` in the finding.
pub(super) fn judge(theirs: SystemTime, ours: SystemTime, whose: &str) -> Finding {
    let (skew, word) = match ours.duration_since(theirs) {
        Ok(ahead) => (ahead, "ahead of"),
        Err(behind) => (behind.duration(), "behind"),
    };
    match skew > MAX_SKEW {
        false => Finding::ok(format!("within {} of {whose}", span(MAX_SKEW))),
        true => Finding::wrong(
            format!("this clock is {} {word} {whose}", span(Duration::from_secs(skew.as_secs()))),
            "set both by NTP (timedatectl set-ntp true)",
        ),
    }
}
