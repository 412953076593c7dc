//! The ledger under any sequence of what clients do: it keeps its bounds, and returns to zero when
//! all of them are gone.

use std::sync::Arc;

use proptest::{collection::vec, prelude::*};

use super::{
    delivery::{Delivery, Rendered},
    send_queue::SendQueue,
};
use crate::budget::{Budget, Charge, Pool, Settings};

const USERS: [&str; 3] = ["a", "b", "c"];
const QUEUE: usize = 16 << 10;

/// One thing that a client does, or that the pod does for it. A user, a connection and a charge are
/// chosen by a number.
#[derive(Clone, Copy, Debug)]
enum Action {
    BeginRequest(usize, usize),
    Ask(usize, usize),
    Subscribe(usize, usize),
    /// A request grows, or the true size of an answer is known.
    Resize(usize, usize),
    End(usize),
    Connect(usize),
    /// A result for one connection.
    Push(usize, usize),
    /// A result that all connections share.
    PushToAll(usize),
    /// A part of a replay, which is written without the queue.
    Replay(usize, usize),
    Write(usize),
    /// The client does not take what is written.
    Blocked(usize),
    Written(usize),
    Leave(usize),
}

fn action() -> impl Strategy<Value = Action> {
    let (any, small) = (|| any::<usize>(), || 0..2 * QUEUE);
    let large = || 0..1_usize << 20;
    prop_oneof![
        (any(), large()).prop_map(|(user, bytes)| Action::BeginRequest(user, bytes)),
        (any(), large()).prop_map(|(user, bytes)| Action::Ask(user, bytes)),
        (any(), large()).prop_map(|(user, bytes)| Action::Subscribe(user, bytes)),
        (any(), large()).prop_map(|(at, bytes)| Action::Resize(at, bytes)),
        any().prop_map(Action::End),
        any().prop_map(Action::Connect),
        (any(), small()).prop_map(|(at, bytes)| Action::Push(at, bytes)),
        small().prop_map(Action::PushToAll),
        (any(), small()).prop_map(|(at, bytes)| Action::Replay(at, bytes)),
        any().prop_map(Action::Write),
        any().prop_map(Action::Blocked),
        any().prop_map(Action::Written),
        any().prop_map(Action::Leave),
    ]
}

/// Clients of one pod.
struct World {
    budget: Budget,
    charges: Vec<Charge>,
    connections: Vec<Arc<SendQueue>>,
}

impl World {
    fn new() -> Self {
        let settings = Settings { memory: 4 << 20, answer_bytes: 256 << 10, ..Settings::default() };
        Self { budget: Budget::new(settings, QUEUE), charges: Vec::new(), connections: Vec::new() }
    }

    fn pools(&self) -> [&Pool; 4] {
        let Budget { requests, answers, operations, queues, .. } = &self.budget;
        [requests, answers, operations, queues]
    }

    fn connection(&self, at: usize) -> Option<&Arc<SendQueue>> {
        self.connections.get(at.checked_rem(self.connections.len())?)
    }

    fn run(&mut self, action: Action) {
        let user = |user: usize| USERS[user % USERS.len()].into();
        match action {
            Action::BeginRequest(by, bytes) => {
                self.charges.extend(self.budget.requests.try_charge(&user(by), bytes));
            }
            Action::Ask(by, bytes) => self.charges.extend(self.budget.answers.try_charge(&user(by), bytes)),
            Action::Subscribe(by, bytes) => {
                self.charges.extend(self.budget.charge_operation(&user(by), bytes).ok());
            }
            Action::Resize(at, bytes) if !self.charges.is_empty() => {
                let at = at % self.charges.len();
                self.charges[at].resize(bytes);
            }
            Action::End(at) if !self.charges.is_empty() => {
                drop(self.charges.swap_remove(at % self.charges.len()));
            }
            Action::Resize(..) | Action::End(_) => {}
            Action::Connect(by) => {
                let queue = SendQueue::new(QUEUE);
                queue.open_account(&self.budget.queues, &user(by), false);
                self.connections.push(queue);
            }
            Action::Push(at, bytes) => {
                self.connection(at).inspect(|queue| queue.push(own(bytes)));
            }
            Action::PushToAll(bytes) => {
                let Some(charge) = self.budget.queues.try_charge_shared(None, bytes) else { return };
                let result = Rendered { charge: Some(charge), ..rendered(bytes) };
                let delivery = Delivery { watcher: 0, result: result.into() };
                self.connections.iter().for_each(|queue| queue.push(delivery.clone()));
            }
            Action::Replay(at, bytes) => {
                self.connection(at).inspect(|queue| queue.hold(&[own(bytes)]));
            }
            Action::Write(at) => drop(self.connection(at).map(|queue| queue.take())),
            Action::Blocked(at) => {
                self.connection(at).inspect(|queue| queue.blocked());
            }
            Action::Written(at) => {
                self.connection(at).inspect(|queue| queue.written());
            }
            Action::Leave(at) => {
                if let Some(at) = at.checked_rem(self.connections.len()) {
                    self.connections.swap_remove(at);
                }
            }
        }
    }
}

fn rendered(bytes: usize) -> Rendered {
    Rendered::old("x".repeat(bytes).into(), "".into())
}

/// Returns a result of this size for one connection.
fn own(bytes: usize) -> Delivery {
    Delivery { watcher: 0, result: rendered(bytes).into() }
}

proptest! {
    #[test]
    fn ledger_keeps_bounds_and_returns_to_zero(actions in vec(action(), 0..120)) {
        let mut world = World::new();
        for action in actions {
            world.run(action);
            for pool in world.pools() {
                prop_assert!(pool.used() <= pool.limit(), "{pool:?}");
                for user in USERS {
                    prop_assert!(pool.used_by(user) <= pool.share(), "{user} of {pool:?}");
                }
            }
        }
        world.charges.clear();
        world.connections.clear();
        for pool in world.pools() {
            prop_assert_eq!((pool.used(), pool.accounts()), (0, 0), "{:?}", pool);
        }
    }
}
