//! Reads a GraphQL request from an HTTP request: from the parameters in its URL or in its body.
//!
//! It checks the types of the parameters and refuses all others. What it holds is charged to the
//! user, and a body keeps a minimum rate. It must never look into the document.

use std::{sync::Arc, time::Duration};

use async_graphql::{Request, Value as ConstValue, Variables};
use axum::{
    body::Body,
    extract::{Query, Request as HttpRequest},
    http::{HeaderMap, HeaderName, Method, StatusCode, Uri, header::CONTENT_ENCODING},
};
use futures_util::StreamExt as _;
use memchr::memchr2;
use serde_json::{Map, Value};
use tokio::time::{Instant, timeout_at};

use super::{negotiate, refusal::Refusal};
use crate::{
    budget::{Charge, Pool},
    graphql::{PERSISTED_QUERY, READ_AFTER, error::Code},
    telemetry::traces::TRACEPARENT,
};

/// The largest request of a client, in bytes, on every transport. A larger body is refused with
/// 413; a larger message ends its WebSocket with close code 1009. A mutation with the most location
/// ids is under 100 KiB.
pub const MAX_REQUEST_BYTES: usize = 1 << 20;

/// Most JSON values in a request, on every transport. More are refused as a larger request is: as
/// values, a text takes many times its bytes.
const MAX_VALUES: usize = 16_384;

/// What one JSON value takes as it is read, in bytes.
const VALUE_BYTES: usize = 128;

/// How long a body may take to arrive: enough for a megabyte over a poor mobile connection. A
/// slower one is refused with 408.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a body, or a message of a WebSocket, may come as slowly as it likes.
const GRACE: Duration = Duration::from_secs(10);

/// Least rate of a body, or a message of a WebSocket, behind that time: 1 KiB each second.
const LEAST_RATE: usize = 1 << 10;

/// Returns when more than `bytes` must have come of what began at `began`.
pub(in crate::web) fn due(began: Instant, bytes: usize) -> Instant {
    let earned = Duration::from_secs_f64(bytes as f64 / LEAST_RATE as f64);
    began + (GRACE + earned).min(BODY_TIMEOUT)
}

/// Returns the bytes that a request takes as text and as values. `None` if it has too many values.
pub(in crate::web) fn weight(text: &[u8]) -> Option<usize> {
    let (mut values, mut rest) = (1, text);
    while let [byte, behind @ ..] = rest {
        values += usize::from(matches!(byte, b',' | b':' | b'[' | b'{'));
        rest = if *byte == b'"' { behind_string(behind) } else { behind };
    }
    (values <= MAX_VALUES).then(|| text.len() + values * VALUE_BYTES)
}

/// Returns what stands behind the string that has begun.
fn behind_string(mut text: &[u8]) -> &[u8] {
    while let Some(at) = memchr2(b'"', b'\\', text) {
        if text[at] == b'"' {
            return &text[at + 1..];
        }
        text = text.get(at + 2..).unwrap_or_default();
    }
    &[]
}

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

/// Header with the tokens of the writes that a request must see, for clients that cannot set the
/// request's extension.
pub const READ_AFTER_HEADER: &str = "x-relay-read-after";

/// Parameters of GraphQL over HTTP. Others in a URL are ignored.
const PARAMETERS: [&str; 4] = ["query", "operationName", "variables", "extensions"];

/// Reads the request from the body of a POST, else from the URL, and adds the client's trace
/// context and the tokens of its header. What is read is charged to the user.
///
/// # Errors
/// Those of `from_url` and `from_body`.
pub async fn read(request: HttpRequest, pool: &Pool, user: &Arc<str>) -> Result<(Request, Charge), Refusal> {
    let trace = request.headers().get(TRACEPARENT).and_then(|value| value.to_str().ok()).map(Into::into);
    let tokens = tokens(request.headers())?;
    let mut charge = pool.try_charge(user, 0).ok_or_else(Refusal::no_room)?;
    let mut request = match *request.method() {
        Method::POST => from_body(request, &mut charge).await?,
        _ => from_url(request.uri(), &mut charge)?,
    };
    request.extensions.extend(trace.map(|trace| (TRACEPARENT.to_owned(), trace)));
    if !tokens.is_empty() {
        let of_body = match request.extensions.remove(READ_AFTER) {
            None | Some(ConstValue::Null) => Vec::new(),
            Some(ConstValue::List(values)) => values,
            Some(value) => vec![value],
        };
        let all = of_body.into_iter().chain(tokens).collect();
        request.extensions.insert(READ_AFTER.to_owned(), ConstValue::List(all));
    }
    Ok((request, charge))
}

/// Returns the tokens in the headers.
///
/// # Errors
/// 400 if a header is not ASCII.
fn tokens(headers: &HeaderMap) -> Result<Vec<ConstValue>, Refusal> {
    let mut tokens = Vec::new();
    for value in headers.get_all(READ_AFTER_HEADER) {
        let text = value.to_str().map_err(|_| Refusal::bad("`X-Relay-Read-After` must be ASCII"))?;
        let texts = text.split(',').map(str::trim).filter(|text| !text.is_empty());
        tokens.extend(texts.map(ConstValue::from));
    }
    Ok(tokens)
}

/// Changes the charge to what this text takes as values.
fn charge_values(charge: &mut Charge, text: &[u8]) -> Result<(), Refusal> {
    let weight = weight(text).ok_or_else(|| too_large("the request has too many values"))?;
    match charge.resize(weight) {
        true => Ok(()),
        false => Err(Refusal::no_room()),
    }
}

fn too_large(text: &'static str) -> Refusal {
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, Code::BadRequest, text)
}

/// Reads the request from the URL's query.
///
/// # Errors
/// 400 if the query holds no request, 413 if it has too many values, 503 if there is no room.
fn from_url(uri: &Uri, charge: &mut Charge) -> Result<Request, Refusal> {
    charge_values(charge, uri.query().unwrap_or_default().as_bytes())?;
    let Ok(Query(pairs)) = Query::<Vec<(String, String)>>::try_from_uri(uri) else {
        return Err(Refusal::bad("the URL's query cannot be read"));
    };
    let mut parameters = Map::new();
    for (name, text) in pairs {
        let Some(&name) = PARAMETERS.iter().find(|known| **known == name) else { continue };
        let value = match name {
            // An empty text is the same as none.
            _ if text.is_empty() => Value::Null,
            "variables" | "extensions" => {
                let values =
                    weight(text.as_bytes()).ok_or_else(|| too_large("the URL has too many values"))?;
                if !charge.resize(charge.bytes() + values) {
                    return Err(Refusal::no_room());
                }
                serde_json::from_str(&text)
                    .map_err(|_| Refusal::bad(format!("`{name}` in the URL must be JSON")))?
            }
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
/// 503 if there is no room, 400 if it holds no request.
async fn from_body(request: HttpRequest, charge: &mut Charge) -> Result<Request, Refusal> {
    let unsupported = |text| Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, Code::BadRequest, text);
    if !negotiate::is_json(request.headers()) {
        return Err(unsupported("send the request as `application/json` in UTF-8"));
    }
    if request.headers().get(CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
        return Err(unsupported("send the request uncompressed"));
    }
    let body = collect(request.into_body(), charge).await?;
    charge_values(charge, &body)?;
    let text = std::str::from_utf8(&body).map_err(|_| Refusal::bad("the body is not UTF-8"))?;
    match serde_json::from_str(text) {
        Ok(Value::Object(parameters)) => from_parameters(parameters),
        Ok(Value::Array(_)) => Err(Refusal::bad("send one operation at a time, not a batch")),
        Ok(_) => Err(Refusal::bad("the body must be a JSON object")),
        Err(_) => Err(Refusal::bad("the body is not JSON")),
    }
}

/// Reads a body to its end. Its room is charged before it is taken.
async fn collect(body: Body, charge: &mut Charge) -> Result<Vec<u8>, Refusal> {
    let (began, mut parts, mut text) = (Instant::now(), body.into_data_stream(), Vec::new());
    loop {
        let Ok(part) = timeout_at(due(began, text.len()), parts.next()).await else {
            let text = "the body came too slowly";
            return Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, Code::BadRequest, text));
        };
        let Some(part) = part else { return Ok(text) };
        let part = part.map_err(|_| Refusal::bad("the body cannot be read"))?;
        let length = text.len() + part.len();
        if length > MAX_REQUEST_BYTES {
            return Err(too_large("the request is too large"));
        }
        if length > text.capacity() {
            let room = (2 * text.len()).clamp(length, MAX_REQUEST_BYTES);
            if !charge.resize(room) {
                return Err(Refusal::no_room());
            }
            text.reserve_exact(room - text.len());
        }
        text.extend_from_slice(&part);
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

    use axum::body::Bytes;
    use futures_util::stream;

    use super::*;
    use crate::budget::Budget;

    #[test]
    fn operation_with_empty_name_keeps_its_extensions() {
        let extensions = Map::from_iter([("traceparent".to_owned(), "t".into())]);
        let request = build("q".to_owned(), Some(String::new()), Map::new(), extensions);
        assert_eq!(request.operation_name, None);
        assert_eq!(request.extensions["traceparent"], ConstValue::from("t"));
    }

    #[tokio::test]
    async fn tokens_of_header_and_body_are_added() {
        for (body, expected) in [
            (r#"{"query":"q"}"#, vec!["a", "b", "c"]),
            (r#"{"query":"q","extensions":{"readAfter":"x"}}"#, vec!["x", "a", "b", "c"]),
            (r#"{"query":"q","extensions":{"readAfter":["x","y"]}}"#, vec!["x", "y", "a", "b", "c"]),
        ] {
            let request = HttpRequest::post("/graphql").header("content-type", "application/json");
            let request = request.header(READ_AFTER_HEADER, "a, b,").header(READ_AFTER_HEADER, "c");
            let pool = Budget::default().requests;
            let (request, _charge) =
                read(request.body(body.into()).unwrap(), &pool, &"a".into()).await.unwrap();
            let expected = ConstValue::List(expected.into_iter().map(ConstValue::from).collect());
            assert_eq!(request.extensions[READ_AFTER], expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn body_that_does_not_arrive_times_out() {
        let body = Body::from_stream(stream::pending::<io::Result<Bytes>>());
        let request = HttpRequest::post("/graphql").header("content-type", "application/json");
        let (pool, began) = (Budget::default().requests, Instant::now());
        let refusal = read(request.body(body).unwrap(), &pool, &"a".into()).await.unwrap_err();
        assert_eq!(refusal.answer(None).status(), StatusCode::REQUEST_TIMEOUT);
        assert_eq!(began.elapsed(), GRACE);
        assert_eq!(pool.used(), 0);
    }

    #[test]
    fn weight_counts_values_outside_texts() {
        let of = |text: &str| weight(text.as_bytes());
        assert_eq!(of("7"), Some(1 + VALUE_BYTES));
        assert_eq!(of(r#"{"a\",[":[1,2]}"#), Some(15 + 5 * VALUE_BYTES));
        assert_eq!(of(r#"["\\",1]"#), Some(8 + 3 * VALUE_BYTES));
        for unfinished in [r#"["a,"#, r#"["a\"#, r#"["a\","#] {
            assert_eq!(of(unfinished), Some(unfinished.len() + 2 * VALUE_BYTES));
        }
        assert_eq!(of(&"[".repeat(MAX_VALUES)), None);
        let text = format!("\"{}\"", ",".repeat(MAX_REQUEST_BYTES));
        assert!(of(&text).is_some());
    }
}
