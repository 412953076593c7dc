//! Tests of queries and mutations by plan, through the engine.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use async_graphql::{Request, Variables, parser::parse_query};
use async_trait::async_trait;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::run;
use crate::{
    broker::{Publish, PublishError},
    budget::{Budget, Pool},
    domain::{Domain as _, Identity},
    domains::declared::{Declared, api, directory::Directory, rules::Rules},
    event::Event,
    graphql::{Answer, Engine, EventPublisher, Receipt, Space, Turns, error::Code, plan::Operation},
    hub::{Hub, window::Bounds},
    lock::lock,
    telemetry::{Metrics, Refusals, traces::Messaging},
};

const TUTORIAL: &str = include_str!("../../tutorial.graphql");
const DIRECTORY: &str = include_str!("../../tutorial/directory.json");
const CHAT: &str = include_str!("../../../../examples/chat/schema.graphql");

/// Topic that keeps what it acknowledges.
#[derive(Default)]
struct Topic {
    is_deaf: bool,
    events: Mutex<Vec<Event>>,
}

#[async_trait]
impl Publish for Topic {
    async fn publish(&self, event: &Event) -> Result<(), PublishError> {
        if self.is_deaf {
            return Err(PublishError::TimedOut);
        }
        lock(&self.events).push(event.clone());
        Ok(())
    }

    async fn flush(&self) {}
}

fn publisher(topic: &Arc<Topic>, domain: &Arc<Declared>) -> EventPublisher {
    let meter = Metrics::new("pod", false).unwrap().meter();
    let messaging = Messaging { pod: "pod".into(), system: "memory", topic: "t".into() };
    EventPublisher::new(topic.clone(), domain.clone(), messaging, &meter)
}

struct Pod {
    domain: Arc<Declared>,
    engine: Engine,
    topic: Arc<Topic>,
}

impl Pod {
    fn new(file: &str, directory: &str, is_deaf: bool) -> Self {
        let rules = Arc::new(Rules::parse(file).unwrap());
        let directory = Directory::parse(directory, &rules).unwrap();
        let domain = Declared::new(rules, directory, Duration::from_secs(600));
        let topic = Arc::new(Topic { is_deaf, ..Topic::default() });
        let meter = Metrics::new("pod", false).unwrap().meter();
        let event_publisher = publisher(&topic, &domain);
        let bounds = Bounds { span: Duration::from_secs(600), bytes: 1 << 20 };
        let hub = Hub::new("t", bounds, SystemTime::now());
        let api = api(&domain).unwrap();
        let engine = Engine::new(api, event_publisher, hub, true, Refusals::new(&meter));
        Self { domain, engine, topic }
    }

    fn tutorial() -> Self {
        Self::new(TUTORIAL, DIRECTORY, false)
    }

    async fn run(&self, token: &str, document: &str, variables: Value) -> Value {
        let request = Request::new(document).variables(Variables::from_json(variables));
        let viewer = Arc::new(self.domain.viewer(Identity::Demo(token)).unwrap());
        let answer = match self.engine.prepare(request, &viewer.user).await {
            Ok(prepared) => self.engine.answer(prepared, viewer).await,
            Err(refusal) => Answer::refused(refusal),
        };
        serde_json::from_str(&answer.text).unwrap()
    }

    async fn add(&self, input: Value) -> Value {
        let document = "mutation($i: AddTemplateInput!) { addTemplate(templateInput: $i) {
            success message template { id name shareLocationIds } } }";
        self.run("ZOWI", document, json!({ "i": input })).await
    }

    async fn edit(&self, input: Value) -> Value {
        let document = "mutation($i: EditTemplateInput!) { editTemplate(templateInput: $i) {
            success template { id name shareLocationIds } } }";
        self.run("ZOWI", document, json!({ "i": input })).await
    }

    async fn templates(&self) -> Value {
        let answer = self.run("ZOWI", "{ templates { id name shareLocationIds } }", json!({})).await;
        answer["data"]["templates"].clone()
    }
}

fn code(answer: &Value) -> &str {
    answer["errors"][0]["extensions"]["code"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn added_value_is_read_at_once() {
    let pod = Pod::tutorial();
    let answer = pod.add(json!({ "name": " T ", "shareLocationIds": [3, "x"] })).await;
    let added = &answer["data"]["addTemplate"];
    assert_eq!((&added["success"], &added["message"]), (&json!(true), &json!("template added")));
    assert_eq!(added["template"]["name"], "T");
    assert_eq!(added["template"]["shareLocationIds"], json!(["3", "x"]));
    assert!(answer["extensions"]["cursor"].is_string() && answer.get("errors").is_none(), "{answer}");
    assert_eq!(pod.templates().await, json!([added["template"]]));
    let by_id = "query($id: ID!) { templateById(id: $id) { name } }";
    let found = pod.run("ZOLO", by_id, json!({ "id": added["template"]["id"] })).await;
    assert_eq!(found["data"]["templateById"]["name"], "T");
    let missing = pod.run("ZOLO", by_id, json!({ "id": "9" })).await;
    assert_eq!(missing["data"], json!({ "templateById": null }));
    let event = lock(&pod.topic.events)[0].clone();
    assert_eq!((&*event.kind, event.author.as_deref()), ("template.added.v1", Some("3")));
    let data: Value = serde_json::from_slice(&event.data).unwrap();
    assert_eq!(data, added["template"], "the topic gets what the client reads");
}

#[tokio::test]
async fn update_keeps_absent_fields() {
    let pod = Pod::tutorial();
    let added = pod.add(json!({ "name": "T", "shareLocationIds": ["3"] })).await;
    let id = &added["data"]["addTemplate"]["template"]["id"];
    for (input, name, ids) in [
        (json!({ "id": id }), "T", json!(["3"])),
        (json!({ "id": id, "name": "U" }), "U", json!(["3"])),
        (json!({ "id": id, "name": null, "shareLocationIds": ["1", "2"] }), "U", json!(["1", "2"])),
        (json!({ "id": id, "shareLocationIds": null }), "U", json!(null)),
    ] {
        let edited = pod.edit(input).await["data"]["editTemplate"].take();
        let expected = json!({ "id": id, "name": name, "shareLocationIds": ids });
        assert_eq!(edited, json!({ "success": true, "template": expected }));
        assert_eq!(pod.templates().await, json!([expected]));
    }
}

#[tokio::test]
async fn bad_input_publishes_nothing() {
    let pod = Pod::tutorial();
    let empty = pod.add(json!({ "name": " " })).await;
    assert_eq!(empty["errors"][0]["message"], "`name`: 1 to 200 characters are expected");
    assert_eq!(empty["errors"][0]["extensions"], json!({"code": "BAD_USER_INPUT", "field": "name"}));
    assert_eq!(empty["errors"][0]["path"], json!(["addTemplate"]));
    assert_eq!(empty["data"], json!({ "addTemplate": null }));
    let many = pod.add(json!({ "name": "T", "shareLocationIds": vec!["1"; 1_001] })).await;
    assert_eq!(
        (code(&many), &many["errors"][0]["extensions"]["field"]),
        ("BAD_USER_INPUT", &json!("shareLocationIds"))
    );
    assert_eq!(code(&pod.edit(json!({ "id": "9", "name": "T" })).await), "NOT_FOUND");
    let misfit = pod.add(json!({ "name": 7 })).await;
    assert_eq!((code(&misfit), misfit.get("data")), ("GRAPHQL_VALIDATION_FAILED", None));
    assert_eq!(misfit["errors"][0]["message"], "variable `$i`, `name`: a text is expected");
    assert!(lock(&pod.topic.events).is_empty());
    let deaf = Pod::new(TUTORIAL, DIRECTORY, true);
    assert_eq!(code(&deaf.add(json!({ "name": "T" })).await), "PUBLISH_FAILED");
    assert_eq!(deaf.templates().await, json!([]));
}

#[tokio::test]
async fn failed_field_leaves_others() {
    let pod = Pod::tutorial();
    let document = "mutation { a: addTemplate(templateInput: {name: \"a\"}) { success }
        b: addTemplate(templateInput: {name: \" \"}) { success } __typename
        c: addTemplate(templateInput: {name: \"c\"}) { template { name } } }";
    let answer = pod.run("ZOWI", document, json!({})).await;
    let expected = json!({"a": {"success": true}, "b": null, "__typename": "Mutation", "c": {"template": {"name": "c"}}});
    assert_eq!(answer["data"], expected);
    assert_eq!(answer["errors"][0]["path"], json!(["b"]));
    assert_eq!(answer["errors"][0]["locations"], json!([{"line": 2, "column": 9}]));
    assert_eq!(lock(&pod.topic.events).len(), 2);
}

#[tokio::test]
async fn tables_and_pages_are_served() {
    let pod = Pod::tutorial();
    let run = |document: &'static str| pod.run("ZOWI", document, json!({}));
    let answer = run("{ locations { id } locationsByOrgId(id: 2) { id name orgId } }").await;
    assert_eq!(answer["data"]["locations"].as_array().unwrap().len(), 4);
    let expected = [("3", "Location 3"), ("4", "Location 4")]
        .map(|(id, name)| json!({ "id": id, "name": name, "orgId": "2" }));
    assert_eq!(answer["data"]["locationsByOrgId"], json!(expected));
    for (document, expected) in [
        ("{ locations(first: 2) { id } }", json!([{"id": "1"}, {"id": "2"}])),
        ("{ locations(first: 2, afterKey: 3) { id } }", json!([{"id": "4"}])),
        ("{ locations(afterKey: \"none\") { id } }", json!([])),
        ("{ locations(first: 0) { id } }", json!([])),
        (
            "{ locations(first: null, afterKey: null) { id } }",
            json!([{"id": "1"}, {"id": "2"}, {"id": "3"}, {"id": "4"}]),
        ),
    ] {
        assert_eq!(run(document).await["data"]["locations"], expected, "{document}");
    }
    for document in ["{ locations(first: 1001) { id } }", "{ locations(first: -1) { id } }"] {
        let answer = run(document).await;
        assert_eq!((code(&answer), &answer["data"]["locations"]), ("BAD_USER_INPUT", &json!(null)));
    }
    for name in ["a", "b", "c"] {
        pod.add(json!({ "name": name })).await;
    }
    let first = run("{ templates(first: 1) { id name } }").await["data"]["templates"].take();
    assert_eq!(first[0]["name"], "a");
    let rest = "query($key: ID) { templates(first: 5, afterKey: $key) { name } }";
    let rest = pod.run("ZOWI", rest, json!({"key": first[0]["id"]})).await;
    assert_eq!(rest["data"]["templates"], json!([{"name": "b"}, {"name": "c"}]));
}

#[tokio::test]
async fn answer_stops_at_its_bound() {
    let pod = Pod::tutorial();
    let ids: Vec<String> = (0..1_000).map(|n| format!("{n:0256}")).collect();
    for n in 0..17 {
        pod.add(json!({ "name": n.to_string(), "shareLocationIds": ids })).await;
    }
    let answer = pod.run("ZOWI", "{ templates { shareLocationIds } }", json!({})).await;
    assert_eq!((code(&answer), &answer["data"]), ("RESULT_TOO_LARGE", &json!(null)));
    assert!(answer["extensions"]["cursor"].is_string());
    let aliases: String = (0..20).map(|n| format!("a{n}: shareLocationIds ")).collect();
    let one = format!("{{ templates(first: 1) {{ {aliases} }} }}");
    assert_eq!(
        code(&pod.run("ZOWI", &one, json!({})).await),
        "RESULT_TOO_LARGE",
        "one value may be too large"
    );
    let answer = pod.run("ZOWI", "{ templates(first: 10) { id } __schema { __typename } }", json!({})).await;
    assert_eq!(answer["data"]["templates"].as_array().unwrap().len(), 10);
    let mixed = "{ templates { shareLocationIds } __schema { __typename } }";
    assert_eq!(code(&pod.run("ZOWI", mixed, json!({})).await), "RESULT_TOO_LARGE");
}

#[tokio::test]
async fn rooms_are_for_members_only() {
    let pod = Pod::new(CHAT, "{}", false);
    let (ann, bob) = (r#"{"sub":"ann","rooms":["tea"]}"#, r#"{"sub":"bob","rooms":["gin"]}"#);
    let post = r#"mutation($room: ID!) { postMessage(room: $room, text: "hi") { id room author text } }"#;
    let posted = pod.run(ann, post, json!({"room": "tea"})).await["data"]["postMessage"].take();
    assert_eq!(posted, json!({"id": posted["id"], "room": "tea", "author": "ann", "text": "hi"}));
    let refused = pod.run(bob, post, json!({"room": "tea"})).await;
    assert_eq!((code(&refused), &refused["data"]), ("FORBIDDEN", &json!({"postMessage": null})));
    let list = r#"{ messages(room: "tea") { author text } }"#;
    let read = pod.run(ann, list, json!({})).await;
    assert_eq!(read["data"]["messages"], json!([{"author": "ann", "text": "hi"}]));
    assert_eq!(code(&pod.run(bob, list, json!({})).await), "FORBIDDEN");
    let data: Value = serde_json::from_slice(&lock(&pod.topic.events)[0].data).unwrap();
    assert_eq!(
        data,
        json!({"id": posted["id"], "room": "tea", "text": "hi"}),
        "the author is the envelope's"
    );
}

const NOTES: &str = r#"
    extend schema @interest(key: "room:{rooms}")
    scalar Any
    type Note @projection(key: "slug", events: ["note.set"]) {
        slug: ID!  room: ID @from(path: "place.room")  size: Int  any: Any  tags: [String!]
    }
    input NoteInput { slug: ID!  room: ID  size: Int  any: Any  tags: [String!] }
    type Done { ok: Boolean!  by: String  note: Note  tags: [String!] }
    type Query {
        notes(minSize: Int @filter(field: "size", op: AT_LEAST), tag: [String!] @filter(field: "tags")): [Note!]
            @audience(keys: ["room:{room}"])
        note(slug: ID! @filter): Note @audience(keys: ["room:{room}"])
        sure(slug: ID! @filter): Note! @audience(keys: ["room:{room}"])
    }
    type Mutation {
        set(note: NoteInput!): Boolean! @publish(type: "note.set")
        tag(slug: ID!, tags: [String!]): Done @audience(keys: ["room:{room}"])
            @publish(type: "note.set", update: true, data: { any: ["{$viewer.id}", "{tags}"] },
            answer: { ok: true, by: "by {$viewer.id}", note: "{$data}", tags: "{$data.tags}" })
    }
"#;

#[tokio::test]
async fn rows_of_others_are_left_out() {
    let pod = Pod::new(NOTES, "{}", false);
    let (ann, bob) = (r#"{"sub":"ann","rooms":["tea"]}"#, r#"{"sub":"bob","rooms":["gin"]}"#);
    let set = "mutation($note: NoteInput!) { set(note: $note) }";
    for note in [
        json!({"slug": "a", "room": "tea", "size": 1, "tags": ["x", "y"]}),
        json!({"slug": "b", "room": "gin", "size": 5}),
        json!({"slug": "c", "room": "tea", "size": 9, "any": {"k": [1.5]}}),
        json!({"slug": "d"}),
    ] {
        assert_eq!(pod.run(ann, set, json!({ "note": note })).await["data"], json!({"set": true}));
    }
    for (token, document, expected) in [
        (ann, "{ notes { slug } }", json!({"notes": [{"slug": "a"}, {"slug": "c"}]})),
        (bob, "{ notes { slug } }", json!({"notes": [{"slug": "b"}]})),
        (ann, "{ notes(minSize: 2) { slug any } }", json!({"notes": [{"slug": "c", "any": {"k": [1.5]}}]})),
        (ann, "{ notes(tag: [\"y\", \"z\"]) { slug } }", json!({"notes": [{"slug": "a"}]})),
        (ann, "{ notes(tag: []) { slug } }", json!({"notes": []})),
        (ann, "{ note(slug: \"b\") { slug } }", json!({"note": null})),
        (bob, "{ note(slug: \"b\") { slug } }", json!({"note": {"slug": "b"}})),
    ] {
        assert_eq!(pod.run(token, document, json!({})).await["data"], expected, "{document}");
    }
    let absent = pod.run(ann, "{ sure(slug: \"b\") { slug } notes { slug } }", json!({})).await;
    assert_eq!((code(&absent), &absent["data"]), ("NOT_FOUND", &json!(null)));
    let data: Value = serde_json::from_slice(&lock(&pod.topic.events)[0].data).unwrap();
    assert_eq!(data["place"], json!({"room": "tea"}), "values are where `@from` reads them");
}

#[tokio::test]
async fn answer_and_data_follow_their_templates() {
    let pod = Pod::new(NOTES, "{}", false);
    let (ann, bob) = (r#"{"sub":"ann","rooms":["tea"]}"#, r#"{"sub":"bob","rooms":["gin"]}"#);
    let set = "mutation { set(note: {slug: \"a\", room: \"tea\", size: 3}) }";
    pod.run(ann, set, json!({})).await;
    let tag = "mutation { tag(slug: \"a\", tags: \"x\") { ok by tags note { slug room size any } } }";
    let expected = json!({"ok": true, "by": "by ann", "tags": ["x"],
        "note": {"slug": "a", "room": "tea", "size": 3, "any": ["ann", ["x"]]}});
    assert_eq!(pod.run(ann, tag, json!({})).await["data"]["tag"], expected);
    assert_eq!(code(&pod.run(bob, tag, json!({})).await), "NOT_FOUND", "who may not see it may not edit it");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn plan_answers_as_executor(
        fields in prop::collection::vec(prop::sample::select(vec![
            "id", "n: name", "shareLocationIds", "__typename", "...F", "... on Template { name i: id }",
            "name @skip(if: $yes)", "id @include(if: $yes)",
        ]), 1..5),
        first in 0..4u8, is_single in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let answer = runtime.block_on(async {
            let pod = Pod::tutorial();
            for name in ["a", "b", "c"] {
                pod.add(json!({ "name": name, "shareLocationIds": (name != "b").then_some(["1", "2"]) })).await;
            }
            let id = pod.templates().await[1]["id"].clone();
            let root = if is_single { "templateById(id: $id)" } else { "templates(first: $n)" };
            let document = |more: &str| format!(
                "query($id: ID! = \"-\", $n: Int = 9, $yes: Boolean!) {{ root: {root} {{ {} x: id @include(if: $yes) f: name ...F }}
                    u1: templateById(id: $id) {{ id }} u2: templates(first: $n) {{ id }} {more} }} fragment F on Template {{ name }}",
                fields.join(" "));
            let variables = json!({"id": id, "n": first, "yes": first % 2 == 0});
            let planned = pod.run("ZOLO", &document(""), variables.clone()).await;
            let executed = pod.run("ZOLO", &document("__schema { __typename }"), variables).await;
            (planned["data"]["root"].clone(), executed["data"]["root"].clone(), planned, executed)
        });
        prop_assert!(!answer.0.is_null(), "{} {}", answer.2, answer.3);
        prop_assert_eq!(answer.0, answer.1);
    }
}

#[tokio::test]
async fn conflicting_fields_are_refused() {
    let pod = Pod::tutorial();
    for document in [
        "mutation { a: addTemplate(templateInput: {name: \"x\"}) { success }
            ... on Mutation { a: editTemplate(templateInput: {id: \"1\"}) { success } } }",
        "{ x: templates { id } ... on Query { x: locations { orgId } } }",
        "{ t: templates(first: 1) { id } ... on Query { t: templates(first: 2) { id } } }",
        "{ t: templates { x: id } ... on Query { t: templates { x: name } } }",
    ] {
        let answer = pod.run("ZOWI", document, json!({})).await;
        assert_eq!((code(&answer), answer.get("data")), ("GRAPHQL_VALIDATION_FAILED", None), "{document}");
    }
    assert!(lock(&pod.topic.events).is_empty());
}

#[tokio::test]
async fn uses_of_one_variable_are_bounded() {
    let pod = Pod::tutorial();
    let document = format!(
        "mutation($a: ID!) {{ addTemplate(templateInput: {{name: \"x\", shareLocationIds: [{}]}}) {{ success }} }}",
        "$a ".repeat(400)
    );
    let answer = pod.run("ZOWI", &document, json!({"a": "x".repeat(1 << 17)})).await;
    assert_eq!(code(&answer), "GRAPHQL_VALIDATION_FAILED");
    assert_eq!(code(&pod.run("ZOWI", &document, json!({"a": "x"})).await), "");
}

#[tokio::test]
async fn large_answer_stops_no_other_mutation() {
    let pod = Pod::tutorial();
    let aliases: String = (0..20).map(|n| format!("a{n}: shareLocationIds ")).collect();
    let document = format!(
        "mutation($i: AddTemplateInput!) {{ a: addTemplate(templateInput: $i) {{ template {{ {aliases} }} }}
            b: addTemplate(templateInput: {{name: \"b\"}}) {{ success }} }}"
    );
    let ids: Vec<String> = (0..1_000).map(|n| format!("{n:0256}")).collect();
    let answer = pod.run("ZOWI", &document, json!({"i": {"name": "a", "shareLocationIds": ids}})).await;
    assert_eq!(code(&answer), "RESULT_TOO_LARGE");
    assert_eq!(lock(&pod.topic.events).len(), 2, "both ran");
}

const CARTS: &str = r#"
    extend schema @interest(key: "user:{sub}") @interest(key: "shop:{shops}")
    type Line { sku: ID  note: String }
    type Cart @projection(key: "n", events: ["cart.set"]) {
        n: Int!  owner: ID @from(path: "$author")  other: Int  lines: [Line!]
    }
    input LineInput { sku: ID }
    type Shop @table(name: "shops", key: "id") { id: ID!  owner: ID! }
    type Query {
        cart(n: Int! @filter): Cart @audience(everyone: true)
        shops(ids: [ID!] @filter(field: "id")): [Shop!] @audience(keys: ["user:{owner}"]) @allow(key: "shop:{ids}")
        mine: [Shop!] @audience(keys: ["user:{owner}"])
    }
    type Mutation {
        setCart(n: Int!, lines: [LineInput!]): Cart @publish(type: "cart.set")
    }
"#;

#[tokio::test]
async fn published_data_is_read_back() {
    let shops = r#"{"shops": [{"id": "a", "owner": "ann"}, {"id": "b", "owner": "bob"}, {"id": "c", "owner": "ann"}]}"#;
    let pod = Pod::new(CARTS, shops, false);
    let ann = r#"{"sub":"ann","shops":["a","b"]}"#;
    let set = "mutation($lines: [LineInput!]) { setCart(n: 7, lines: $lines) { n } }";
    assert_eq!(pod.run(ann, set, json!({})).await["data"]["setCart"], json!({"n": 7}));
    assert_eq!(pod.run(ann, "{ cart(n: 7) { n } }", json!({})).await["data"]["cart"], json!({"n": 7}));
    let many = pod.run(ann, set, json!({"lines": vec![json!({}); 45_000]})).await;
    assert_eq!(code(&many), "BAD_USER_INPUT", "its nulls make it longer than pods read");
    assert_eq!(lock(&pod.topic.events).len(), 1);

    for (document, expected) in [
        ("{ mine { id } }", json!([{"id": "a"}, {"id": "c"}])),
        ("{ mine(afterKey: \"b\") { id } }", json!([])),
        ("{ mine(afterKey: \"none\") { id } }", json!([])),
        ("{ mine(afterKey: \"a\") { id } }", json!([{"id": "c"}])),
    ] {
        assert_eq!(pod.run(ann, document, json!({})).await["data"]["mine"], expected, "{document}");
    }
    let list = "query($ids: [ID!]) { shops(ids: $ids) { id } }";
    assert_eq!(pod.run(ann, list, json!({"ids": ["a", "b"]})).await["data"]["shops"], json!([{"id": "a"}]));
    assert_eq!(code(&pod.run(ann, list, json!({"ids": ["a", ""]})).await), "FORBIDDEN");
    let mixed = "{ cart(n: 7) { n } __schema { __typename } }";
    assert_eq!(pod.run(ann, mixed, json!({})).await["data"]["cart"], json!({"n": 7}));
}

#[tokio::test]
async fn other_tasks_run_during_long_scan() {
    const ROWS: usize = 4_000;
    let pod = Pod::new(NOTES, "{}", false);
    for n in 0..ROWS {
        let data = json!({"slug": format!("{n:04}"), "place": {"room": "gin"}, "tags": ["x".repeat(400)]});
        let mut event = Event::new("/test".into(), "note.set", None, data.to_string().into());
        event.published = Some(SystemTime::now());
        pod.domain.apply(&event, &pod.domain.read(&event).unwrap());
    }
    let scan = pod.run(r#"{"sub":"ann","rooms":["tea"]}"#, "{ notes(tag: [\"y\"]) { slug } }", json!({}));
    let mut turns = 0;
    let others = async {
        loop {
            tokio::task::yield_now().await;
            turns += 1;
        }
    };
    let answer = tokio::select! { answer = scan => answer, () = others => unreachable!() };
    assert_eq!(answer["data"], json!({"notes": []}));
    assert!(turns >= ROWS / 128, "{turns} turns");
}

#[tokio::test(start_paused = true)]
async fn long_scans_of_user_take_turns() {
    let budget = Budget::default();
    let mut pod = Pod::new(NOTES, "{}", false);
    pod.engine = pod.engine.with_budget(budget.clone());
    for n in 0..200 {
        let data = json!({"slug": format!("{n:04}"), "place": {"room": "gin"}, "tags": ["x".repeat(400)]});
        let mut event = Event::new("/test".into(), "note.set", None, data.to_string().into());
        event.published = Some(SystemTime::now());
        pod.domain.apply(&event, &pod.domain.read(&event).unwrap());
    }
    let scan = "{ notes(tag: [\"y\"]) { slug } }";
    let [ann, bob] = ["ann", "bob"].map(|name| format!("{{\"sub\":\"{name}\",\"rooms\":[\"tea\"]}}"));
    pod.run(&ann, scan, json!({})).await;
    let other_scan = budget.documents.try_charge(&"ann".into(), 1).unwrap();
    assert_eq!(code(&pod.run(&ann, scan, json!({})).await), "OVERLOADED");
    let short = "{ notes(first: 0) { slug } }";
    pod.run(&bob, short, json!({})).await;
    assert_eq!(
        pod.run(&ann, short, json!({})).await["data"],
        json!({"notes": []}),
        "a short query needs no turn"
    );
    assert_eq!(pod.run(&bob, scan, json!({})).await["data"], json!({"notes": []}));
    drop(other_scan);
    assert_eq!(pod.run(&ann, scan, json!({})).await["data"], json!({"notes": []}));
}

#[tokio::test]
async fn long_answer_is_charged_before_it_is_written() {
    let pod = Pod::tutorial();
    let name = "n".repeat(150);
    let document = format!(
        "mutation {{ addTemplate(templateInput: {{name: \"{name}\"}}) {{ template {{ a: name b: name }} }} }}"
    );
    let document = parse_query(document).unwrap();
    let (_, definition) = document.operations.iter().next().unwrap();
    let viewer = pod.domain.viewer(Identity::Demo("ZOWI")).unwrap();
    let event_publisher = publisher(&pod.topic, &pod.domain);
    for (room, limit, expected) in
        [(1_000, 1_000, None), (300, 1_000, Some(Code::Overloaded)), (1_000, 300, Some(Code::ResultTooLarge))]
    {
        let (pool, turns) = (Pool::new("test", room, room), Pool::of_turns("test"));
        let space = Space::new(pool.try_charge(&viewer.user, 100).unwrap(), limit);
        let operation = Operation {
            document: &document,
            definition: &definition.node,
            variables: &Variables::default(),
            viewer: &viewer,
            event_publisher: &event_publisher,
            space: &space,
            receipt: &Receipt::default(),
            turns: Turns::new(&turns, &viewer.user),
            counts: None,
        };
        let copied = run(&pod.domain, &operation).await.unwrap().unwrap();
        assert_eq!(copied.data.err(), expected, "{room} {limit}");
        assert!(space.bytes() <= limit.min(room));
    }
    assert_eq!(lock(&pod.topic.events).len(), 3, "each was published");
}

const TRIMMED: &str = r#"
    extend schema @interest(key: "room:{rooms}")
    type Note @projection(key: "slug", events: ["note.set"]) {
        slug: ID! @constraint(trim: true)  room: ID! @constraint(trim: true)  text: String  tags: [Tag!]
    }
    type Tag { name: ID @constraint(trim: true) }
    input TagInput { name: ID }
    type Query {
        note(slug: ID! @filter): Note @audience(everyone: true)
        notes(room: ID @filter, tag: ID @filter(field: "tags.name")): [Note!] @audience(everyone: true)
        mine(room: ID! @filter): [Note!] @audience(everyone: true) @allow(key: "room:{room}")
        tagged(names: [ID!] @filter(field: "tags.name")): [Note!] @audience(everyone: true) @allow(key: "room:{names}")
    }
    type Mutation {
        set(slug: ID!, room: ID!, tags: [TagInput!]): Note @allow(key: "room:{room}") @publish(type: "note.set")
        tag(slug: ID!, room: ID!, tags: [TagInput!]!): Note @allow(key: "room:{tags.name}") @publish(type: "note.set")
        edit(slug: ID!, text: String): Note @publish(type: "note.set", update: true)
        join(room: ID!, n: ID!): Note @publish(type: "note.set", update: true, data: { slug: " {n}", room: "{room}" })
    }
"#;

#[tokio::test]
async fn arguments_are_trimmed_like_their_fields() {
    let pod = Pod::new(TRIMMED, "{}", false);
    let ann = r#"{"sub":"ann","rooms":["tea"]}"#;
    let set =
        r#"mutation { set(slug: "\ta ", room: " tea ", tags: [{name: " x "}]) { slug room tags { name } } }"#;
    let note = json!({"slug": "a", "room": "tea", "tags": [{"name": "x"}]});
    assert_eq!(pod.run(ann, set, json!({})).await["data"]["set"], note);
    for (document, expected) in [
        (r#"{ r: note(slug: " a ") { slug } }"#, json!({"slug": "a"})),
        (r#"{ r: notes(room: " tea", tag: "x ") { slug } }"#, json!([{"slug": "a"}])),
        (r#"{ r: notes(afterKey: " a ") { slug } }"#, json!([])),
        (r#"{ r: mine(room: " tea") { slug } }"#, json!([{"slug": "a"}])),
        (r#"{ r: note(slug: " a ") { slug } __schema { __typename } }"#, json!({"slug": "a"})),
        (r#"mutation { r: edit(slug: " a ", text: " t ") { text } }"#, json!({"text": " t "})),
        (
            r#"mutation { r: join(n: "a", room: " gin") { slug room text } }"#,
            json!({"slug": "a", "room": "gin", "text": " t "}),
        ),
    ] {
        assert_eq!(pod.run(ann, document, json!({})).await["data"]["r"], expected, "{document}");
    }
}

#[tokio::test]
async fn spaces_give_no_access() {
    let pod = Pod::new(TRIMMED, "{}", false);
    let mallory = r#"{"sub":"mallory","rooms":[" tea "]}"#;
    for document in [
        r#"mutation { set(slug: "a", room: " tea ") { slug } }"#,
        r#"mutation { tag(slug: "a", room: "x", tags: [{name: " tea "}]) { slug } }"#,
        r#"{ mine(room: " tea ") { slug } }"#,
        r#"{ tagged(names: [" tea "]) { slug } }"#,
    ] {
        assert_eq!(code(&pod.run(mallory, document, json!({})).await), "FORBIDDEN", "{document}");
    }
    assert!(lock(&pod.topic.events).is_empty());
}
