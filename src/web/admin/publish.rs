//! `POST /admin/publish`: publishes a test event.
//!
//! It shows an operator that events reach clients, without a program that publishes. It must never
//! publish what the domain cannot read.

use std::sync::Arc;

use axum::{
    Json,
    body::Bytes,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::{json, value::RawValue};

use super::guard::refusal;
use crate::{
    graphql::{NotPublished, TestEvent, error::Code},
    web::state::AppState,
};

/// Longest body, in bytes. A longer one is refused.
const MAX_BYTES: usize = 64 << 10;

/// Longest type or author, in bytes. A longer one is refused.
const MAX_NAME: usize = 255;

/// Body of the request.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked<'a> {
    #[serde(rename = "type")]
    kind: Arc<str>,
    #[serde(borrow)]
    data: &'a RawValue,
    author: Option<Arc<str>>,
}

/// Answers `POST /admin/publish` with `{"type": TYPE, "data": JSON}`, and perhaps
/// `"author": USER`.
pub async fn publish(State(app): State<Arc<AppState>>, body: Bytes) -> Response {
    if body.len() > MAX_BYTES {
        let text = format!("a test event has at most {MAX_BYTES} bytes");
        return refusal(StatusCode::PAYLOAD_TOO_LARGE, "TOO_LARGE", &text);
    }
    let Some(test) = read(&body) else {
        let text = r#"send {"type": "TYPE", "data": {…}}, and "author": "USER" if the event has one"#;
        return refusal(StatusCode::BAD_REQUEST, "BAD_REQUEST", text);
    };
    let kind = test.kind.clone();
    match app.engine.publish_test(test).await {
        Ok(event) => Json(json!({ "published": { "event": event, "type": kind } })).into_response(),
        Err(error) => refusal(status(&error), error.code().as_str(), &error.to_string()),
    }
}

fn read(body: &[u8]) -> Option<TestEvent> {
    let Asked { kind, data, author } = serde_json::from_slice(body).ok()?;
    let is_name = |name: &str| (1..=MAX_NAME).contains(&name.len());
    let is_sound = is_name(&kind) && author.as_deref().is_none_or(is_name);
    let data = data.get().to_owned().into();
    is_sound.then_some(TestEvent { kind, author, data })
}

fn status(error: &NotPublished) -> StatusCode {
    match error.code() {
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::BadUserInput => StatusCode::BAD_REQUEST,
        Code::RateLimited => StatusCode::TOO_MANY_REQUESTS,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn body_has_type_and_json() {
        let test = read(br#"{"type":"a.v1","data":{"n": 18446744073709551616},"author":"4"}"#).unwrap();
        assert_eq!((&*test.kind, test.author.as_deref()), ("a.v1", Some("4")));
        assert_eq!(test.data, r#"{"n": 18446744073709551616}"#, "numbers stay as they are");
        let long = format!(r#"{{"type":"{}","data":1}}"#, "a".repeat(256));
        for text in
            ["", "{}", r#"{"type":"a"}"#, r#"{"type":"","data":1}"#, r#"{"type":"a","data":{]}"#, &long]
        {
            assert!(read(text.as_bytes()).is_none(), "{text}");
        }
        assert!(read(br#"{"type":"a","data":1,"more":1}"#).is_none());
    }
}
