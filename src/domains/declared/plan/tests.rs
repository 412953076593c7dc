//! Tests of plans: the same data as the executor's, and sharing.

use std::time::Duration;

use async_graphql::{
    Request, Variables,
    parser::{parse_query, types::Selection},
};
use futures_util::StreamExt as _;
use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::*;
use crate::{
    audience::{Interests, Viewer},
    domain::Domain as _,
    domains::declared::{
        Declared,
        directory::Directory,
        rules::Rules,
        schema::schema,
        types::{Kind, TypeId, Types},
    },
    event::Event,
    graphql::{Api, build_planned, subscription::source},
};

const FILE: &str = r#"
    enum Status { OLD NEW }
    scalar Any
    interface Named { id: ID! name: String }
    interface Thing implements Named { id: ID! name: String parts: [Part!] }
    type Part { id: ID! weight: Float size: Int inner: Part parts: [Part] rows: [[Part]] }
    type Shop implements Thing & Named { id: ID! name: String parts: [Part!] status: Status! any: Any }
    type Home implements Named { id: ID! name: String is_big: Boolean part: Part }
    union Either = Shop | Home
    type Subscription {
        named: Named @event(type: "shop", as: "Shop") @event(type: "home", as: "Home") @audience(everyone: true)
        either: Either @event(type: "shop", as: "Shop") @event(type: "home", as: "Home") @audience(everyone: true)
        shop: Shop @event(type: "shop") @audience(everyone: true)
    }"#;

struct Bench {
    domain: Arc<Declared>,
    plans: CopyPlans,
    api: Arc<dyn Api>,
}

impl Bench {
    fn new() -> Self {
        let rules = Arc::new(Rules::parse(FILE).unwrap());
        let domain = Declared::new(rules, Directory::default(), Duration::ZERO);
        let plans = CopyPlans::new(domain.clone());
        let api =
            build_planned(schema(&domain, true), CopyPlans::new(domain.clone()), String::new()).unwrap();
        Self { domain, plans, api }
    }

    fn payload(&self, kind: &str, data: &Json) -> event::Payload {
        let event = Event::new("/test".into(), kind, None, data.to_string().into());
        self.domain.read(&event).unwrap().payload
    }

    fn plan(&self, document: &str, variables: &Json) -> Result<Arc<dyn Plan>, Error> {
        let parsed = parse_query(document).unwrap();
        let (_, operation) = parsed.operations.iter().next().unwrap();
        let Selection::Field(field) = &operation.node.selection_set.node.items[0].node else { panic!() };
        let variables = Variables::from_json(variables.clone());
        let viewer = Viewer::new("ann", Interests::default());
        let (field, definition) = (&field.node, &operation.node);
        let subscription =
            Subscription { document: &parsed, field, definition, variables: &variables, viewer: &viewer };
        self.plans.plan(&subscription).map(|compiled| match compiled {
            Compiled::Events { plan, .. } => plan,
            Compiled::Count(key) => panic!("{key} is counted"),
        })
    }

    fn copied(&self, document: &str, variables: &Json, payload: &event::Payload) -> Json {
        let mut text = String::new();
        assert!(self.plan(document, variables).unwrap().copy(payload, &mut text, usize::MAX).unwrap());
        serde_json::from_str(&text).unwrap()
    }

    /// Returns what the executor makes of the root field `root`.
    fn executed(&self, document: &str, variables: &Json, payload: &event::Payload) -> Json {
        let variables = Variables::from_json(variables.clone());
        let request = Request::new(document).variables(variables).data(source(payload.clone()));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let response = runtime.block_on(self.api.execute_stream(request).next()).unwrap();
        assert!(response.errors.is_empty(), "{document}: {:?}", response.errors);
        serde_json::to_value(&response.data).unwrap()["root"].take()
    }
}

/// Returns data without null in its lists of objects, where the executor would make an object.
fn shop() -> Json {
    json!({"id": 7, "name": "é\n", "status": "NEW", "any": {"a": [1, null]}, "parts": [
        {"id": "p", "weight": 1.5, "inner": {"id": "q", "size": -3}},
        {"id": "r", "parts": [{"id": "s"}, {"id": "t", "size": 1}], "inner": null},
    ]})
}

fn home() -> Json {
    json!({"id": "h", "name": null, "is_big": true, "part": {"id": "p", "size": 0}})
}

#[test]
fn plan_copies_selection() {
    let bench = Bench::new();
    let payload = bench.payload("shop", &shop());
    let document = "subscription { root: shop { n: name id ... on Thing { parts { id inner { size } } } } }";
    let mut text = String::new();
    bench.plan(document, &json!({})).unwrap().copy(&payload, &mut text, usize::MAX).unwrap();
    let expected = r#"{"n":"é\n","id":"7","parts":[{"id":"p","inner":{"size":-3}},{"id":"r","inner":null}]}"#;
    assert_eq!(text, expected);
    let nulls = json!({"id": 7, "status": "NEW", "parts": [{"id": "p", "rows": [[null], null]}]});
    let document = "subscription { root: shop { parts { rows { id } } } }";
    let copied = bench.copied(document, &json!({}), &bench.payload("shop", &nulls));
    assert_eq!(copied, json!({"parts": [{"rows": [[null], null]}]}));
    let other: event::Payload = Arc::new("another domain's");
    assert!(!bench.plan(document, &json!({})).unwrap().copy(&other, &mut text, usize::MAX).unwrap());
    assert_eq!(text, expected, "nothing is appended");
}

#[test]
fn fragments_on_unions_match_members() {
    let bench = Bench::new();
    let document =
        "subscription { root: named { ... on Either { ... on Shop { id } ... on Home { name } } } }";
    assert_eq!(bench.copied(document, &json!({}), &bench.payload("shop", &shop())), json!({"id": "7"}));
    assert_eq!(bench.copied(document, &json!({}), &bench.payload("home", &home())), json!({"name": null}));
}

#[test]
fn equal_selections_share_one_plan() {
    let bench = Bench::new();
    let plan = |document: &str, variables: Json| bench.plan(document, &variables).unwrap();
    let first = plan("subscription { shop { id name } }", json!({}));
    for (document, variables) in [
        ("subscription Other { x: shop { id, name } } # text", json!({})),
        ("subscription { shop { ...F name } } fragment F on Shop { id }", json!({})),
        ("subscription ($b: Boolean!) { shop { id name status @include(if: $b) } }", json!({"b": false})),
        ("subscription { shop { id name id ... on Home { part { id } } } }", json!({})),
    ] {
        assert!(Arc::ptr_eq(&first, &plan(document, variables)), "{document}");
    }
    for document in ["subscription { shop { name id } }", "subscription { shop { id n: name } }"] {
        assert!(!Arc::ptr_eq(&first, &plan(document, json!({}))), "{document}");
    }
    assert_eq!(bench.plans.len(), 1, "plans without watchers are dropped");
    drop(first);
    assert!(bench.plans.is_empty());
}

#[test]
fn condition_without_boolean_is_refused() {
    let bench = Bench::new();
    let document = "subscription ($b: Boolean = true) { shop { id @skip(if: $b) } }";
    assert!(bench.plan(document, &json!({})).is_ok(), "the default holds");
    let error = bench.plan(document, &json!({"b": null})).err().unwrap();
    assert_eq!(error.to_string(), "`if` of `@skip` must be true or false");
}

/// Writer of random selections, which a list of choices steers.
struct Writer<'a> {
    types: &'a Types,
    choices: std::slice::Iter<'a, u8>,
    fragments: Vec<String>,
}

impl Writer<'_> {
    fn choose(&mut self, count: usize) -> usize {
        usize::from(*self.choices.next().unwrap_or(&0)) % count
    }

    fn condition(&mut self) -> &'static str {
        let conditions =
            ["", "", "", " @include(if: $yes)", " @skip(if: $no)", " @include(if: $no)", " @skip(if: true)"];
        conditions[self.choose(7)]
    }

    /// Writes the selections of an object that may be of type `of`.
    fn set(&mut self, of: TypeId, depth: usize) -> String {
        let mut text = String::from("{ __typename ");
        for _ in 0..=self.choose(4) {
            text += &self.item(of, depth);
        }
        text + "} "
    }

    fn item(&mut self, of: TypeId, depth: usize) -> String {
        let types = self.types;
        let overlapping = types.iter().filter(|(id, ty)| {
            // The executor never matches a union here, against the specification.
            let is_composite = matches!(ty.kind, Kind::Object(_) | Kind::Interface(_));
            let shares = |object: TypeId| types.is_member(object, of) && types.is_member(object, *id);
            is_composite && types.iter().any(|(object, _)| types.is_object(object) && shares(object))
        });
        let overlapping: Vec<_> = overlapping.map(|(id, ty)| (id, ty.name.clone())).collect();
        let condition = self.condition();
        match self.choose(5) {
            0 if depth > 0 => {
                let (id, name) = overlapping[self.choose(overlapping.len())].clone();
                format!("... on {name}{condition} {}", self.set(id, depth - 1))
            }
            1 if depth > 0 => {
                let (id, name) = overlapping[self.choose(overlapping.len())].clone();
                let set = self.set(id, depth - 1);
                let number = self.fragments.len();
                self.fragments.push(format!("fragment F{number} on {name} {set}"));
                format!("...F{number}{condition} ")
            }
            _ => {
                // Against the specification, the executor does not merge selections here.
                let fields = types.fields(of).iter().filter(|field| &*field.name != "rows");
                let fields: Vec<_> = fields.collect();
                if fields.is_empty() {
                    return format!("t: __typename{condition} ");
                }
                let field = fields[self.choose(fields.len())];
                let inner = match types.is_leaf(field.of) {
                    true => String::new(),
                    false if depth == 0 => return String::new(),
                    false => self.set(field.of, depth - 1),
                };
                // A name in the result always stands for the same field, so that fields can merge.
                let alias = ["", "a_", "b_"][self.choose(3)];
                let alias = if alias.is_empty() { String::new() } else { format!("{alias}{}: ", field.name) };
                format!("{alias}{}{condition} {inner}", field.name)
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn plan_copies_what_executor_makes(
        choices in prop::collection::vec(any::<u8>(), 0..120),
        root in 0usize..3,
        is_shop in any::<bool>(),
    ) {
        let bench = Bench::new();
        let (field, of) = [("named", "Named"), ("either", "Either"), ("shop", "Shop")][root];
        let (kind, data) = if is_shop || root == 2 { ("shop", shop()) } else { ("home", home()) };
        let types = &bench.domain.rules().types;
        let mut writer = Writer { types, choices: choices.iter(), fragments: Vec::new() };
        let set = writer.set(types.id(of).unwrap(), 4);
        let variables_used = "{ ... @include(if: $yes) { __typename } ... @include(if: $no) { __typename }";
        let set = set.replacen('{', variables_used, 1);
        let fragments = writer.fragments.concat();
        let document =
            format!("subscription ($yes: Boolean!, $no: Boolean!) {{ root: {field} {set} }} {fragments}");
        let variables = json!({"yes": true, "no": false});
        let payload = bench.payload(kind, &data);
        let executed = bench.executed(&document, &variables, &payload);
        prop_assert_eq!(bench.copied(&document, &variables, &payload), executed, "{}", document);
    }
}
