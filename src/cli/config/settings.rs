//! [`Settings`]: what the table's entries become, in the structs that live beside each module.
//!
//! Filled by a [`Reader`], which gathers what is wrong. It must never decide what a setting does: that is the module's.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use super::{Setting, reader::Reader, table as t, value};
use crate::{
    auth,
    broker::MIN_RETENTION,
    broker::pubsub,
    hub::window::{Bounds, MARGIN},
    pod::Drain,
    telemetry::{self, Otlp},
    web::{self, Origins},
};

/// The waits of a drain that are shorter in a cluster, unless they are given: on a laptop there is no balancer to wait for,
/// and a person waits for the prompt.
pub(super) const CLUSTER_WAITS: [(&Setting, Duration); 2] =
    [(&t::DRAIN_DELAY, Duration::ZERO), (&t::DRAIN_SPREAD, Duration::from_secs(1))];

/// Everything that a pod can be told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `RELAY_LISTEN`, else `PORT` on all addresses: where clients connect.
    pub listen: SocketAddr,
    /// `RELAY_ADMIN_LISTEN`: where probes and metrics are served; `None`: on [`listen`](Self::listen).
    pub admin_listen: Option<SocketAddr>,
    /// `RELAY_BROKER`.
    pub broker: Broker,
    /// `RELAY_POD`, else `POD_NAME`, else random: 1 to 63 lowercase letters, digits and hyphens.
    pub pod: String,
    /// `RELAY_AUTH` and `RELAY_JWT_*`.
    pub auth: auth::Settings,
    /// `RELAY_DIRECTORY`: a file that the domain has found good; `None`: the built-in directory.
    pub directory: Option<PathBuf>,
    /// `RELAY_ALLOWED_ORIGINS`, `RELAY_QUEUE_BYTES`, `RELAY_MAX_*`, `RELAY_DEBUG_TOKEN`, and `RELAY_PAGE`, whose tabs are the
    /// domain's to add.
    pub web: web::Settings,
    /// `RELAY_INTROSPECTION`: whether clients may ask for the schema.
    pub introspection: bool,
    /// `RELAY_REPLAY_WINDOW`, which is how far back a client can resume, with the margin that a replay needs, if it is
    /// short; and `RELAY_REPLAY_BYTES`.
    pub window: Bounds,
    /// `RELAY_HEARTBEAT_INTERVAL`: between two heartbeats of this pod.
    pub heartbeat_interval: Duration,
    /// `RELAY_ORPHAN_AFTER`: how long a pod must have been silent for its feeds to be deleted by others.
    pub orphan_after: Duration,
    /// `RELAY_DRAIN_*`: how a pod ends.
    pub drain: Drain,
    /// `RELAY_LOG`, `RELAY_LOG_FORMAT`, and whether there are endpoints for OTLP.
    pub telemetry: telemetry::Settings,
    /// Variables that begin with `RELAY_` and are no setting: probably misspelt, worth a warning.
    pub unknown: Vec<String>,
}

/// Where events come from and go to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Broker {
    /// Inside this process: no other pod hears anything.
    Memory,
    /// A topic of Cloud Pub/Sub.
    PubSub {
        /// The project's id.
        project: String,
        /// The topic's id, so long at most that a feed's name, which adds the pod's, stays within 255 characters.
        topic: String,
        /// `HOST:PORT` of the emulator that stands in for Google.
        emulator: Option<String>,
    },
}

/// Where clients connect, and where machines ask if that is somewhere else.
pub(super) fn addresses(reader: &mut Reader<'_>) -> (SocketAddr, Option<SocketAddr>) {
    let port = match reader.is_given(&t::LISTEN) {
        true => None,
        false => reader.optional(&t::PORT, value::port),
    };
    let listen = match port {
        Some(port) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)),
        None => reader.required(&t::LISTEN, value::address),
    };
    (listen, reader.optional(&t::ADMIN_LISTEN, value::address))
}

/// Those of one pod.
pub(super) fn one_pod(reader: &mut Reader<'_>) -> Settings {
    let (listen, admin_listen) = addresses(reader);
    if admin_listen == Some(listen) && listen.port() != 0 {
        reader
            .refuse(&t::ADMIN_LISTEN, "is the clients' address: give another, or unset it to share that one");
    }
    let broker = match reader.required(&t::BROKER, value::broker) {
        Broker::PubSub { project, topic, .. } => {
            Broker::PubSub { project, topic, emulator: reader.optional(&t::EMULATOR_HOST, value::host_port) }
        }
        Broker::Memory => Broker::Memory,
    };
    let pod = match reader.is_given(&t::POD) {
        true => reader.optional(&t::POD, value::pod),
        false => reader.optional(&t::POD_NAME, value::pod),
    };
    let mut settings = Settings {
        listen,
        admin_listen,
        broker,
        pod: pod.unwrap_or_else(value::random_pod),
        ..shared(reader, &[])
    };
    settings.web.debug_token = reader.debug_token();
    if let Broker::PubSub { project, .. } = &settings.broker {
        settings.telemetry.project = Some(project.clone());
    }
    if let Broker::PubSub { topic, .. } = &settings.broker {
        let longest = pubsub::Settings::longest_topic(&settings.pod);
        if topic.len() > longest {
            let complaint = format!(
                "has too long a topic: a feed is <topic>.<pod>.<incarnation> in 255 characters, so that this pod's name \
                 leaves {longest}"
            );
            reader.refuse(&t::BROKER, &complaint);
        }
    }
    let is_real = matches!(settings.broker, Broker::PubSub { emulator: None, .. });
    if is_real && !reader.is_given(&t::EMULATOR_HOST) && reader.is_demo() {
        reader.refuse(
            &t::AUTH,
            "demo lets anybody in and is refused with a real Pub/Sub project: set it to jwt, or PUBSUB_EMULATOR_HOST",
        );
    }
    settings
}

/// The settings that both commands know, around placeholders for those that only one does.
pub(super) fn shared(reader: &mut Reader<'_>, waits: &[(&Setting, Duration)]) -> Settings {
    let auth = reader.auth();
    let own = match auth {
        auth::Settings::Demo => Origins::Localhost,
        auth::Settings::Jwt(_) => Origins::Same,
    };
    Settings {
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        admin_listen: None,
        broker: Broker::Memory,
        pod: String::new(),
        auth,
        directory: reader.optional(&t::DIRECTORY, value::readable_file),
        web: web::Settings {
            origins: reader.optional(&t::ALLOWED_ORIGINS, value::origins).unwrap_or(own),
            queue_bytes: reader.size(&t::QUEUE_BYTES),
            max_connections: reader.size(&t::MAX_CONNECTIONS),
            max_connections_per_address: reader.size(&t::MAX_CONNECTIONS_PER_ADDRESS),
            max_watchers: reader.size(&t::MAX_WATCHERS),
            debug_token: None,
            page: reader.required(&t::PAGE, value::switch).then(Vec::new),
        },
        introspection: reader.required(&t::INTROSPECTION, value::switch),
        window: Bounds {
            span: reach(reader.duration(&t::REPLAY_WINDOW)),
            bytes: reader.size(&t::REPLAY_BYTES),
        },
        heartbeat_interval: reader.duration(&t::HEARTBEAT_INTERVAL),
        orphan_after: reader.duration(&t::ORPHAN_AFTER),
        drain: drain(reader, waits),
        telemetry: telemetry::Settings {
            log: reader.required(&t::LOG, value::log_filter),
            log_format: reader.required(&t::LOG_FORMAT, value::log_format),
            project: None,
            otlp: otlp(reader),
        },
        unknown: reader.unknown(),
    }
}

/// How far back a pod's events reach: a margin further than clients resume from, or those of a short window never could.
/// Not so far that a topic which retains the window, and Pub/Sub's least, would not do.
fn reach(window: Duration) -> Duration {
    (window + MARGIN).min(window.max(MIN_RETENTION))
}

/// The endpoints are only checked here: the library reads them, with all else that the standard has.
fn otlp(reader: &mut Reader<'_>) -> Otlp {
    let [any, traces, metrics] = [&t::OTLP, &t::OTLP_TRACES, &t::OTLP_METRICS]
        .map(|setting| reader.optional(setting, value::url).is_some());
    let is_on = !reader.required(&t::OTEL_DISABLED, value::boolean);
    Otlp { traces: is_on && (any || traces), metrics: is_on && (any || metrics) }
}

/// How a pod ends; `waits` are other defaults.
fn drain(reader: &mut Reader<'_>, waits: &[(&Setting, Duration)]) -> Drain {
    let [delay, spread, deadline] = [&t::DRAIN_DELAY, &t::DRAIN_SPREAD, &t::DRAIN_DEADLINE].map(|setting| {
        let given = reader.duration(setting);
        let other =
            waits.iter().find(|(other, _)| std::ptr::eq(*other, setting) && !reader.is_given(setting));
        other.map_or(given, |(_, wait)| *wait)
    });
    Drain { delay, spread, deadline }
}
