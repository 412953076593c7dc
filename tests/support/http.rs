//! [`Http`]: a plain HTTP client of one pod.
//!
//! It returns status, headers and body of every answer. It must never retry.

use std::time::Duration;

use serde_json::{Value, json};

/// Timeout of a request: longer than the five seconds after which a publish gives up.
const TIMEOUT: Duration = Duration::from_secs(20);

const ADD: &str = "mutation Add($input: AddTemplateInput!) {
    addTemplate(templateInput: $input) { success message template { id name shareLocationIds } }
}";

/// Port of one pod, and connections to it.
#[derive(Clone)]
pub(crate) struct Http {
    port: u16,
    client: reqwest::Client,
}

/// Answer of a pod.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Returns a header's value, or an empty text.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Returns the code of the first GraphQL error, or an empty text.
    pub(crate) fn code(&self) -> String {
        self.json()["errors"][0]["extensions"]["code"].as_str().unwrap_or_default().to_owned()
    }
}

impl Http {
    pub(crate) fn new(port: u16) -> Self {
        Self { port, client: reqwest::Client::builder().timeout(TIMEOUT).build().unwrap() }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.answer(self.client.get(self.url(path))).await.unwrap()
    }

    /// Sends a GET with this `Authorization`.
    pub(crate) async fn get_with(&self, authorization: &str, path: &str) -> Answer {
        self.answer(self.client.get(self.url(path)).header("authorization", authorization)).await.unwrap()
    }

    /// Sends a POST of JSON with this `Authorization`.
    pub(crate) async fn post_with(&self, authorization: &str, path: &str, body: &Value) -> Answer {
        let request = self.client.post(self.url(path)).header("authorization", authorization);
        let request = request.header("content-type", "application/json");
        self.answer(request.body(body.to_string())).await.unwrap()
    }

    /// Sends a GET. Returns `None` if there is no answer.
    pub(crate) async fn try_get(&self, path: &str) -> Option<Answer> {
        self.answer(self.client.get(self.url(path))).await.ok()
    }

    /// Sends a GraphQL request as this demo user.
    pub(crate) async fn graphql(&self, user: &str, query: &str, variables: Value) -> Answer {
        self.graphql_with(Some(&format!("Bearer {user}")), query, variables).await
    }

    /// Sends a GraphQL request with this `Authorization`.
    pub(crate) async fn graphql_with(
        &self,
        authorization: Option<&str>,
        query: &str,
        variables: Value,
    ) -> Answer {
        let body = json!({ "query": query, "variables": variables });
        let mut request = self.client.post(self.url("/graphql")).header("content-type", "application/json");
        if let Some(authorization) = authorization {
            request = request.header("authorization", authorization);
        }
        self.answer(request.body(body.to_string())).await.unwrap()
    }

    /// Sends a GraphQL request as this demo user, inside the client's own trace.
    pub(crate) async fn graphql_in_trace(&self, user: &str, query: &str, traceparent: &str) -> Answer {
        let request = self.client.post(self.url("/graphql")).header("content-type", "application/json");
        let request =
            request.header("authorization", format!("Bearer {user}")).header("traceparent", traceparent);
        self.answer(request.body(json!({ "query": query }).to_string())).await.unwrap()
    }

    /// Sends a GraphQL request as this demo user, which must see the event of this token.
    pub(crate) async fn graphql_after(
        &self,
        user: &str,
        query: &str,
        variables: &Value,
        token: Option<&str>,
    ) -> Answer {
        let body = json!({ "query": query, "variables": variables, "extensions": { "readAfter": token } });
        let request = self.client.post(self.url("/graphql")).header("content-type", "application/json");
        let request = request.header("authorization", format!("Bearer {user}"));
        self.answer(request.body(body.to_string())).await.unwrap()
    }

    /// Sends a query by GET as this demo user.
    pub(crate) async fn graphql_get(&self, user: &str, query: &str) -> Answer {
        let request = self.client.get(self.url(&format!("/graphql?query={}", encoded(query))));
        self.answer(request.header("authorization", format!("Bearer {user}"))).await.unwrap()
    }

    pub(crate) async fn add_template(&self, user: &str, name: &str, locations: Option<&[&str]>) -> Answer {
        let input = json!({ "name": name, "shareLocationIds": locations });
        self.graphql(user, ADD, json!({ "input": input })).await
    }

    /// Sends the handshake of a WebSocket, from a page of this origin if one is given.
    pub(crate) async fn upgrade(&self, origin: Option<&str>) -> Answer {
        self.upgrade_with(origin.map(|origin| ("origin", origin)).as_slice()).await
    }

    /// Sends the handshake of a WebSocket with these headers added or replaced.
    pub(crate) async fn upgrade_with(&self, headers: &[(&'static str, &str)]) -> Answer {
        let mut all = reqwest::header::HeaderMap::new();
        let usual = [
            ("connection", "upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("sec-websocket-protocol", "graphql-transport-ws"),
        ];
        for (name, value) in usual.iter().chain(headers) {
            all.insert(*name, value.parse().unwrap());
        }
        self.answer(self.client.get(self.url("/graphql")).headers(all)).await.unwrap()
    }

    /// Sends the preflight of a browser before a page of this origin may send a token.
    pub(crate) async fn preflight(&self, origin: &str) -> Answer {
        let request = self.client.request(reqwest::Method::OPTIONS, self.url("/graphql"));
        let request = request.header("origin", origin).header("access-control-request-method", "POST");
        let request = request.header("access-control-request-headers", "authorization, content-type");
        self.answer(request).await.unwrap()
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    async fn answer(&self, request: reqwest::RequestBuilder) -> reqwest::Result<Answer> {
        let response = request.send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Ok(Answer { status, headers, text: response.text().await? })
    }
}

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}
