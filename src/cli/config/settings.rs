//! [`Settings`]: values of the settings, in the settings structs of each module.
//!
//! A [`Reader`] supplies the values and collects the problems. It must never decide what a setting
//! does: the module decides that.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use super::{Setting, otel, proxy, reader::Reader, table as t, value};
use crate::{
    auth,
    broker::{open::BrokerUrl, postgres},
    budget::{self, memory},
    hub::window::{Bounds, MARGIN},
    pod::{self, Drain},
    telemetry,
    web::{self, Origins},
};

/// Defaults of a drain's waits that are shorter in a cluster. On a laptop there is no load balancer
/// to wait for, and a user waits for the prompt.
pub(super) const CLUSTER_WAITS: [(&Setting, Duration); 2] =
    [(&t::DRAIN_DELAY, Duration::ZERO), (&t::DRAIN_SPREAD, Duration::from_secs(1))];

/// Settings of the program: those of a pod, and those that only the program needs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Settings of the pod. Traces are off, and the page has no tabs, until the program adds them.
    pub pod: pod::Settings,
    /// `RELAY_BROKER`, for the commands that read the topic themselves.
    pub broker: BrokerUrl,
    /// Files of the domain, which the domain accepted.
    pub domain: DomainFiles,
    /// `RELAY_LOG`, `RELAY_LOG_FORMAT`, and whether traces have an OTLP endpoint.
    pub telemetry: telemetry::Settings,
    /// Names of variables that begin with `RELAY_` and are no setting. They are probably misspelt,
    /// so the program logs a warning for each.
    pub unknown: Vec<String>,
}

/// Files that only the domain can read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DomainFiles {
    /// `RELAY_SCHEMA`: file of the domain; `None`: the built-in domain.
    pub schema: Option<PathBuf>,
    /// `RELAY_DIRECTORY`: tables of the domain; `None`: the built-in ones.
    pub directory: Option<PathBuf>,
}

/// File that the domain refuses, with everything that is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadFile {
    /// Problems of the file that `RELAY_SCHEMA` names.
    Schema(Vec<String>),
    /// Problem of the file that `RELAY_DIRECTORY` names.
    Directory(String),
    /// The schema names tables, and `RELAY_DIRECTORY` is not set.
    NoDirectory,
}

/// Reads the files of the domain.
pub(super) fn domain_files(reader: &mut Reader<'_>) -> DomainFiles {
    DomainFiles {
        schema: reader.optional(&t::SCHEMA, value::readable_file),
        directory: reader.optional(&t::DIRECTORY, value::readable_file),
    }
}

/// Reads the address for clients, and the one for probes and operators if it is set.
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
    let endpoint = reader.optional(&t::PUBSUB_ENDPOINT, value::endpoint);
    if let BrokerUrl::PubSub(topic) = &mut broker {
        topic.endpoint = endpoint;
        if topic.emulator.is_none() {
            let url = topic.settings("", Duration::ZERO).endpoint_url();
            topic.proxy = proxy::before(reader.environment(), &url);
        }
    }
    login(reader, &mut broker);
    let pod = match reader.is_given(&t::POD) {
        true => reader.optional(&t::POD, value::pod),
        false => reader.optional(&t::POD_NAME, value::pod),
    };
    let mut settings = shared(reader, broker, &[]);
    (settings.pod.listen, settings.pod.admin_listen) = (listen, admin_listen);
    settings.pod.name = pod.unwrap_or_else(value::random_pod);
    (settings.pod.web.debug_token, settings.pod.web.admin_token) = reader.operator_tokens();
    if let Err(complaint) = settings.pod.broker.check_pod(&settings.pod.name) {
        reader.refuse(&t::BROKER, &complaint);
    }
    if settings.broker.server().is_some_and(|server| !server.is_loopback()) && reader.is_demo() {
        reader.refuse(
            &t::AUTH,
            "demo accepts every client and is refused with a broker on another machine: set it to jwt",
        );
    }
    if let BrokerUrl::PubSub(topic) = &settings.broker {
        settings.telemetry.project = Some(topic.project.clone());
        if topic.emulator.is_none() && !reader.is_given(&t::EMULATOR_HOST) && reader.is_demo() {
            reader.refuse(
                &t::AUTH,
                "demo accepts every client and is refused with a real Pub/Sub project: set it to jwt, or PUBSUB_EMULATOR_HOST",
            );
        }
    }
    settings
}

/// Reads the name of the topic in PostgreSQL, for the script that makes its tables.
pub(super) fn topic(reader: &mut Reader<'_>) -> String {
    match reader.optional(&t::BROKER, value::broker) {
        Some(BrokerUrl::Postgres(topic)) => topic.name,
        Some(_) => {
            reader.refuse(&t::BROKER, "is not PostgreSQL: write postgres://HOST/DATABASE, or unset it");
            String::new()
        }
        None => postgres::TOPIC.to_owned(),
    }
}

/// Reads the login at the broker, if the broker is a server.
fn login(reader: &mut Reader<'_>, broker: &mut BrokerUrl) {
    let all = [&t::BROKER_USER, &t::BROKER_PASSWORD, &t::BROKER_PASSWORD_FILE, &t::BROKER_CA_FILE];
    let Some(server) = broker.server() else {
        for setting in all.into_iter().filter(|setting| reader.is_given(setting)).collect::<Vec<_>>() {
            reader.refuse(setting, "is of no use with this broker: unset it, or correct RELAY_BROKER");
        }
        return;
    };
    server.login.user = reader.optional(&t::BROKER_USER, value::text);
    server.login.password = reader.password();
    server.login.ca_file = reader.optional(&t::BROKER_CA_FILE, value::readable_file);
}

/// Reads the settings that all commands with pods share. Name and addresses are placeholders.
/// `waits` replace the defaults of these settings.
pub(super) fn shared(reader: &mut Reader<'_>, broker: BrokerUrl, waits: &[(&Setting, Duration)]) -> Settings {
    let auth = reader.auth();
    let default_origins = match auth {
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
        origins: reader.optional(&t::ALLOWED_ORIGINS, value::origins).unwrap_or(default_origins),
        allowed_headers: reader.optional(&t::ALLOWED_HEADERS, value::headers).unwrap_or_default(),
        cookie: reader.optional(&t::COOKIE, value::cookie),
        queue_bytes: reader.size(&t::QUEUE_BYTES),
        max_connections: reader.size(&t::MAX_CONNECTIONS),
        max_connections_per_address: reader.size(&t::MAX_CONNECTIONS_PER_ADDRESS),
        trusted_proxies: reader.optional(&t::TRUSTED_PROXIES, value::proxies).unwrap_or_default(),
        max_watchers: reader.size(&t::MAX_WATCHERS),
        debug_token: None,
        admin_token: None,
        page: reader.required(&t::PAGE, value::switch).then(Vec::new),
        story: None,
    };
    pod.introspection = reader.required(&t::INTROSPECTION, value::switch);
    pod.window = window;
    pod.heartbeat_interval = reader.duration(&t::HEARTBEAT_INTERVAL);
    pod.orphan_after = reader.duration(&t::ORPHAN_AFTER);
    pod.control_secrets = reader.control_secrets();
    pod.rebalances = reader.required(&t::REBALANCE, value::switch);
    pod.connection_events = reader.required(&t::CONNECTION_EVENTS, value::switch);
    pod.budget = budget(reader);
    pod.drain = drain(reader, waits);
    pod.export_metrics = export.metrics;
    Settings {
        pod,
        broker,
        domain: domain_files(reader),
        telemetry: telemetry::Settings {
            log: reader.required(&t::LOG, value::log_filter),
            log_format: reader.required(&t::LOG_FORMAT, value::log_format),
            project: None,
            names_threads: false,
            export_traces: export.traces,
        },
        unknown: reader.unknown(),
    }
}

/// Reads the sizes of the ledger.
fn budget(reader: &mut Reader<'_>) -> budget::Settings {
    let memory = reader.optional(&t::MEMORY, value::memory).unwrap_or_else(memory::available);
    budget::Settings {
        memory,
        answer_bytes: reader.size(&t::ANSWER_BYTES),
        user_event_rate: reader.required(&t::USER_EVENT_RATE, value::event_rate),
        user_event_bytes: reader.required(&t::USER_EVENT_BYTES, value::event_bytes),
    }
}

/// Returns how far back a pod keeps events. It is [`MARGIN`] more than the window, because a replay
/// needs the events before its cursor. But it is at most the larger one of the window and
/// `least_retention`. So a topic that retains the window is enough.
fn reach(window: Duration, least_retention: Duration) -> Duration {
    (window + MARGIN).min(window.max(least_retention))
}

/// Signals that are exported by OTLP. The endpoints are only checked here. OpenTelemetry's library
/// reads them itself, like the standard's other variables.
struct Export {
    traces: bool,
    metrics: bool,
}

impl Export {
    /// Reads which signals have an endpoint, and whether export is on at all.
    fn read(reader: &mut Reader<'_>) -> Self {
        let [any, traces, metrics] = [&t::OTLP, &t::OTLP_TRACES, &t::OTLP_METRICS]
            .map(|setting| reader.optional(setting, value::url).is_some());
        let is_on = !reader.required(&t::OTEL_DISABLED, value::boolean);
        let export = Self { traces: is_on && (any || traces), metrics: is_on && (any || metrics) };
        if export.traces || export.metrics {
            reader.check(otel::problems);
        }
        export
    }
}

/// Reads the waits of a drain. `waits` replace the defaults of these settings.
fn drain(reader: &mut Reader<'_>, waits: &[(&Setting, Duration)]) -> Drain {
    let [delay, spread, deadline] = [&t::DRAIN_DELAY, &t::DRAIN_SPREAD, &t::DRAIN_DEADLINE].map(|setting| {
        let given = reader.duration(setting);
        let default =
            waits.iter().find(|(other, _)| std::ptr::eq(*other, setting) && !reader.is_given(setting));
        default.map_or(given, |(_, wait)| *wait)
    });
    Drain { delay, spread, deadline }
}
