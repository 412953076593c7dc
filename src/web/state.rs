//! [`AppState`]: what every handler of a pod works with, and [`Settings`]: what clients may do.

mod authenticate;

use super::{connection::Connections, http::origin::Origins, page::Tab};
use crate::{
    auth::{Authenticator, secret::Secret},
    graphql::Engine,
    health::Health,
    hub::Hub,
    telemetry::Metrics,
};

/// What clients may do, and how much of it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Origins of the web pages that may send requests.
    pub origins: Origins,
    /// Bytes that the send queue of one connection holds. A full queue ends its connection.
    pub queue_bytes: usize,
    /// Connections at a time.
    pub max_connections: usize,
    /// Connections from one address at a time; 0: no limit.
    pub max_connections_per_address: usize,
    /// Watchers on one connection.
    pub max_watchers: usize,
    /// Token of operators for `/debug`; `None`: `/debug` does not exist.
    pub debug_token: Option<Secret>,
    /// Tabs that the page at `/` opens with; `None`: there is no page.
    pub page: Option<Vec<Tab>>,
}

/// State that the handlers of one pod share.
pub struct AppState {
    /// Runs operations.
    pub engine: Engine,
    /// Turns tokens into viewers.
    pub auth: Authenticator,
    /// Watchers and the replay window.
    pub hub: Hub,
    /// Open connections.
    pub connections: Connections,
    /// Readiness of the pod.
    pub health: Health,
    /// Metrics that `/metrics` shows.
    pub metrics: Metrics,
    /// Bounds.
    pub settings: Settings,
}
