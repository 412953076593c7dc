//! `POST /admin/drain`: drains this pod, as SIGTERM does.
//!
//! The request names the pod, since a forwarded port may lead to another one than the operator
//! means. It must never drain another pod.

use std::sync::Arc;

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
use crate::web::state::AppState;

/// Body of the request.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    pod: Box<str>,
}

/// Answers `POST /admin/drain` with `{"pod": NAME}`, the name of this pod. A repeat changes
/// nothing.
pub async fn drain(State(app): State<Arc<AppState>>, body: Bytes) -> Response {
    let own = app.health.pod();
    match serde_json::from_slice(&body) {
        Ok(Asked { pod }) if *pod == *own => {
            let already = app.drain_asked.is_cancelled() || app.health.is_draining();
            app.drain_asked.cancel();
            let body = json!({ "draining": { "pod": own }, "already": already });
            (StatusCode::ACCEPTED, Json(body)).into_response()
        }
        Ok(_) => {
            let text = format!("this is {own}: ask the admin address of the pod that you mean");
            refusal(StatusCode::CONFLICT, "OTHER_POD", &text)
        }
        Err(_) => {
            let text = format!(r#"send {{"pod": "{own}"}} to drain this pod"#);
            refusal(StatusCode::BAD_REQUEST, "BAD_REQUEST", &text)
        }
    }
}
