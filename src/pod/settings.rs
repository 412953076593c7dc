//! [`Settings`]: what a pod is built from, with a builder that starts from the settings of a
//! laptop.
//!
//! A new switch of a pod is written once, here. Nothing here may read the environment.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::drain::Drain;
use crate::{
    auth,
    broker::Broker,
    budget,
    control::Secrets,
    hub::window::Bounds,
    membership,
    relay::Retention,
    telemetry::{Traces, traces::Messaging},
    web::{self, Tab},
};

/// Settings of one pod.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Settings {
    /// Name of the pod, unique among the members.
    pub name: String,
    /// Address for clients; port 0 picks a free one.
    pub listen: SocketAddr,
    /// Address for probes, metrics and operators; `None`: that of the clients.
    pub admin_listen: Option<SocketAddr>,
    /// Whether the address for clients has probes and metrics even if they have an address of their
    /// own. Default: no.
    pub shares_probes: bool,
    /// Broker that carries the events.
    pub broker: Arc<dyn Broker>,
    /// How tokens are checked.
    pub auth: auth::Settings,
    /// What clients may do.
    pub web: web::Settings,
    /// Whether clients may read the schema.
    pub introspection: bool,
    /// Bounds of the replay window, back to which clients can resume. Event ids are remembered for
    /// the same time. Default: 10 minutes, 64 MiB. The oldest events are dropped beyond either
    /// bound.
    pub window: Bounds,
    /// Sizes of the ledger of memory. Default: 768 MiB, and 4 MiB for one answer.
    pub budget: budget::Settings,
    /// Time between two heartbeats, with up to 50 members. Default: 10 s.
    pub heartbeat_interval: Duration,
    /// Time for which a pod must have been silent before its feeds are orphans. Default: 180 s.
    pub orphan_after: Duration,
    /// Secrets that prove control events. Default: none, and every heartbeat is believed.
    pub control_secrets: Option<Secrets>,
    /// Whether a pod with more connections than others ends some, after the membership has grown.
    /// Default: yes. It needs `control_secrets`.
    pub rebalances: bool,
    /// Whether connect and disconnect events go to the topic, for other programs. Default: no.
    pub connection_events: bool,
    /// Waits of the pod's end.
    pub drain: Drain,
    /// Whether metrics are pushed by OTLP, besides being read.
    pub export_metrics: bool,
    /// Spans of the process.
    pub traces: Traces,
}

impl Settings {
    /// Default of the most connections of a pod.
    pub const DEFAULT_CONNECTIONS: usize = 50_000;

    /// Creates the settings of a pod on a laptop, for demo users. They are those of `relay` with
    /// nothing set, but the drain waits for no load balancer.
    #[must_use]
    pub fn local(name: impl Into<String>, listen: SocketAddr, broker: Arc<dyn Broker>) -> Self {
        let seconds = Duration::from_secs;
        Self {
            name: name.into(),
            listen,
            admin_listen: None,
            shares_probes: false,
            broker,
            auth: auth::Settings::Demo,
            web: web::Settings {
                origins: web::Origins::Localhost,
                allowed_headers: web::AllowedHeaders::default(),
                cookie: None,
                queue_bytes: 256 << 10,
                max_connections: Self::DEFAULT_CONNECTIONS,
                max_connections_per_address: 0,
                trusted_proxies: web::TrustedProxies::default(),
                max_watchers: 64,
                debug_token: None,
                admin_token: None,
                page: Some(Vec::new()),
                story: None,
            },
            introspection: true,
            window: Bounds { span: seconds(600), bytes: 64 << 20 },
            budget: budget::Settings::default(),
            heartbeat_interval: seconds(10),
            orphan_after: seconds(180),
            control_secrets: None,
            rebalances: true,
            connection_events: false,
            drain: Drain { delay: Duration::ZERO, spread: seconds(1), deadline: seconds(45) },
            export_metrics: false,
            traces: Traces::off(),
        }
    }

    /// Serves probes, metrics and `/debug` at an address of their own.
    #[must_use]
    pub const fn with_admin_listen(mut self, address: SocketAddr) -> Self {
        self.admin_listen = Some(address);
        self
    }

    /// Checks tokens in another way than by demo names.
    #[must_use]
    pub fn with_auth(mut self, auth: auth::Settings) -> Self {
        self.auth = auth;
        self
    }

    /// Opens the page at `/` with these tabs.
    #[must_use]
    pub fn with_tabs(mut self, tabs: Vec<Tab>) -> Self {
        self.web.page = Some(tabs);
        self
    }

    /// Lets clients resume from events of the last `span`, of which at most `bytes` are kept.
    #[must_use]
    pub const fn with_window(mut self, span: Duration, bytes: usize) -> Self {
        self.window = Bounds { span, bytes };
        self
    }

    /// Ends the pod with other waits.
    #[must_use]
    pub const fn with_drain(mut self, drain: Drain) -> Self {
        self.drain = drain;
        self
    }

    /// Records spans, as [`crate::telemetry::init`] returned them.
    #[must_use]
    pub fn with_traces(mut self, traces: Traces) -> Self {
        self.traces = traces;
        self
    }

    /// Returns the attributes of this pod's messaging spans.
    pub(super) fn messaging(&self) -> Messaging {
        let (system, topic) = (self.broker.system(), self.broker.topic().into());
        Messaging { pod: self.name.as_str().into(), system, topic }
    }

    /// Returns the settings of the pod's membership.
    pub(super) fn membership(&self) -> membership::Settings {
        let (interval, orphan_after) = (self.heartbeat_interval, self.orphan_after);
        let (settle, secrets) = (self.broker.settle(), self.control_secrets.clone());
        let pod = self.name.as_str().into();
        membership::Settings { pod, interval, settle, orphan_after, secrets }
    }

    /// Returns the age from which a revocation is dropped: every token of before has expired then.
    pub(super) fn revocation_age(&self) -> Duration {
        match &self.auth {
            auth::Settings::Jwt(jwt) => jwt.max_life + jwt.leeway,
            auth::Settings::Demo => auth::JwtSettings::DEFAULT_MAX_LIFE,
        }
    }

    /// Returns how far back a pod that begins now reaches.
    pub(super) fn retention(&self) -> Retention {
        let least = self.broker.limits().least_retention;
        let may_come_late = self.broker.settle() >= membership::LATE_REPLAY;
        Retention { began: SystemTime::now(), window: self.window.span, may_come_late, least }
    }
}
