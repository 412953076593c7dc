//! Endpoints for machines, liveness, readiness and metrics, and below it those for operators.
//!
//! They must never wait for a broker or a client: a probe that times out restarts the pod.

pub mod console;
pub mod debug;
pub mod drain;
pub mod guard;
pub mod publish;
pub mod revoke;
pub mod snapshot;
pub mod why;

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};

use super::state::AppState;
use crate::telemetry::PROMETHEUS_TEXT;

/// Answers 200: the process is alive.
pub async fn livez() -> &'static str {
    "ok\n"
}

/// Answers 200 if the pod is ready, else 503, with the reasons in JSON.
pub async fn readyz(State(app): State<Arc<AppState>>) -> impl IntoResponse {
    let readiness = app.health.readiness();
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(readiness))
}

/// Answers with all metrics in Prometheus' text format.
pub async fn metrics(State(app): State<Arc<AppState>>) -> Response {
    match app.metrics.text() {
        Ok(text) => ([(CONTENT_TYPE, PROMETHEUS_TEXT)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "metrics cannot be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
