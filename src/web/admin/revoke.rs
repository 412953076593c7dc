//! `POST /admin/revoke`: refuses the tokens of a user, or one token, on every pod.
//!
//! The pod publishes a record, and answers when the topic has acknowledged it. It must never answer
//! that a token is revoked before that.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::{
    Json,
    body::Bytes,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::json;

use super::guard::refusal;
use crate::{
    revocations::{NotRevoked, Record, Subject},
    rfc3339,
    web::state::AppState,
};

/// Body of the request.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    user: Option<Arc<str>>,
    token: Option<Arc<str>>,
    #[serde(default)]
    retry: bool,
}

/// Answers `POST /admin/revoke` with `{"user": ID}` or `{"token": JTI}`, and perhaps
/// `"retry": true`.
pub async fn revoke(State(app): State<Arc<AppState>>, body: Bytes) -> Response {
    let Some((subject, retry)) = read(&body) else {
        let text = r#"send {"user": "ID"} or {"token": "JTI"}, and "retry": true if clients may come back"#;
        return refusal(StatusCode::BAD_REQUEST, "BAD_REQUEST", text);
    };
    match app.revocations.revoke(subject, retry).await {
        Ok(record) => Json(revoked(&record)).into_response(),
        Err(error) => {
            let (status, code) = match error {
                NotRevoked::Off => (StatusCode::CONFLICT, "CONTROL_SECRET_UNSET"),
                NotRevoked::BadName => (StatusCode::BAD_REQUEST, "BAD_REQUEST"),
                NotRevoked::Full => (StatusCode::CONFLICT, "LIMIT_REACHED"),
                NotRevoked::Unpublished(_) => (StatusCode::SERVICE_UNAVAILABLE, "PUBLISH_FAILED"),
            };
            refusal(status, code, &error.to_string())
        }
    }
}

fn read(body: &[u8]) -> Option<(Subject, bool)> {
    let Asked { user, token, retry } = serde_json::from_slice(body).ok()?;
    match (user, token) {
        (Some(user), None) => Some((Subject::User(user), retry)),
        (None, Some(token)) => Some((Subject::Token(token), retry)),
        _ => None,
    }
}

fn revoked(Record { subject, before, retry }: &Record) -> serde_json::Value {
    let before = SystemTime::UNIX_EPOCH + Duration::from_millis(*before);
    json!({ "revoked": subject, "before": rfc3339::write(before), "retry": retry })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn body_names_one_subject() {
        let read = |text: &str| read(text.as_bytes());
        assert_eq!(read(r#"{"user":"4"}"#), Some((Subject::User("4".into()), false)));
        assert_eq!(read(r#"{"token":"t","retry":true}"#), Some((Subject::Token("t".into()), true)));
        for text in ["", "{}", r#"{"user":"4","token":"t"}"#, r#"{"user":4}"#, r#"{"user":"4","x":1}"#] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
