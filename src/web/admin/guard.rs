//! Guard of the admin address: which token lets a request read, and which lets it act.
//!
//! The debug token reads. The admin token reads and acts. The time of a comparison does not depend
//! on how much of a token is right. No answer may show a token.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Request, State},
    http::{
        HeaderMap, StatusCode,
        header::{AUTHORIZATION, WWW_AUTHENTICATE},
    },
    middleware::Next,
    response::{IntoResponse, Response},
};
use serde_json::json;

use crate::web::{server::Peer, state::AppState};

/// Rights of a request, by its token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rights {
    None,
    Read,
    Act,
}

impl Rights {
    fn of(app: &AppState, headers: &HeaderMap) -> Self {
        let authorization = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let given = authorization.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
        let [may_read, may_act] = [&app.settings.debug_token, &app.settings.admin_token]
            .map(|token| token.as_ref().is_some_and(|token| token.is(given)));
        match (may_act, may_read) {
            (true, _) => Self::Act,
            (false, true) => Self::Read,
            (false, false) => Self::None,
        }
    }
}

/// Lets a request through that may read: one with the debug token or the admin token.
pub async fn require_reader(State(app): State<Arc<AppState>>, request: Request, next: Next) -> Response {
    match Rights::of(&app, request.headers()) {
        Rights::Read | Rights::Act => next.run(request).await,
        Rights::None => (StatusCode::UNAUTHORIZED, [(WWW_AUTHENTICATE, "Bearer")]).into_response(),
    }
}

/// Lets a request through that may act: one with the admin token.
pub async fn require_admin(State(app): State<Arc<AppState>>, request: Request, next: Next) -> Response {
    if app.settings.admin_token.is_none() {
        let text = "this pod has no admin token, so nothing can act on it: set RELAY_ADMIN_TOKEN_FILE";
        return refusal(StatusCode::FORBIDDEN, "ADMIN_OFF", text);
    }
    match Rights::of(&app, request.headers()) {
        Rights::Act => {
            log(&request);
            next.run(request).await
        }
        Rights::Read => {
            let text = "the debug token may only read: send the token of RELAY_ADMIN_TOKEN_FILE";
            refusal(StatusCode::FORBIDDEN, "READ_ONLY_TOKEN", text)
        }
        Rights::None => {
            let text = "this needs `Authorization: Bearer <token>` with the token of RELAY_ADMIN_TOKEN_FILE";
            let refused = refusal(StatusCode::UNAUTHORIZED, "UNAUTHENTICATED", text);
            ([(WWW_AUTHENTICATE, "Bearer")], refused).into_response()
        }
    }
}

/// Logs the action that a request asks for, and the address that it came from.
fn log(request: &Request) {
    let address = Peer::of(request.extensions()).map(Peer::address).map(tracing::field::display);
    tracing::info!(action = request.uri().path(), address, "an operator asks");
}

/// Answers that an action is refused: a stable code, and what to do.
pub fn refusal(status: StatusCode, code: &str, message: &str) -> Response {
    (status, Json(json!({ "error": { "code": code, "message": message } }))).into_response()
}
