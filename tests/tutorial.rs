//! The tutorial's domain as a schema file, beside the same domain in Rust.
//!
//! The Rust domain is the oracle: random users, events, edits and orders of arrival must give the
//! same viewers and the same answers. Left out are the differences that `docs/SCHEMA.md` implies:
//! repeated ids stay, and texts of refusals are generic.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

#[path = "support/oracle.rs"]
mod oracle;

use std::{
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use async_graphql::{Request, Variables};
use async_trait::async_trait;
use proptest::{
    prelude::*,
    sample::{Index, subsequence},
};
use pubsub_relay::{
    Api, Claims, Domain, Event, Identity, Viewer,
    broker::{Publish, PublishError},
    build_api,
    cursor::Written,
    domains::{
        declared::{self, Declared, directory::Directory, rules::Rules},
        tutorial,
    },
    graphql::{Answer, Engine, EventPublisher},
    hub::{Hub, window::Bounds},
    telemetry::{Metrics, Refusals, traces::Messaging},
};
use serde_json::{Value, json};

use self::oracle::{Tutorial, schema};

const FILE: &str = tutorial::SCHEMA;
const KEPT: Duration = Duration::from_secs(600);
const LOCATIONS: [&str; 6] = ["1", "2", "3", "a/b:c", "|%", "unknown"];

/// Topic that keeps what it acknowledges.
#[derive(Default)]
struct Topic(Mutex<Vec<Event>>);

#[async_trait]
impl Publish for Topic {
    async fn publish(&self, event: &Event) -> Result<(), PublishError> {
        self.0.lock().unwrap().push(event.clone());
        Ok(())
    }

    async fn flush(&self) {}
}

struct Pod {
    domain: Arc<dyn Domain>,
    engine: Engine,
    topic: Arc<Topic>,
}

impl Pod {
    fn new(domain: Arc<dyn Domain>, api: Arc<dyn Api>) -> Self {
        let topic = Arc::new(Topic::default());
        let meter = Metrics::new("pod", false).unwrap().meter();
        let messaging = Messaging { pod: "pod".into(), system: "memory", topic: "t".into() };
        let event_publisher = EventPublisher::new(topic.clone(), domain.clone(), messaging, &meter);
        let hub = Hub::new("t", Bounds { span: KEPT, bytes: 1 << 20 }, SystemTime::now());
        let engine = Engine::new(api, event_publisher, hub, true, Refusals::new(&meter));
        Self { domain, engine, topic }
    }

    /// Returns the pod of the Rust domain, and that of the file.
    fn both(directory: &Value) -> [Self; 2] {
        let text = directory.to_string();
        let rust = Tutorial::new(&text);
        let rules = Arc::new(Rules::parse(FILE).unwrap());
        let directory = Directory::parse(&text, &rules).unwrap();
        let file = Declared::new(rules, directory, KEPT);
        let api = declared::api(&file).unwrap();
        [Self::new(rust.clone(), build_api(schema(rust))), Self::new(file, api)]
    }

    fn viewer(&self, user: usize) -> Viewer {
        let claims = Claims::of_subject(&user.to_string());
        self.domain.viewer(Identity::Claims(&claims)).unwrap()
    }

    fn apply(&self, event: &Event) {
        self.domain.apply(event, &self.domain.read(event).unwrap());
    }

    /// Returns the answer without its cursor, and of its errors the codes and paths only.
    async fn run(&self, user: usize, document: &str, variables: Value) -> Value {
        let request = Request::new(document).variables(Variables::from_json(variables));
        let viewer = Arc::new(self.viewer(user));
        let answer = match self.engine.prepare(request, &viewer.user).await {
            Ok(prepared) => self.engine.answer(prepared, viewer).await,
            Err(refusal) => Answer::refused(refusal),
        };
        let mut answer: Value = serde_json::from_str(&answer.text).unwrap();
        let errors = answer["errors"].as_array().cloned().unwrap_or_default();
        let errors = errors.iter().map(|error| json!([error["extensions"]["code"], error["path"]]));
        json!({"data": answer["data"].take(), "errors": errors.collect::<Value>()})
    }
}

#[tokio::test]
async fn mutation_names_what_it_wrote() {
    let directory =
        json!({"locations": [], "users": [{"id": "0", "type": "A", "email": "a@b.c", "orgId": "1"}]});
    for pod in Pod::both(&directory) {
        let viewer = Arc::new(pod.viewer(0));
        let answer = async |document: &str| {
            let prepared = pod.engine.prepare(Request::new(document), &viewer.user).await.ok().unwrap();
            let answer = pod.engine.answer(prepared, viewer.clone()).await;
            serde_json::from_str::<Value>(&answer.text).unwrap()["extensions"].take()
        };
        let add =
            |name: &str| format!("{name}: addTemplate(templateInput: {{name: \"{name}\"}}) {{ success }}");
        let extensions = answer(&format!("mutation {{ {} {} }}", add("a"), add("b"))).await;
        let events = pod.topic.0.lock().unwrap().clone();
        let last = events.last().unwrap();
        assert_eq!(extensions["eventId"], *last.id);
        let written = Written::decode(extensions["written"].as_str().unwrap(), "t").unwrap();
        assert_eq!((events.len(), &written.source, &written.id), (2, &last.source, &last.id));
        assert!(written.time.elapsed().unwrap() < Duration::from_secs(60));
        let extensions = answer("{ templates { id } }").await;
        assert!(extensions["written"].is_null() && extensions["cursor"].is_string());
    }
}

/// User of a directory: at a location, or in an organisation.
type User = (bool, Index);

fn directory(organisations: &[u8], users: &[User]) -> Value {
    let locations: Vec<(&str, u8)> = LOCATIONS.into_iter().zip(organisations.iter().copied()).collect();
    let user = |(n, (is_at_location, which)): (usize, &User)| {
        let (location, organisation) = which.get(&locations);
        let mut user =
            json!({"id": n.to_string(), "type": format!("T{n}"), "email": format!("{n}@Example.com")});
        if *is_at_location {
            user["locationId"] = json!(location);
        } else {
            user["orgId"] = json!(organisation.to_string());
        }
        user
    };
    let location =
        |(id, organisation): &(&str, u8)| json!({"id": id, "name": id, "orgId": organisation.to_string()});
    json!({
        "locations": locations.iter().map(location).collect::<Value>(),
        "users": users.iter().enumerate().map(user).collect::<Value>(),
    })
}

fn shared() -> impl Strategy<Value = Option<Vec<&'static str>>> {
    prop::option::of(subsequence(LOCATIONS.to_vec(), 0..=LOCATIONS.len()))
}

/// Generates events on three templates. Some fall within the same tick of the topic's clock.
fn events() -> impl Strategy<Value = Vec<Event>> {
    let one = (any::<bool>(), prop::option::of(0usize..5), 0u8..3, "[ a-zé]{1,4}x", shared(), 0u64..3);
    prop::collection::vec(one, 0..10).prop_map(|events| {
        let mut published = SystemTime::now() - Duration::from_secs(60);
        let event = |(n, (is_added, author, id, name, shared, wait)): (
            usize,
            (bool, Option<usize>, u8, String, _, u64),
        )| {
            published += Duration::from_millis(wait);
            let kind = if is_added { "template.added.v1" } else { "template.edited.v1" };
            let data = json!({"id": id, "name": name, "shareLocationIds": shared}).to_string();
            let author = author.map(|author| author.to_string().into());
            let mut event = Event::new("/test".into(), kind, author, data.into());
            event.id = format!("e-{n}").into();
            event.published = Some(published);
            event
        };
        events.into_iter().enumerate().map(event).collect()
    })
}

/// Generates inputs of a mutation, good and bad.
fn input() -> impl Strategy<Value = Value> {
    let name = prop_oneof![
        Just(json!(" ")),
        Just(json!("é".repeat(200))),
        Just(json!("é".repeat(201))),
        Just(json!(7)),
        Just(Value::Null),
        "[ a-z]{0,3}y".prop_map(Value::from),
    ];
    let id =
        prop_oneof![Just(json!("x".repeat(257))), Just(json!(3)), Just(json!("\u{7}")), Just(json!("1"))];
    let ids = prop_oneof![
        Just(Value::Null),
        id.prop_map(|id| json!([id])),
        shared().prop_map(|ids| json!(ids)),
        Just(json!((0..1_001).collect::<Vec<_>>())),
    ];
    (prop::option::of(name), prop::option::of(ids)).prop_map(|(name, ids)| {
        let mut input = json!({});
        input.as_object_mut().unwrap().extend(name.map(|name| ("name".to_owned(), name)));
        input.as_object_mut().unwrap().extend(ids.map(|ids| ("shareLocationIds".to_owned(), ids)));
        input
    })
}

/// Returns an answer with each id that is new to a pod as `new`.
fn masked(mut answer: Value) -> Value {
    if let Some(id) = answer.pointer_mut("/data/m/template/id") {
        assert!(id.as_str().is_some_and(|id| id.len() == 36), "{id}");
        *id = json!("new");
    }
    answer
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn file_tells_as_rust_does(
        organisations in prop::collection::vec(0u8..3, 1..=LOCATIONS.len()),
        users in prop::collection::vec((any::<bool>(), any::<Index>()), 1..6),
        events in events(),
    ) {
        let pods = Pod::both(&directory(&organisations, &users));
        for event in &events {
            let told = pods.each_ref().map(|pod| {
                let fact = pod.domain.read(event).unwrap();
                let told: Vec<bool> = (0..users.len()).map(|user| fact.audience.includes(&pod.viewer(user))).collect();
                (fact.fields, told)
            });
            prop_assert_eq!(&told[0], &told[1], "{:?}", event);
        }
    }

    #[test]
    fn file_answers_as_rust_does(
        organisations in prop::collection::vec(0u8..3, 1..=LOCATIONS.len()),
        events in events(),
        order in any::<u64>(),
        inputs in prop::collection::vec((input(), 0u8..4), 0..4),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let pods = Pod::both(&directory(&organisations, &[(true, any_index())]));
        for event in &events {
            pods[0].apply(event);
        }
        // The other pod receives the same events in another order.
        let mut others: Vec<_> = events.iter().enumerate().collect();
        others.sort_by_key(|(n, _)| (*n as u64 + 1).wrapping_mul(order | 1));
        others.into_iter().for_each(|(_, event)| pods[1].apply(event));

        let run = |document: &str, variables: Value| {
            pods.each_ref().map(|pod| runtime.block_on(pod.run(0, document, variables.clone())))
        };
        let read = |more: &str| format!("query($id: ID!) {{ templates {{ ...T }} templateById(id: $id) {{ ...T }}
            locations {{ id name orgId }} locationsByOrgId(id: $id) {{ __typename id }} {more} }}
            fragment T on Template {{ i: id name shareLocationIds }}");
        for id in 0..3 {
            let [rust, file] = run(&read(""), json!({"id": id}));
            prop_assert_eq!(rust, file);
        }
        let add = "mutation($input: AddTemplateInput!) { m: addTemplate(templateInput: $input) {
            success message template { id name shareLocationIds } } }";
        let edit = "mutation($input: EditTemplateInput!) { m: editTemplate(templateInput: $input) {
            success message template { name shareLocationIds } } }";
        for (mut input, id) in inputs {
            let [rust, file] = run(add, json!({"input": input})).map(masked);
            prop_assert_eq!(rust, file, "{}", input);
            input["id"] = json!(id);
            let [rust, file] = run(edit, json!({"input": input}));
            prop_assert_eq!(rust, file, "{}", input);
        }
        let published = pods.each_ref().map(|pod| {
            let events = pod.topic.0.lock().unwrap().clone();
            events.into_iter().map(|event| {
                let mut data: Value = serde_json::from_slice(&event.data).unwrap();
                if &*event.kind == "template.added.v1" {
                    data["id"] = json!("new");
                }
                (event.kind, event.author, data)
            }).collect::<Vec<_>>()
        });
        prop_assert_eq!(&published[0], &published[1]);
        for id in 0..3 {
            let [rust, file] = run("query($id: ID!) { templateById(id: $id) { name shareLocationIds } }", json!({"id": id}));
            prop_assert_eq!(rust, file);
        }
    }
}

/// Returns the index of the first element.
fn any_index() -> Index {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};
    any::<Index>().new_tree(&mut TestRunner::deterministic()).unwrap().current()
}

/// Returns the lines of a definition without descriptions, paging and the order of types.
fn shape(sdl: &str) -> Vec<String> {
    let mut types: Vec<String> = Vec::new();
    let mut is_text = false;
    for line in sdl.lines().map(str::trim) {
        if line == "\"\"\"" {
            is_text = !is_text;
        } else if line.ends_with('{') {
            types.push(line.to_owned());
        } else if let (false, Some(last)) = (is_text || line.starts_with('"'), types.last_mut()) {
            last.push_str(line);
        }
    }
    types.sort();
    let paging = ["(first: Int,afterKey: ID)", ",first: Int,afterKey: ID", "\t"];
    types.iter().map(|ty| paging.iter().fold(ty.clone(), |ty, part| ty.replace(part, ""))).collect()
}

#[test]
fn clients_schema_is_kept() {
    let [rust, file] = {
        let rust = Tutorial::new(tutorial::DIRECTORY);
        let rules = Arc::new(Rules::parse(FILE).unwrap());
        let file = Declared::new(rules, Directory::default(), KEPT);
        [build_api(schema(rust)).sdl(), declared::api(&file).unwrap().sdl()]
    };
    let committed = include_str!("../schema.graphql");
    assert_eq!(file, committed, "write it anew with `relay schema > schema.graphql`");
    assert_eq!(shape(&file), shape(&rust));
}

#[test]
fn users_are_found_by_same_tokens() {
    let directory = directory(&[1, 2], &[(true, any_index()), (false, any_index())]);
    let pods = Pod::both(&directory);
    let found = |identity: Identity<'_>| {
        let found = pods.each_ref().map(|pod| pod.domain.viewer(identity).map(|viewer| viewer.user));
        assert_eq!(found[0], found[1], "{identity:?}");
        found[0].clone()
    };
    assert!(found(Identity::Demo("T1")).is_some());
    assert!(found(Identity::Demo("t1")).is_none());
    for claims in [
        json!({"sub": "1"}),
        json!({"sub": "9", "email": "1@example.COM", "email_verified": true}),
        json!({"sub": "9", "email": "1@example.com", "email_verified": false}),
        json!({"email": "0@example.com", "email_verified": "true"}),
        json!({}),
    ] {
        let Value::Object(claims) = claims else { unreachable!() };
        found(Identity::Claims(&Claims::new(claims)));
    }
}
