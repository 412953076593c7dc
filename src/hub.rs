//! Who watches on this pod, and the dispatch of an event to exactly those whom it is for.
//!
//! An event costs one look-up per key of its audience plus work for the watchers it reaches; no other watcher is touched.
//! The hub never waits for a socket: it fills [`Outbox`]es, and a full one ends its own connection only.

pub mod index;
pub mod outbox;
pub mod watcher;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use opentelemetry::metrics::Meter;

use self::{index::Index, watcher::Watcher};
pub use self::{
    outbox::{Delivery, Outbox},
    watcher::{Watch, Watching},
};
use crate::{
    audience::Audience,
    event::{Event, Payload},
};

/// Turns an event into the text that every watcher of one operation gets.
#[async_trait]
pub trait Render: Send + Sync + 'static {
    /// The JSON of the execution result, or `None` if the operation has nothing to say about this event. Must end by
    /// itself within seconds: the events behind it wait.
    async fn render(&self, event: &Event, payload: &Payload) -> Option<Arc<str>>;
}

/// The watchers of one pod. Clones are the same hub.
#[derive(Clone, Default)]
pub struct Hub(Arc<Mutex<Index>>);

impl Hub {
    /// An empty hub.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Shows the number of watchers as a metric.
    pub fn observe(&self, meter: &Meter) {
        let hub = self.clone();
        meter
            .u64_observable_gauge("relay.watchers")
            .with_description("Watchers now.")
            .with_callback(move |gauge| gauge.observe(hub.watchers() as u64, &[]))
            .build();
    }

    /// Lets a watcher in: every event dispatched from now on that is for its viewer reaches its outbox. It leaves when
    /// the returned guard is dropped.
    #[must_use = "the watcher leaves when the guard is dropped"]
    pub fn watch(&self, watch: Watch) -> Watching {
        let slot = self.index().insert(Watcher::new(watch));
        Watching::new(self.clone(), slot)
    }

    /// Puts the event into the outbox of every watcher of `field` that it is for, once each, and returns how many that
    /// were. Calls must not overlap, or the order of events would be lost.
    pub async fn dispatch(
        &self,
        event: &Event,
        field: &str,
        audience: &Audience,
        payload: &Payload,
    ) -> usize {
        let mut watchers = self.index().matching(field, audience);
        // Neighbours share an operation, so that each operation is executed once.
        watchers.sort_unstable_by_key(|watcher| watcher.operation_address());
        for sharing in watchers.chunk_by(|a, b| a.operation_address() == b.operation_address()) {
            let Some(result) = sharing[0].operation.render(event, payload).await else { continue };
            for watcher in sharing {
                watcher.deliver(result.clone(), event.published);
            }
        }
        watchers.len()
    }

    /// How many watchers there are.
    #[must_use]
    pub fn watchers(&self) -> usize {
        self.index().len()
    }

    /// How many keys the index holds; zero without watchers.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.index().keys()
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        // The index is changed by whole steps that do not panic: a poisoned lock still guards a sound one.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, time::SystemTime};

    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::audience::{Interests, Viewer};

    struct Echo;

    #[async_trait]
    impl Render for Echo {
        async fn render(&self, event: &Event, _payload: &Payload) -> Option<Arc<str>> {
            Some(event.id.clone())
        }
    }

    fn viewer(user: &str, keys: &[String]) -> Arc<Viewer> {
        let interests = Interests::new(keys.iter().map(|key| key.as_str().into()));
        Arc::new(Viewer { user: user.into(), interests })
    }

    fn watch(hub: &Hub, id: u64, viewer: &Arc<Viewer>, outbox: &Arc<Outbox>) -> Watching {
        hub.watch(Watch {
            id,
            field: "f".into(),
            viewer: viewer.clone(),
            operation: Arc::new(Echo),
            outbox: outbox.clone(),
        })
    }

    fn event() -> Event {
        let mut event = Event::new("/test".into(), "k", None, Bytes::new());
        event.published = Some(SystemTime::now());
        event
    }

    fn payload() -> Payload {
        Arc::new(())
    }

    #[tokio::test]
    async fn a_watcher_that_left_is_neither_found_nor_told() {
        let hub = Hub::new();
        let outbox = Outbox::new(1 << 16);
        let keys = ["a".to_owned(), "b".to_owned()];
        let watching = watch(&hub, 1, &viewer("1", &keys), &outbox);
        let audience = Audience::new(["a".into(), "b".into()], None);
        assert_eq!(hub.dispatch(&event(), "f", &audience, &payload()).await, 1);
        assert_eq!(outbox.take().len(), 1, "in two keys, told once");
        assert_eq!(hub.dispatch(&event(), "g", &audience, &payload()).await, 0, "another field");
        drop(watching);
        assert_eq!(hub.dispatch(&event(), "f", &audience, &payload()).await, 0);
        assert_eq!((hub.watchers(), hub.keys()), (0, 0));
    }

    proptest! {
        #[test]
        fn the_index_answers_what_the_rule_says(
            viewers in prop::collection::vec((0u8..6, prop::collection::vec(0u8..5, 0..4)), 0..20),
            keys in prop::collection::vec(0u8..6, 0..5),
            author in prop::option::of(0u8..6),
        ) {
            let name = |n: &u8| n.to_string();
            let hub = Hub::new();
            let audience = Audience::new(keys.iter().map(|k| name(k).into()), author.as_ref().map(|a| name(a).into()));
            let watching: Vec<_> = viewers.iter().enumerate().map(|(n, (user, keys))| {
                let viewer = viewer(&name(user), &keys.iter().map(name).collect::<Vec<_>>());
                let outbox = Outbox::new(1 << 16);
                (watch(&hub, n as u64, &viewer, &outbox), viewer, outbox)
            }).collect();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let told = runtime.block_on(hub.dispatch(&event(), "f", &audience, &payload()));
            let by_rule: BTreeSet<usize> =
                watching.iter().enumerate().filter(|(_, (_, v, _))| audience.includes(v)).map(|(n, _)| n).collect();
            let by_index: BTreeSet<usize> =
                watching.iter().enumerate().filter(|(_, (_, _, o))| o.take().len() == 1).map(|(n, _)| n).collect();
            prop_assert_eq!(told, by_rule.len());
            prop_assert_eq!(by_index, by_rule);
        }
    }
}
