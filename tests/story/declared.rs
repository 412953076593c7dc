//! A domain in one GraphQL file, in the real binary: its commands, and its events from a foreign
//! program to each client that they are for.

use std::fs;

use serde_json::{Value, json};

use crate::support::{Client, Dialect, Message, Relay, Setup, Socket, Topic};

const ORDERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/orders/schema.graphql");
const TUTORIAL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/domains/tutorial.graphql");
const DIRECTORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/domains/tutorial/directory.json");

/// Runs a command that is no pod, and returns its exit code, stdout and stderr.
async fn run(arguments: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let setup = Setup::new("pod").command_line(arguments);
    let setup = variables.iter().fold(setup, |setup, (name, value)| setup.set(name, *value));
    let output = setup.run().await;
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[tokio::test]
async fn check_prints_costs_or_every_mistake() {
    let (code, out, _) = run(&["check", ORDERS], &[]).await;
    let expected =
        "orderUpdated: 2 key templates; indexed arguments: id, status; compared arguments: minTotal\n";
    assert_eq!((code, &*out), (Some(0), expected));

    let file = fs::read_to_string(ORDERS).unwrap();
    let broken = file.replace("scalar DateTime", "scalar Date").replace("op: AT_LEAST", "op: NEAR");
    let path = std::env::temp_dir().join(format!("relay-{}.graphql", uuid::Uuid::now_v7()));
    fs::write(&path, broken).unwrap();
    let name = path.to_str().unwrap();
    let (code, out, err) = run(&["check", name], &[]).await;
    let (_, _, served) = run(&["serve"], &[("RELAY_SCHEMA", name), ("RELAY_QUEUE_BYTES", "lots")]).await;
    fs::remove_file(&path).unwrap();
    assert_eq!((code, &*out), (Some(64), ""));
    let lines: Vec<_> = err.lines().map(|line| line.strip_prefix(name).unwrap()).collect();
    assert_eq!(lines.len(), 2, "{err}");
    assert!(lines[0].starts_with(":7:31: there is no type `DateTime`"), "{err}");
    assert!(lines[1].contains(": `op` of `@filter` must be one of EQUALS"), "{err}");
    assert_eq!(served.lines().count(), 3, "{served}");
    assert!(served.contains(&format!("{name}:7:31: there is no type")), "{served}");

    let (code, _, err) = run(&["check", "/does/not/exist"], &[]).await;
    assert_eq!(code, Some(64), "{err}");
}

#[tokio::test]
async fn check_finds_mistakes_of_mutations_and_tables() {
    let tutorial = fs::read_to_string(TUTORIAL).unwrap();
    let broken = tutorial.replace("\"template added\"", "\"for {$data.shareLocationIds} {$data.typo}\"");
    let path = std::env::temp_dir().join(format!("relay-{}.graphql", uuid::Uuid::now_v7()));
    fs::write(&path, broken).unwrap();
    let (code, out, err) = run(&["check", path.to_str().unwrap()], &[]).await;
    assert_eq!((code, &*out, err.lines().count()), (Some(64), "", 2), "{err}");
    assert!(err.contains(":62:13: `$data.shareLocationIds` is a list or an object"), "{err}");
    assert!(err.contains(":62:13: there is no `$data.typo` in `Template`"), "{err}");

    let table = |id: &str| format!(r#"{{"locations": [], "users": [{{"id": "{id}", "type": "A"}}]}}"#);
    for (id, expected) in [("a", Some(0)), ("a\\u0007", Some(64)), (&*"a".repeat(257), Some(64))] {
        fs::write(&path, table(id)).unwrap();
        let (code, out, err) =
            run(&["check", TUTORIAL], &[("RELAY_DIRECTORY", path.to_str().unwrap())]).await;
        assert_eq!(code, expected, "{out}{err}");
        assert_eq!(
            err.contains("RELAY_DIRECTORY the directory is wrong:\n  `users`, row 1: `id`: at most"),
            code != Some(0),
            "{err}"
        );
    }
    fs::remove_file(&path).unwrap();
    assert_eq!(
        run(&["check", TUTORIAL], &[]).await.0,
        Some(0),
        "rules are checked without their tables, too"
    );
}

#[tokio::test]
async fn check_tries_rules_on_event() {
    let data = r#"{"id": "o-1", "customer": {"id": "ann"}, "status": "PAID", "total": 9, "items": []}"#;
    let structured = format!(
        r#"{{"specversion": "1.0", "id": "1", "source": "/shop", "type": "order.placed.v1", "data": {data}}}"#
    );
    let path = std::env::temp_dir().join(format!("relay-{}.json", uuid::Uuid::now_v7()));
    fs::write(&path, structured).unwrap();
    let (file, ann) = (path.to_str().unwrap(), r#"{"sub": "ann"}"#);
    let typed = ["check", ORDERS, "--event", data, "--type", "order.changed.v1", "--viewer", ann];
    let whole = ["check", ORDERS, "--event", file, "--viewer", ann, "--arguments", r#"{"id": "o-2"}"#];
    let unknown = ["check", ORDERS, "--event", data, "--type", "order.gone.v1", "--viewer", ann];
    let misfit = ["check", ORDERS, "--event", "{}", "--type", "order.placed.v1", "--viewer", ann];
    let unreadable = ["check", ORDERS, "--event", "/no/file", "--viewer", ann];
    for (arguments, code, expected) in [
        (&typed[..], 0, "orderUpdated: told by user:ann\n"),
        (&whole, 0, "orderUpdated: not told: an argument leaves it out\n"),
        (&unknown, 1, "relay: unknown event type\n"),
        (&misfit, 1, "relay: malformed event data: "),
        (&unreadable, 64, "relay: --event names a file that cannot be read: "),
        (&["check", ORDERS, "--event", data], 64, "error: "),
    ] {
        let (exit, out, err) = run(arguments, &[]).await;
        assert_eq!(exit, Some(code), "{arguments:?}: {out}{err}");
        assert!(if code == 0 { out == expected } else { err.starts_with(expected) }, "{out}{err}");
    }
    fs::remove_file(&path).unwrap();
}

#[tokio::test]
async fn check_tries_envelope_on_message() {
    let file = fs::read_to_string(ORDERS).unwrap();
    let envelope =
        r#"extend schema @envelope(type: "order.{eventType}.v1", author: "{userId}", id: "{$data.id}")"#;
    let path = std::env::temp_dir().join(format!("relay-{}.graphql", uuid::Uuid::now_v7()));
    fs::write(&path, format!("{envelope}\n{file}")).unwrap();
    let name = path.to_str().unwrap();
    let data = r#"{"id": "o-1", "customer": {"id": "ann"}, "status": "PAID", "total": 9, "items": []}"#;
    let check = async |attributes: &str| {
        let flags = ["--event", data, "--attributes", attributes, "--viewer", r#"{"sub": "ann"}"#];
        run(&[&["check", name][..], &flags].concat(), &[]).await
    };
    let (code, out, err) = check(r#"{"eventType": "placed", "userId": "bob"}"#).await;
    let line = "event: type order.placed.v1, source /envelope, id o-1, author bob\n";
    assert_eq!((code, &*out), (Some(0), &*format!("{line}orderUpdated: told by user:ann\n")), "{err}");
    let whole =
        r#"{"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/shop", "ce-type": "order.changed.v1"}"#;
    let (code, out, _) = check(whole).await;
    let line = "event: type order.changed.v1, source /shop, id 1, author none\n";
    assert!(code == Some(0) && out.starts_with(line), "an event needs no envelope: {out}");
    for (attributes, code, expected) in [
        ("{}", 1, "relay: attribute eventType (@envelope type) is missing\n"),
        (r#"{"eventType": "gone"}"#, 1, "relay: unknown event type\n"),
        (
            r#"{"ce-type": "order.placed.v1"}"#,
            1,
            "relay: attribute specversion (ce-specversion) is missing\n",
        ),
        (r#"{"eventType": 7}"#, 64, "relay: --attributes is no JSON object of texts: "),
    ] {
        let (exit, out, err) = check(attributes).await;
        assert!(exit == Some(code) && err.starts_with(expected), "{attributes}: {out}{err}");
    }
    fs::write(&path, format!("{}\n{file}", envelope.replace("order.", "orders."))).unwrap();
    let (code, _, err) = check("{}").await;
    fs::remove_file(&path).unwrap();
    let problem = ":1:31: no field or projection reads such an event type";
    assert!(code == Some(64) && err.contains(problem), "{err}");
}

#[tokio::test]
async fn sample_events_reach_their_viewers() {
    let ops = r#"{"sub": "eve", "org_id": "acme", "teams": ["ops"]}"#;
    for (example, event, viewer, expected) in [
        ("orders", "placed", r#"{"sub": "ann"}"#, "orderUpdated: told by user:ann\n"),
        (
            "orders",
            "shipped",
            r#"{"sub": "sue", "roles": ["support"]}"#,
            "orderUpdated: told by role:support\n",
        ),
        ("orders", "shipped", r#"{"sub": "ann"}"#, "orderUpdated: not told: the viewer listens to none of"),
        ("chat", "posted", r#"{"sub": "bob", "rooms": ["tea"]}"#, "messagePosted: told by room:tea\n"),
        (
            "notifications",
            "mention",
            r#"{"sub": "ann", "org_id": "acme"}"#,
            "notified: told by tenant:acme/user:ann\n",
        ),
        ("notifications", "announcement", ops, "notified: told by tenant:acme/team:ops\n"),
    ] {
        let folder = format!("{}/examples/{example}", env!("CARGO_MANIFEST_DIR"));
        let (schema, event) = (format!("{folder}/schema.graphql"), format!("{folder}/events/{event}.json"));
        let (code, out, err) = run(&["check", &schema, "--event", &event, "--viewer", viewer], &[]).await;
        assert!(code == Some(0) && out.starts_with(expected), "{event}: {out}{err}");
    }
}

#[tokio::test]
async fn schema_is_that_of_file() {
    let (code, out, _) = run(&["schema"], &[("RELAY_SCHEMA", ORDERS)]).await;
    assert_eq!(code, Some(0));
    assert!(out.contains("orderUpdated(") && out.contains("after: String"), "{out}");
    assert!(!out.contains("@audience"), "{out}");
    assert!(out.contains("_service: _Service!"), "GraphQL requires a Query: {out}");
    let (_, flag, _) = run(&["schema", "--schema", ORDERS], &[]).await;
    assert_eq!(flag, out);
    let (code, out, _) = run(&["schema", "--directives"], &[]).await;
    assert!(code == Some(0) && out.contains("directive @audience("), "{out}");
}

#[tokio::test]
async fn schema_with_tables_needs_directory() {
    let (code, _, err) = run(&["serve"], &[("RELAY_SCHEMA", TUTORIAL)]).await;
    assert_eq!(code, Some(64));
    assert!(err.starts_with("relay: RELAY_DIRECTORY is not set, but the schema names tables"), "{err}");
    let files = [("RELAY_SCHEMA", TUTORIAL), ("RELAY_DIRECTORY", DIRECTORY)];
    let (code, out, err) = run(&["schema"], &files).await;
    assert!(code == Some(0) && out.contains("templateAdded"), "{err}");
    assert!(!out.contains("_service"), "{out}");
}

#[tokio::test]
async fn gateway_reads_schema_unless_introspection_is_off() {
    let document = "{ _service { sdl } }";
    let pod = Setup::new("pod").set("RELAY_SCHEMA", ORDERS).start().await;
    let answer = pod.http.graphql("ann", document, Value::Null).await;
    let sdl = answer.json()["data"]["_service"]["sdl"].as_str().unwrap().to_owned();
    assert!(sdl.contains("orderUpdated(") && !sdl.contains("@audience"), "{sdl}");
    let pod = Setup::new("pod").set("RELAY_SCHEMA", ORDERS).set("RELAY_INTROSPECTION", "off").start().await;
    let answer = pod.http.graphql("ann", document, Value::Null).await;
    assert_eq!(answer.code(), "GRAPHQL_VALIDATION_FAILED");
}

#[tokio::test]
async fn viewer_beyond_bounds_is_forbidden_by_template() {
    let pod = Setup::new("pod").set("RELAY_SCHEMA", ORDERS).start().await;
    let roles: Vec<_> = (0..1_001).map(|role| format!("r{role}")).collect();
    let many = json!({"sub": "s", "roles": roles}).to_string();
    let long = json!({"sub": "s", "roles": ["x".repeat(600)]}).to_string();
    for (token, text) in [
        (many, "`role:{roles}` gives more than 1000 keys together with the other interests"),
        (long, "`role:{roles}` gives a key that is too long"),
    ] {
        let answer = pod.http.graphql(&token, "{ __typename }", Value::Null).await;
        assert_eq!((answer.status, answer.code().as_str()), (403, "FORBIDDEN"));
        assert_eq!(answer.json()["errors"][0]["message"], text);
        for dialect in [Dialect::Transport, Dialect::Legacy] {
            let mut socket = Socket::open(pod.port(), Some(dialect.subprotocol())).await;
            let payload = json!({"authorization": format!("Bearer {token}")});
            socket.send(json!({"type": "connection_init", "payload": payload})).await;
            let (_, end) = socket.receive_to_end().await;
            assert_eq!((end.code, end.reason), (4403, format!("Forbidden: {text}")));
        }
    }
    let refused = pod.metric_of("relay_auth_failures_total", "reason=\"forbidden\"").await;
    assert!((refused - 6.0).abs() < 0.5, "{refused}");
}

/// Returns an event of an order as another program publishes it.
fn order(id: &str, customer: &str, total: f64) -> Message {
    let data = json!({
        "id": id, "customer": {"id": customer, "name": "not ours"}, "status": "PAID", "total": total,
        "items": [{"sku": "s", "name": "S", "quantity": 1, "price": total}], "updated_at": "2026-01-02",
    });
    Message::template("", &[]).with("ce-type", "order.changed.v1").with_data(data.to_string())
}

async fn watcher(pod: &Relay, token: &str, query: &str) -> Client {
    let before = pod.metric("relay_watchers").await;
    let mut client = Client::connect(pod.port(), Dialect::Transport, token).await;
    client.start("watch", query).await;
    pod.until_metric("relay_watchers", before + 1.0).await;
    client
}

/// Returns the next result's data.
async fn data(client: &mut Client) -> Value {
    let message = client.socket.receive().await.unwrap();
    assert_eq!(message["type"], "next", "{message}");
    message["payload"]["data"]["orderUpdated"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_reach_exactly_their_watchers() {
    let Some(topic) = Topic::fresh().await else { return };
    let pod = Setup::new("pod").topic(&topic).set("RELAY_SCHEMA", ORDERS).start().await;
    let all = "subscription { orderUpdated { id customerId total items { sku } updatedAt } }";
    let (one, large) = (
        "subscription { orderUpdated(id: \"o-2\") { id } }",
        "subscription { orderUpdated(minTotal: 50, status: [PAID]) { id } }",
    );
    let support = r#"{"sub":"s","roles":["support"]}"#;
    let mut mine = watcher(&pod, "ann", all).await;
    let mut second = watcher(&pod, "ann", one).await;
    let mut theirs = watcher(&pod, "bob", all).await;
    let mut supports = watcher(&pod, support, large).await;

    let broken = order("o-9", "ann", 1.0).with_data("{\"id\": 7.5}");
    let (first, other) = (order("o-1", "ann", 99.5), order("o-2", "ann", 10.0));
    topic.publish([first, broken, other, order("o-3", "bob", 60.0)]).await;

    let expected = json!({"id": "o-1", "customerId": "ann", "total": 99.5, "items": [{"sku": "s"}],
        "updatedAt": "2026-01-02"});
    assert_eq!(data(&mut mine).await, expected);
    assert_eq!(data(&mut mine).await["id"], "o-2");
    assert_eq!(data(&mut second).await, json!({"id": "o-2"}));
    assert_eq!(data(&mut theirs).await["id"], "o-3");
    assert_eq!(data(&mut supports).await, json!({"id": "o-1"}));
    assert_eq!(data(&mut supports).await, json!({"id": "o-3"}));
    for label in ["reason=\"malformed\"", "type=\"order.changed.v1\"", "path=\"id\""] {
        let malformed = pod.metric_of("relay_events_rejected_total", label).await;
        assert!((malformed - 1.0).abs() < 0.5, "{label}: {malformed}");
    }
}
