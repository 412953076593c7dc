//! [`turn`]: the user's turn to work on a document that is not kept.
//!
//! To parse and validate a document takes up to some milliseconds. A user with many connections
//! could keep all threads busy with that. So the documents of one user have their turn one after
//! the other, and the tasks of others run between two of them.

use std::{sync::Arc, time::Duration};

use async_graphql::Response;
use tokio::task::yield_now;

use crate::{
    budget::{Charge, Pool},
    graphql::error::{Code, Error},
};

/// How long a request waits for its turn. Then it is refused with `OVERLOADED`.
const PATIENCE: Duration = Duration::from_secs(5);

/// A user's turn. It ends when it is dropped, too.
pub(in crate::graphql) struct Turn(#[expect(dead_code, reason = "held for its drop")] Charge);

/// Waits for the user's turn, for at most 5 s.
///
/// # Errors
/// A response that refuses the request.
pub(in crate::graphql) async fn turn(turns: &Pool, user: &Arc<str>) -> Result<Turn, Box<Response>> {
    let turn = turns.charge(user, 1, PATIENCE).await.map(Turn);
    turn.ok_or_else(|| {
        let text = "too many new documents of yours wait to be read; try again later";
        Error::new(Code::Overloaded, text).response().into()
    })
}

impl Turn {
    /// Ends the turn, and lets other tasks run before this one goes on.
    pub(in crate::graphql) async fn end(self) {
        drop(self);
        yield_now().await;
    }
}
