//! Results by plan beside those of async-graphql's static executor, for the same selections.
//!
//! Both begin with the payload in memory and end with its JSON. Parsing and validation are done
//! before.

use std::{hint::black_box, sync::Arc, time::Duration};

use async_graphql::{
    EmptyMutation, ID, Object, Schema, SimpleObject, Subscription, Variables,
    parser::{parse_query, types::Selection},
};
use criterion::Criterion;
use futures_util::{FutureExt as _, Stream, StreamExt as _, stream};
use pubsub_relay::{
    Domain as _, Event, Interests, Viewer,
    domains::declared::{Declared, directory::Directory, plan::CopyPlans, rules::Rules},
    graphql::plan::{Compiled, Plans as _, Subscription as Planned},
};
use serde_json::json;

const FILE: &str = r#"
    type Item { sku: ID!  name: String!  quantity: Int!  price: Float! }
    type Order {
        id: ID!  customerId: ID!  status: String!  total: Float!  updatedAt: String!  note: String
        items: [Item!]!
    }
    type Subscription { order: Order @event(type: "order") @audience(everyone: true) }
"#;

const SELECTIONS: [(&str, &str); 2] = [
    ("three fields", "subscription { order { id status total } }"),
    (
        "46 leaves",
        "subscription { order { id customerId status total updatedAt note items { sku name quantity price } } }",
    ),
];

#[derive(Clone, SimpleObject)]
struct Item {
    sku: ID,
    name: String,
    quantity: i32,
    price: f64,
}

#[derive(SimpleObject)]
struct Order {
    id: ID,
    customer_id: ID,
    status: String,
    total: f64,
    updated_at: String,
    note: Option<String>,
    items: Vec<Item>,
}

struct Query;

#[Object]
impl Query {
    async fn none(&self) -> bool {
        true
    }
}

struct Root(Arc<Order>);

#[Subscription(name = "Subscription")]
impl Root {
    async fn order(&self) -> impl Stream<Item = Option<Arc<Order>>> + use<> {
        stream::repeat(Some(self.0.clone()))
    }
}

fn order() -> Order {
    let item = Item { sku: "sku-1".into(), name: "A thing".to_owned(), quantity: 3, price: 9.5 };
    Order {
        id: "0198f2a4-0000-7000-8000-000000000000".into(),
        customer_id: "customer-7".into(),
        status: "PAID".to_owned(),
        total: 95.5,
        updated_at: "2026-01-02T03:04:05Z".to_owned(),
        note: Some("leave it at the door".to_owned()),
        items: vec![item; 10],
    }
}

/// Measures both ways for each selection.
pub(crate) fn plans(criterion: &mut Criterion) {
    let Order { id, customer_id, status, total, updated_at, note, items } = order();
    let items = items.into_iter().map(|Item { sku, name, quantity, price }| {
        json!({"sku": sku.0, "name": name, "quantity": quantity, "price": price})
    });
    let data = json!({"id": id.0, "customerId": customer_id.0, "status": status, "total": total,
        "updatedAt": updated_at, "note": note, "items": items.collect::<Vec<_>>()});
    let rules = Arc::new(Rules::parse(FILE).unwrap());
    let domain = Declared::new(rules, Directory::default(), Duration::ZERO);
    let payload =
        domain.read(&Event::new("/a".into(), "order", None, data.to_string().into())).unwrap().payload;
    let (plans, viewer) = (CopyPlans::new(domain), Viewer::new("ann", Interests::default()));
    let schema = Schema::new(Query, EmptyMutation, Root(Arc::new(order())));

    for (name, text) in SELECTIONS {
        let document = parse_query(text).unwrap();
        let (_, operation) = document.operations.iter().next().unwrap();
        let Selection::Field(field) = &operation.node.selection_set.node.items[0].node else { panic!() };
        let variables = Variables::default();
        let subscription = Planned {
            document: &document,
            field: &field.node,
            definition: &operation.node,
            variables: &variables,
            viewer: &viewer,
        };
        let Ok(Compiled::Events { plan, .. }) = plans.plan(&subscription) else { panic!() };
        let mut copied = String::new();
        criterion.bench_function(&format!("{name}/plan, copy"), |bencher| {
            bencher.iter(|| {
                copied.clear();
                assert!(plan.copy(black_box(&payload), &mut copied, usize::MAX).unwrap());
            });
        });
        let mut results = Box::pin(schema.execute_stream(text));
        let mut next = || {
            let response = results.next().now_or_never().flatten().unwrap();
            serde_json::to_string(&response.data).unwrap()
        };
        let executed: serde_json::Value = serde_json::from_str(&next()).unwrap();
        assert_eq!(executed["order"], serde_json::from_str::<serde_json::Value>(&copied).unwrap());
        criterion.bench_function(&format!("{name}/static executor"), |bencher| bencher.iter(&mut next));
    }
}
