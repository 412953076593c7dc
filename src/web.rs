//! The routes and layers of a pod, in order: everything that clients and machines can reach.
//!
//! It turns bytes into operations and results into bytes. It must never decide anything about
//! events: the hub and the domain do.

pub mod admin;
pub mod connection;
pub mod endpoint;
pub mod http;
mod operations;
pub mod page;
pub mod server;
pub mod state;
pub mod transport;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    http::{
        HeaderName, Method, StatusCode,
        header::{AUTHORIZATION, CONTENT_TYPE},
    },
    middleware::from_fn_with_state,
    routing::{any, get, post},
};
use tower_http::{
    compression::{
        CompressionLayer,
        predicate::{NotForContentType, Predicate as _, SizeAbove},
    },
    cors::{AllowCredentials, AllowOrigin, CorsLayer},
};

pub use self::{
    connection::Connections,
    http::{
        cookie::CookieName,
        origin::{AllowedOrigin, Origins},
        request::{self, AllowedHeaders},
    },
    page::Tab,
    server::TrustedProxies,
    state::{AppState, Consoles, Settings},
};
use self::{endpoint::Endpoint, transport::sse::reservation};

/// The smallest answer that is compressed, in bytes. A smaller one fits into one packet anyway.
const MIN_COMPRESSED_BYTES: u16 = 1_400;

/// How long a browser may cache what a preflight allowed: Chromium's own maximum.
const PREFLIGHT_AGE: Duration = Duration::from_secs(7_200);

/// Request headers that stock browser clients add by themselves: `EventSource` replacements, Apollo
/// Client, GraphQL IDEs, tracing and error reporting. None of them changes what a request may do.
const CLIENT_HEADERS: [&str; 13] = [
    "last-event-id",
    request::READ_AFTER_HEADER,
    "cache-control",
    "apollographql-client-name",
    "apollographql-client-version",
    "apollo-require-preflight",
    "x-requested-with",
    "traceparent",
    "tracestate",
    "baggage",
    "sentry-trace",
    "accept",
    reservation::TOKEN_HEADER,
];

/// Builds the routes for clients. With `with_admin` it adds those for machines, for a pod without
/// an admin address.
pub fn router(app: Arc<AppState>, with_admin: bool) -> Router {
    let origins = app.settings.origins.clone();
    let (listed, has_cookie) = (origins.clone(), app.settings.cookie.is_some());
    let cors = CorsLayer::new()
        .allow_origin(AllowOrigin::predicate(move |origin, request| {
            origins.allow(origin.as_bytes(), &request.headers)
        }))
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::DELETE])
        .allow_headers(
            [AUTHORIZATION, CONTENT_TYPE]
                .into_iter()
                .chain(CLIENT_HEADERS.map(HeaderName::from_static))
                .chain(app.settings.allowed_headers.iter().cloned())
                .collect::<Vec<_>>(),
        )
        // Cookies of any kind: a token, or the cookie of a balancer with sticky sessions.
        .allow_credentials(AllowCredentials::predicate(move |origin, _| {
            has_cookie && listed.list(origin.as_bytes())
        }))
        .max_age(PREFLIGHT_AGE);
    // Streams are not compressed: a compressor holds results back until a block is full.
    let streams = NotForContentType::SSE.and(NotForContentType::const_new("multipart/mixed"));
    let compression =
        CompressionLayer::new().compress_when(SizeAbove::new(MIN_COMPRESSED_BYTES.into()).and(streams));
    let clients = Router::new().route("/graphql", any(endpoint::graphql)).layer(compression).layer(cors);
    // Outside the layers: the page is for this origin only, and its files are compressed already.
    let story = app.settings.story.as_ref();
    let page = app.settings.page.as_deref().map_or_else(Router::new, |tabs| page::routes(tabs, story));
    let clients = clients.with_state(Endpoint::new(app.clone())).merge(page);
    let clients = if with_admin { clients.merge(probes(app)) } else { clients };
    clients.fallback(|| not_found("nothing is here; GraphQL is at /graphql\n"))
}

/// Answers a path that does not exist, with one line for the person who typed it.
async fn not_found(line: &'static str) -> (StatusCode, &'static str) {
    (StatusCode::NOT_FOUND, line)
}

/// Builds the routes of the admin address: those for machines, `/admin` for what acts and, if there
/// is a token that reads, `/debug` and `/console`.
pub fn admin(app: &Arc<AppState>) -> Router {
    admin_routes(app).fallback(|| not_found("nothing is here; try /livez, /readyz or /metrics\n"))
}

fn admin_routes(app: &Arc<AppState>) -> Router {
    let routes = probes(app.clone()).nest("/admin", actions(app.clone()));
    if app.settings.reading_token().is_none() {
        return routes;
    }
    let debug = Router::new()
        .route("/console/events", get(admin::console::events))
        .route("/debug/events", get(admin::debug::events))
        .route("/debug/connections", get(admin::debug::connections))
        .route("/debug/explain", get(admin::debug::explain))
        .layer(from_fn_with_state(app.clone(), admin::guard::require_reader))
        .with_state(app.clone());
    // The page itself holds no secret.
    routes.merge(debug).merge(admin::console::page())
}

/// Builds the routes of `/admin`, which act. Each needs the admin token, and so does a path that
/// does not exist.
fn actions(app: Arc<AppState>) -> Router {
    Router::new()
        .route("/drain", post(admin::drain::drain))
        .route("/publish", post(admin::publish::publish))
        .route("/revoke", post(admin::revoke::revoke))
        .fallback(|| not_found("no such action; docs/OPERATIONS.md lists them\n"))
        .layer(from_fn_with_state(app.clone(), admin::guard::require_admin))
        .with_state(app)
}

/// Builds the routes for machines.
fn probes(app: Arc<AppState>) -> Router {
    Router::new()
        .route("/livez", get(admin::livez))
        .route("/readyz", get(admin::readyz))
        .route("/metrics", get(admin::metrics))
        .with_state(app)
}
