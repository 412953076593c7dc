//! [`Topic`]: a topic of its own on Google's emulator or in PostgreSQL, and what a foreign program
//! does to it by REST or SQL.
//!
//! Each test has a project or a database of its own. No test may ever share a topic with another.

use std::{collections::HashMap, thread, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use pubsub_relay::cli::{emulator::Emulator, postgres::PostgresServer};
use rand::seq::SliceRandom as _;
use serde_json::{Map, Value, json};
use tokio::time::sleep;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::{
    emulator::{self, environment, skip},
    postgres,
    rabbitmq::{self, Control, Node},
};

const NAME: &str = "templates";

/// Name of the subscription that records what is published.
const RECORD: &str = "record";

/// Attributes of a message and the columns of the outbox that hold them.
const COLUMNS: [(&str, &str); 6] = [
    ("ce-id", "id"),
    ("ce-source", "source"),
    ("ce-type", "type"),
    ("ce-time", "time"),
    ("ce-author", "author"),
    ("content-type", "content_type"),
];

/// Broker of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    PubSub,
    Postgres,
    RabbitMq,
}

/// Topic in a project or a database, or in a stream, that no other test uses.
#[derive(Clone)]
pub(crate) struct Topic {
    kind: Kind,
    host: String,
    /// Name of the project, of the database or of the stream.
    project: String,
    /// Access to the node of RabbitMQ.
    control: Option<Control>,
}

/// Server that a test started for itself.
pub(crate) enum Server {
    Emulator(Emulator),
    Postgres(PostgresServer),
    RabbitMq(Node),
}

impl Server {
    pub(crate) async fn stop(self) {
        match self {
            Self::Emulator(emulator) => emulator.stop().await,
            Self::Postgres(server) => server.stop().await,
            Self::RabbitMq(node) => drop(node),
        }
    }
}

/// Message as a foreign program publishes it.
#[derive(Clone)]
pub(crate) struct Message {
    attributes: Value,
    data: Vec<u8>,
}

impl Message {
    /// Creates a valid event from a foreign program: it has no author.
    pub(crate) fn template(name: &str, locations: &[&str]) -> Self {
        let id = Uuid::now_v7().to_string();
        let data = json!({ "id": format!("foreign-{id}"), "name": name, "shareLocationIds": locations });
        let attributes = json!({
            "ce-specversion": "1.0",
            "ce-id": id,
            "ce-source": "//erp.example/templates",
            "ce-type": "template.added.v1",
            "content-type": "application/json",
        });
        Self { attributes, data: data.to_string().into_bytes() }
    }

    /// Returns its attributes and its data.
    pub(crate) fn parts(&self) -> (HashMap<String, String>, Vec<u8>) {
        (serde_json::from_value(self.attributes.clone()).unwrap(), self.data.clone())
    }

    pub(crate) fn with(mut self, attribute: &str, value: &str) -> Self {
        self.attributes[attribute] = value.into();
        self
    }

    /// Puts the whole event into the data: CloudEvents' structured mode.
    pub(crate) fn structured(mut self) -> Self {
        let mut event = json!({ "data": serde_json::from_slice::<Value>(&self.data).unwrap() });
        for (name, value) in self.attributes.as_object().unwrap() {
            event[name.strip_prefix("ce-").unwrap_or("datacontenttype")] = value.clone();
        }
        self.attributes = json!({ "content-type": "application/cloudevents+json; charset=utf-8" });
        self.data = event.to_string().into_bytes();
        self
    }

    /// Adds unknown locations until the data has about this many bytes.
    pub(crate) fn padded(mut self, bytes: usize) -> Self {
        let mut data: Value = serde_json::from_slice(&self.data).unwrap();
        let unknown = (0..bytes / 250).map(|n| format!("{n:0>246}").into());
        data["shareLocationIds"].as_array_mut().unwrap().extend(unknown);
        self.data = data.to_string().into_bytes();
        self
    }

    pub(crate) fn without_attributes(mut self) -> Self {
        self.attributes = json!({});
        self
    }

    pub(crate) fn with_data(mut self, data: impl Into<Vec<u8>>) -> Self {
        self.data = data.into();
        self
    }
}

impl Topic {
    /// Returns a topic that the first pod will create, at the broker that `RELAY_TEST_BROKER`
    /// names: `pubsub`, the default, `postgres` or `rabbitmq`. Without its server it prints the
    /// reason and returns `None`.
    pub(crate) async fn fresh() -> Option<Self> {
        match environment("RELAY_TEST_BROKER").as_deref() {
            None | Some("pubsub") => Self::at(Kind::PubSub).await,
            Some("postgres") => Self::at(Kind::Postgres).await,
            Some("rabbitmq") => Self::at(Kind::RabbitMq).await,
            Some(other) => panic!("RELAY_TEST_BROKER={other}: write pubsub, postgres or rabbitmq"),
        }
    }

    /// Returns a topic for a test of what only Pub/Sub has. If `RELAY_TEST_BROKER` names another
    /// broker, the test is skipped.
    pub(crate) async fn on_pubsub() -> Option<Self> {
        match environment("RELAY_TEST_BROKER").as_deref() {
            None | Some("pubsub") => Self::at(Kind::PubSub).await,
            Some(other) => {
                skip(&test_name(), &format!("it is of Pub/Sub, and RELAY_TEST_BROKER is {other}"));
                None
            }
        }
    }

    /// Returns a topic for a test of messages that are no CloudEvents. In PostgreSQL each row is
    /// an event, so there the test is skipped.
    pub(crate) async fn of_messages() -> Option<Self> {
        if environment("RELAY_TEST_BROKER").as_deref() == Some("postgres") {
            skip(&test_name(), "each row of PostgreSQL is an event");
            return None;
        }
        Self::fresh().await
    }

    /// Returns a topic at this broker. Without its server it prints the reason and returns `None`.
    pub(crate) async fn at(kind: Kind) -> Option<Self> {
        let id = Uuid::now_v7().simple().to_string();
        match kind {
            Kind::PubSub => {
                let host = emulator::host(&test_name()).await?;
                Some(Self { kind, host, project: format!("story-{}", &id[16..]), control: None })
            }
            Kind::Postgres => {
                let (host, project) = postgres::fresh(&test_name()).await?;
                Some(Self { kind, host, project, control: None })
            }
            Kind::RabbitMq => {
                let node = rabbitmq::shared(&test_name()).await?;
                Some(Self::in_rabbitmq(node, format!("relay.{id}")))
            }
        }
    }

    /// Returns the topic in this database of PostgreSQL.
    pub(crate) fn in_postgres(host: &str, database: &str) -> Self {
        let (host, project) = (host.to_owned(), database.to_owned());
        Self { kind: Kind::Postgres, host, project, control: None }
    }

    /// Returns the topic in this stream of a node.
    fn in_rabbitmq(node: &Node, stream: String) -> Self {
        let (host, control) = (format!("127.0.0.1:{}", node.port), Some(node.control()));
        Self { kind: Kind::RabbitMq, host, project: stream, control }
    }

    /// Starts another, empty server and returns the same topic on it.
    pub(crate) async fn anew(&self) -> (Self, Server) {
        match self.kind {
            Kind::PubSub => {
                let emulator = emulator::start().await.unwrap();
                (self.seen_at(emulator.host()), Server::Emulator(emulator))
            }
            Kind::Postgres => {
                let server = postgres::start().await.unwrap();
                postgres::create(&server.host(), &self.project).await;
                (self.seen_at(&server.host()), Server::Postgres(server))
            }
            Kind::RabbitMq => {
                let node = Node::start().await.expect("RabbitMQ is installed");
                (Self::in_rabbitmq(&node, self.project.clone()), Server::RabbitMq(node))
            }
        }
    }

    /// Creates the topic before any pod does.
    pub(crate) async fn make(&self, retention: Option<&str>) {
        let settings = retention.map_or(json!({}), |it| json!({ "messageRetentionDuration": it }));
        self.put(&format!("topics/{NAME}"), &settings).await;
    }

    /// Creates an old feed of a pod that does not exist, and returns the feed's name.
    pub(crate) async fn make_orphan(&self, pod: &str) -> String {
        let feed = format!("{NAME}.{pod}.18c00000000-0123abcd");
        let topic = format!("projects/{}/topics/{NAME}", self.project);
        let labels = json!({ "app": "pubsub-relay", "pod": pod });
        self.put(&format!("subscriptions/{feed}"), &json!({ "topic": topic, "labels": labels })).await;
        feed
    }

    /// Records on Pub/Sub what is published from now on, for [`recorded`](Self::recorded).
    pub(crate) async fn record(&self) {
        let topic = format!("projects/{}/topics/{NAME}", self.project);
        self.put(&format!("subscriptions/{RECORD}"), &json!({ "topic": topic })).await;
    }

    /// Returns the recorded messages of this type, as they can be published again.
    pub(crate) async fn recorded(&self, kind: &str) -> Vec<Message> {
        let url = self.url(&format!("projects/{}/subscriptions/{RECORD}:pull", self.project));
        let client = reqwest::Client::new();
        let mut recorded = Vec::new();
        loop {
            let request = client.post(&url).header("content-type", "application/json");
            let request =
                request.body(json!({ "maxMessages": 1_000, "returnImmediately": true }).to_string());
            let answer = request.send().await.unwrap().error_for_status().unwrap().text().await.unwrap();
            let answer: Value = serde_json::from_str(&answer).unwrap();
            let Some(messages) = answer["receivedMessages"].as_array() else { return recorded };
            for received in messages {
                let (attributes, data) = (&received["message"]["attributes"], &received["message"]["data"]);
                if attributes["ce-type"] == kind {
                    let data = BASE64_STANDARD.decode(data.as_str().unwrap()).unwrap();
                    recorded.push(Message { attributes: attributes.clone(), data });
                }
            }
        }
    }

    async fn put(&self, name: &str, settings: &Value) {
        let url = self.url(&format!("projects/{}/{name}", self.project));
        let request = reqwest::Client::new().put(url).header("content-type", "application/json");
        request.body(settings.to_string()).send().await.unwrap().error_for_status().unwrap();
    }

    /// Creates a subscription of another program, and returns its full name.
    pub(crate) async fn subscribe(&self) -> String {
        let topic = format!("projects/{}/topics/{NAME}", self.project);
        self.put("subscriptions/another-program", &json!({ "topic": topic })).await;
        format!("projects/{}/subscriptions/another-program", self.project)
    }

    /// Takes messages of this subscription, and returns the attributes and the JSON data of each.
    pub(crate) async fn pull(&self, subscription: &str) -> Vec<(Value, Value)> {
        let pulled = self.post(&format!("{subscription}:pull"), &json!({ "maxMessages": 100 })).await;
        let messages = pulled["receivedMessages"].as_array().cloned().unwrap_or_default();
        if messages.is_empty() {
            return Vec::new();
        }
        let acks: Vec<_> = messages.iter().map(|message| message["ackId"].clone()).collect();
        self.post(&format!("{subscription}:acknowledge"), &json!({ "ackIds": acks })).await;
        let parts = |message: &Value| {
            let data = BASE64_STANDARD.decode(message["message"]["data"].as_str().unwrap_or_default());
            let data = serde_json::from_slice(&data.unwrap()).unwrap_or_default();
            (message["message"]["attributes"].clone(), data)
        };
        messages.iter().map(parts).collect()
    }

    async fn post(&self, path: &str, body: &Value) -> Value {
        let request = reqwest::Client::new().post(self.url(path)).header("content-type", "application/json");
        let answer = request.body(body.to_string()).send().await.unwrap().error_for_status().unwrap();
        serde_json::from_str(&answer.text().await.unwrap()).unwrap_or_default()
    }

    /// Deletes the topic. Its feeds stay, but never receive an event again.
    pub(crate) async fn drop(&self) {
        self.delete(&format!("projects/{}/topics/{NAME}", self.project)).await;
    }

    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    pub(crate) const fn kind(&self) -> Kind {
        self.kind
    }

    /// Returns the same topic as seen through another address of the server.
    pub(crate) fn seen_at(&self, host: &str) -> Self {
        Self { host: host.to_owned(), ..self.clone() }
    }

    /// Returns the topic as a value for `RELAY_BROKER`.
    pub(crate) fn broker(&self) -> String {
        match self.kind {
            Kind::PubSub => format!("pubsub://{}/{NAME}", self.project),
            Kind::Postgres => format!("postgres://{}/{}", self.host, self.project),
            Kind::RabbitMq => format!("amqp://{}/%2f?stream={}", self.host, self.project),
        }
    }

    /// Publishes these messages in order, on one ordering key, and returns once the topic took the
    /// last.
    pub(crate) async fn publish(&self, messages: impl IntoIterator<Item = Message>) {
        match self.kind {
            Kind::PubSub => {}
            Kind::Postgres => return self.insert(messages).await,
            Kind::RabbitMq => return self.send(messages).await,
        }
        let client = reqwest::Client::new();
        for message in messages {
            self.publish_together(&client, &[message], |_| "foreign".to_owned()).await;
        }
    }

    /// Publishes these messages in random order, each on an ordering key of its own, so that they
    /// also arrive in any order.
    pub(crate) async fn publish_shuffled(&self, mut messages: Vec<Message>) {
        messages.shuffle(&mut rand::rng());
        match self.kind {
            Kind::PubSub => {}
            Kind::Postgres => return self.insert(messages).await,
            Kind::RabbitMq => return self.send(messages).await,
        }
        let client = reqwest::Client::new();
        for few in messages.chunks(20) {
            self.publish_together(&client, few, |n| format!("foreign-{n}")).await;
        }
    }

    /// Publishes these messages by the outbox, each in a transaction of its own.
    async fn insert(&self, messages: impl IntoIterator<Item = Message>) {
        let client = postgres::connect(&self.host, &self.project).await;
        let names = COLUMNS.map(|(_, column)| column).join(", ");
        let insert = format!(
            "insert into relay.outbox ({names}, extensions, data) \
             values ($1, $2, $3, $4, $5, $6, $7::text::jsonb, $8)"
        );
        let types = [&[Type::TEXT; 7][..], &[Type::BYTEA]].concat();
        let insert = client.prepare_typed(&insert, &types).await;
        let insert = insert.expect("a pod has made the tables");
        for message in messages {
            let (mut attributes, data) = message.parts();
            attributes.remove("ce-specversion");
            let texts = COLUMNS.map(|(name, _)| attributes.remove(name));
            let others: Map<String, Value> =
                attributes.into_iter().map(|(name, value)| (name, value.into())).collect();
            let others = (!others.is_empty()).then(|| Value::Object(others).to_string());
            let [id, source, kind, time, author, content] = &texts;
            client
                .execute(&insert, &[id, source, kind, time, author, content, &others, &data])
                .await
                .unwrap();
        }
    }

    /// Publishes these messages to the stream. A pod must have made it.
    async fn send(&self, messages: impl IntoIterator<Item = Message>) {
        let (_connection, channel) = rabbitmq::channel(&self.host).await;
        for message in messages {
            let (attributes, data) = message.parts();
            rabbitmq::publish(&channel, &self.project, attributes, data).await;
        }
    }

    async fn publish_together(
        &self,
        client: &reqwest::Client,
        messages: &[Message],
        key: fn(usize) -> String,
    ) {
        let message = |(n, message): (usize, &Message)| {
            json!({
                "attributes": message.attributes,
                "data": BASE64_STANDARD.encode(&message.data),
                "orderingKey": key(n),
            })
        };
        let messages: Vec<_> = messages.iter().enumerate().map(message).collect();
        let url = self.url(&format!("projects/{}/topics/{NAME}:publish", self.project));
        let request = client.post(url).header("content-type", "application/json");
        let request = request.body(json!({ "messages": messages }).to_string());
        request.send().await.unwrap().error_for_status().unwrap();
    }

    /// Returns the full names of the feeds of this pod; in PostgreSQL that of its sessions, and in
    /// RabbitMQ that of its connection, if it has any.
    pub(crate) async fn feeds_of(&self, pod: &str) -> Vec<String> {
        if let Some(control) = &self.control {
            return control.feed_of(pod).await.into_iter().collect();
        }
        if self.kind == Kind::Postgres {
            // The session of a process that has just ended takes a moment.
            let sessions = self.sessions_of(pod).await;
            if sessions.is_empty() {
                return sessions;
            }
            sleep(Duration::from_millis(300)).await;
            return self.sessions_of(pod).await;
        }
        let url = self.url(&format!("projects/{}/subscriptions", self.project));
        let body = reqwest::get(url).await.unwrap().error_for_status().unwrap().text().await.unwrap();
        let body: Value = serde_json::from_str(&body).unwrap();
        let all = body["subscriptions"].as_array().into_iter().flatten();
        let names = all.map(|feed| feed["name"].as_str().unwrap().to_owned());
        names.filter(|name| name.contains(&format!(".{pod}."))).collect()
    }

    /// Returns the name of this pod's sessions in PostgreSQL, if there are any.
    async fn sessions_of(&self, pod: &str) -> Vec<String> {
        let client = postgres::connect(&self.host, &self.project).await;
        let sessions = "select distinct application_name from pg_stat_activity \
                        where datname = current_database() and application_name = $1";
        let rows = client.query(sessions, &[&format!("relay/{pod}")]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// Deletes a feed while its pod uses it; in PostgreSQL it ends the sessions of this name, in
    /// RabbitMQ the connection.
    pub(crate) async fn delete(&self, feed: &str) {
        if let Some(control) = &self.control {
            return control.end(feed).await;
        }
        if self.kind == Kind::Postgres {
            let client = postgres::connect(&self.host, &self.project).await;
            let end = "select pg_terminate_backend(pid) from pg_stat_activity \
                       where datname = current_database() and application_name = $1";
            client.execute(end, &[&feed]).await.unwrap();
            return;
        }
        let answer = reqwest::Client::new().delete(self.url(feed)).send().await.unwrap();
        answer.error_for_status().unwrap();
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}/v1/{path}", self.host)
    }
}

fn test_name() -> String {
    thread::current().name().unwrap_or("a test").to_owned()
}
