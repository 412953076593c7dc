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
    broker::open::BrokerUrl,
    hub::window::{Bounds, MARGIN},
    pod::{self, Drain},
    telemetry,
    web::{self, Origins},
};

/// The waits of a drain that are shorter in a cluster, unless they are given: on a laptop there is no balancer to wait for,
/// and a person waits for the prompt.
pub(super) const CLUSTER_WAITS: [(&Setting, Duration); 2] =
    [(&t::DRAIN_DELAY, Duration::ZERO), (&t::DRAIN_SPREAD, Duration::from_secs(1))];

/// Settings of the program: those of a pod, and what only the program needs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Settings of the pod. Its traces are off and the page has no tabs until the program adds them.
    pub pod: pod::Settings,
    /// `RELAY_BROKER`, as the commands need it that look at the topic themselves.
    pub broker: BrokerUrl,
    /// `RELAY_DIRECTORY`: a file that the domain accepted; `None`: the built-in directory.
    pub directory: Option<PathBuf>,
    /// `RELAY_LOG`, `RELAY_LOG_FORMAT`, and whether there is an OTLP endpoint for traces.
    pub telemetry: telemetry::Settings,
    /// Variables that begin with `RELAY_` and are no setting: probably misspelt, worth a warning.
    pub unknown: Vec<String>,
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

/// Reads the settings of one pod.
pub(super) fn one_pod(reader: &mut Reader<'_>) -> Settings {
    let (listen, admin_listen) = addresses(reader);
    if admin_listen == Some(listen) && listen.port() != 0 {
        reader
            .refuse(&t::ADMIN_LISTEN, "is the clients' address: give another, or unset it to share that one");
    }
    let mut broker = reader.required(&t::BROKER, value::broker);
    if let BrokerUrl::PubSub(topic) = &mut broker {
        topic.emulator = reader.optional(&t::EMULATOR_HOST, value::host_port);
    }
    let pod = match reader.is_given(&t::POD) {
        true => reader.optional(&t::POD, value::pod),
        false => reader.optional(&t::POD_NAME, value::pod),
    };
    let mut settings = shared(reader, broker, &[]);
    (settings.pod.listen, settings.pod.admin_listen) = (listen, admin_listen);
    settings.pod.name = pod.unwrap_or_else(value::random_pod);
    settings.pod.web.debug_token = reader.debug_token();
    if let Err(complaint) = settings.pod.broker.check_pod(&settings.pod.name) {
        reader.refuse(&t::BROKER, &complaint);
    }
    if let BrokerUrl::PubSub(topic) = &settings.broker {
        settings.telemetry.project = Some(topic.project.clone());
        if topic.emulator.is_none() && !reader.is_given(&t::EMULATOR_HOST) && reader.is_demo() {
            reader.refuse(
                &t::AUTH,
                "demo lets anybody in and is refused with a real Pub/Sub project: set it to jwt, or PUBSUB_EMULATOR_HOST",
            );
        }
    }
    settings
}

/// Reads the settings that all commands with pods know. Name and addresses are placeholders.
pub(super) fn shared(reader: &mut Reader<'_>, broker: BrokerUrl, waits: &[(&Setting, Duration)]) -> Settings {
    let auth = reader.auth();
    let own = match auth {
        auth::Settings::Demo => Origins::Localhost,
        auth::Settings::Jwt(_) => Origins::Same,
    };
    let window = Bounds {
        span: reach(reader.duration(&t::REPLAY_WINDOW), broker.limits().least_retention),
        bytes: reader.size(&t::REPLAY_BYTES),
    };
    let export = Export::read(reader);
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let opened = broker.clone().open(window.span, window.bytes);
    let mut pod = pod::Settings::local(String::new(), listen, opened);
    pod.auth = auth;
    pod.web = web::Settings {
        origins: reader.optional(&t::ALLOWED_ORIGINS, value::origins).unwrap_or(own),
        queue_bytes: reader.size(&t::QUEUE_BYTES),
        max_connections: reader.size(&t::MAX_CONNECTIONS),
        max_connections_per_address: reader.size(&t::MAX_CONNECTIONS_PER_ADDRESS),
        max_watchers: reader.size(&t::MAX_WATCHERS),
        debug_token: None,
        page: reader.required(&t::PAGE, value::switch).then(Vec::new),
    };
    pod.introspection = reader.required(&t::INTROSPECTION, value::switch);
    pod.window = window;
    pod.heartbeat_interval = reader.duration(&t::HEARTBEAT_INTERVAL);
    pod.orphan_after = reader.duration(&t::ORPHAN_AFTER);
    pod.drain = drain(reader, waits);
    pod.export_metrics = export.metrics;
    Settings {
        pod,
        broker,
        directory: reader.optional(&t::DIRECTORY, value::readable_file),
        telemetry: telemetry::Settings {
            log: reader.required(&t::LOG, value::log_filter),
            log_format: reader.required(&t::LOG_FORMAT, value::log_format),
            project: None,
            export_traces: export.traces,
        },
        unknown: reader.unknown(),
    }
}

/// How far back a pod's events reach: a margin further than clients resume from, or those of a short window never could.
/// Not so far that a topic which retains the window, and Pub/Sub's least, would not do.
fn reach(window: Duration, least_retention: Duration) -> Duration {
    (window + MARGIN).min(window.max(least_retention))
}

/// What is exported by OTLP. The endpoints are only checked: the library reads them, with all else that the standard has.
struct Export {
    traces: bool,
    metrics: bool,
}

impl Export {
    /// Reads whether there are endpoints, and whether export is on at all.
    fn read(reader: &mut Reader<'_>) -> Self {
        let [any, traces, metrics] = [&t::OTLP, &t::OTLP_TRACES, &t::OTLP_METRICS]
            .map(|setting| reader.optional(setting, value::url).is_some());
        let is_on = !reader.required(&t::OTEL_DISABLED, value::boolean);
        Self { traces: is_on && (any || traces), metrics: is_on && (any || metrics) }
    }
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
