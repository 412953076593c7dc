//! [`Space`]: bytes that are charged for one answer before they are written.
//!
//! Most answers of mutations are short, so that little is charged for them at first. A longer one
//! charges more while it is written, and stops where there is no room.

use std::sync::{Mutex, PoisonError};

use super::error::Code;
use crate::{budget::Charge, lock::lock};

/// Space of one answer.
pub struct Space {
    charge: Mutex<Charge>,
    limit: usize,
}

impl Space {
    /// Creates the space of an answer that may have at most `limit` bytes.
    #[must_use]
    pub const fn new(charge: Charge, limit: usize) -> Self {
        Self { charge: Mutex::new(charge), limit }
    }

    /// Returns the bytes that are charged.
    #[must_use]
    pub fn bytes(&self) -> usize {
        lock(&self.charge).bytes()
    }

    /// Returns the most bytes that the answer may have.
    #[must_use]
    pub const fn limit(&self) -> usize {
        self.limit
    }

    /// Charges twice the bytes, as far as the limit. Returns the bytes that are charged then.
    ///
    /// # Errors
    /// `RESULT_TOO_LARGE` at the limit; `OVERLOADED` if there is no room for more now.
    pub fn grow(&self) -> Result<usize, Code> {
        let mut charge = lock(&self.charge);
        if charge.bytes() >= self.limit {
            return Err(Code::ResultTooLarge);
        }
        let more = charge.bytes().saturating_mul(2).clamp(1, self.limit);
        if charge.resize(more) { Ok(more) } else { Err(Code::Overloaded) }
    }

    /// Changes the charge to the true size. Returns `false`, and changes nothing, if there is no
    /// room for more now.
    pub(super) fn resize(&self, bytes: usize) -> bool {
        lock(&self.charge).resize(bytes)
    }

    /// Returns the charge for a text of this length. An error's text is small, and shorter than
    /// what a charge begins with.
    pub(super) fn into_charge(self, bytes: usize) -> Charge {
        self.resize(bytes);
        self.charge.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}
