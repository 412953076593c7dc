//! Tests of the declared domain: who receives which event.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::domain::Claims;

const ORDERS: &str = include_str!("../../../../examples/orders/schema.graphql");
const NOTIFICATIONS: &str = include_str!("../../../../examples/notifications/schema.graphql");

fn declared(file: &str, directory: &str) -> Arc<Declared> {
    let rules = Rules::parse(file).unwrap();
    let directory = Directory::parse(directory, &rules).unwrap();
    Declared::new(Arc::new(rules), directory, Duration::ZERO)
}

fn event(kind: &str, author: Option<&str>, data: &Value) -> Event {
    Event::new("/test".into(), kind, author.map(Into::into), data.to_string().into())
}

fn receives(domain: &Declared, claims: Value, field: &str, event: &Event) -> bool {
    let Value::Object(claims) = claims else { panic!("claims are an object") };
    let viewer = domain.viewer(Identity::Claims(&Claims::new(claims))).unwrap();
    let fact = domain.read(event).unwrap();
    fact.fields.iter().any(|known| **known == *field) && fact.audience.of(field).includes(&viewer)
}

#[test]
fn orders_reach_customer_and_support() {
    // Index keys of a field with arguments are no plain keys.
    let (before, rest) = ORDERS.split_once("orderUpdated(").unwrap();
    let (_, after) = rest.split_once("): Order").unwrap();
    let orders = declared(&format!("{before}orderUpdated: Order{after}"), "{}");
    let data = json!({"id": 1, "customer": {"id": "c/1"}, "status": "PAID", "total": 9.5, "items": []});
    let changed = event("order.changed.v1", None, &data);
    for (claims, expected) in [
        (json!({"sub": "c/1"}), true),
        (json!({"sub": "c"}), false),
        (json!({"sub": "x", "roles": ["sales", "support"]}), true),
        (json!({"sub": "x", "roles": ["user:c/1"]}), false),
    ] {
        assert_eq!(receives(&orders, claims.clone(), "orderUpdated", &changed), expected, "{claims}");
    }
    let fact = orders.read(&changed).unwrap();
    let payload = fact.payload.downcast_ref::<Payload>().unwrap();
    assert_eq!(payload.envelope.id, changed.id);
}

#[test]
fn unknown_and_malformed_events_differ() {
    let orders = declared(ORDERS, "{}");
    let read = |kind: &str, data: Value| orders.read(&event(kind, None, &data)).err();
    assert_eq!(read("order.lost.v1", json!({})), Some(Unreadable::UnknownType));
    let expected = Unreadable::Misfit { path: "id".to_owned(), text: "`id`: a value is expected".to_owned() };
    assert_eq!(read("order.placed.v1", json!({})), Some(expected));
}

#[test]
fn members_of_interface_have_own_keys() {
    let domain = declared(NOTIFICATIONS, "{}");
    let mention = json!({"id": 1, "tenantId": "t", "title": "T", "userIds": ["a", "b"], "url": "u"});
    let mention = event("mention.created.v1", None, &mention);
    let made = json!({"id": 2, "tenantId": "t", "title": "T", "teamIds": ["x"], "body": "b"});
    let made = event("announcement.made.v1", None, &made);
    let claims =
        |tenant: &str, user: &str, team: &str| json!({"sub": user, "org_id": tenant, "teams": [team]});
    assert!(receives(&domain, claims("t", "a", "y"), "notified", &mention));
    assert!(!receives(&domain, claims("u", "a", "y"), "notified", &mention), "another tenant");
    assert!(!receives(&domain, claims("t", "x", "a"), "notified", &mention), "a team is no user");
    assert!(receives(&domain, claims("t", "c", "x"), "notified", &made));
    assert!(!receives(&domain, claims("t/user:a", "x", "x"), "notified", &made));
}

#[test]
fn fields_of_one_event_differ_in_audience() {
    let file = r#"
        extend schema @interest(key: "user:{sub}") @interest(key: "role:{roles}")
        type Order { id: ID! customerId: ID! }
        type Subscription {
            own: Order @event(type: "order") @audience(keys: ["user:{customerId}"], exceptAuthor: true)
            any: Order @event(type: "order") @audience(keys: ["role:support"])
            all: Order @event(type: "order") @audience(everyone: true)
            authors: Order @event(type: "order") @audience(keys: ["user:{$author}"])
        }"#;
    let domain = declared(file, "{}");
    let order = event("order", Some("a"), &json!({"id": 1, "customerId": "c"}));
    let fields = |claims: Value| {
        let names = ["own", "any", "all", "authors"];
        names.into_iter().filter(|field| receives(&domain, claims.clone(), field, &order)).collect::<Vec<_>>()
    };
    assert_eq!(fields(json!({"sub": "c"})), ["own", "all"]);
    assert_eq!(fields(json!({"sub": "s", "roles": "support"})), ["any", "all"]);
    assert_eq!(fields(json!({"sub": "a"})), ["all", "authors"]);
    let own = event("order", Some("c"), &json!({"id": 1, "customerId": "c"}));
    assert!(!receives(&domain, json!({"sub": "c"}), "own", &own));
}

#[test]
fn too_many_keys_are_malformed() {
    let file = r#"
        extend schema @interest(key: "k:{sub}")
        type A { ids: [ID!]! }
        type Subscription { a: A @event(type: "a") @audience(keys: ["k:{ids}"]) }"#;
    let domain = declared(file, "{}");
    let read = |ids: Vec<String>| domain.read(&event("a", None, &json!({"ids": ids}))).err();
    assert_eq!(read((0..1_000).map(|id| id.to_string()).collect()), None);
    let misfit = |text: &str| Some(Unreadable::Misfit { path: String::new(), text: text.to_owned() });
    let many = read((0..1_001).map(|id| id.to_string()).collect());
    assert_eq!(many, misfit("the audience of `a` has too many keys"));
    let long = read(vec!["x".repeat(511)]);
    assert_eq!(long, misfit("the audience of `a` has a key of more than 512 bytes"));
}

/// Ids made of separators, escapes and other values.
fn id() -> impl Strategy<Value = String> {
    "[/:|%2Fat]{1,4}"
}

proptest! {
    #[test]
    fn ids_never_reach_other_tenants(event_ids in (id(), id(), id()), viewer_ids in (id(), id(), id())) {
        let domain = declared(NOTIFICATIONS, "{}");
        let (tenant, user, team) = event_ids;
        let mention = json!({"id": 1, "tenantId": tenant, "title": "T", "userIds": [user], "url": "u"});
        let made = json!({"id": 1, "tenantId": tenant, "title": "T", "teamIds": [team], "body": "b"});
        let claims = json!({"org_id": viewer_ids.0, "sub": viewer_ids.1, "teams": [viewer_ids.2]});
        let mention = event("mention.created.v1", None, &mention);
        let made = event("announcement.made.v1", None, &made);
        let is_tenant = viewer_ids.0 == tenant;
        prop_assert_eq!(receives(&domain, claims.clone(), "notified", &mention), is_tenant && viewer_ids.1 == user);
        prop_assert_eq!(receives(&domain, claims, "notified", &made), is_tenant && viewer_ids.2 == team);
    }

    #[test]
    fn bytes_never_panic(data in any::<Vec<u8>>()) {
        let mut event = event("order.placed.v1", None, &json!(null));
        event.data = data.into();
        let _ = declared(ORDERS, "{}").read(&event);
    }
}

const CHAT: &str = include_str!("../../../../examples/chat/schema.graphql");

#[tokio::test(start_paused = true)]
async fn values_age_by_topics_clock() {
    const HOUR: Duration = Duration::from_secs(3_600);
    const RETENTION: Duration = Duration::from_secs(600);
    let now = SystemTime::now();
    for topic in [now - HOUR, now, now + HOUR] {
        let rules = Arc::new(Rules::parse(CHAT).unwrap());
        let of = rules.types.id("Message").unwrap();
        let chat = Declared::new(rules, Directory::default(), RETENTION);
        let mut posted =
            event("message.posted.v1", Some("ann"), &json!({"id": "m", "room": "tea", "text": "t"}));
        let shows = || chat.values().get(of, "m").is_some();
        let apply = |event: &Event| chat.apply(event, &chat.read(event).unwrap());

        chat.hear(topic);
        apply(&posted);
        assert!(shows(), "its author reads it before it comes back");
        posted.published = Some(topic);
        apply(&posted);
        assert!(shows());
        tokio::time::advance(RETENTION - Duration::from_secs(1)).await;
        chat.hear(topic);
        assert!(shows(), "a replay turns no clock back");
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(!shows(), "no message is needed to forget it");
    }
}
