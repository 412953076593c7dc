//! The templates that queries answer: a projection of the feed, the same on every pod.
//!
//! Pub/Sub keeps the order of one author only, so two pods may see two authors' edits in different order. The last one
//! *published* wins on every pod, whatever the order of arrival. It reaches back as far as the replay window, as a pod that
//! starts now could not know more.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, SystemTime},
};

use super::template::Template;
use crate::event::Event;

/// How many events the projection reaches back at most; about 100 MiB of templates of ordinary size.
const MAX_EVENTS: usize = 100_000;

/// A place in the order that all pods agree on.
type Stamp = (SystemTime, Arc<str>);

/// The templates of the last while.
pub struct Templates {
    retention: Duration,
    state: RwLock<State>,
}

#[derive(Default)]
struct State {
    entries: HashMap<Arc<str>, Entry>,
    /// Every change and the template it was to, for forgetting.
    changes: VecDeque<(SystemTime, Arc<str>)>,
}

struct Entry {
    first: Stamp,
    changed: SystemTime,
    /// The last published state that the feed brought.
    published: Option<(Stamp, Template)>,
    /// What this pod published itself, until the feed brings that very event: its author reads what it wrote.
    own: Option<(Arc<str>, Template)>,
}

impl Templates {
    /// No templates yet; each is kept for `retention` after its last event.
    #[must_use]
    pub fn new(retention: Duration) -> Self {
        Self { retention, state: RwLock::default() }
    }

    /// Takes the template as `event` leaves it. An event that has no published time is this pod's own, ahead of the feed.
    pub fn apply(&self, event: &Event, template: Template) {
        let stamp = (event.published.unwrap_or_else(SystemTime::now), event.id.clone());
        let horizon = SystemTime::now().checked_sub(self.retention).unwrap_or(SystemTime::UNIX_EPOCH);
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        state.changes.push_back((stamp.0, template.id.clone()));
        let entry = state.entries.entry(template.id.clone()).or_insert_with(|| Entry {
            first: stamp.clone(),
            changed: stamp.0,
            published: None,
            own: None,
        });
        entry.take(stamp, template, event.published.is_some());
        state.forget(horizon);
    }

    /// The template of that id.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<Template> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        state.entries.get(id).filter(|entry| self.keeps(entry)).and_then(Entry::template).cloned()
    }

    /// All templates, the first published first.
    #[must_use]
    pub fn all(&self) -> Vec<Template> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let mut kept: Vec<&Entry> = state.entries.values().filter(|entry| self.keeps(entry)).collect();
        kept.sort_unstable_by(|a, b| a.first.cmp(&b.first));
        kept.into_iter().filter_map(Entry::template).cloned().collect()
    }

    fn keeps(&self, entry: &Entry) -> bool {
        // A topic whose clock is ahead of ours stamps the future: that is not old.
        entry.changed.elapsed().unwrap_or_default() <= self.retention
    }
}

impl Entry {
    fn take(&mut self, stamp: Stamp, template: Template, is_published: bool) {
        self.changed = self.changed.max(stamp.0);
        if !is_published {
            self.own = Some((stamp.1, template));
            return;
        }
        if self.own.as_ref().is_some_and(|(event, _)| *event == stamp.1) {
            self.own = None;
        }
        match &self.published {
            None => (self.first, self.published) = (stamp.clone(), Some((stamp, template))),
            Some((last, _)) => {
                self.first = self.first.clone().min(stamp.clone());
                if *last < stamp {
                    self.published = Some((stamp, template));
                }
            }
        }
    }

    fn template(&self) -> Option<&Template> {
        self.own
            .as_ref()
            .map(|(_, template)| template)
            .or(self.published.as_ref().map(|(_, template)| template))
    }
}

impl State {
    /// Forgets the templates that have not changed since `horizon`.
    fn forget(&mut self, horizon: SystemTime) {
        while let Some((time, id)) = self.changes.front() {
            if *time >= horizon && self.changes.len() <= MAX_EVENTS {
                return;
            }
            if self.entries.get(id).is_some_and(|entry| entry.changed <= *time) {
                self.entries.remove(id);
            }
            self.changes.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    fn event(id: &str, published: Option<u64>) -> Event {
        let mut event = Event::new("/test".into(), "k", None, Bytes::new());
        event.id = id.into();
        event.published = published.map(|second| SystemTime::now() - Duration::from_secs(1_000 - second));
        event
    }

    fn template(id: &str, name: &str) -> Template {
        Template::parse(format!(r#"{{"id": "{id}", "name": "{name}"}}"#).as_bytes()).unwrap()
    }

    fn hour() -> Templates {
        Templates::new(Duration::from_secs(3_600))
    }

    #[test]
    fn the_author_reads_its_own_write_until_the_feed_has_brought_it() {
        let templates = hour();
        templates.apply(&event("a", Some(1)), template("t", "theirs"));
        templates.apply(&event("b", None), template("t", "ours"));
        templates.apply(&event("c", Some(2)), template("t", "theirs again"));
        assert_eq!(templates.get("t"), Some(template("t", "ours")));
        templates.apply(&event("b", Some(3)), template("t", "ours"));
        templates.apply(&event("d", Some(4)), template("t", "last"));
        assert_eq!(templates.get("t"), Some(template("t", "last")));
    }

    #[test]
    fn what_is_older_than_the_window_is_forgotten() {
        let templates = Templates::new(Duration::from_secs(100));
        templates.apply(&event("a", Some(1)), template("old", "n"));
        assert_eq!(templates.all(), []);
        templates.apply(&event("b", Some(950)), template("new", "n"));
        assert_eq!(templates.all(), [template("new", "n")]);
        assert_eq!(templates.state.read().unwrap().entries.len(), 1);
    }

    proptest! {
        #[test]
        fn every_order_of_arrival_ends_in_the_same_templates(
            events in prop::collection::vec((0usize..3, "[a-z]{1,4}"), 1..12),
            seed in any::<prop::sample::Index>(),
            repeats in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
        ) {
            let base = SystemTime::now() - Duration::from_secs(500);
            let published: Vec<(Event, Template)> = (0..).zip(&events).map(|(n, (id, name))| {
                let mut event = event(&format!("e{n}"), None);
                event.published = Some(base + Duration::from_secs(n));
                (event, template(&id.to_string(), name))
            }).collect();
            let (in_order, shuffled) = (hour(), hour());
            for (event, template) in &published {
                in_order.apply(event, template.clone());
            }
            let mut arrival: Vec<_> = published.iter().collect();
            arrival.rotate_left(seed.index(published.len()));
            arrival.extend(repeats.iter().map(|repeat| &published[repeat.index(published.len())]));
            arrival.reverse();
            for (event, template) in arrival {
                shuffled.apply(event, template.clone());
            }
            prop_assert_eq!(in_order.all(), shuffled.all());
        }
    }
}
