//! [`AppState`]: what the handlers of a pod share, and [`Settings`]: what clients may do.
//!
//! Each handler gets one value instead of many arguments. It must never depend on a transport.

mod authenticate;
mod consoles;

use std::time::Duration;

use tokio_util::sync::CancellationToken;

pub use self::consoles::{Consoles, Snapshot};
use super::{
    connection::{Connections, Guard, Limits},
    http::{cookie::CookieName, origin::Origins, request::AllowedHeaders},
    page::{Tab, story::Story},
    server::TrustedProxies,
};
use crate::{
    auth::{Authenticator, Session, secret::Secret},
    budget::Budget,
    graphql::Engine,
    health::Health,
    hub::{Hub, Overflow},
    question::Questions,
    revocations::{Credentials, Refused, Revocations},
    telemetry::Metrics,
};

/// Settings of what clients may do, and how much of it. Defaults are those of the program.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Origins of the web pages that may send requests; others are refused with 403.
    pub origins: Origins,
    /// Request headers that pages may send besides those that stock clients send by themselves.
    pub allowed_headers: AllowedHeaders,
    /// Cookie that may hold a token, for pages of listed origins; `None`, the default: no cookie.
    pub cookie: Option<CookieName>,
    /// Bytes that the send queue of one connection holds; default 256 KiB. A full queue ends its
    /// connection.
    pub queue_bytes: usize,
    /// Connections at a time; default 50,000. A further one is refused.
    pub max_connections: usize,
    /// Connections from one address at a time; 0, the default: no limit. A further one is refused.
    pub max_connections_per_address: usize,
    /// Load balancers that may name the address of a client; default: none.
    pub trusted_proxies: TrustedProxies,
    /// Watchers on one connection; default 64. A further operation is refused.
    pub max_watchers: usize,
    /// Token of operators that read, for `/debug`; `None`: only the admin token reads.
    pub debug_token: Option<Secret>,
    /// Token of operators that read and act, for `/debug` and `/admin`; `None`: no request acts.
    /// Without either token `/debug` does not exist.
    pub admin_token: Option<Secret>,
    /// Tabs that the page at `/` opens with; `None`: there is no page.
    pub page: Option<Vec<Tab>>,
    /// Story that the page shows; `None`, the default: GraphiQL alone. For pods of one process.
    pub story: Option<Story>,
}

impl Settings {
    /// Returns a token that reads: the debug token, else the admin token.
    pub(crate) const fn reading_token(&self) -> Option<&Secret> {
        match &self.debug_token {
            Some(token) => Some(token),
            None => self.admin_token.as_ref(),
        }
    }

    /// Returns the bounds on connections. `window` is how far back events can be explained.
    pub(crate) fn connection_limits(&self, window: Duration) -> Limits {
        Limits {
            connections: self.max_connections,
            connections_per_address: self.max_connections_per_address,
            keeps: self.reading_token().map(|_| window),
        }
    }
}

/// App state that the handlers of one pod share.
pub struct AppState {
    /// Port that clients connect to, if no balancer is in front.
    pub port: u16,
    /// Runs operations.
    pub engine: Engine,
    /// Ledger of what the pod holds for clients.
    pub budget: Budget,
    /// Turns tokens into viewers.
    pub auth: Authenticator,
    /// Tokens that are refused before they expire.
    pub revocations: Revocations,
    /// Watchers and the replay window.
    pub hub: Hub,
    /// Open connections.
    pub connections: Connections,
    /// Readiness of the pod.
    pub health: Health,
    /// Questions to all pods, for `/debug/explain`.
    pub questions: Questions,
    /// Cancelled once an operator asks the pod to drain.
    pub drain_asked: CancellationToken,
    /// Open consoles.
    pub consoles: Consoles,
    /// Metrics that `/metrics` shows.
    pub metrics: Metrics,
    /// Settings of what clients may do.
    pub settings: Settings,
}

impl AppState {
    /// Stores the credentials of a connection, so that a revocation ends it. One that came while
    /// the token was checked ends it now.
    pub(in crate::web) fn identify(&self, guard: &mut Guard, session: &Session) {
        guard.identify(session.credentials.clone(), |credentials| self.refusal(credentials));
    }

    /// Ends the connections of tokens that are refused by now. Returns their number.
    pub(crate) fn end_refused(&self) -> usize {
        self.connections.end_refused(|credentials| self.refusal(credentials))
    }

    fn refusal(&self, credentials: &Credentials) -> Option<Overflow> {
        self.revocations.refusal(credentials).map(|refused| match refused {
            Refused::Revoked => Overflow::Revoked,
            Refused::Outdated => Overflow::Outdated,
        })
    }
}
