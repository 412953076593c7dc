//! [`Bucket`]: a limit on how often something is done.

use std::{sync::Mutex, time::Duration};

use tokio::time::Instant;

use crate::lock::lock;

/// Token bucket: a rate a second, and how many at once.
pub(super) struct Bucket {
    rate: f64,
    burst: f64,
    state: Mutex<(f64, Instant)>,
}

impl Bucket {
    /// Creates a full bucket of this rate and this burst.
    pub(super) fn new((rate, burst): (f64, f64)) -> Self {
        Self { rate, burst, state: Mutex::new((burst, Instant::now())) }
    }

    /// Takes one.
    ///
    /// # Errors
    /// The time after which there is one, if there is none now.
    pub(super) fn take(&self) -> Result<(), Duration> {
        let mut state = lock(&self.state);
        let (left, since) = *state;
        let left = (left + since.elapsed().as_secs_f64() * self.rate).min(self.burst);
        let now = Instant::now();
        *state = (left, now);
        if left < 1.0 {
            return Err(Duration::from_secs_f64((1.0 - left) / self.rate));
        }
        *state = (left - 1.0, now);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn bucket_refills_at_its_rate() {
        let bucket = Bucket::new((4.0, 2.0));
        assert_eq!([bucket.take(), bucket.take()], [Ok(()), Ok(())]);
        assert_eq!(bucket.take(), Err(Duration::from_millis(250)));
        advance(Duration::from_millis(250)).await;
        assert_eq!(bucket.take(), Ok(()));
        assert!(bucket.take().is_err());
    }
}
