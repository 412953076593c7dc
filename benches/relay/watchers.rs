//! Watchers without sockets: the way of an event from the hub to the send queues.
//!
//! It is the same code that a pod runs, so that the bench measures the real path. It must never
//! open a socket.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_graphql::{Request, Variables};
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
const ORDERS: &str = include_str!("../../examples/orders/schema.graphql");
const WATCH_ORDER: &str = "subscription ($id: ID) { orderUpdated(id: $id) { id status total } }";

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

/// Returns an event for the watcher with this number.
#[allow(dead_code, reason = "not every program that shares this file has orders")]
pub(crate) fn order(number: usize) -> Event {
    let data = serde_json::json!({
        "id": format!("order-{number}"), "customer": { "id": format!("customer-{number}") },
        "status": "PAID", "total": 9.5, "updated_at": "2026-01-02T03:04:05Z",
        "items": [{ "sku": "s", "name": "Tea", "quantity": 2, "price": 4.75 }],
    });
    let mut event = Event::new("/shop".into(), "order.changed.v1", None, data.to_string().into());
    event.published = Some(SystemTime::now());
    event
}

impl Watchers {
    /// Creates a pod of the tutorial without watchers.
    pub(crate) fn new() -> Self {
        Self::of(tutorial::SCHEMA, tutorial::DIRECTORY)
    }

    /// Creates a pod of `examples/orders` without watchers.
    #[allow(dead_code, reason = "see `order`")]
    pub(crate) fn orders() -> Self {
        Self::of(ORDERS, "{}")
    }

    fn of(schema: &str, directory: &str) -> Self {
        let rules = Arc::new(Rules::parse(schema).unwrap());
        let directory = Directory::parse(directory, &rules).unwrap();
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
            let prepared = self.engine.prepare(Request::new(WATCH), &viewer.user).await.unwrap();
            let watched = self.engine.watch(prepared, viewer.clone(), send_queue.clone(), 0, None).await;
            let Ok(Watched::Live(watching)) = watched else { panic!("not let in") };
            self.watching.push(watching);
            if user == "ZOLO" {
                self.send_queues.push(send_queue);
            }
        }
    }

    /// Adds `count` watchers, each of a customer of its own and that customer's order. `measure`
    /// runs what adds the watchers to their connections.
    #[allow(dead_code, reason = "see `order`")]
    pub(crate) fn watch_orders(&mut self, count: usize, measure: impl FnOnce(&mut dyn FnMut())) {
        let first = self.send_queues.len();
        let connections: Vec<_> = (first..first + count)
            .map(|number| {
                let viewer = self.domain.viewer(Identity::Demo(&format!("customer-{number}"))).unwrap();
                (Arc::new(viewer), SendQueue::new(1 << 20))
            })
            .collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        self.watching.reserve_exact(count);
        measure(&mut || {
            for (number, (viewer, send_queue)) in (first..).zip(&connections) {
                let variables = serde_json::json!({ "id": format!("order-{number}") });
                let request = Request::new(WATCH_ORDER).variables(Variables::from_json(variables));
                let watched = runtime.block_on(async {
                    let prepared = self.engine.prepare(request, &viewer.user).await.unwrap();
                    self.engine.watch(prepared, viewer.clone(), send_queue.clone(), 0, None).await
                });
                let Ok(Watched::Live(watching)) = watched else { panic!("not let in") };
                self.watching.push(watching);
            }
        });
        self.send_queues.extend(connections.into_iter().map(|(_, send_queue)| send_queue));
    }

    /// Dispatches the event as the loop of a pod does. Returns the number of watchers that match.
    pub(crate) async fn dispatch(&self, event: Event) -> usize {
        let fact = self.domain.read(&event).unwrap();
        self.hub.dispatch(event, fact, true).await
    }
}
