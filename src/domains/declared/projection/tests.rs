//! Tests of projections: one order on all pods, bounds in time and bytes.

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::domains::declared::{
    payload::{Object, Value},
    row::TypeAudiences,
};

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

/// Returns a value with an id and a name.
fn value(id: &str, name: &str) -> Arc<Row> {
    let leaf = |text: &str| Value::Leaf(format!("\"{text}\"").into());
    TypeAudiences::default().row(Arc::new(Object { of: 0, fields: [leaf(id), leaf(name)].into() }))
}

fn put(values: &Projection, event: &Event, id: &str, name: &str, now: SystemTime) {
    values.apply(event, &id.into(), value(id, name), now);
}

fn name(row: &Row) -> String {
    let Value::Leaf(text) = &row.value.fields[1] else { panic!() };
    text.trim_matches('"').to_owned()
}

fn names(values: &Projection, now: SystemTime) -> Vec<String> {
    let (mut rows, mut last) = values.page(None, now);
    while let Some(key) = last {
        let (more, next) = values.page(Some(&key), now);
        rows.extend(more);
        last = next;
    }
    rows.iter().map(|row| name(row)).collect()
}

#[test]
fn last_published_wins_in_any_order() {
    let values = Projection::new(RETENTION);
    put(&values, &event("b", Some(at(2))), "t", "second", at(3));
    put(&values, &event("a", Some(at(1))), "t", "first", at(3));
    put(&values, &event("c", Some(at(2))), "t", "same time, greater id", at(3));
    assert_eq!(names(&values, at(3)), ["same time, greater id"]);
    assert_eq!(name(&values.get("t", at(3)).unwrap()), "same time, greater id");
    assert_eq!(values.get("u", at(3)), None);
}

#[test]
fn own_version_shows_until_topic_decides() {
    let values = Projection::new(RETENTION);
    put(&values, &event("own", None), "t", "own", at(1));
    assert_eq!(names(&values, at(1)), ["own"]);
    put(&values, &event("other", Some(at(1))), "t", "other", at(1));
    assert_eq!(names(&values, at(1)), ["own"], "the pod's own event is still on its way");
    put(&values, &event("own", Some(at(2))), "t", "own", at(2));
    assert_eq!(names(&values, at(2)), ["own"]);
    put(&values, &event("later", Some(at(3))), "t", "later", at(3));
    assert_eq!(names(&values, at(3)), ["later"]);
}

#[test]
fn lost_own_event_gives_way() {
    let values = Projection::new(RETENTION);
    put(&values, &event("own", None), "t", "own", at(0));
    put(&values, &event("other", Some(at(61))), "t", "other", at(61));
    assert_eq!(names(&values, at(61)), ["other"]);
}

#[test]
fn late_acknowledgement_changes_nothing() {
    let values = Projection::new(RETENTION);
    put(&values, &event("own", Some(at(1))), "t", "own", at(1));
    put(&values, &event("other", Some(at(2))), "t", "other", at(2));
    put(&values, &event("own", None), "t", "own", at(2));
    assert_eq!(names(&values, at(2)), ["other"]);
}

#[test]
fn value_is_kept_for_its_retention() {
    let values = Projection::new(RETENTION);
    put(&values, &event("a", Some(at(0))), "t", "t", at(0));
    put(&values, &event("b", Some(at(1))), "u", "u", at(1));
    put(&values, &event("c", Some(at(300))), "t", "t edited", at(300));
    assert_eq!(names(&values, at(601)), ["t edited", "u"]);
    assert_eq!(names(&values, at(602)), ["t edited"]);
    assert_eq!(values.get("u", at(602)), None);
    put(&values, &event("d", Some(at(901))), "v", "v", at(901));
    let state = values.read();
    assert_eq!(state.entries.len(), 1, "forgotten, not only hidden");
    check_counts(&state);
}

#[test]
fn oldest_values_make_room() {
    let mut values = Projection::new(RETENTION);
    values.max_bytes = 3 * (OVERHEAD + value("000", "00").bytes());
    for n in 0..100 {
        put(&values, &event("e", Some(at(n))), &format!("{n:03}"), &n.to_string(), at(n));
    }
    assert_eq!(names(&values, at(100)), ["097", "098", "099"].map(|name| name[1..].to_owned()));
    let mut state = values.state.into_inner().unwrap();
    state.forget(at(1_000), 0);
    assert_eq!((state.entries.len(), state.bytes), (0, 0));
    check_counts(&state);
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
                event.author = Some(author.into());
                event.data = format!("{template} {n}-{author}").into();
                event
            };
            steps.into_iter().enumerate().map(event).collect()
        })
    })
}

fn apply(values: &Projection, event: &Event) {
    let (id, name) = parts(event);
    put(values, event, &id, &name, at(100));
}

/// Returns the id and the name that an event gives.
fn parts(event: &Event) -> (String, String) {
    let (id, name) = std::str::from_utf8(&event.data).unwrap().split_once(' ').unwrap();
    (id.to_owned(), name.to_owned())
}

/// Returns what a pod shows when all events have arrived after these steps.
fn after(authors: &[Vec<Event>; 2], steps: &[Step]) -> Vec<String> {
    let values = Projection::new(RETENTION);
    let (mut arrived, mut acknowledged) = ([0; 2], [0; 2]);
    let mut last: Option<&Event> = None;
    let rest = [0, 1].map(|author| vec![Step::Arrives { author }; authors[author].len()]).concat();
    for step in steps.iter().chain(&rest) {
        match *step {
            Step::Arrives { author } => {
                let Some(event) = authors[author].get(arrived[author]) else { continue };
                arrived[author] += 1;
                last = Some(event);
                apply(&values, event);
            }
            Step::Again => last.into_iter().for_each(|event| apply(&values, event)),
            Step::Acknowledged { author } => {
                let Some(event) = authors[author].get(acknowledged[author]) else { continue };
                acknowledged[author] += 1;
                apply(&values, &Event { published: None, ..event.clone() });
            }
        }
    }
    check_counts(&values.read());
    names(&values, at(100))
}

/// Checks that the counts are those of the entries.
fn check_counts(state: &State) {
    let mut shares: HashMap<Author, Share> = HashMap::new();
    for (key, entry) in &state.entries {
        let place = entry.place().expect("every entry has a version");
        shares.entry(place.author.clone()).or_default().replace(key, None, Some(&place));
    }
    let by_bytes = shares.iter().map(|(author, share)| (share.bytes, author.clone())).collect();
    let oldest = shares.iter().filter_map(|(author, share)| Some((share.oldest()?, author.clone())));
    assert_eq!((&state.by_bytes, &state.by_oldest), (&by_bytes, &oldest.collect()));
    assert_eq!(state.bytes, shares.values().map(|share| share.bytes).sum::<usize>());
    let ages = |shares: &HashMap<Author, Share>| {
        shares.iter().map(|(author, share)| (author.clone(), share.by_age.clone())).collect::<HashMap<_, _>>()
    };
    assert_eq!(ages(&state.shares), ages(&shares));
}

proptest! {
    #[test]
    fn all_pods_agree_in_any_order(authors in authors(), pods in vec(vec(step(), 0..60), 3)) {
        let mut last: BTreeMap<String, &Event> = BTreeMap::new();
        let mut all: Vec<&Event> = authors.iter().flatten().collect();
        all.sort_by_key(|event| (event.published, event.id.clone()));
        for event in all {
            last.insert(parts(event).0, event);
        }
        let naive: Vec<_> =
            last.values().map(|event| parts(event).1).collect();
        for steps in pods {
            prop_assert_eq!(&after(&authors, &steps), &naive);
        }
    }
}

#[test]
fn one_author_displaces_no_other() {
    let mut values = Projection::new(RETENTION);
    values.max_bytes = 10 * (OVERHEAD + value("000", "00").bytes());
    let by = |author: &str, id: &str, second| {
        let mut event = event(id, Some(at(second)));
        event.author = Some(author.into());
        event
    };
    put(&values, &by("ann", "a", 0), "a", "aa", at(0));
    put(&values, &by("bob", "b", 1), "b", "bb", at(1));
    for n in 2..100 {
        put(&values, &by("eve", "e", n), &format!("e{n:02}"), &n.to_string(), at(n));
    }
    let names = names(&values, at(100));
    assert_eq!(names.first().map(String::as_str), Some("aa"));
    assert_eq!(names.get(1).map(String::as_str), Some("bb"));
    assert_eq!(names.last().map(String::as_str), Some("99"));
    check_counts(&values.read());
}

#[test]
fn values_begin_behind_key() {
    let values = Projection::new(RETENTION);
    for id in ["a", "b", "c"] {
        put(&values, &event(id, Some(at(0))), id, id, at(0));
    }
    let (rows, last) = values.page(Some("a"), at(0));
    assert_eq!(rows.iter().map(|row| name(row)).collect::<Vec<_>>(), ["b", "c"]);
    assert_eq!(last, None);
    for n in 0..PAGE {
        let id = format!("d{n:03}");
        put(&values, &event(&id, Some(at(0))), &id, &id, at(0));
    }
    let (first, last) = values.page(None, at(0));
    assert_eq!((first.len(), last.as_deref()), (PAGE, Some("d252")));
    assert_eq!(names(&values, at(0)).len(), PAGE + 3);
}
