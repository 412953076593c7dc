//! The console at `/console` of the admin address: one page, and the stream that feeds it.
//!
//! The page and its files hold no secret, so they need no token; the stream needs the debug token.
//! The page must never ask any server but this pod, and a name on it is text, never markup.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{Query, State},
    http::{
        HeaderName, HeaderValue, StatusCode,
        header::{
            CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
        },
    },
    response::{IntoResponse, Response},
    routing::get,
};
use futures_util::stream;
use serde::Deserialize;
use tokio::time::{Instant, sleep_until};

use super::snapshot::{MAX_OPEN, Open};
use crate::web::state::AppState;

/// Time between two messages of a stream.
const PERIOD: Duration = Duration::from_secs(1);

/// Messages of one stream. The page then connects again, so that no stream outlives its token.
const MAX_MESSAGES: u32 = 600;

/// Content security policy: only files of this pod, and requests to this pod only.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

/// Files of the page: path, media type, content.
const FILES: [(&str, &str, &str); 4] = [
    ("/console", "text/html; charset=utf-8", include_str!("../../../page/console/console.html")),
    ("/console/console.css", "text/css; charset=utf-8", include_str!("../../../page/console/console.css")),
    (
        "/console/console.js",
        "text/javascript; charset=utf-8",
        include_str!("../../../page/console/console.js"),
    ),
    ("/console/icon.svg", "image/svg+xml", include_str!("../../../page/src/icon.svg")),
];

/// Parameters of the stream.
#[derive(Deserialize)]
pub struct Asked {
    #[serde(default)]
    reveal: bool,
}

/// Builds the routes of the page and its files.
pub fn page() -> Router {
    FILES.into_iter().fold(Router::new(), |router, (path, media, content)| {
        router.route(path, get(move || async move { file(media, content) }))
    })
}

fn file(media: &'static str, content: &'static str) -> Response {
    let headers: [(HeaderName, HeaderValue); 5] = [
        (CONTENT_TYPE, HeaderValue::from_static(media)),
        (CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (CONTENT_SECURITY_POLICY, POLICY),
        (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    ];
    (headers, content).into_response()
}

/// Answers `GET /console/events`: server-sent events, one snapshot of the pod each second.
pub async fn events(State(app): State<Arc<AppState>>, Query(asked): Query<Asked>) -> Response {
    let Some(open) = Open::enter(&app) else {
        let text = format!("{MAX_OPEN} consoles of this pod are open: close one, or open another pod's\n");
        return (StatusCode::SERVICE_UNAVAILABLE, text).into_response();
    };
    let messages = stream::unfold((open, Instant::now(), 0), move |(open, due, count)| async move {
        if count == MAX_MESSAGES {
            return None;
        }
        sleep_until(due).await;
        if count > 0 && open.is_over() {
            return None;
        }
        let message = format!("data: {}\n\n", open.snapshot(asked.reveal));
        // A slow reader gets its next message a second after it has taken this one.
        Some((Ok::<_, Infallible>(message), (open, Instant::now() + PERIOD, count + 1)))
    });
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    (headers, Body::from_stream(messages)).into_response()
}

#[cfg(test)]
mod tests {
    use axum::extract::Request;
    use tower_service::Service as _;

    use super::*;

    #[tokio::test]
    async fn policy_forbids_other_servers_and_inline_code() {
        for (path, media, content) in FILES {
            let request = Request::get(path).body(Body::empty()).unwrap();
            let response = page().call(request).await.unwrap();
            assert_eq!(
                (response.status(), response.headers()[CONTENT_TYPE] == media),
                (StatusCode::OK, true)
            );
            let policy = response.headers()[CONTENT_SECURITY_POLICY].to_str().unwrap();
            assert!(policy.starts_with("default-src 'none'; script-src 'self';"), "{policy}");
            assert!(!policy.contains("unsafe") && policy.contains("frame-ancestors 'none'"), "{policy}");
            assert!(!content.contains("innerHTML") && !content.contains(" style=\""), "{path}");
            let others = content.replace("http://www.w3.org/2000/svg", "");
            assert!(!others.contains("http://") && !others.contains("https://"), "{path}");
        }
    }
}
