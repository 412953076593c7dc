//! Tests of a declared domain behind the engine: validation, results, replay, introspection.

use std::time::{Duration, SystemTime};

use async_graphql::{Request, Variables};
use async_trait::async_trait;
use serde_json::{Value, json};

use super::*;
use crate::{
    broker::{Publish, PublishError},
    domain::{Domain as _, Identity},
    domains::declared::{Declared, directory::Directory},
    event::Event,
    graphql::{Engine, EventPublisher, Watched},
    hub::{Hub, SendQueue, Step, Watching, window::Bounds},
    telemetry::{Metrics, Refusals, traces::Messaging},
};

const ORDERS: &str = include_str!("../../../../examples/orders/schema.graphql");
const EXAMPLES: [&str; 4] = [
    ORDERS,
    include_str!("../../tutorial.graphql"),
    include_str!("../../../../examples/chat/schema.graphql"),
    include_str!("../../../../examples/notifications/schema.graphql"),
];

/// Topic that takes no event.
struct Silent;

#[async_trait]
impl Publish for Silent {
    async fn publish(&self, _event: &Event) -> Result<(), PublishError> {
        Err(PublishError::TimedOut)
    }

    async fn flush(&self) {}
}

struct Pod {
    domain: Arc<Declared>,
    engine: Engine,
    hub: Hub,
    queue: Arc<SendQueue>,
}

impl Pod {
    fn new(file: &str) -> Self {
        let rules = Arc::new(Rules::parse(file).unwrap());
        let domain = Declared::new(rules.clone(), Directory::default());
        let meter = Metrics::new("pod", false).unwrap().meter();
        let messaging = Messaging { pod: "pod".into(), system: "memory", topic: "t".into() };
        let event_publisher = EventPublisher::new(Arc::new(Silent), domain.clone(), messaging, &meter);
        let bounds = Bounds { span: Duration::from_secs(600), bytes: 1 << 20 };
        let hub = Hub::new("t", bounds, SystemTime::now() - Duration::from_secs(60));
        hub.set_caught_up(true);
        let api = api(&rules).unwrap();
        let engine = Engine::new(api, event_publisher, hub.clone(), true, Refusals::new(&meter));
        Self { domain, engine, hub, queue: SendQueue::new(1 << 16) }
    }

    async fn watch(&self, token: &str, document: &str, variables: Value) -> Result<Watched, Value> {
        let viewer = Arc::new(self.domain.viewer(Identity::Demo(token)).unwrap());
        let request = Request::new(document).variables(Variables::from_json(variables));
        let watched = match self.engine.prepare(request) {
            Ok(prepared) => self.engine.watch(prepared, viewer, self.queue.clone(), 1, None).await,
            Err(refusal) => Err(refusal),
        };
        watched.map_err(|refusal| serde_json::to_value(&refusal.errors[0]).unwrap())
    }

    async fn live(&self, token: &str, document: &str) -> Watching {
        match self.watch(token, document, json!({})).await {
            Ok(Watched::Live(watching)) => watching,
            Ok(Watched::Behind(_)) => panic!("there is no cursor"),
            Err(error) => panic!("{error}"),
        }
    }

    /// Dispatches an event and returns what the send queue then has.
    async fn dispatch(&self, kind: &str, data: &Value) -> Vec<Value> {
        let mut event = Event::new("/test".into(), kind, None, data.to_string().into());
        event.id = "e\"1".into();
        event.published = Some(SystemTime::now());
        let fact = self.domain.read(&event).unwrap();
        self.hub.dispatch(event, fact, true).await;
        let deliveries = self.queue.take();
        deliveries.iter().map(|delivery| serde_json::from_str(&delivery.result.payload).unwrap()).collect()
    }
}

fn order(customer: &str) -> Value {
    json!({"id": 7, "customer": {"id": customer}, "status": "PAID", "total": 9.50, "items": []})
}

#[test]
fn examples_have_schemas() {
    for file in EXAMPLES {
        let rules = Arc::new(Rules::parse(file).unwrap());
        let sdl = api(&rules).unwrap().sdl();
        assert!(sdl.contains("after: String"), "{sdl}");
        assert!(!sdl.contains("@audience"), "{sdl}");
    }
}

#[tokio::test]
async fn watcher_receives_what_it_selects() {
    let pod = Pod::new(ORDERS);
    let document = "subscription { mine: orderUpdated { id customerId total __typename } }";
    let _watching = pod.live("c", document).await;
    assert!(pod.dispatch("order.placed.v1", &order("other")).await.is_empty());
    let results = pod.dispatch("order.placed.v1", &order("c")).await;
    let expected = json!({"id": "7", "customerId": "c", "total": 9.5, "__typename": "Order"});
    assert_eq!(results.len(), 1);
    assert_eq!(results[0]["data"], json!({"mine": expected}));
    assert_eq!(results[0]["extensions"]["eventId"], "e\"1");
    assert!(results[0]["extensions"]["cursor"].is_string());
}

#[tokio::test]
async fn replay_gives_same_result() {
    let pod = Pod::new(ORDERS);
    let document = "subscription ($c: String) { orderUpdated(after: $c) { id } }";
    let live = pod.live("c", document).await;
    let results = pod.dispatch("order.placed.v1", &order("c")).await;
    drop(live);
    // Each cursor brings the last seconds again.
    let cursor = pod.engine.cursor();
    let behind = pod.watch("c", document, json!({"c": cursor})).await;
    let Ok(Watched::Behind(mut replay)) = behind else { panic!("it has a cursor") };
    let Step::Deliveries(deliveries) = replay.step().await else { panic!("an event was missed") };
    let replayed: Value = serde_json::from_str(&deliveries[0].result.payload).unwrap();
    assert_eq!(replayed, results[0]);
}

#[tokio::test]
async fn lost_events_give_notice_under_alias() {
    let pod = Pod::new(ORDERS);
    let _watching = pod.live("c", "subscription { mine: orderUpdated { id } }").await;
    let mut lost = Event::new("/test".into(), "order.placed.v1", None, "{}".into());
    lost.published = Some(SystemTime::now());
    pod.hub.set_caught_up(false);
    pod.hub.lose(&lost);
    let notice: Value = serde_json::from_str(&pod.queue.take()[0].result.payload).unwrap();
    assert_eq!(notice["data"], json!({"mine": null}));
    assert_eq!(notice["extensions"]["gap"]["reason"], "FEED_LOST");
}

#[tokio::test]
async fn misfit_subscriptions_are_refused() {
    let pod = Pod::new(ORDERS);
    for (document, variables, code) in [
        ("subscription { orderUpdated { nonsense } }", json!({}), "GRAPHQL_VALIDATION_FAILED"),
        ("subscription { orderLost { id } }", json!({}), "GRAPHQL_VALIDATION_FAILED"),
        ("subscription { orderUpdated }", json!({}), "GRAPHQL_VALIDATION_FAILED"),
        ("subscription { orderUpdated(status: LOST) { id } }", json!({}), "GRAPHQL_VALIDATION_FAILED"),
        (
            "subscription ($b: Boolean = true) { orderUpdated { id @skip(if: $b) total } }",
            json!({"b": null}),
            "GRAPHQL_VALIDATION_FAILED",
        ),
    ] {
        let refused = pod.watch("c", document, variables).await.err().unwrap();
        assert_eq!(refused["extensions"]["code"], code, "{document}: {refused}");
    }
}

#[tokio::test]
async fn introspection_shows_descriptions() {
    let file = r#"
        "What is sold."
        type Item { "Its number." id: ID! old: String @deprecated(reason: "gone") }
        type Subscription { "Sold items." sold(
            "Which one." id: ID @filter): Item @event(type: "sold") @audience(everyone: true) }"#;
    let pod = Pod::new(file);
    let viewer = Arc::new(pod.domain.viewer(Identity::Demo("a")).unwrap());
    let document = r#"{ item: __type(name: "Item") { description fields(includeDeprecated: true) {
        description deprecationReason } } root: __type(name: "Subscription") { fields { description
        args { name description } } } }"#;
    let prepared = pod.engine.prepare(Request::new(document)).ok().unwrap();
    let response = serde_json::to_value(pod.engine.execute(prepared, viewer).await).unwrap();
    let data = &response["data"];
    assert_eq!(data["item"]["description"], "What is sold.");
    assert_eq!(data["item"]["fields"][0]["description"], "Its number.");
    assert_eq!(data["item"]["fields"][1]["deprecationReason"], "gone");
    let root = &data["root"]["fields"][0];
    assert_eq!(root["description"], "Sold items.");
    assert_eq!(root["args"][0], json!({"name": "id", "description": "Which one."}));
    assert_eq!(root["args"][1]["name"], "after");
}
