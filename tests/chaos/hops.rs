//! Property test of window and cursor: a client that moves between two pods, which receive the same
//! events in different orders.
//!
//! A naive log is the oracle. The client must never miss an event, nor receive one twice on a
//! connection.

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

/// Time of one step; two events are published in each.
const STEP: Duration = Duration::from_millis(500);

/// Number of steps by which one pod may receive an event after the other: just under the margin.
const MAX_DELAY: usize = 9;

/// Fate of one event.
#[derive(Clone, Debug)]
struct Fate {
    /// Steps from its publishing to its arrival on each of the two pods.
    delays: [usize; 2],
    is_for_client: bool,
}

/// Stay of the client on a pod: the pod's index, the steps away before it, and its steps on the
/// pod.
type Stay = (usize, usize, usize);

fn fates() -> impl Strategy<Value = Vec<Fate>> {
    let delays = [0..MAX_DELAY, 0..MAX_DELAY];
    let fate = (delays, any::<bool>()).prop_map(|(delays, is_for_client)| Fate { delays, is_for_client });
    prop::collection::vec(fate, 1..80)
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
        fields: vec!["f".into()],
        audience: Audience::none(),
        payload: Arc::new(()),
    })
}

/// Client that keeps only the text of its last cursor across connections.
struct Client {
    cursor: String,
    received: BTreeSet<usize>,
    /// Events received on this connection, and the earliest time that they may have.
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
        fates: &[Fate],
    ) -> Result<(), TestCaseError> {
        loop {
            let portion = window.next(progress).unwrap();
            if portion.is_empty() {
                return Ok(());
            }
            for relayed in portion {
                let number: usize = relayed.event.id.parse().unwrap();
                if !fates[number].is_for_client {
                    continue;
                }
                prop_assert!(self.connection.insert(number), "{number} twice on one connection");
                prop_assert!(relayed.position.published >= self.horizon, "{number} is older than the margin");
                self.received.insert(number);
                self.cursor = relayed.cursor.to_string();
            }
        }
    }
}

proptest! {
    #[test]
    fn hopping_client_misses_nothing_and_repeats_within_margin(
        fates in fates(),
        stays in prop::collection::vec((0..2_usize, 0..12_usize, 0..12_usize), 0..8),
    ) {
        let bounds = Bounds { span: Duration::from_secs(600), bytes: usize::MAX };
        let begin = at(0) - Duration::from_secs(60);
        let mut pods = [Window::new(bounds, begin), Window::new(bounds, begin)];
        let cursor = Cursor { published: at(0), event: "".into() }.encode(TOPIC);
        let (received, connection) = (BTreeSet::new(), BTreeSet::new());
        let mut client = Client { cursor, received, connection, horizon: begin };
        let mut step = 0;
        let mut advance = |pods: &mut [Window; 2]| {
            for (pod, window) in pods.iter_mut().enumerate() {
                let now = (0..).zip(&fates).filter(|(n, fate)| published(*n) + fate.delays[pod] == step);
                now.for_each(|(number, _)| window.insert(relayed(number)));
            }
            step += 1;
        };
        // the last stay is longer than any delay
        let end = (0, 0, published(fates.len()) + MAX_DELAY + 2);
        for (pod, away, stay) in stays.into_iter().chain([end] as [Stay; 1]) {
            (0..away).for_each(|_| advance(&mut pods));
            let mut progress = client.resume(&pods[pod]);
            for _ in 0..stay {
                client.read(&pods[pod], &mut progress, &fates)?;
                advance(&mut pods);
            }
            client.read(&pods[pod], &mut progress, &fates)?;
        }
        let expected: BTreeSet<usize> = (0..).zip(&fates).filter(|(_, fate)| fate.is_for_client).map(|(n, _)| n).collect();
        prop_assert_eq!(client.received, expected);
    }
}
