//! [`Templates`]: the state behind queries, a projection of the feed.
//!
//! The topic orders events per author only, so pods may receive the events of two authors in
//! different order. All pods agree nevertheless: the last event by the topic's clock wins, not the
//! last to arrive (`docs/decisions/0002-last-published-wins.md`). The state is bounded in time and
//! in bytes. It must never wait for anything.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet, VecDeque},
    mem,
    sync::{Arc, RwLock, RwLockReadGuard},
    time::{Duration, SystemTime},
};

use super::template::Template;
use crate::event::Event;

/// Most bytes that all templates take together: room for about 25,000 of a usual size. A query may
/// ask for all. Beyond it the oldest are forgotten.
const MAX_BYTES: usize = 16 << 20;

/// Bytes of a template's version besides its texts: places in the maps, and allocations.
const OVERHEAD: usize = 512;

/// Time for which a provisional version overrides the topic, if its own event never comes back. It
/// is longer than the way to the topic and back takes, and than clocks differ.
const PROVISIONAL_KEPT: Duration = Duration::from_secs(60);

/// Time for which the id of an event from the feed is remembered. The event's acknowledgement may
/// reach its mutation only afterwards, but within [`crate::broker::PUBLISH_TIMEOUT`]. Twice that is
/// safe.
const ARRIVAL_KEPT: Duration = Duration::from_secs(10);

/// Most ids that are remembered: enough for that time at 10,000 events a second. Beyond it the
/// oldest are forgotten.
const MAX_ARRIVALS: usize = 100_000;

/// The recent templates.
pub(super) struct Templates {
    state: RwLock<State>,
    retention: Duration,
    max_bytes: usize,
}

#[derive(Default)]
struct State {
    /// Entries by template id.
    entries: BTreeMap<Arc<str>, Entry>,
    /// Time of each entry's last event, and the template's id. The first one is forgotten first.
    by_age: BTreeSet<(SystemTime, Arc<str>)>,
    bytes: usize,
    is_overfull: bool,
    arrivals: Arrivals,
}

/// One template. It has at least one version.
#[derive(Default)]
struct Entry {
    /// The last version that came through the feed, by the topic's clock.
    settled: Option<Version>,
    /// This pod's own last version, acknowledged but not yet back from the topic. It shows until
    /// then.
    provisional: Option<Version>,
}

struct Version {
    time: SystemTime,
    event: Arc<str>,
    template: Arc<Template>,
}

impl Templates {
    /// Creates an empty state. It keeps each template for `retention` after the template's last
    /// event.
    pub(super) fn new(retention: Duration) -> Self {
        Self { state: RwLock::default(), retention, max_bytes: MAX_BYTES }
    }

    /// Applies an event. One without a published time is this pod's own, not yet back from the
    /// topic. Neither the order of calls nor repeats change what shows in the end.
    pub(super) fn apply(&self, event: &Event, template: Arc<Template>, now: SystemTime) {
        let mut state = crate::lock::write(&self.state);
        match event.published {
            Some(published) => {
                state.arrivals.insert(event.id.clone(), now);
                state.settle(Version { time: published, event: event.id.clone(), template });
            }
            // The event came back before its acknowledgement, so the feed's version stands.
            None if state.arrivals.contains(&event.id) => {}
            None => state.anticipate(Version { time: event.time, event: event.id.clone(), template }),
        }
        state.forget(self.oldest(now), self.max_bytes);
    }

    /// Returns the template with this id.
    pub(super) fn get(&self, id: &str, now: SystemTime) -> Option<Arc<Template>> {
        self.read().entries.get(id).and_then(|entry| entry.showing(self.oldest(now))).cloned()
    }

    /// Returns all templates by id, the same on every pod. Templates that clients added stand in
    /// the order of adding.
    pub(super) fn list(&self, now: SystemTime) -> Vec<Arc<Template>> {
        let oldest = self.oldest(now);
        self.read().entries.values().filter_map(|entry| entry.showing(oldest)).cloned().collect()
    }

    /// Returns the time before which a last event is forgotten.
    fn oldest(&self, now: SystemTime) -> SystemTime {
        now.checked_sub(self.retention).unwrap_or(SystemTime::UNIX_EPOCH)
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        crate::lock::read(&self.state)
    }
}

impl State {
    fn settle(&mut self, version: Version) {
        self.change(version, |entry, version| {
            entry.provisional.take_if(|provisional| provisional.yields_to(&version));
            if entry.settled.as_ref().is_none_or(|settled| settled.order() < version.order()) {
                entry.settled = Some(version);
            }
        });
    }

    fn anticipate(&mut self, version: Version) {
        self.change(version, |entry, version| entry.provisional = Some(version));
    }

    /// Changes the entry of the version's template, and keeps the count of bytes right.
    fn change(&mut self, version: Version, change: impl FnOnce(&mut Entry, Version)) {
        let id: Arc<str> = version.template.id.as_str().into();
        let mut entry = self.remove(&id).unwrap_or_default();
        change(&mut entry, version);
        self.bytes += entry.bytes();
        self.by_age.insert((entry.last(), id.clone()));
        self.entries.insert(id, entry);
    }

    fn remove(&mut self, id: &Arc<str>) -> Option<Entry> {
        let entry = self.entries.remove(id)?;
        self.bytes -= entry.bytes();
        self.by_age.remove(&(entry.last(), id.clone()));
        Some(entry)
    }

    /// Drops the entries with a last event before `oldest`, and then the oldest while all take more
    /// than `max_bytes`.
    fn forget(&mut self, oldest: SystemTime, max_bytes: usize) {
        while let Some((last, id)) = self.by_age.first().cloned() {
            let is_overfull = self.bytes > max_bytes;
            if last >= oldest && !is_overfull {
                return;
            }
            if is_overfull && !mem::replace(&mut self.is_overfull, true) {
                tracing::warn!(max_bytes, "too many templates; the oldest are forgotten before their time");
            }
            self.remove(&id);
        }
    }
}

impl Entry {
    fn showing(&self, oldest: SystemTime) -> Option<&Arc<Template>> {
        let version = self.provisional.as_ref().or(self.settled.as_ref())?;
        (self.last() >= oldest).then_some(&version.template)
    }

    fn last(&self) -> SystemTime {
        self.versions().map(|version| version.time).max().unwrap_or(SystemTime::UNIX_EPOCH)
    }

    fn bytes(&self) -> usize {
        self.versions().map(|version| OVERHEAD + version.template.bytes()).sum()
    }

    fn versions(&self) -> impl Iterator<Item = &Version> {
        self.settled.iter().chain(&self.provisional)
    }
}

impl Version {
    /// Returns the rank of the version; the highest wins. The topic's clock may be coarse, so the
    /// event's id decides between equal times.
    fn order(&self) -> (SystemTime, &str) {
        (self.time, &self.event)
    }

    /// Returns whether a provisional version gives way to `settled`: it has come back as this one,
    /// or it can no longer be on its way.
    fn yields_to(&self, settled: &Self) -> bool {
        self.event == settled.event || self.time + PROVISIONAL_KEPT < settled.time
    }
}

/// Ids of the events that came through the feed lately.
#[derive(Default)]
struct Arrivals {
    ids: HashSet<Arc<str>>,
    order: VecDeque<(SystemTime, Arc<str>)>,
}

impl Arrivals {
    fn insert(&mut self, id: Arc<str>, now: SystemTime) {
        while let Some((since, oldest)) = self.order.front() {
            if *since + ARRIVAL_KEPT > now && self.order.len() < MAX_ARRIVALS {
                break;
            }
            self.ids.remove(oldest);
            self.order.pop_front();
        }
        if self.ids.insert(id.clone()) {
            self.order.push_back((now, id));
        }
    }

    fn contains(&self, id: &str) -> bool {
        self.ids.contains(id)
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    const RETENTION: Duration = Duration::from_secs(600);

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds)
    }

    fn event(id: &str, published: Option<SystemTime>) -> Event {
        let mut event = Event::new("/test".into(), "k", None, "".into());
        event.id = id.into();
        event.time = at(0);
        event.published = published;
        event
    }

    fn template(id: &str, name: &str) -> Arc<Template> {
        Arc::new(Template::parse(format!(r#"{{"id":"{id}","name":"{name}"}}"#).as_bytes()).unwrap())
    }

    fn names(templates: &Templates, now: SystemTime) -> Vec<String> {
        templates.list(now).iter().map(|template| template.name.clone()).collect()
    }

    #[test]
    fn last_published_wins_in_any_order() {
        let templates = Templates::new(RETENTION);
        templates.apply(&event("b", Some(at(2))), template("t", "second"), at(3));
        templates.apply(&event("a", Some(at(1))), template("t", "first"), at(3));
        templates.apply(&event("c", Some(at(2))), template("t", "same time, greater id"), at(3));
        assert_eq!(names(&templates, at(3)), ["same time, greater id"]);
        assert_eq!(templates.get("t", at(3)).unwrap().name, "same time, greater id");
        assert_eq!(templates.get("u", at(3)), None);
    }

    #[test]
    fn own_version_shows_until_topic_decides() {
        let templates = Templates::new(RETENTION);
        templates.apply(&event("own", None), template("t", "own"), at(1));
        assert_eq!(names(&templates, at(1)), ["own"]);
        templates.apply(&event("other", Some(at(1))), template("t", "other"), at(1));
        assert_eq!(names(&templates, at(1)), ["own"], "the pod's own event is still on its way");
        templates.apply(&event("own", Some(at(2))), template("t", "own"), at(2));
        assert_eq!(names(&templates, at(2)), ["own"]);
        templates.apply(&event("later", Some(at(3))), template("t", "later"), at(3));
        assert_eq!(names(&templates, at(3)), ["later"]);
    }

    #[test]
    fn lost_own_event_gives_way() {
        let templates = Templates::new(RETENTION);
        templates.apply(&event("own", None), template("t", "own"), at(0));
        templates.apply(&event("other", Some(at(61))), template("t", "other"), at(61));
        assert_eq!(names(&templates, at(61)), ["other"]);
    }

    #[test]
    fn late_acknowledgement_changes_nothing() {
        let templates = Templates::new(RETENTION);
        templates.apply(&event("own", Some(at(1))), template("t", "own"), at(1));
        templates.apply(&event("other", Some(at(2))), template("t", "other"), at(2));
        templates.apply(&event("own", None), template("t", "own"), at(2));
        assert_eq!(names(&templates, at(2)), ["other"]);
    }

    #[test]
    fn template_is_kept_for_its_retention() {
        let templates = Templates::new(RETENTION);
        templates.apply(&event("a", Some(at(0))), template("t", "t"), at(0));
        templates.apply(&event("b", Some(at(1))), template("u", "u"), at(1));
        templates.apply(&event("c", Some(at(300))), template("t", "t edited"), at(300));
        assert_eq!(names(&templates, at(601)), ["t edited", "u"]);
        assert_eq!(names(&templates, at(602)), ["t edited"]);
        assert_eq!(templates.get("u", at(602)), None);
        templates.apply(&event("d", Some(at(901))), template("v", "v"), at(901));
        let state = templates.read();
        assert_eq!((state.entries.len(), state.by_age.len()), (1, 1), "forgotten, not only hidden");
    }

    #[test]
    fn oldest_templates_make_room() {
        let mut templates = Templates::new(RETENTION);
        templates.max_bytes = 3 * (OVERHEAD + 64);
        for n in 0..100 {
            templates.apply(&event("e", Some(at(n))), template(&format!("{n:03}"), &n.to_string()), at(n));
        }
        assert_eq!(names(&templates, at(100)), ["097", "098", "099"].map(|name| name[1..].to_owned()));
        let mut state = templates.state.into_inner().unwrap();
        state.forget(at(1_000), 0);
        assert_eq!((state.entries.len(), state.by_age.len(), state.bytes), (0, 0, 0));
    }

    #[test]
    fn remembered_arrivals_are_bounded() {
        let mut arrivals = Arrivals::default();
        for n in 0..=MAX_ARRIVALS {
            arrivals.insert(n.to_string().into(), at(0));
        }
        assert_eq!((arrivals.ids.len(), arrivals.order.len()), (MAX_ARRIVALS, MAX_ARRIVALS));
        arrivals.insert("late".into(), at(0) + ARRIVAL_KEPT);
        assert_eq!((arrivals.ids.len(), arrivals.order.len()), (1, 1));
    }

    /// Step on one pod: an author's next event arrives through the feed, the last one arrives
    /// again, or an author's next event is acknowledged.
    #[derive(Clone, Copy, Debug)]
    enum Step {
        Arrives { author: usize },
        Again,
        Acknowledged { author: usize },
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0usize..2).prop_map(|author| Step::Arrives { author }),
            Just(Step::Again),
            (0usize..2).prop_map(|author| Step::Acknowledged { author }),
        ]
    }

    /// Generates two authors' events on three templates, in each author's order. Some fall within
    /// the same tick of the topic's clock.
    fn authors() -> impl Strategy<Value = [Vec<Event>; 2]> {
        let one = vec((0u64..3, 0u8..3), 0..12);
        (one.clone(), one).prop_map(|(a, b)| {
            [("a", a), ("b", b)].map(|(author, steps)| {
                let mut time = 0;
                let event = |(n, (wait, template)): (usize, (u64, u8))| {
                    time += wait;
                    let mut event = event(&format!("{n:02}-{author}"), Some(at(time)));
                    event.data = format!(r#"{{"id":"{template}","name":"{n}-{author}"}}"#).into();
                    event
                };
                steps.into_iter().enumerate().map(event).collect()
            })
        })
    }

    fn apply(templates: &Templates, event: &Event) {
        templates.apply(event, Arc::new(Template::parse(&event.data).unwrap()), at(100));
    }

    /// Returns what a pod shows when all events have arrived after these steps.
    fn after(authors: &[Vec<Event>; 2], steps: &[Step]) -> Vec<String> {
        let templates = Templates::new(RETENTION);
        let (mut arrived, mut acknowledged) = ([0; 2], [0; 2]);
        let mut last: Option<&Event> = None;
        let rest = [0, 1].map(|author| vec![Step::Arrives { author }; authors[author].len()]).concat();
        for step in steps.iter().chain(&rest) {
            match *step {
                Step::Arrives { author } => {
                    let Some(event) = authors[author].get(arrived[author]) else { continue };
                    arrived[author] += 1;
                    last = Some(event);
                    apply(&templates, event);
                }
                Step::Again => last.into_iter().for_each(|event| apply(&templates, event)),
                Step::Acknowledged { author } => {
                    let Some(event) = authors[author].get(acknowledged[author]) else { continue };
                    acknowledged[author] += 1;
                    apply(&templates, &Event { published: None, ..event.clone() });
                }
            }
        }
        names(&templates, at(100))
    }

    proptest! {
        #[test]
        fn all_pods_agree_in_any_order(authors in authors(), pods in vec(vec(step(), 0..60), 3)) {
            let mut last: BTreeMap<String, &Event> = BTreeMap::new();
            let mut all: Vec<&Event> = authors.iter().flatten().collect();
            all.sort_by_key(|event| (event.published, event.id.clone()));
            for event in all {
                last.insert(Template::parse(&event.data).unwrap().id.to_string(), event);
            }
            let naive: Vec<_> =
                last.values().map(|event| Template::parse(&event.data).unwrap().name).collect();
            for steps in pods {
                prop_assert_eq!(&after(&authors, &steps), &naive);
            }
        }
    }
}
