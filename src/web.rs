//! The pod's face to clients and machines: every route and every layer, in order.
//!
//! It turns bytes into operations and results into bytes. It decides nothing about events: that is the hub's and the
//! domain's.

pub mod admin;
mod admission;
pub mod connection;
pub mod http;
pub mod multipart;
pub mod negotiate;
pub mod origin;
pub mod page;
pub mod refusal;
pub mod request;
mod running;
pub mod serve;
pub mod sse;
pub mod stream;
pub mod transport;
pub mod ws;

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

use self::sse::reservation;
pub use self::{connection::Connections, origin::Origins, page::Tab, sse::reservation::Reservations};
use crate::{
    auth::{Authenticator, secret::Secret},
    graphql::Engine,
    health::Health,
    hub::Hub,
    telemetry::Metrics,
};

/// The largest request body, in bytes: a mutation with the most location ids is under 100 KiB.
const MAX_BODY_BYTES: usize = 1 << 20;

/// The smallest answer that is compressed, in bytes: below, it fits into one packet anyway.
const MIN_COMPRESSED_BYTES: u16 = 1_400;

/// How long a browser may remember what a preflight allowed, in seconds: Chromium's own most.
const PREFLIGHT_AGE: Duration = Duration::from_secs(7_200);

/// What clients may do, and how much of it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which web pages may talk to the pod.
    pub origins: Origins,
    /// A connection's outgoing queue, in bytes; a full one ends its connection.
    pub queue_bytes: usize,
    /// Connections at once.
    pub max_connections: usize,
    /// Connections at once from one address; 0: any number.
    pub max_connections_per_address: usize,
    /// Watchers on one connection.
    pub max_watchers: usize,
    /// What lets operators ask who is connected and who was told what; `None`: nobody may.
    pub debug_token: Option<Secret>,
    /// What the page at `/` opens with; `None`: there is no page.
    pub page: Option<Vec<Tab>>,
}

/// All that the handlers work with.
pub struct Site {
    /// Runs operations.
    pub engine: Engine,
    /// Tells who a token names.
    pub auth: Authenticator,
    /// Who watches.
    pub hub: Hub,
    /// Who is connected.
    pub connections: Connections,
    /// Which streams of events are reserved.
    pub reservations: Reservations,
    /// Whether the pod is ready.
    pub health: Health,
    /// What `/metrics` shows.
    pub metrics: Metrics,
    /// Bounds.
    pub settings: Settings,
}

/// The routes for clients, and for machines too unless these have an address of their own.
pub fn router(site: Arc<Site>, with_admin: bool) -> Router {
    let origins = site.settings.origins.clone();
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
        .route("/graphql", any(http::graphql))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(compression)
        .layer(cors);
    // Outside the layers: no other site's business, and compressed already.
    let page = site.settings.page.as_deref().map_or_else(Router::new, page::routes);
    let clients = clients.merge(page).with_state(site.clone());
    if with_admin { clients.merge(probes(site)) } else { clients }
}

/// The routes for machines that have an address of their own, and for operators who have a token.
pub fn admin(site: Arc<Site>) -> Router {
    if site.settings.debug_token.is_none() {
        return probes(site);
    }
    let debug = Router::new()
        .route("/debug/connections", get(admin::debug::connections))
        .route("/debug/explain", get(admin::debug::explain))
        .layer(from_fn_with_state(site.clone(), admin::debug::admit))
        .with_state(site.clone());
    probes(site).merge(debug)
}

/// The routes for machines.
fn probes(site: Arc<Site>) -> Router {
    Router::new()
        .route("/livez", get(admin::livez))
        .route("/readyz", get(admin::readyz))
        .route("/metrics", get(admin::metrics))
        .with_state(site)
}
