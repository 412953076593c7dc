//! Tests of a declared domain behind the engine: validation, results, replay, introspection.

use std::time::{Duration, SystemTime};

use async_graphql::{Request, Variables};
use async_trait::async_trait;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{
    broker::{Publish, PublishError},
    cursor::Source,
    domain::{Domain as _, Identity},
    domains::declared::{Declared, directory::Directory, rules::Rules},
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
        let domain = Declared::new(rules, Directory::default(), Duration::from_secs(600));
        let meter = Metrics::new("pod", false).unwrap().meter();
        let messaging = Messaging { pod: "pod".into(), system: "memory", topic: "t".into() };
        let event_publisher = EventPublisher::new(Arc::new(Silent), domain.clone(), messaging, &meter);
        let bounds = Bounds { span: Duration::from_secs(600), bytes: 1 << 20 };
        let hub = Hub::new("t", bounds, SystemTime::now() - Duration::from_secs(60));
        hub.set_caught_up(true);
        let api = api(&domain).unwrap();
        let engine = Engine::new(api, event_publisher, hub.clone(), true, Refusals::new(&meter));
        Self { domain, engine, hub, queue: SendQueue::new(1 << 16) }
    }

    async fn watch(&self, token: &str, document: &str, variables: Value) -> Result<Watched, Value> {
        let viewer = Arc::new(self.domain.viewer(Identity::Demo(token)).unwrap());
        let request = Request::new(document).variables(Variables::from_json(variables));
        let watched = match self.engine.prepare(request, &viewer.user).await {
            Ok(prepared) => self.engine.watch(prepared, viewer, self.queue.clone(), 1, None).await,
            Err(refusal) => Err(refusal),
        };
        watched.map_err(|refusal| serde_json::to_value(&refusal.errors[0]).unwrap())
    }

    async fn live(&self, token: &str, document: &str) -> Watching {
        match self.watch(token, document, json!({})).await {
            Ok(Watched::Live(watching)) => watching,
            Ok(Watched::Counting(_)) => panic!("it delivers events"),
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
        let sdl = api(&Declared::new(rules, Directory::default(), Duration::ZERO)).unwrap().sdl();
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
    assert_eq!(results[0]["extensions"]["eventId"], "/test#e\"1");
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
    let cursor = pod.engine.cursor(Source::Query);
    let behind = pod.watch("c", document, json!({"c": cursor})).await;
    let Ok(Watched::Behind(mut replay)) = behind else { panic!("it has a cursor") };
    let Step::Deliveries(deliveries) = replay.step().await else { panic!("an event was missed") };
    let mut replayed: Value = serde_json::from_str(&deliveries[0].result.payload).unwrap();
    let mark = replayed["extensions"].as_object_mut().unwrap().remove("replayed");
    assert_eq!((mark, &replayed), (Some(json!(true)), &results[0]));
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

/// Returns the variables of a document whose watcher receives an event; those that are refused with
/// this code are left out.
async fn received(pod: &Pod, document: &str, variables: &[Value], data: &Value) -> Vec<usize> {
    let mut received = Vec::new();
    for (number, variables) in variables.iter().enumerate() {
        let watched = pod.watch("c", document, variables.clone()).await.unwrap();
        if !pod.dispatch("order.placed.v1", data).await.is_empty() {
            received.push(number);
        }
        drop(watched);
    }
    received
}

#[tokio::test]
async fn equality_and_membership_narrow() {
    let pod = Pod::new(ORDERS);
    let document = "subscription ($id: ID, $status: [OrderStatus!]) {
        orderUpdated(id: $id, status: $status) { id } }";
    let variables = [
        json!({}),
        json!({"id": "7"}),
        json!({"id": 7}),
        json!({"id": "8"}),
        json!({"id": ""}),
        json!({"id": null, "status": null}),
        json!({"status": ["PAID", "SHIPPED"]}),
        json!({"status": "PAID"}),
        json!({"status": []}),
        json!({"id": "7", "status": ["PLACED"]}),
        json!({"id": "7", "status": ["PLACED", "PAID"]}),
        json!({"id": "7|user:x"}),
    ];
    assert_eq!(received(&pod, document, &variables, &order("c")).await, [0, 1, 2, 5, 6, 7, 10]);
    assert!(received(&pod, document, &variables, &order("other")).await.is_empty(), "no filter widens");
    let literal = "subscription { orderUpdated(id: 7, status: PAID, minTotal: 9) { id } }";
    assert_eq!(received(&pod, literal, &[json!({})], &order("c")).await, [0]);
}

#[tokio::test]
async fn ordered_arguments_compare() {
    let file = r#"type Line { price: Float } type Order { id: ID! count: Int at: String lines: [Line!] }
        type Subscription { orderUpdated(above: Int @filter(field: "count", op: ABOVE)
            below: Int = 10 @filter(field: "count", op: BELOW), atMost: Float @filter(field: "lines.price", op: AT_MOST)
            since: String @filter(field: "at", op: AT_LEAST)): Order
            @event(type: "order.placed.v1") @audience(everyone: true) }"#;
    let pod = Pod::new(file);
    let document = "subscription ($above: Int, $below: Int, $atMost: Float, $since: String) {
        orderUpdated(above: $above, below: $below, atMost: $atMost, since: $since) { id } }";
    let variables = [
        json!({}),
        json!({"above": 5}),
        json!({"above": 6}),
        json!({"below": 6}),
        json!({"below": 7}),
        json!({"below": null, "above": null}),
        json!({"atMost": 1.5}),
        json!({"atMost": 1.25}),
        json!({"since": "2026-01-02"}),
        json!({"since": "2026-01-03"}),
        json!({"above": 5, "below": 7, "atMost": 3, "since": "2"}),
    ];
    let data = json!({"id": 1, "count": 6, "at": "2026-01-02T", "lines": [{"price": 2.5}, {"price": 1.5}]});
    assert_eq!(received(&pod, document, &variables, &data).await, [0, 1, 4, 5, 6, 8, 10]);
    let large = json!({"id": 1, "count": 60});
    assert_eq!(
        received(&pod, document, &variables, &large).await,
        [5],
        "a default holds for absent arguments"
    );
    let none = json!({"id": 1});
    assert_eq!(received(&pod, document, &variables, &none).await, [5], "null never passes");
}

#[tokio::test]
async fn arguments_are_bounded() {
    let pod = Pod::new(ORDERS);
    let document = "subscription ($id: ID, $status: [OrderStatus!]) {
        orderUpdated(id: $id, status: $status) { id } }";
    for (variables, part) in [
        (json!({"status": vec!["PAID"; 101]}), "`status` has more than 100 values"),
        (json!({"id": "x".repeat(513)}), "`id` has a value of more than 512 bytes"),
    ] {
        let refused = pod.watch("c", document, variables).await.err().unwrap();
        assert_eq!(refused["extensions"]["code"], "BAD_USER_INPUT");
        assert!(refused["message"].as_str().unwrap().contains(part), "{refused}");
    }
    let roles: Vec<_> = (0..999).map(|role| format!("r{role}")).collect();
    let token = json!({"sub": "c", "roles": roles}).to_string();
    assert!(pod.watch(&token, document, json!({"id": "7"})).await.is_ok());
    let refused = pod.watch(&token, document, json!({"status": ["PAID", "PLACED"]})).await.err().unwrap();
    assert!(refused["message"].as_str().unwrap().contains("more than 1000 keys"), "{refused}");
}

#[tokio::test]
async fn allow_needs_every_key() {
    let file = r#"extend schema @interest(key: "room:{rooms}") @interest(key: "user:{sub}")
        type Message { id: ID! room: ID! }
        type Subscription { posted(room: ID @filter, rooms: [ID!]): Message
            @event(type: "posted") @audience(keys: ["room:{room}"])
            @allow(key: "room:{rooms}") @allow(key: "user:{$viewer.id}") }"#;
    let pod = Pod::new(file);
    let document = "subscription ($rooms: [ID!]) { posted(rooms: $rooms) { id } }";
    let token = r#"{"sub":"ann","rooms":["a","b"]}"#;
    for (rooms, is_allowed) in [
        (json!(["a"]), true),
        (json!(["a", "b"]), true),
        (json!(["a", "c"]), false),
        (json!([]), false),
        (json!(null), false),
        (json!(["a/b"]), false),
    ] {
        let watched = pod.watch(token, document, json!({"rooms": rooms})).await;
        assert_eq!(watched.is_ok(), is_allowed, "{rooms}");
        if let Err(error) = watched {
            assert_eq!(error["extensions"]["code"], "FORBIDDEN");
        }
    }
}

#[tokio::test]
async fn allow_reads_claims_of_viewer() {
    let file = r#"extend schema @interest(key: "org:{orgs}")
        type Message { id: ID! org: ID! }
        type Subscription { posted: Message @event(type: "posted") @audience(keys: ["org:{org}"])
            @allow(key: "org:{$viewer.home.org}") }"#;
    let pod = Pod::new(file);
    for (claims, is_allowed) in [
        (json!({"sub": "a", "orgs": ["x"], "home": {"org": "x"}}), true),
        (json!({"sub": "a", "orgs": ["x"], "home": [{"org": "x"}]}), true),
        (json!({"sub": "a", "orgs": ["x"], "home.org": "y", "home": {"org": "x"}}), false),
        (json!({"sub": "a", "orgs": ["x"], "home": {"org": "y"}}), false),
        (json!({"sub": "a", "orgs": ["x"]}), false),
    ] {
        let watched = pod.watch(&claims.to_string(), "subscription { posted { id } }", json!({})).await;
        let code = watched.err().map(|error| error["extensions"]["code"].clone());
        assert_eq!(code, (!is_allowed).then(|| "FORBIDDEN".into()), "{claims}");
    }
}

/// Checks that watchers with different ids share one operation.
#[tokio::test]
async fn many_ids_share_one_operation() {
    let pod = Pod::new(ORDERS);
    let document = "subscription ($id: ID) { orderUpdated(id: $id) { id total } }";
    let mut held = Vec::new();
    for number in 0..12_000 {
        held.push(pod.watch("c", document, json!({"id": number})).await.unwrap());
    }
    assert_eq!((pod.hub.watchers(), pod.hub.keys()), (12_000, 12_000));
    let results = pod.dispatch("order.placed.v1", &order("c")).await;
    assert_eq!(results.len(), 1);
    assert_eq!(results[0]["data"]["orderUpdated"], json!({"id": "7", "total": 9.5}));
}

proptest! {
    #[test]
    fn filter_never_widens(
        id in "[/:|%2Fu=]{0,3}", other in "[/:|%2Fu=]{0,3}", customer in "[/:|%2Fu=]{1,3}", viewer in "[/:|%2Fu=]{1,3}",
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let pod = Pod::new(ORDERS);
        let data = json!({"id": id, "customer": {"id": customer}, "status": "PAID", "total": 1, "items": []});
        let token = json!({"sub": viewer}).to_string();
        let document = "subscription ($id: ID) { orderUpdated(id: $id) { id } }";
        let receives = |variables: Value| runtime.block_on(async {
            let _watched = pod.watch(&token, document, variables).await.unwrap();
            !pod.dispatch("order.placed.v1", &data).await.is_empty()
        });
        prop_assert_eq!(receives(json!({})), customer == viewer);
        prop_assert_eq!(receives(json!({"id": other})), customer == viewer && id == other);
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
    let prepared = pod.engine.prepare(Request::new(document), &viewer.user).await.ok().unwrap();
    let response = serde_json::from_str::<Value>(&pod.engine.answer(prepared, viewer).await.text).unwrap();
    let data = &response["data"];
    assert_eq!(data["item"]["description"], "What is sold.");
    assert_eq!(data["item"]["fields"][0]["description"], "Its number.");
    assert_eq!(data["item"]["fields"][1]["deprecationReason"], "gone");
    let root = &data["root"]["fields"][0];
    assert_eq!(root["description"], "Sold items.");
    assert_eq!(root["args"][0], json!({"name": "id", "description": "Which one."}));
    assert_eq!(root["args"][1]["name"], "after");
}
