//! [`KeptFeed`]: a feed that a task of its adapter, the keeper, opens anew after every failure.
//!
//! The keeper has the `Controls`. Feed and controls are what all such feeds have in
//! common: the queue, the state, the request for a new generation, and the pause between two tries.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use tokio::{sync::watch, task::JoinSet, time::sleep};
use tokio_util::sync::CancellationToken;

use super::{
    Feed, FeedState, Order, Received, Reopen,
    queue::{self, queue},
};

/// Feed of one pod that a keeper keeps open.
pub struct KeptFeed {
    events: queue::Receiver,
    state: watch::Receiver<FeedState>,
    reopen: Reopen,
    traits: Arc<Traits>,
    stop: CancellationToken,
    keeper: JoinSet<()>,
}

/// What a keeper knows about its feed.
#[derive(Default)]
struct Traits {
    is_total: AtomicBool,
    reaches_back: AtomicBool,
}

/// Controls of a feed, which its keeper holds.
pub(super) struct Controls {
    /// Queue to the relay.
    pub(super) events: queue::Sender,
    pub(super) reopen: Reopen,
    /// Cancelled when the feed is to be closed.
    pub(super) stop: CancellationToken,
    states: watch::Sender<FeedState>,
    traits: Arc<Traits>,
    /// Shortest and longest pause between two tries.
    backoff: (Duration, Duration),
    pause: Duration,
    /// Why there is no feed, and how often that was so in a row.
    why: String,
    tries: u32,
}

impl KeptFeed {
    /// Creates a feed whose queue holds this many messages. The pause between two tries doubles
    /// from the first value of `backoff` to the second, less up to a half by chance.
    pub(super) fn new(messages: usize, backoff: (Duration, Duration)) -> (Self, Controls) {
        let (sender, events) = queue(messages);
        let (states, state) = watch::channel(FeedState::Opening(None));
        let (reopen, stop, traits) = (Reopen::default(), CancellationToken::new(), Arc::<Traits>::default());
        let controls = Controls {
            events: sender,
            reopen: reopen.clone(),
            stop: stop.clone(),
            states,
            traits: traits.clone(),
            backoff,
            pause: backoff.0,
            why: String::new(),
            tries: 0,
        };
        (Self { events, state, reopen, traits, stop, keeper: JoinSet::new() }, controls)
    }

    /// Starts the keeper, which holds the controls. The keeper ends with the feed.
    pub(super) fn kept_by(mut self, keeper: impl Future<Output = ()> + Send + 'static) -> Self {
        self.keeper.spawn(keeper);
        self
    }
}

#[async_trait]
impl Feed for KeptFeed {
    async fn next(&mut self) -> Option<Received> {
        self.events.recv().await
    }

    fn state(&self) -> watch::Receiver<FeedState> {
        self.state.clone()
    }

    fn reopen(&self) -> Reopen {
        self.reopen.clone()
    }

    fn order(&self) -> Order {
        if self.traits.is_total.load(Ordering::Relaxed) { Order::Total } else { Order::Lanes }
    }

    fn reaches_back(&self) -> bool {
        self.traits.reaches_back.load(Ordering::Relaxed)
    }

    async fn close(&mut self) {
        // The queue closes first: a keeper that waits for room in it would not notice the stop.
        self.events.close();
        self.stop.cancel();
        while self.keeper.join_next().await.is_some() {}
        while self.events.try_recv().is_some() {}
    }
}

impl Controls {
    /// Sets the order of the feed; [`Order::Lanes`] at first.
    pub(super) fn set_order(&self, order: Order) {
        self.traits.is_total.store(order == Order::Total, Ordering::Relaxed);
    }

    /// Sets whether a generation brings what was published before it; `false` at first.
    pub(super) fn set_reaches_back(&self, reaches_back: bool) {
        self.traits.reaches_back.store(reaches_back, Ordering::Relaxed);
    }

    /// Shows that a generation is open.
    pub(super) fn open(&self, generation: Arc<str>) {
        self.states.send_replace(FeedState::Open(generation));
    }

    /// Shows that a generation has ended, and why, unless the feed is being closed.
    pub(super) fn end(&self, why: &str) {
        if !self.stop.is_cancelled() {
            self.states.send_replace(FeedState::Opening(Some(why.to_owned())));
        }
    }

    /// Returns how often in a row there was no feed, for the same reason.
    pub(super) const fn tries(&self) -> u32 {
        self.tries
    }

    /// Shows and logs why no feed is open, and how often it was tried. Repeats of a reason are
    /// logged ever less often.
    pub(super) fn report(&mut self, why: String) {
        self.tries = if self.why == why { self.tries + 1 } else { 1 };
        self.why.clone_from(&why);
        let tries = self.tries;
        if tries.is_power_of_two() {
            tracing::warn!(why, tries, "feed not open");
        }
        let times = if tries > 1 { format!(" (tried {tries} times)") } else { String::new() };
        self.states.send_replace(FeedState::Opening(Some(why + &times)));
    }

    /// Notes that a generation has brought something, so that the next one need not wait.
    pub(super) const fn succeed(&mut self) {
        (self.pause, self.tries) = (self.backoff.0, 0);
    }

    /// Has the next try wait for the longest pause.
    pub(super) const fn back_off(&mut self) {
        self.pause = self.backoff.1;
    }

    /// Waits before the next try, or until the feed is to be closed.
    pub(super) async fn pause(&mut self) {
        let pause = sleep(self.pause.mul_f64(rand::random_range(0.5..1.0)));
        self.pause = (self.pause * 2).min(self.backoff.1);
        self.stop.run_until_cancelled(pause).await;
    }

    /// Shows that the feed has ended for good.
    pub(super) fn close(&self) {
        self.states.send_replace(FeedState::Closed);
    }
}
