//! Table of all settings: names, defaults, bounds and meanings.
//!
//! It is the only list of them, so a setting cannot exist without documentation. It is plain data
//! and long, because there are many settings. It must never read or decide anything.

use super::setting::{
    Concern,
    Fallback::{Is, Says},
    Only, Setting, Unit,
    Values::{Between, Form},
};

pub(super) static LISTEN: Setting =
    Setting::new("RELAY_LISTEN", Is("127.0.0.1:3000"), Form("HOST:PORT"), "address for clients")
        .flag("listen")
        .only(Only::Serve);
pub(super) static PORT: Setting = Setting::new(
    "PORT",
    Says("unset"),
    Form("1 to 65535"),
    "port for clients on every IPv4 address, if RELAY_LISTEN is not set",
)
.only(Only::Serve);
pub(super) static ADMIN_LISTEN: Setting = Setting::new(
    "RELAY_ADMIN_LISTEN",
    Says("clients' address"),
    Form("HOST:PORT"),
    "separate address for /livez, /readyz and /metrics",
)
.only(Only::Serve);
pub(super) static POD: Setting = Setting::new(
    "RELAY_POD",
    Says("POD_NAME, else random"),
    Form("1 to 63 of a-z 0-9 -"),
    "name of the pod; pods that run at the same time must have different names",
)
.only(Only::Serve);
pub(super) static POD_NAME: Setting = Setting::new(
    "POD_NAME",
    Says("unset"),
    Form("1 to 63 of a-z 0-9 -"),
    "name that Kubernetes gave the pod, used if RELAY_POD is not set",
)
.only(Only::Serve);

pub(super) static BROKER: Setting = Setting::new(
    "RELAY_BROKER",
    Is("memory:"),
    Form("memory:, pubsub://PROJECT/TOPIC, postgres://HOST/DATABASE or amqp[s]://HOST/VHOST"),
    "broker that carries the events; memory: stays within the process",
)
.flag("broker")
.only(Only::Serve);
pub(super) static BROKER_USER: Setting = Setting::new(
    "RELAY_BROKER_USER",
    Says("relay, or guest at RabbitMQ"),
    Form("text"),
    "user at a broker that is a server: PostgreSQL or RabbitMQ",
)
.only(Only::Serve);
pub(super) static BROKER_PASSWORD: Setting = Setting::new(
    "RELAY_BROKER_PASSWORD",
    Says("none"),
    Form("text"),
    "password of that user; a file is better",
)
.only(Only::Serve);
pub(super) static BROKER_PASSWORD_FILE: Setting = Setting::new(
    "RELAY_BROKER_PASSWORD_FILE",
    Says("none"),
    Form("file"),
    "file with the password; one final newline is not part of it",
)
.only(Only::Serve);
pub(super) static BROKER_CA_FILE: Setting = Setting::new(
    "RELAY_BROKER_CA_FILE",
    Says("the system's authorities"),
    Form("PEM file"),
    "certificate authorities that may sign the server's certificate",
)
.only(Only::Serve);
pub(super) static EMULATOR_HOST: Setting = Setting::new(
    "PUBSUB_EMULATOR_HOST",
    Says("Google"),
    Form("HOST:PORT"),
    "Pub/Sub emulator to use instead of Google",
);

pub(super) static PUBSUB_ENDPOINT: Setting = Setting::new(
    "RELAY_PUBSUB_ENDPOINT",
    Says("pubsub.googleapis.com"),
    Form("HOST[:PORT] or URL"),
    "endpoint of Google's Pub/Sub, such as europe-west1-pubsub.googleapis.com",
)
.only(Only::Serve);

pub(super) static PODS: Setting =
    Setting::new("", Is("4"), Between(Unit::Count, "1", "64"), "number of pods to run")
        .flag("pods")
        .without_variable()
        .only(Only::Cluster);
pub(super) static FIRST_PORT: Setting = Setting::new(
    "",
    Is("3001"),
    Between(Unit::Count, "1", "65535"),
    "port of the first pod on 127.0.0.1; the other pods take the next ports",
)
.flag("port")
.without_variable()
.only(Only::Cluster);
pub(super) static CLUSTER_BROKER: Setting = Setting::new(
    "",
    Says("pubsub:, else memory:"),
    Form("pubsub:, postgres:, rabbitmq:[PORT] or memory:"),
    "broker that the pods share; its server starts and stops with them, but RabbitMQ must run",
)
.flag("broker")
.without_variable()
.only(Only::Cluster);
pub(super) static CLOUDSDK_ROOT_DIR: Setting = Setting::new(
    "CLOUDSDK_ROOT_DIR",
    Says("where gcloud is"),
    Form("directory"),
    "Cloud SDK with the Pub/Sub emulator to start",
)
.only(Only::Cluster);
pub(super) static PATH: Setting =
    Setting::new("PATH", Says("unset"), Form("directories"), "directories with gcloud and initdb")
        .only(Only::Cluster);

pub(super) static AUTH: Setting = Setting::new(
    "RELAY_AUTH",
    Is("demo"),
    Form("demo or jwt"),
    "how tokens are checked; demo is refused with a real Pub/Sub project",
)
.flag("auth");
pub(super) static JWT_SECRET: Setting = Setting::new(
    "RELAY_JWT_SECRET",
    Says("unset"),
    Form("32 bytes or more"),
    "secret of HS256 tokens; a file is better",
);
pub(super) static JWT_SECRET_FILE: Setting = Setting::new(
    "RELAY_JWT_SECRET_FILE",
    Says("unset"),
    Form("file of 32 bytes or more"),
    "file with the secret; one final newline is not part of it",
);
pub(super) static JWT_JWKS: Setting = Setting::new(
    "RELAY_JWT_JWKS",
    Says("unset"),
    Form("file or http(s) URL,..."),
    "JSON Web Key Set of RS256 and ES256 tokens, one for each issuer",
);
pub(super) static JWT_JWKS_MAX_AGE: Setting = Setting::new(
    "RELAY_JWT_JWKS_MAX_AGE",
    Is("24h"),
    Between(Unit::Duration, "10m", "30d"),
    "age from which keys let no token in, if the JWKS could not be loaded since",
);
pub(super) static JWT_ISSUER: Setting = Setting::new(
    "RELAY_JWT_ISSUER",
    Says("any or none"),
    Form("text,..."),
    "iss claim that tokens must have; without other keys, those of each issuer are discovered",
);
pub(super) static JWT_LEEWAY: Setting = Setting::new(
    "RELAY_JWT_LEEWAY",
    Is("5s"),
    Between(Unit::Duration, "0s", "5m"),
    "time for which a token is accepted after its exp and before its nbf, in whole seconds",
);
pub(super) static JWT_MAX_LIFE: Setting = Setting::new(
    "RELAY_JWT_MAX_LIFE",
    Is("24h"),
    Between(Unit::Duration, "1m", "30d"),
    "time after its iat for which a token is accepted at most; a revocation stands as long",
);
pub(super) static JWT_AUDIENCE: Setting = Setting::new(
    "RELAY_JWT_AUDIENCE",
    Says("none"),
    Form("text"),
    "aud claim that tokens must have or contain; if unset, tokens must have no aud",
);

pub(super) static SCHEMA: Setting = Setting::new(
    "RELAY_SCHEMA",
    Says("built in"),
    Form("GraphQL file"),
    "types and rules of the domain; by default those of the tutorial",
)
.flag("schema");
pub(super) static DIRECTORY: Setting = Setting::new(
    "RELAY_DIRECTORY",
    Says("built in"),
    Form("JSON file"),
    "tables of the domain; by default the users and locations of the tutorial",
);
pub(super) static ALLOWED_ORIGINS: Setting = Setting::new(
    "RELAY_ALLOWED_ORIGINS",
    Says("same origin; with demo also any localhost"),
    Form("SCHEME://[*.]HOST[:PORT], null or file://,... or *"),
    "origins of web pages that may connect (CORS and WebSocket)",
);
pub(super) static ALLOWED_HEADERS: Setting = Setting::new(
    "RELAY_ALLOWED_HEADERS",
    Says("those of stock clients"),
    Form("NAME,..."),
    "further request headers that web pages may send (CORS)",
);
pub(super) static COOKIE: Setting = Setting::new(
    "RELAY_COOKIE",
    Says("no cookie"),
    Form("NAME"),
    "cookie that may hold a token; pages of listed origins may then send cookies",
);

pub(super) static REPLAY_WINDOW: Setting = Setting::new(
    "RELAY_REPLAY_WINDOW",
    Is("10m"),
    Between(Unit::Duration, "1s", "24h"),
    "how far back a client can resume; the topic must retain at least as much",
);
pub(super) static REPLAY_BYTES: Setting = Setting::new(
    "RELAY_REPLAY_BYTES",
    Is("64MiB"),
    Between(Unit::Size, "4KiB", "16GiB"),
    "memory for the events of the replay window; the oldest are removed first",
);
pub(super) static MEMORY: Setting = Setting::new(
    "RELAY_MEMORY",
    Says("75 % of the container's limit, else 768MiB"),
    Form("16MiB or more"),
    "memory that the pod divides among what it holds for clients",
);
pub(super) static ANSWER_BYTES: Setting = Setting::new(
    "RELAY_ANSWER_BYTES",
    Is("4MiB"),
    Between(Unit::Size, "4KiB", "1GiB"),
    "largest answer to a query or mutation; a larger one becomes RESULT_TOO_LARGE",
);
pub(super) static USER_EVENT_RATE: Setting = Setting::new(
    "RELAY_USER_EVENT_RATE",
    Is("50"),
    Form("1 or more, or off"),
    "events that one user may publish each second, over all pods; 4 s of them at once",
);
pub(super) static USER_EVENT_BYTES: Setting = Setting::new(
    "RELAY_USER_EVENT_BYTES",
    Is("32KiB"),
    Form("1KiB or more, or off"),
    "bytes of events that one user may publish each second, over all pods; 64 s of them at once",
);
pub(super) static QUEUE_BYTES: Setting = Setting::new(
    "RELAY_QUEUE_BYTES",
    Is("256KiB"),
    Between(Unit::Size, "1KiB", "64MiB"),
    "size of a connection's send queue; one that stays above it for a second, or reaches 8 times as much, ends as slow",
);
pub(super) static MAX_CONNECTIONS: Setting = Setting::new(
    "RELAY_MAX_CONNECTIONS",
    Is("50000"),
    Between(Unit::Count, "1", "1000000"),
    "connections of a pod at a time",
);
pub(super) static MAX_CONNECTIONS_PER_ADDRESS: Setting = Setting::new(
    "RELAY_MAX_CONNECTIONS_PER_ADDRESS",
    Is("0"),
    Between(Unit::Count, "0", "1000000"),
    "connections of one client's address at a time; 0: no limit",
);
pub(super) static TRUSTED_PROXIES: Setting = Setting::new(
    "RELAY_TRUSTED_PROXIES",
    Says("none"),
    Form("ADDRESS[/BITS],..."),
    "load balancers that name a client's address in X-Forwarded-For",
);
pub(super) static INTROSPECTION: Setting =
    Setting::new("RELAY_INTROSPECTION", Is("on"), Form("on or off"), "whether clients may query the schema");
pub(super) static MAX_WATCHERS: Setting = Setting::new(
    "RELAY_MAX_WATCHERS",
    Is("64"),
    Between(Unit::Count, "1", "10000"),
    "watchers of a connection at a time",
);

pub(super) static PAGE: Setting =
    Setting::new("RELAY_PAGE", Is("on"), Form("on or off"), "whether GET / serves a web page with GraphiQL");

pub(super) static HEARTBEAT_INTERVAL: Setting = Setting::new(
    "RELAY_HEARTBEAT_INTERVAL",
    Is("10s"),
    Between(Unit::Duration, "500ms", "1m"),
    "time between two heartbeats of a pod; after three silent intervals it opens a new feed",
);
pub(super) static ORPHAN_AFTER: Setting = Setting::new(
    "RELAY_ORPHAN_AFTER",
    Is("3m"),
    Between(Unit::Duration, "2s", "1d"),
    "time without a heartbeat after which other pods delete a pod's feeds",
);
pub(super) static CONTROL_SECRET: Setting = Setting::new(
    "RELAY_CONTROL_SECRET",
    Says("unset"),
    Form("32 bytes or more, or two of them: NEW,OLD"),
    "secret that all pods share, which proves their heartbeats; a file is better",
);
pub(super) static CONTROL_SECRET_FILE: Setting = Setting::new(
    "RELAY_CONTROL_SECRET_FILE",
    Says("unset"),
    Form("file of 32 bytes or more, or of two secrets: NEW,OLD"),
    "file with the secret, or with two; a comma or a line end separates them",
);
pub(super) static REBALANCE: Setting = Setting::new(
    "RELAY_REBALANCE",
    Is("on"),
    Form("on or off"),
    "whether old pods end some connections for new pods; needs the control secret (cluster: off)",
);

pub(super) static CONNECTION_EVENTS: Setting = Setting::new(
    "RELAY_CONNECTION_EVENTS",
    Is("off"),
    Form("on or off"),
    "whether connect and disconnect events go to the topic, for other programs",
);

pub(super) static DRAIN_DELAY: Setting = Setting::new(
    "RELAY_DRAIN_DELAY",
    Is("5s"),
    Between(Unit::Duration, "0s", "10m"),
    "time from SIGTERM until connections are refused; the load balancer reacts meanwhile (cluster: 0s)",
);
pub(super) static DRAIN_SPREAD: Setting = Setting::new(
    "RELAY_DRAIN_SPREAD",
    Is("20s"),
    Between(Unit::Duration, "0s", "30m"),
    "time after the delay in which connections end, each at its own moment (cluster: 1s)",
);
pub(super) static DRAIN_DEADLINE: Setting = Setting::new(
    "RELAY_DRAIN_DEADLINE",
    Is("45s"),
    Between(Unit::Duration, "1s", "1h"),
    "time from SIGTERM after which the remaining connections are cut off",
);

pub(super) static URL: Setting = Setting::new(
    "",
    Says("not checked"),
    Form("ws(s)://HOST[:PORT]/graphql"),
    "public URL of the pods; a WebSocket is held open there",
)
.flag("url")
.without_variable()
.only(Only::Doctor);
pub(super) static TOKEN_FILE: Setting = Setting::new(
    "",
    Says("no token"),
    Form("file"),
    "file with a token for the WebSocket; pods end a WebSocket without a token after 10s",
)
.flag("token-file")
.without_variable()
.only(Only::Doctor);
pub(super) static HOLD: Setting = Setting::new(
    "",
    Is("40s"),
    Between(Unit::Duration, "1s", "1h"),
    "time for which the WebSocket is held; Google's load balancer cuts it after 30s by default",
)
.flag("hold")
.without_variable()
.only(Only::Doctor);
pub(super) static GRACE: Setting = Setting::new(
    "",
    Says("not checked"),
    Form("duration"),
    "the pod's terminationGracePeriodSeconds, which must be long enough for the drain",
)
.flag("grace")
.without_variable()
.only(Only::Doctor);

pub(super) static LOG: Setting = Setting::new(
    "RELAY_LOG",
    Is("info"),
    Form("filter"),
    "log filter: a level, or a list such as info,pubsub_relay=debug",
);
pub(super) static LOG_FORMAT: Setting = Setting::new(
    "RELAY_LOG_FORMAT",
    Is("text"),
    Form("text or json"),
    "format of log lines; json has Cloud Logging's field names",
);

pub(super) static DEBUG_TOKEN: Setting = Setting::new(
    "RELAY_DEBUG_TOKEN",
    Says("off"),
    Form("32 bytes or more"),
    "token that may read /debug at RELAY_ADMIN_LISTEN; a file is better",
)
.only(Only::Serve);
pub(super) static DEBUG_TOKEN_FILE: Setting = Setting::new(
    "RELAY_DEBUG_TOKEN_FILE",
    Says("off"),
    Form("file of 32 bytes or more"),
    "file with the token; one final newline is not part of it",
)
.only(Only::Serve);
pub(super) static ADMIN_TOKEN: Setting = Setting::new(
    "RELAY_ADMIN_TOKEN",
    Says("off"),
    Form("32 bytes or more"),
    "token that may read /debug and act by /admin at RELAY_ADMIN_LISTEN; a file is better",
)
.only(Only::Serve);
pub(super) static ADMIN_TOKEN_FILE: Setting = Setting::new(
    "RELAY_ADMIN_TOKEN_FILE",
    Says("off"),
    Form("file of 32 bytes or more"),
    "file with the token; one final newline is not part of it",
)
.only(Only::Serve);

pub(super) static OTLP: Setting = Setting::new(
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    Says("no export"),
    Form("http(s) URL"),
    "collector of traces and metrics; the standard's other OTEL_ variables work, too",
);
pub(super) static OTLP_TRACES: Setting = Setting::new(
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    Says("OTEL_EXPORTER_OTLP_ENDPOINT"),
    Form("http(s) URL"),
    "separate collector of traces",
);
pub(super) static OTLP_METRICS: Setting = Setting::new(
    "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
    Says("OTEL_EXPORTER_OTLP_ENDPOINT"),
    Form("http(s) URL"),
    "separate collector of metrics",
);
pub(super) static OTEL_DISABLED: Setting = Setting::new(
    "OTEL_SDK_DISABLED",
    Is("false"),
    Form("true or false"),
    "true: nothing is exported, even with an endpoint",
);

/// All settings, in the order of the help and of `docs/CONFIG.md`.
pub static SETTINGS: &[Concern] = &[
    Concern { title: "Addresses and name", settings: &[&LISTEN, &PORT, &ADMIN_LISTEN, &POD, &POD_NAME] },
    Concern {
        title: "Broker",
        settings: &[
            &BROKER,
            &BROKER_USER,
            &BROKER_PASSWORD,
            &BROKER_PASSWORD_FILE,
            &BROKER_CA_FILE,
            &EMULATOR_HOST,
            &PUBSUB_ENDPOINT,
        ],
    },
    Concern { title: "Cluster", settings: &[&PODS, &FIRST_PORT, &CLUSTER_BROKER, &CLOUDSDK_ROOT_DIR, &PATH] },
    Concern {
        title: "Access",
        settings: &[
            &AUTH,
            &JWT_SECRET,
            &JWT_SECRET_FILE,
            &JWT_JWKS,
            &JWT_JWKS_MAX_AGE,
            &JWT_ISSUER,
            &JWT_AUDIENCE,
            &JWT_LEEWAY,
            &JWT_MAX_LIFE,
            &ALLOWED_ORIGINS,
            &ALLOWED_HEADERS,
            &COOKIE,
            &SCHEMA,
            &DIRECTORY,
            &PAGE,
        ],
    },
    Concern {
        title: "Limits",
        settings: &[
            &REPLAY_WINDOW,
            &REPLAY_BYTES,
            &MEMORY,
            &ANSWER_BYTES,
            &USER_EVENT_RATE,
            &USER_EVENT_BYTES,
            &QUEUE_BYTES,
            &MAX_CONNECTIONS,
            &MAX_CONNECTIONS_PER_ADDRESS,
            &TRUSTED_PROXIES,
            &MAX_WATCHERS,
            &INTROSPECTION,
        ],
    },
    Concern {
        title: "Membership",
        settings: &[
            &HEARTBEAT_INTERVAL,
            &ORPHAN_AFTER,
            &CONTROL_SECRET,
            &CONTROL_SECRET_FILE,
            &REBALANCE,
            &CONNECTION_EVENTS,
        ],
    },
    Concern { title: "Drain", settings: &[&DRAIN_DELAY, &DRAIN_SPREAD, &DRAIN_DEADLINE] },
    Concern { title: "Doctor", settings: &[&URL, &TOKEN_FILE, &HOLD, &GRACE] },
    Concern {
        title: "Logs, traces, metrics",
        settings: &[
            &LOG,
            &LOG_FORMAT,
            &DEBUG_TOKEN,
            &DEBUG_TOKEN_FILE,
            &ADMIN_TOKEN,
            &ADMIN_TOKEN_FILE,
            &OTLP,
            &OTLP_TRACES,
            &OTLP_METRICS,
            &OTEL_DISABLED,
        ],
    },
];
