//! Reads after writes on any pod: 200 clients behind haproxy, which sends each request to another
//! of four pods. Each adds, edits, deletes and reads notes of its own, at random.
//!
//! With the tokens of its writes, no request misses an acknowledged write of its own client. The
//! control without tokens must miss some, or the test proves nothing.

use std::time::Duration;

use futures_util::future::join_all;
use rand::seq::IndexedRandom as _;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::support::{Haproxy, Http, PATIENCE, Setup, Topic};

const CLIENTS: usize = 200;

/// Requests of each client.
const REQUESTS: usize = 13;

const SCHEMA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/story/notes.graphql");

const ADD: &str = "mutation($text: String!) { done: addNote(text: $text) { id } }";
const EDIT: &str = "mutation($id: ID!, $text: String!) { done: editNote(id: $id, text: $text) { id } }";
const DELETE: &str = "mutation($id: ID!) { done: deleteNote(id: $id) { id } }";
const READ: &str = "query($id: ID!) { note(id: $id) { id text } }";

/// Code of a write that the topic did not acknowledge in time. It may come all the same.
const UNACKNOWLEDGED: &str = "PUBLISH_FAILED";

/// Note as its owner left it.
struct Note {
    id: String,
    /// `None`: it is deleted.
    text: Option<String>,
}

/// User behind the balancer.
struct Client {
    http: Http,
    user: String,
    sends_tokens: bool,
    token: Option<String>,
    notes: Vec<Note>,
    /// Requests that missed a write before them.
    misses: usize,
}

impl Client {
    /// Runs an operation on the next pod. Repeats it while the pod has not caught up.
    async fn run(&mut self, query: &str, variables: &Value) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let token = self.token.as_deref().filter(|_| self.sends_tokens);
            let answer = self.http.graphql_after(&self.user, query, variables, token).await;
            if answer.status == 503 {
                assert!(Instant::now() < deadline, "{query}");
                sleep(Duration::from_secs(1)).await;
                continue;
            }
            let answer = answer.json();
            let written = answer["extensions"]["written"].as_str().map(str::to_owned);
            self.token = written.or(self.token.take());
            return answer;
        }
    }

    async fn add(&mut self, text: String) {
        let answer = self.run(ADD, &json!({ "text": text })).await;
        match answer["data"]["done"]["id"].as_str() {
            Some(id) => self.notes.push(Note { id: id.to_owned(), text: Some(text) }),
            None => assert_eq!(code(&answer), UNACKNOWLEDGED, "{answer}"),
        }
    }

    /// Reads a note, and compares it with what it must be.
    async fn read(&mut self, at: usize) {
        let Note { id, text } = &self.notes[at];
        let expected = text.as_ref().map_or(Value::Null, |text| json!({ "id": id, "text": text }));
        let variables = json!({ "id": id });
        let answer = self.run(READ, &variables).await;
        self.misses += usize::from(answer["data"]["note"] != expected);
    }

    /// Edits or deletes a note. A pod that has all writes finds it, unless it is deleted.
    async fn change(&mut self, at: usize, text: Option<String>) {
        let Note { id, text: before } = &self.notes[at];
        let (variables, is_there) = (json!({ "id": id, "text": text }), before.is_some());
        let query = if text.is_some() { EDIT } else { DELETE };
        let answer = self.run(query, &variables).await;
        let is_found = answer["data"]["done"].is_object();
        if code(&answer) == UNACKNOWLEDGED {
            self.notes.remove(at);
            return;
        }
        assert!(is_found || code(&answer) == "NOT_FOUND", "{answer}");
        self.misses += usize::from(is_found != is_there);
        if is_found {
            self.notes[at].text = text;
        }
    }

    /// Sends requests at random, the first of which adds a note. Returns how many missed a write.
    async fn work(mut self) -> usize {
        for number in 0..REQUESTS {
            let text = format!("text {number}");
            if self.notes.is_empty() {
                self.add(text).await;
                continue;
            }
            let at = rand::random_range(0..self.notes.len());
            match [0, 1, 2, 3, 3, 3, 3].choose(&mut rand::rng()).unwrap() {
                0 => self.add(text).await,
                1 => self.change(at, Some(text)).await,
                2 => self.change(at, None).await,
                _ => self.read(at).await,
            }
        }
        self.misses
    }
}

fn code(answer: &Value) -> &str {
    answer["errors"][0]["extensions"]["code"].as_str().unwrap_or_default()
}

async fn misses(port: u16, sends_tokens: bool) -> usize {
    let http = Http::new(port);
    let clients = (0..CLIENTS).map(|number| {
        let (http, user) = (http.clone(), format!("user-{number}"));
        Client { http, user, sends_tokens, token: None, notes: vec![], misses: 0 }.work()
    });
    join_all(clients).await.into_iter().sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_read_their_writes_on_any_pod() {
    let Some(topic) = Topic::fresh().await else { return };
    let pods = ["a", "b", "c", "d"];
    let pods = pods.map(|name| Setup::new(name).topic(&topic).set("RELAY_SCHEMA", SCHEMA).start());
    let pods = join_all(pods).await;
    let ports = pods.iter().map(|pod| pod.port());
    let Some(haproxy) = Haproxy::start("reads after writes", ports).await else { return };
    let deadline = Instant::now() + PATIENCE;
    loop {
        let missed = misses(haproxy.port(), false).await;
        println!("without tokens {missed} of {} requests missed a write", CLIENTS * REQUESTS);
        if missed > 0 {
            break;
        }
        assert!(Instant::now() < deadline, "the control misses nothing");
    }
    assert_eq!(misses(haproxy.port(), true).await, 0, "requests with tokens");
    for pod in &pods {
        let answered = pod.metric_of("relay_read_after_requests_total", "outcome").await;
        assert!(answered > 0.0, "haproxy leaves {} out", pod.name());
    }
}
