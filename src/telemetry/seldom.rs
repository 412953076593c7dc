//! [`Seldom`]: limits a log line that one cause may write many times a second.
//!
//! The line carries a count, so that nothing is hidden. It must never wait.

use std::{sync::Mutex, time::Duration};

use tokio::time::Instant;

use crate::lock::lock;

/// Least time between two lines with different causes.
const LEAST: Duration = Duration::from_secs(1);

/// Limit of one kind of line.
#[derive(Debug)]
pub struct Seldom {
    every: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    last: Option<(Instant, String)>,
    count: u64,
}

impl Seldom {
    /// Creates a limit of one line in `every` for each cause.
    #[must_use]
    pub fn new(every: Duration) -> Self {
        Self { every, state: Mutex::default() }
    }

    /// Counts one occurrence with this cause. Returns for how many occurrences a line is due now;
    /// `None` if no line is due.
    pub fn count(&self, cause: &str) -> Option<u64> {
        let mut state = lock(&self.state);
        state.count += 1;
        let wait = |known: &str| if known == cause { self.every } else { LEAST };
        if state.last.as_ref().is_some_and(|(at, known)| at.elapsed() < wait(known)) {
            return None;
        }
        state.last = Some((Instant::now(), cause.to_owned()));
        Some(std::mem::take(&mut state.count))
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn line_is_due_once_in_its_time() {
        let seldom = Seldom::new(Duration::from_secs(10));
        assert_eq!(seldom.count("a"), Some(1));
        advance(Duration::from_secs(9)).await;
        assert_eq!(seldom.count("a"), None);
        advance(Duration::from_secs(1)).await;
        assert_eq!(seldom.count("a"), Some(2), "two occurrences since the last line");
    }

    #[tokio::test(start_paused = true)]
    async fn new_cause_is_due_within_second() {
        let seldom = Seldom::new(Duration::from_secs(10));
        assert_eq!(seldom.count("a"), Some(1));
        assert_eq!(seldom.count("b"), None);
        advance(Duration::from_secs(1)).await;
        assert_eq!(seldom.count("b"), Some(2));
    }
}
