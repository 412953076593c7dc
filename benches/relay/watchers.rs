//! Watchers without sockets: the way of an event from the hub to the send queues.
//!
//! It is the same code that a pod runs, so that the bench measures the real path. It must never
//! open a socket.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_graphql::Request;
use pubsub_relay::{
    broker::memory::Topic,
    domain::{Domain, Identity},
    domains::{
        declared::{self, Declared, directory::Directory, rules::Rules},
        tutorial,
    },
    event::Event,
    graphql::{Engine, EventPublisher, Watched},
    hub::{Hub, SendQueue, Watching, window::Bounds},
    telemetry::{Metrics, Refusals, traces::Messaging},
};

const WINDOW: Duration = Duration::from_secs(600);
const WATCH: &str = "subscription W { templateAdded { id name shareLocationIds } }";

/// The watchers of one pod.
pub(crate) struct Watchers {
    hub: Hub,
    domain: Arc<Declared>,
    engine: Engine,
    /// Send queues of the watchers that [`event`] matches.
    pub(crate) send_queues: Vec<Arc<SendQueue>>,
    watching: Vec<Watching>,
}

/// Returns an event for the location that ZOLO and ZEWI listen to.
pub(crate) fn event() -> Event {
    let data =
        r#"{"id":"0198f2a4-0000-7000-8000-000000000000","name":"A template","shareLocationIds":["3"]}"#;
    let mut event = Event::new("/pods/a".into(), "template.added.v1", Some("3".into()), data.into());
    event.published = Some(SystemTime::now());
    event
}

impl Watchers {
    /// Creates a pod without watchers.
    pub(crate) fn new() -> Self {
        let rules = Arc::new(Rules::parse(tutorial::SCHEMA).unwrap());
        let directory = Directory::parse(tutorial::DIRECTORY, &rules).unwrap();
        let domain = Declared::new(rules, directory, WINDOW);
        let hub = Hub::new("t", Bounds { span: WINDOW, bytes: 1 << 20 }, SystemTime::now());
        hub.set_caught_up(true);
        let meter = Metrics::new("a", false).unwrap().meter();
        let event_publisher = EventPublisher::new(
            Arc::new(Topic::new(WINDOW, 1 << 20)),
            domain.clone(),
            Messaging { pod: "a".into(), system: "memory", topic: "t".into() },
            &meter,
        );
        let api = declared::api(&domain).unwrap();
        let engine = Engine::new(api, event_publisher, hub.clone(), true, Refusals::new(&meter));
        Self { hub, domain, engine, send_queues: Vec::new(), watching: Vec::new() }
    }

    /// Adds `count` watchers of one user, each on a connection of its own.
    pub(crate) async fn enter(&mut self, user: &str, count: usize) {
        let viewer = Arc::new(self.domain.viewer(Identity::Demo(user)).unwrap());
        for _ in 0..count {
            let send_queue = SendQueue::new(1 << 20);
            let prepared = self.engine.prepare(Request::new(WATCH)).unwrap();
            let watched = self.engine.watch(prepared, viewer.clone(), send_queue.clone(), 0, None).await;
            let Ok(Watched::Live(watching)) = watched else { panic!("not let in") };
            self.watching.push(watching);
            if user == "ZOLO" {
                self.send_queues.push(send_queue);
            }
        }
    }

    /// Dispatches the event as the loop of a pod does. Returns the number of watchers that match.
    pub(crate) async fn dispatch(&self, event: Event) -> usize {
        let fact = self.domain.read(&event).unwrap();
        self.hub.dispatch(event, fact, true).await
    }
}
