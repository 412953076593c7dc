//! [`Topic`]: a topic of its own on Google's emulator, and what a foreign program does to it by
//! REST.
//!
//! Each test has a project of its own. No test may ever share a topic with another.

use std::{collections::HashMap, thread};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use pubsub_relay::cli::emulator::Emulator;
use rand::seq::SliceRandom as _;
use serde_json::{Value, json};
use uuid::Uuid;

use super::emulator;

const NAME: &str = "templates";

/// Topic in a project that no other test uses.
#[derive(Clone)]
pub(crate) struct Topic {
    host: String,
    project: String,
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
    /// Returns a topic that the first pod will create. Without an emulator it prints the reason and
    /// returns `None`.
    pub(crate) async fn fresh() -> Option<Self> {
        let test = thread::current().name().unwrap_or("a test").to_owned();
        let host = emulator::host(&test).await?;
        let id = Uuid::now_v7().simple().to_string();
        Some(Self { host, project: format!("story-{}", &id[16..]) })
    }

    /// Starts another, empty emulator and returns the same topic on it.
    pub(crate) async fn anew(&self) -> (Self, Emulator) {
        let emulator = emulator::start().await.unwrap();
        (self.seen_at(emulator.host()), emulator)
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

    async fn put(&self, name: &str, settings: &Value) {
        let url = self.url(&format!("projects/{}/{name}", self.project));
        let request = reqwest::Client::new().put(url).header("content-type", "application/json");
        request.body(settings.to_string()).send().await.unwrap().error_for_status().unwrap();
    }

    /// Deletes the topic. Its feeds stay, but never receive an event again.
    pub(crate) async fn drop(&self) {
        self.delete(&format!("projects/{}/topics/{NAME}", self.project)).await;
    }

    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// Returns the same topic as seen through another address of the emulator.
    pub(crate) fn seen_at(&self, host: &str) -> Self {
        Self { host: host.to_owned(), ..self.clone() }
    }

    /// Returns the topic as a value for `RELAY_BROKER`.
    pub(crate) fn broker(&self) -> String {
        format!("pubsub://{}/{NAME}", self.project)
    }

    /// Publishes these messages in order, on one ordering key, and returns once the topic took the
    /// last.
    pub(crate) async fn publish(&self, messages: impl IntoIterator<Item = Message>) {
        let client = reqwest::Client::new();
        for message in messages {
            self.publish_together(&client, &[message], |_| "foreign".to_owned()).await;
        }
    }

    /// Publishes these messages in random order, each on an ordering key of its own, so that they
    /// also arrive in any order.
    pub(crate) async fn publish_shuffled(&self, mut messages: Vec<Message>) {
        messages.shuffle(&mut rand::rng());
        let client = reqwest::Client::new();
        for few in messages.chunks(20) {
            self.publish_together(&client, few, |n| format!("foreign-{n}")).await;
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

    /// Returns the full names of the feeds of this pod.
    pub(crate) async fn feeds_of(&self, pod: &str) -> Vec<String> {
        let url = self.url(&format!("projects/{}/subscriptions", self.project));
        let body = reqwest::get(url).await.unwrap().error_for_status().unwrap().text().await.unwrap();
        let body: Value = serde_json::from_str(&body).unwrap();
        let all = body["subscriptions"].as_array().into_iter().flatten();
        let names = all.map(|feed| feed["name"].as_str().unwrap().to_owned());
        names.filter(|name| name.contains(&format!(".{pod}."))).collect()
    }

    /// Deletes a feed while its pod uses it.
    pub(crate) async fn delete(&self, feed: &str) {
        let answer = reqwest::Client::new().delete(self.url(feed)).send().await.unwrap();
        answer.error_for_status().unwrap();
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}/v1/{path}", self.host)
    }
}
