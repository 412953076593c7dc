//! [`Streamed`]: a streaming response, read one block at a time.
//!
//! A block is an event of SSE or a part of multipart. It must never reconnect, as an `EventSource`
//! would.

use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{PATIENCE, Relay};

/// `Accept` of clients of server-sent events.
pub(crate) const EVENTS: &str = "text/event-stream";
/// `Accept` of Apollo's clients.
pub(crate) const PARTS: &str = "multipart/mixed;boundary=graphql;subscriptionSpec=1.0,application/json;q=0.9";

/// Subscription of every watcher.
pub(crate) const WATCH: &str = "subscription { templateAdded { name } }";

/// Response to an operation, and what was read of it.
pub(crate) struct Streamed {
    pub(crate) response: Response,
    text: String,
    separator: &'static str,
}

/// End of a body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum BodyEnd {
    /// Complete, as the server intended.
    Whole,
    /// Cut off in the middle.
    Cut,
}

/// Returns a request to the pod as this demo user.
pub(crate) fn request(pod: &Relay, method: Method, user: &str) -> RequestBuilder {
    let url = format!("http://127.0.0.1:{}/graphql", pod.port());
    reqwest::Client::new().request(method, url).header("authorization", format!("Bearer {user}"))
}

/// Returns a POST of this operation.
pub(crate) fn post(pod: &Relay, user: &str, query: &str) -> RequestBuilder {
    let body = json!({ "query": query }).to_string();
    request(pod, Method::POST, user).header("content-type", "application/json").body(body)
}

impl Streamed {
    /// Sends the operation and returns once the head of the answer has arrived.
    pub(crate) async fn open(accept: &str, request: RequestBuilder) -> Self {
        let answer = timeout(PATIENCE, request.header("accept", accept).send()).await;
        let response = answer.expect("a head in time").unwrap();
        let separator = if accept == EVENTS { "\n\n" } else { "\r\n--graphql" };
        Self { response, text: String::new(), separator }
    }

    /// Sends the subscription and returns once the pod counts the watcher.
    pub(crate) async fn watch(accept: &str, pod: &Relay, user: &str) -> Self {
        let before = pod.metric("relay_watchers").await;
        let stream = Self::open(accept, post(pod, user, WATCH)).await;
        pod.until_metric("relay_watchers", before + 1.0).await;
        stream
    }

    /// Returns the next event or part, or the end of the body.
    pub(crate) async fn block(&mut self) -> Result<String, BodyEnd> {
        loop {
            if let Some((block, rest)) = self.text.split_once(self.separator) {
                let block = block.to_owned();
                self.text = rest.to_owned();
                return Ok(block);
            }
            match timeout(PATIENCE, self.response.chunk()).await.expect("a block in time") {
                Ok(Some(chunk)) => self.text.push_str(std::str::from_utf8(&chunk).unwrap()),
                Ok(None) => return Err(BodyEnd::Whole),
                Err(_) => return Err(BodyEnd::Cut),
            }
        }
    }

    /// Returns name, id and data of the next event with data.
    pub(crate) async fn event(&mut self) -> Result<(String, String, Value), BodyEnd> {
        loop {
            let block = self.block().await?;
            let field = |name: &str| {
                let line = block.lines().find_map(|line| line.strip_prefix(name))?;
                Some(line.trim_start().to_owned())
            };
            if let Some(data) = field("data:") {
                let data = serde_json::from_str(&data).unwrap_or_default();
                return Ok((field("event:").unwrap(), field("id:").unwrap_or_default(), data));
            }
        }
    }

    /// Returns the JSON of the next part that is no heartbeat.
    pub(crate) async fn part(&mut self) -> Result<Value, BodyEnd> {
        loop {
            let block = self.block().await?;
            let Some((head, json)) = block.split_once("\r\n\r\n") else { continue };
            assert_eq!(head.trim(), "content-type: application/json", "{block}");
            if json != "{}" {
                return Ok(serde_json::from_str(json).unwrap());
            }
        }
    }

    /// Returns the text of an incomplete block.
    pub(crate) fn rest(&self) -> &str {
        &self.text
    }
}
