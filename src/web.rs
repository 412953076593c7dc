//! The pod's face to clients and machines: every route and every layer, in order.
//!
//! It turns bytes into operations and results into bytes. It decides nothing about events: that is the hub's and the
//! domain's.

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
    extract::DefaultBodyLimit,
    http::{
        HeaderName, Method,
        header::{AUTHORIZATION, CONTENT_TYPE},
    },
    middleware::from_fn_with_state,
    routing::{any, get},
};
use tower_http::{
    compression::{
        CompressionLayer,
        predicate::{NotForContentType, Predicate as _, SizeAbove},
    },
    cors::{AllowOrigin, CorsLayer},
};

pub use self::{
    connection::Connections,
    http::origin::Origins,
    page::Tab,
    state::{AppState, Settings},
};
use self::{endpoint::Endpoint, transport::sse::reservation};

/// The largest request body, in bytes: a mutation with the most location ids is under 100 KiB.
const MAX_BODY_BYTES: usize = 1 << 20;

/// The smallest answer that is compressed, in bytes: below, it fits into one packet anyway.
const MIN_COMPRESSED_BYTES: u16 = 1_400;

/// How long a browser may remember what a preflight allowed, in seconds: Chromium's own most.
const PREFLIGHT_AGE: Duration = Duration::from_secs(7_200);

/// The routes for clients, and for machines too unless these have an address of their own.
pub fn router(app: Arc<AppState>, with_admin: bool) -> Router {
    let origins = app.settings.origins.clone();
    let cors = CorsLayer::new()
        .allow_origin(AllowOrigin::predicate(move |origin, request| {
            origins.allow(origin.as_bytes(), &request.headers)
        }))
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::DELETE])
        .allow_headers([
            AUTHORIZATION,
            CONTENT_TYPE,
            HeaderName::from_static("last-event-id"),
            HeaderName::from_static("traceparent"),
            HeaderName::from_static(reservation::TOKEN_HEADER),
        ])
        .max_age(PREFLIGHT_AGE);
    // Never a stream: a compressor holds back what it has not filled a block with.
    let streams = NotForContentType::SSE.and(NotForContentType::const_new("multipart/mixed"));
    let compression =
        CompressionLayer::new().compress_when(SizeAbove::new(MIN_COMPRESSED_BYTES.into()).and(streams));
    let clients = Router::new()
        .route("/graphql", any(endpoint::graphql))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(compression)
        .layer(cors);
    // Outside the layers: it is for pages of this origin only, and compressed already.
    let page = app.settings.page.as_deref().map_or_else(Router::new, page::routes);
    let clients = clients.with_state(Endpoint::new(app.clone())).merge(page);
    if with_admin { clients.merge(probes(app)) } else { clients }
}

/// The routes for machines that have an address of their own, and for operators who have a token.
pub fn admin(app: Arc<AppState>) -> Router {
    if app.settings.debug_token.is_none() {
        return probes(app);
    }
    let debug = Router::new()
        .route("/debug/connections", get(admin::debug::connections))
        .route("/debug/explain", get(admin::debug::explain))
        .layer(from_fn_with_state(app.clone(), admin::debug::require_token))
        .with_state(app.clone());
    probes(app).merge(debug)
}

/// The routes for machines.
fn probes(app: Arc<AppState>) -> Router {
    Router::new()
        .route("/livez", get(admin::livez))
        .route("/readyz", get(admin::readyz))
        .route("/metrics", get(admin::metrics))
        .with_state(app)
}
