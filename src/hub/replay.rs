//! What a watcher missed, at its own pace, and then live.
//!
//! A replay holds no more than a portion of the window at a time, and no lock while it renders or while its client reads: a
//! thousand of them cost the live events of others nothing but the processor's time.

use std::{
    collections::VecDeque,
    mem,
    sync::{Arc, atomic::Ordering},
};

use tokio::task::yield_now;

use super::{Delivery, Hub, Relayed, Rendered, State, WINDOW_EXCEEDED, Watch, Watching, window::Progress};
use crate::cursor::Cursor;

/// A watcher that has not caught up with the feed.
pub struct Replay {
    hub: Hub,
    watch: Watch,
    after: Cursor,
    progress: Option<Progress>,
    /// What of the last portion is still to be rendered, and what is.
    pending: VecDeque<Arc<Relayed>>,
    rendered: Vec<Delivery>,
}

/// What a replay has come to.
pub enum Step {
    /// The next of what was missed, in order. There is more to come.
    Deliveries(Vec<Delivery>),
    /// Nothing is to come any more: the watcher is in the hub. If the window does not reach back, first this notice, then live.
    Live(Watching, Option<Delivery>),
}

impl Replay {
    pub(super) const fn new(hub: Hub, watch: Watch, after: Cursor) -> Self {
        Self { hub, watch, after, progress: None, pending: VecDeque::new(), rendered: Vec::new() }
    }

    /// The watcher's number.
    #[must_use]
    pub const fn watcher(&self) -> u64 {
        self.watch.id
    }

    /// Goes one step. Waits first until the feed has caught up. Cancel-safe; not to be called again after [`Step::Live`].
    pub async fn step(&mut self) -> Step {
        loop {
            while let Some(relayed) = self.pending.front() {
                if let Some(payload) = self.watch.operation.render_again(relayed).await {
                    if let Some(delivery_log) = self.hub.0.delivery_log.get() {
                        delivery_log.replayed(relayed, &self.watch.viewer.user);
                    }
                    let result = Rendered::old(payload, relayed.cursor.clone()).into();
                    self.rendered.push(Delivery { watcher: self.watch.id, result });
                }
                self.pending.pop_front();
            }
            if !self.rendered.is_empty() {
                return Step::Deliveries(mem::take(&mut self.rendered));
            }
            let mut caught_up = self.hub.0.caught_up.subscribe();
            // An error says that the hub is gone, which it cannot be: we hold it.
            let _ = caught_up.wait_for(|is_caught_up| *is_caught_up).await;
            match self.portion() {
                Ok(portion) => self.pending = portion.into(),
                Err(end) => return end,
            }
            // However little of a long window is for this viewer, others get their turn.
            yield_now().await;
        }
    }

    /// The next portion, those in it that are for the viewer; or the end, decided in the same breath, so that nothing
    /// comes between.
    fn portion(&mut self) -> Result<Vec<Arc<Relayed>>, Step> {
        let Self { hub, watch, after, progress, .. } = self;
        let mut state = hub.state();
        let portion = match progress {
            Some(progress) => state.window.next(progress),
            None => state.window.replay(after).and_then(|begun| state.window.next(progress.insert(begun))),
        };
        match portion {
            Ok(portion) if portion.is_empty() => Err(Step::Live(hub.enter(&mut state, watch.clone()), None)),
            Ok(mut portion) => {
                portion.retain(|relayed| {
                    *relayed.field == *watch.field && relayed.audience.includes(&watch.viewer)
                });
                Ok(portion)
            }
            Err(_) => Err(Self::gap(hub, &mut state, watch)),
        }
    }

    fn gap(hub: &Hub, state: &mut State, watch: &Watch) -> Step {
        hub.0.counts.window_exceeded.fetch_add(1, Ordering::Relaxed);
        let cursor: Arc<str> = state.place().encode(&hub.0.topic).into();
        let payload = watch.operation.gap(WINDOW_EXCEEDED, &cursor);
        let notice = Delivery { watcher: watch.id, result: Rendered::old(payload, cursor).into() };
        Step::Live(hub.enter(state, watch.clone()), Some(notice))
    }
}
