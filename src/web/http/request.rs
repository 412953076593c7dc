//! Reads a GraphQL request from an HTTP request: from the parameters in its URL or in its body.
//!
//! It checks the types of the parameters and refuses all others. It must never look into the
//! document.

use std::time::Duration;

use async_graphql::{Request, Value as ConstValue, Variables};
use axum::{
    RequestExt as _,
    body::Bytes,
    extract::{FromRequest as _, Query, Request as HttpRequest},
    http::{HeaderName, Method, StatusCode, Uri, header::CONTENT_ENCODING},
};
use serde_json::{Map, Value};
use tokio::time::timeout;

use super::{negotiate, refusal::Refusal};
use crate::{
    graphql::{PERSISTED_QUERY, error::Code},
    telemetry::traces::TRACEPARENT,
};

/// The largest request of a client, in bytes, on every transport. A larger body is refused with
/// 413; a larger message ends its WebSocket with close code 1009. A mutation with the most location
/// ids is under 100 KiB.
pub const MAX_REQUEST_BYTES: usize = 1 << 20;

/// How long a body may take to arrive: enough for a megabyte over a poor mobile connection. A
/// slower one is refused with 408.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Request headers that pages of allowed origins may send (CORS).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowedHeaders(Vec<HeaderName>);

impl AllowedHeaders {
    /// Reads a list of names, such as `x-tenant, x-request-id`; `None` if it holds no names.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
        let names: Option<Vec<_>> = names.map(|name| name.parse().ok()).collect();
        names.filter(|names| !names.is_empty()).map(Self)
    }

    /// Returns the names.
    pub fn iter(&self) -> impl Iterator<Item = &HeaderName> {
        self.0.iter()
    }
}

/// Parameters of GraphQL over HTTP. Others in a URL are ignored.
const PARAMETERS: [&str; 4] = ["query", "operationName", "variables", "extensions"];

/// Reads the request from the body of a POST, else from the URL, and adds the client's trace
/// context.
///
/// # Errors
/// Those of [`from_url`] and [`from_body`].
pub async fn read(request: HttpRequest) -> Result<Request, Refusal> {
    let trace = request.headers().get(TRACEPARENT).and_then(|value| value.to_str().ok()).map(Into::into);
    let mut request = match *request.method() {
        Method::POST => from_body(request).await?,
        _ => from_url(request.uri())?,
    };
    request.extensions.extend(trace.map(|trace| (TRACEPARENT.to_owned(), trace)));
    Ok(request)
}

/// Reads the request from the URL's query.
///
/// # Errors
/// 400 if the query holds no request.
pub fn from_url(uri: &Uri) -> Result<Request, Refusal> {
    let Ok(Query(pairs)) = Query::<Vec<(String, String)>>::try_from_uri(uri) else {
        return Err(Refusal::bad("the URL's query cannot be read"));
    };
    let mut parameters = Map::new();
    for (name, text) in pairs {
        let Some(&name) = PARAMETERS.iter().find(|known| **known == name) else { continue };
        let value = match name {
            // An empty text is the same as none.
            _ if text.is_empty() => Value::Null,
            "variables" | "extensions" => serde_json::from_str(&text)
                .map_err(|_| Refusal::bad(format!("`{name}` in the URL must be JSON")))?,
            _ => Value::String(text),
        };
        if parameters.insert(name.to_owned(), value).is_some() {
            return Err(Refusal::bad(format!("`{name}` stands twice in the URL")));
        }
    }
    from_parameters(parameters)
}

/// Reads the request from the body.
///
/// # Errors
/// 415 if the body is compressed or not JSON, 413 if it is too large. 408 if it arrives too slowly,
/// 400 if it holds no request.
pub async fn from_body(request: HttpRequest) -> Result<Request, Refusal> {
    let unsupported = |text| Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, Code::BadRequest, text);
    if !negotiate::is_json(request.headers()) {
        return Err(unsupported("send the request as `application/json` in UTF-8"));
    }
    if request.headers().get(CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
        return Err(unsupported("send the request uncompressed"));
    }
    let body = match timeout(BODY_TIMEOUT, Bytes::from_request(request.with_limited_body(), &())).await {
        Ok(Ok(body)) => body,
        Ok(Err(rejection)) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => {
            let text = "the request is too large";
            return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, Code::BadRequest, text));
        }
        Ok(Err(_)) => return Err(Refusal::bad("the body cannot be read")),
        Err(_) => {
            let text = "the body came too slowly";
            return Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, Code::BadRequest, text));
        }
    };
    let text = std::str::from_utf8(&body).map_err(|_| Refusal::bad("the body is not UTF-8"))?;
    match serde_json::from_str(text) {
        Ok(Value::Object(parameters)) => from_parameters(parameters),
        Ok(Value::Array(_)) => Err(Refusal::bad("send one operation at a time, not a batch")),
        Ok(_) => Err(Refusal::bad("the body must be a JSON object")),
        Err(_) => Err(Refusal::bad("the body is not JSON")),
    }
}

fn from_parameters(mut parameters: Map<String, Value>) -> Result<Request, Refusal> {
    let mut take = |name| parameters.remove(name).unwrap_or_default();
    let extensions = match take("extensions") {
        Value::Object(extensions) => extensions,
        Value::Null => Map::new(),
        _ => return Err(Refusal::bad("`extensions` must be a map")),
    };
    let query = match take("query") {
        Value::String(query) => query,
        Value::Null if extensions.contains_key(PERSISTED_QUERY) => String::new(),
        Value::Null => return Err(Refusal::bad("the request has no `query`")),
        _ => return Err(Refusal::bad("`query` must be a string")),
    };
    let operation_name = match take("operationName") {
        Value::String(name) => Some(name),
        Value::Null => None,
        _ => return Err(Refusal::bad("`operationName` must be a string")),
    };
    let variables = match take("variables") {
        Value::Object(variables) => variables,
        Value::Null => Map::new(),
        _ => return Err(Refusal::bad("`variables` must be a map")),
    };
    Ok(build(query, operation_name, variables, extensions))
}

/// Builds a request from its parameters, for every transport. An empty operation name counts as
/// none.
pub fn build(
    query: String,
    operation_name: Option<String>,
    variables: Map<String, Value>,
    extensions: Map<String, Value>,
) -> Request {
    let mut request = Request::new(query).variables(Variables::from_json(variables.into()));
    let extensions =
        extensions.into_iter().map(|(name, value)| Some((name, ConstValue::from_json(value).ok()?)));
    request.extensions.extend(extensions.flatten());
    request.operation_name = operation_name.filter(|name| !name.is_empty());
    request
}

#[cfg(test)]
mod tests {
    use std::io;

    use axum::body::Body;
    use futures_util::stream;

    use super::*;

    #[test]
    fn operation_with_empty_name_keeps_its_extensions() {
        let extensions = Map::from_iter([("traceparent".to_owned(), "t".into())]);
        let request = build("q".to_owned(), Some(String::new()), Map::new(), extensions);
        assert_eq!(request.operation_name, None);
        assert_eq!(request.extensions["traceparent"], ConstValue::from("t"));
    }

    #[tokio::test(start_paused = true)]
    async fn body_that_does_not_arrive_times_out() {
        let body = Body::from_stream(stream::pending::<io::Result<Bytes>>());
        let request = HttpRequest::post("/graphql").header("content-type", "application/json");
        let refusal = from_body(request.body(body).unwrap()).await.unwrap_err();
        assert_eq!(refusal.answer(None).status(), StatusCode::REQUEST_TIMEOUT);
    }
}
