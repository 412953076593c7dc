//! [`turn`]: the user's turn to do what keeps a thread busy for longer than a moment.
//!
//! To parse and validate a document takes up to some milliseconds, and so does a look at thousands
//! of rows, or at the whole schema. A user with many connections could keep all threads busy with
//! that. So such work of one user has its turn one after the other, and the tasks of others run
//! between two turns.

use std::{sync::Arc, time::Duration};

use tokio::task::yield_now;

use crate::{
    budget::{Charge, Pool},
    graphql::error::{Code, Error},
};

/// How long a request waits for its turn. Then it is refused with `OVERLOADED`.
const PATIENCE: Duration = Duration::from_secs(5);

/// A user's turn. It ends when it is dropped, too.
pub struct Turn(#[expect(dead_code, reason = "held for its drop")] Charge);

/// Turns of one user.
#[derive(Clone, Copy)]
pub struct Turns<'a> {
    pool: &'a Pool,
    user: &'a Arc<str>,
}

impl<'a> Turns<'a> {
    /// Creates the turns of this user in a pool of turns.
    #[must_use]
    pub const fn new(pool: &'a Pool, user: &'a Arc<str>) -> Self {
        Self { pool, user }
    }

    /// Waits for the user's turn, for at most 5 s. Must not be called by work that has a turn.
    ///
    /// # Errors
    /// `OVERLOADED`: too much work of the user waits.
    pub async fn next(self) -> Result<Turn, Error> {
        turn(self.pool, self.user).await
    }
}

/// Waits for the user's turn, for at most 5 s.
///
/// # Errors
/// `OVERLOADED`: too much work of the user waits.
pub(in crate::graphql) async fn turn(turns: &Pool, user: &Arc<str>) -> Result<Turn, Error> {
    let turn = turns.charge(user, 1, PATIENCE).await.map(Turn);
    let text = "too much work of yours waits for its turn; try again later";
    turn.ok_or_else(|| Error::new(Code::Overloaded, text))
}

impl Turn {
    /// Ends the turn, and lets other tasks run before this one goes on.
    pub(in crate::graphql) async fn end(self) {
        drop(self);
        yield_now().await;
    }
}
