//! Delivery of an event's results to the send queues of watchers, in the relay loop and in turns.
//!
//! An operation is executed once for all watchers that it is for here. It must never wait for a
//! socket.

use std::{collections::HashMap, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use tokio::{task::yield_now, time::Instant};
use tracing::Instrument as _;

use super::{
    delivery::Rendered,
    relayed::Relayed,
    send_queue::Overflow,
    shared::Shared,
    turns::{Sharing, Turn},
    watcher::Watcher,
};
use crate::budget::SharedCharge;

/// How long one turn lasts. The operation that runs at its end is finished.
const SLICE: Duration = Duration::from_millis(2);

/// Most watchers whose users are compared. More count as several users.
const MAX_COMPARED: usize = 32;

/// Returns the user of all these watchers; `None` if there are several users.
fn only_user(sharing: Sharing<'_>) -> Option<&Arc<str>> {
    let user = &sharing.first()?.viewer.user;
    let is_only = |watcher: &Arc<Watcher>| watcher.viewer.user == *user;
    (sharing.len() <= MAX_COMPARED && sharing.iter().all(is_only)).then_some(user)
}

impl Shared {
    /// Makes the result of an operation for its watchers, and puts it into their send queues.
    pub(super) async fn deliver(&self, relayed: &Relayed, sharing: Sharing<'_>) {
        let Some(first) = sharing.first() else { return };
        let Some(payload) = first.operation.render(relayed).await else {
            if let Some(delivery_log) = self.delivery_log.get() {
                delivery_log.filtered(relayed, sharing);
            }
            return;
        };
        let charge = if sharing.len() > 1 {
            let Some(charge) = self.charge_shared(Rendered::bytes(&payload), sharing) else { return };
            Some(charge)
        } else {
            None
        };
        let result = Arc::new(Rendered::live(relayed, payload, charge));
        for watcher in sharing {
            watcher.deliver(result.clone());
        }
        if let Some(delivery_log) = self.delivery_log.get() {
            delivery_log.dispatched(relayed, sharing);
        }
    }

    /// Charges a result that these watchers share. Without room, those that have not read what came
    /// before make room: their connections end. If that is not enough, all of them end.
    fn charge_shared(&self, bytes: usize, sharing: Sharing<'_>) -> Option<SharedCharge> {
        let user = only_user(sharing);
        let charge = || self.queues.try_charge_shared(user, bytes);
        charge().or_else(|| {
            let behind = sharing.iter().filter(|watcher| watcher.send_queue.is_behind());
            behind.for_each(|watcher| watcher.send_queue.end(Overflow::NoRoom));
            let charge = charge();
            if charge.is_none() {
                sharing.iter().for_each(|watcher| watcher.send_queue.end(Overflow::NoRoom));
            }
            charge
        })
    }

    /// Adds turns for the event. Starts the task that runs them, unless it runs.
    pub(super) fn wait(
        self: &Arc<Self>,
        relayed: &Arc<Relayed>,
        waiting: HashMap<&Arc<str>, Vec<Arc<Watcher>>>,
    ) {
        for (user, watchers) in waiting {
            self.turns.add(user, Turn::new(relayed, watchers, &self.queues, user));
        }
        self.turns.start(|| Box::pin(run(self.clone())));
    }
}

/// Runs turns until none is left.
async fn run(shared: Arc<Shared>) {
    while let Some((user, mut turn)) = shared.turns.next() {
        let span = turn.span.clone();
        let ran = AssertUnwindSafe(run_turn(&shared, &mut turn)).catch_unwind().instrument(span).await;
        if ran.is_err() {
            tracing::error!("a result cannot be made; its connections end");
            turn.end();
        }
        shared.turns.put_back(user, turn);
        yield_now().await;
    }
}

/// Makes results until the time of the turn is over.
async fn run_turn(shared: &Shared, turn: &mut Turn) {
    let began = Instant::now();
    while !turn.is_over() && began.elapsed() < SLICE {
        let sharing = turn.sharing();
        if sharing.iter().any(|watcher| watcher.send_queue.is_used()) {
            shared.deliver(&turn.relayed, sharing).await;
        }
        turn.advance();
    }
}
