//! Window and cursor against a naive log: a client that goes to and fro between two pods, which hear the same events in
//! orders of their own.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, SystemTime},
};

use proptest::prelude::*;
use pubsub_relay::{
    audience::Audience,
    cursor::Cursor,
    event::Event,
    hub::{
        Relayed,
        window::{Bounds, Progress, REPEAT, Window},
    },
};

const TOPIC: &str = "projects/p/topics/t";

/// Two are published in each of these.
const STEP: Duration = Duration::from_millis(500);

/// How long a pod may hear an event after the other, in steps: just under the margin.
const MAX_DELAY: usize = 9;

/// What happens to one event.
#[derive(Clone, Debug)]
struct Story {
    /// After how many steps each of the pods hears it.
    delays: [usize; 2],
    is_for_client: bool,
}

/// One stay of the client: on which pod, after how many steps, and for how many.
type Stay = (usize, usize, usize);

fn stories() -> impl Strategy<Value = Vec<Story>> {
    let delays = [0..MAX_DELAY, 0..MAX_DELAY];
    let story = (delays, any::<bool>()).prop_map(|(delays, is_for_client)| Story { delays, is_for_client });
    prop::collection::vec(story, 1..80)
}

fn published(number: usize) -> usize {
    number / 2
}

fn at(step: usize) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000) + STEP * u32::try_from(step).unwrap()
}

fn relayed(number: usize) -> Arc<Relayed> {
    let mut event = Event::new("/test".into(), "k", None, vec![b'x'].into());
    (event.id, event.published) = (format!("{number:03}").into(), Some(at(published(number))));
    let position = Cursor { published: at(published(number)), event: event.id.clone() };
    let cursor = position.encode(TOPIC).into();
    Arc::new(Relayed {
        event,
        position,
        cursor,
        field: "f",
        audience: Audience::nobody(),
        payload: Arc::new(()),
    })
}

/// A client that knows nothing but the text of its last cursor.
struct Client {
    cursor: String,
    had: BTreeSet<usize>,
    /// What it heard on this connection, and from when on that may be.
    connection: BTreeSet<usize>,
    horizon: SystemTime,
}

impl Client {
    fn resume(&mut self, window: &Window) -> Progress {
        let cursor = Cursor::decode(&self.cursor, TOPIC).unwrap();
        self.connection.clear();
        self.horizon = cursor.published - REPEAT;
        window.replay(&cursor).unwrap()
    }

    fn read(
        &mut self,
        window: &Window,
        progress: &mut Progress,
        stories: &[Story],
    ) -> Result<(), TestCaseError> {
        loop {
            let portion = window.next(progress).unwrap();
            if portion.is_empty() {
                return Ok(());
            }
            for relayed in portion {
                let number: usize = relayed.event.id.parse().unwrap();
                if !stories[number].is_for_client {
                    continue;
                }
                prop_assert!(self.connection.insert(number), "{number} twice on one connection");
                prop_assert!(relayed.position.published >= self.horizon, "{number} is older than the margin");
                self.had.insert(number);
                self.cursor = relayed.cursor.to_string();
            }
        }
    }
}

proptest! {
    #[test]
    fn hopping_client_misses_nothing_and_repeats_within_margin(
        stories in stories(),
        stays in prop::collection::vec((0..2_usize, 0..12_usize, 0..12_usize), 0..8),
    ) {
        let bounds = Bounds { span: Duration::from_secs(600), bytes: usize::MAX };
        let begin = at(0) - Duration::from_secs(60);
        let mut pods = [Window::new(bounds, begin), Window::new(bounds, begin)];
        let cursor = Cursor { published: at(0), event: "".into() }.encode(TOPIC);
        let (had, connection) = (BTreeSet::new(), BTreeSet::new());
        let mut client = Client { cursor, had, connection, horizon: begin };
        let mut step = 0;
        let mut pass = |pods: &mut [Window; 2]| {
            for (pod, window) in pods.iter_mut().enumerate() {
                let now = (0..).zip(&stories).filter(|(n, story)| published(*n) + story.delays[pod] == step);
                now.for_each(|(number, _)| window.insert(relayed(number)));
            }
            step += 1;
        };
        // at last it stays for good
        let end = (0, 0, published(stories.len()) + MAX_DELAY + 2);
        for (pod, away, stay) in stays.into_iter().chain([end] as [Stay; 1]) {
            (0..away).for_each(|_| pass(&mut pods));
            let mut progress = client.resume(&pods[pod]);
            for _ in 0..stay {
                client.read(&pods[pod], &mut progress, &stories)?;
                pass(&mut pods);
            }
            client.read(&pods[pod], &mut progress, &stories)?;
        }
        let expected: BTreeSet<usize> = (0..).zip(&stories).filter(|(_, story)| story.is_for_client).map(|(n, _)| n).collect();
        prop_assert_eq!(client.had, expected);
    }
}
