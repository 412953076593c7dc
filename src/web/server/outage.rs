//! [`Outage`]: a time in which no socket can be accepted, for one line at its beginning and one
//! after it.

use std::time::Duration;

use tokio::time::Instant;

/// Time without a failure after which an outage is over. A pod at its limit of open files accepts a
/// socket whenever another one ends, and fails again at once.
const CALM: Duration = Duration::from_secs(5);

/// Failures to accept that belong together.
#[derive(Debug, Default)]
pub(super) struct Outage {
    failures: u64,
    last: Option<Instant>,
}

impl Outage {
    /// Counts a failure. Returns whether it is the first of its outage.
    pub(super) fn fail(&mut self) -> bool {
        self.failures += 1;
        self.last.replace(Instant::now()).is_none()
    }

    /// Returns the number of failures if this success ends an outage.
    pub(super) fn succeed(&mut self) -> Option<u64> {
        self.last.take_if(|last| last.elapsed() >= CALM)?;
        Some(std::mem::take(&mut self.failures))
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn outage_ends_when_failures_stay_away() {
        let mut outage = Outage::default();
        assert_eq!(outage.succeed(), None);
        assert!(outage.fail());
        for _ in 0..3 {
            advance(CALM / 2).await;
            assert_eq!(outage.succeed(), None, "the next socket may fail again");
            assert!(!outage.fail());
        }
        advance(CALM).await;
        assert_eq!(outage.succeed(), Some(4));
        assert_eq!(outage.succeed(), None);
        assert!(outage.fail(), "a new outage");
    }
}
