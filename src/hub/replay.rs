//! Replay of what a watcher missed, at the pace of its client, and then the change to live events.
//!
//! A replay holds one batch of the window at a time. It must never hold a lock while it renders or
//! while its client reads. One replay of a user works at a time: a thousand of them cost the others
//! no more than one does.

use std::{
    collections::VecDeque,
    mem,
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime},
};

use tokio::{
    task::yield_now,
    time::{Instant, sleep},
};

use super::{
    delivery::{Delivery, Rendered},
    delivery_log::GapNotice,
    relayed::Relayed,
    shared::{Shared, State, WINDOW_EXCEEDED},
    watcher::{Start, Watch},
    watching::Watching,
    window::{OutOfReach, Progress},
};
use crate::cursor::{ClientCursor, Source};

/// Pause of a replay before it looks again for history that may still come.
const HISTORY_PAUSE: Duration = Duration::from_millis(250);

/// Longest time that a replay renders without a pause for other tasks. A batch of one replay could
/// keep a thread for long.
const SLICE: Duration = Duration::from_millis(2);

/// Longest wait of a replay for the turn of its user. It then waits again.
const TURN_PATIENCE: Duration = Duration::from_secs(3_600);

/// Bytes of rendered results after which a step ends. One event may have many aliases.
const MAX_RENDERED: usize = 64 << 10;

/// Replay of one watcher that has not caught up with the feed.
pub struct Replay {
    shared: Arc<Shared>,
    watch: Watch,
    after: ClientCursor,
    progress: Option<Progress>,
    /// Events of the last batch that are not rendered yet.
    pending: VecDeque<Arc<Relayed>>,
    /// Deliveries of the last batch that are rendered and not yet returned.
    rendered: Vec<Delivery>,
}

/// Result of one step of a replay.
pub enum Step {
    /// Next missed events, in order. More are to come.
    Deliveries(Vec<Delivery>),
    /// The replay is over and the watcher is in the hub. If the window does not reach back to the
    /// cursor, the client first gets this gap notice, then live events.
    Live(Watching, Option<Delivery>),
}

impl Replay {
    pub(super) fn new(shared: Arc<Shared>, watch: Watch, after: ClientCursor) -> Self {
        watch.send_queue.open_account(&shared.queues, &watch.viewer.user, true);
        Self { shared, watch, after, progress: None, pending: VecDeque::new(), rendered: Vec::new() }
    }

    /// Returns the watcher's number.
    #[must_use]
    pub const fn watcher(&self) -> u64 {
        self.watch.id
    }

    /// Runs one step. Waits until the feed has caught up before it reads the window. Cancel-safe.
    /// Must not be called again after [`Step::Live`].
    pub async fn step(&mut self) -> Step {
        loop {
            if self.pending.is_empty() {
                let mut caught_up = self.shared.caught_up.subscribe();
                // An error would mean that the hub is gone, but this replay holds the hub.
                let _ = caught_up.wait_for(|is_caught_up| *is_caught_up).await;
            }
            let turn = self.shared.replays.charge(&self.watch.viewer.user, 1, TURN_PATIENCE).await;
            let Some(turn) = turn else { continue };
            if self.pending.is_empty() {
                match self.next_batch() {
                    Ok(batch) => self.pending = batch.into(),
                    Err(None) => {
                        drop(turn);
                        sleep(HISTORY_PAUSE).await;
                        continue;
                    }
                    Err(Some(end)) => return end,
                }
            }
            self.render().await;
            drop(turn);
            if !self.rendered.is_empty() {
                return Step::Deliveries(mem::take(&mut self.rendered));
            }
            // Other tasks get their turn, even if a long window holds little for this viewer.
            yield_now().await;
        }
    }

    /// Renders pending events, as many as one step may have.
    async fn render(&mut self) {
        let (mut began, mut bytes) = (Instant::now(), 0);
        while let Some(relayed) = self.pending.front().filter(|_| bytes < MAX_RENDERED) {
            if let Some(payload) = self.watch.operation.render_again(relayed).await {
                if let Some(delivery_log) = self.shared.delivery_log.get() {
                    delivery_log.replayed(relayed, &self.watch.viewer.user);
                }
                bytes += payload.len();
                let result = Rendered::old(payload, relayed.cursor.clone()).into();
                self.rendered.push(Delivery { watcher: self.watch.id, result });
            }
            self.pending.pop_front();
            if began.elapsed() >= SLICE {
                yield_now().await;
                began = Instant::now();
            }
        }
    }

    /// Returns the events of the next batch that are for the viewer. At the end of the window it
    /// adds the watcher to the hub. Both happen under one lock, so that no event comes between. It
    /// returns no step while history that is missing may still come.
    fn next_batch(&mut self) -> Result<Vec<Arc<Relayed>>, Option<Step>> {
        let Self { shared, watch, after, progress, .. } = self;
        let mut state = shared.state();
        let window = &state.window;
        let begun = match progress {
            Some(progress) => Ok(progress),
            None => window.resume(after).map(|begun| progress.insert(begun)),
        };
        let batch = begun.and_then(|progress| match window.misses(progress, &watch.field, &watch.viewer) {
            true => Err(OutOfReach),
            false => window.next(progress),
        });
        match batch {
            Ok(batch) if batch.is_empty() => {
                Err(Some(Step::Live(Watching::enter(shared, &mut state, watch.clone(), start(after)), None)))
            }
            Ok(mut batch) => {
                // An event may have thousands of keys.
                drop(state);
                batch.retain(|relayed| {
                    relayed.fields.contains(&watch.field)
                        && relayed.audience.of(&watch.field).includes(&watch.viewer)
                });
                Ok(batch)
            }
            Err(_) if state.history_until.is_some_and(|until| Instant::now() < until) => Err(None),
            Err(_) => {
                let from = after.cursor.published;
                Err(Some(Self::gap(shared, &mut state, watch, start(after), from)))
            }
        }
    }

    /// Ends the replay with a gap notice: events published since `from` may be missing.
    fn gap(shared: &Arc<Shared>, state: &mut State, watch: &Watch, start: Start, from: SystemTime) -> Step {
        shared.counts.window_exceeded.fetch_add(1, Ordering::Relaxed);
        if let Some(delivery_log) = shared.delivery_log.get() {
            let notice = GapNotice { reason: WINDOW_EXCEEDED, from, to: state.place().published };
            delivery_log.gap([&watch.viewer.user], notice);
        }
        let cursor: Arc<str> = state.place().encode(&shared.topic).into();
        let payload = watch.operation.gap(WINDOW_EXCEEDED, &cursor);
        let notice = Delivery { watcher: watch.id, result: Rendered::old(payload, cursor).into() };
        Step::Live(Watching::enter(shared, state, watch.clone(), start), Some(notice))
    }
}

/// Returns the position at which the client began, if it resumes from there.
fn start(after: &ClientCursor) -> Start {
    if after.source == Source::Start { Start::Behind(after.cursor.clone().into()) } else { Start::Unknown }
}
