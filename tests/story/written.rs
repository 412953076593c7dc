//! Reads after writes on any pod: 200 clients send each request to another of four pods.
//!
//! With the tokens of its writes, no request misses an acknowledged write of its own client. The
//! control without tokens must miss some, or the test proves nothing.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::support::{PATIENCE, Relay, Setup, Topic, USERS};

const CLIENTS: usize = 200;

const ADD: &str =
    "mutation($input: AddTemplateInput!) { addTemplate(templateInput: $input) { template { id } } }";
const EDIT: &str =
    "mutation($input: EditTemplateInput!) { editTemplate(templateInput: $input) { template { id name } } }";
const READ: &str = "query($id: ID!) { templateById(id: $id) { id name } }";

/// Client that sends each request to another pod.
struct Client<'a> {
    pods: &'a [Relay],
    number: usize,
    requests: usize,
    sends_tokens: bool,
    token: Option<String>,
}

impl Client<'_> {
    /// Runs an operation on the next pod. Repeats it while the pod has not caught up.
    async fn run(&mut self, query: &str, variables: &Value) -> Value {
        let (user, deadline) = (USERS[self.number % USERS.len()], Instant::now() + PATIENCE);
        loop {
            let pod = &self.pods[(self.number + self.requests) % self.pods.len()];
            self.requests += 1;
            let token = self.token.as_deref().filter(|_| self.sends_tokens);
            let answer = pod.http.graphql_after(user, query, variables, token).await;
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

    /// Reports whether the next pod has this template.
    async fn reads(&mut self, id: &str, name: &str) -> bool {
        let answer = self.run(READ, &json!({ "id": id })).await;
        answer["data"]["templateById"] == json!({ "id": id, "name": name })
    }

    /// Adds a template, reads it, edits it and reads it again. Returns the number of requests that
    /// missed a write before them.
    async fn work(&mut self) -> usize {
        let names = [format!("new {}", self.number), format!("old {}", self.number)];
        let added = self.run(ADD, &json!({ "input": { "name": names[0] } })).await;
        let id = added["data"]["addTemplate"]["template"]["id"].as_str().expect("it is added").to_owned();
        let reads = self.reads(&id, &names[0]).await;
        let edited = self.run(EDIT, &json!({ "input": { "id": id, "name": names[1] } })).await;
        let is_edited = edited["data"]["editTemplate"]["template"]["name"] == names[1];
        // A read after an edit that failed would prove nothing.
        let reads_edit = !is_edited || self.reads(&id, &names[1]).await;
        [reads, is_edited, reads_edit].into_iter().filter(|sees| !sees).count()
    }
}

async fn misses(pods: &[Relay], sends_tokens: bool) -> usize {
    let clients = (0..CLIENTS).map(async |number| {
        let mut client = Client { pods, number, requests: 0, sends_tokens, token: None };
        client.work().await
    });
    join_all(clients).await.into_iter().sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_read_their_writes_on_any_pod() {
    let Some(topic) = Topic::fresh().await else { return };
    let pods = ["a", "b", "c", "d"].map(|name| {
        Setup::new(name)
            .topic(&topic)
            .set("RELAY_USER_EVENT_RATE", "off")
            .set("RELAY_USER_EVENT_BYTES", "off")
    });
    let pods = join_all(pods.map(|pod| pod.start())).await;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let missed = misses(&pods, false).await;
        println!("without tokens {missed} of {} reads missed a write", 3 * CLIENTS);
        if missed > 0 {
            break;
        }
        assert!(Instant::now() < deadline, "the control misses nothing");
    }
    assert_eq!(misses(&pods, true).await, 0, "reads with tokens");
}
