//! Parsers, one for each kind of value: each turns a text into the typed value or into a complaint.
//!
//! A complaint continues a sentence that begins with the variable's name, and gives the cure. It
//! must never repeat the text of the setting, which may be a secret in the wrong variable.

use std::{
    collections::HashSet,
    fs::File,
    net::{SocketAddr, ToSocketAddrs as _},
    path::PathBuf,
    time::Duration,
};

use bytesize::ByteSize;
use rand::RngExt as _;
use tracing_subscriber::EnvFilter;

use crate::{
    auth::{
        SetupError,
        jwks::{self, JwksSource},
        secret::Secret,
    },
    broker::open::BrokerUrl,
    control::Secrets,
    telemetry::LogFormat,
    web::{AllowedHeaders, AllowedOrigin, CookieName, Origins, TrustedProxies},
};

/// Least size of an HS256 secret, in bytes: that of the hash (RFC 7518, 3.2). A shorter secret is
/// refused.
const SECRET_BYTES: usize = 32;

/// Most issuers of tokens: each costs a fetch in ten minutes.
const MAX_ISSUERS: usize = 16;

/// Value, or the complaint about the text.
pub(super) type Parsed<T> = Result<T, String>;

/// Way to check tokens, before the keys are known.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Demo,
    Jwt,
}

pub(super) fn mode(text: &str) -> Parsed<Mode> {
    match text {
        "demo" => Ok(Mode::Demo),
        "jwt" => Ok(Mode::Jwt),
        _ => Err("is not a way to check tokens: write demo or jwt".to_owned()),
    }
}

/// Accepts any text.
pub(super) fn text(text: &str) -> Parsed<String> {
    Ok(text.to_owned())
}

/// Parses an address of this machine, and looks up a host name.
pub(super) fn address(text: &str) -> Parsed<SocketAddr> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    match text.rsplit_once(':') {
        Some((host, digits)) if is_host(host) && digits.parse::<u16>().is_ok() => {}
        _ => {
            return Err(
                "is not an address with a port: write it like 127.0.0.1:3000, [::]:3000 or localhost:3000"
                    .to_owned(),
            );
        }
    }
    let addresses: Vec<_> = text.to_socket_addrs().into_iter().flatten().collect();
    // IPv4 first, as in the default. Even machines without IPv6 resolve localhost to `::1`, too.
    let address = addresses.iter().find(|address| address.is_ipv4()).or(addresses.first());
    address.copied().ok_or_else(|| "names a host that cannot be found: give an IP address".to_owned())
}

pub(super) fn port(text: &str) -> Parsed<u16> {
    // Rust's own parser would accept a sign.
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse()
        .ok()
        .filter(|port| is_plain && *port > 0)
        .ok_or_else(|| "is not a port: give 1 to 65535".to_owned())
}

/// Checks `HOST:PORT`, the form that Google's own clients accept.
pub(super) fn host_port(text: &str) -> Parsed<String> {
    match text.rsplit_once(':') {
        Some((host, digits)) if is_host(host) && port(digits).is_ok() => Ok(text.to_owned()),
        _ => Err("is not HOST:PORT: write it like localhost:8085, without a scheme".to_owned()),
    }
}

/// Parses the endpoint of a service into its URL. Tokens are sent there, so without TLS it must be
/// on this machine.
pub(super) fn endpoint(text: &str) -> Parsed<String> {
    let (scheme, authority) = text.split_once("://").unwrap_or(("https", text));
    let authority = authority.strip_suffix('/').unwrap_or(authority);
    let host = match host_port(authority) {
        Ok(_) => authority.rsplit_once(':').map_or(authority, |(host, _)| host),
        Err(_) => authority,
    };
    match scheme {
        "https" if is_host(host) => Ok(format!("https://{authority}")),
        "http" if matches!(host, "localhost" | "127.0.0.1" | "[::1]") => Ok(format!("http://{authority}")),
        _ => {
            Err("is not an endpoint: write it like europe-west1-pubsub.googleapis.com; http:// is for this \
                  machine only"
                .to_owned())
        }
    }
}

/// Returns whether the text is a name, an IPv4 address, or an IPv6 address in brackets.
fn is_host(host: &str) -> bool {
    match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            !host.is_empty()
                && host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'))
        }
    }
}

/// Parses the blocks of addresses of load balancers.
pub(super) fn proxies(text: &str) -> Parsed<TrustedProxies> {
    TrustedProxies::parse(text).ok_or_else(|| {
        "is no list of addresses: write it like 35.191.0.0/16,130.211.0.0/22,203.0.113.7".to_owned()
    })
}

pub(super) fn broker(text: &str) -> Parsed<BrokerUrl> {
    BrokerUrl::parse(text).map_err(|error| error.to_string())
}

/// Kind of broker that the user of a cluster asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wanted {
    /// The emulator that runs, else one that can be started, else memory.
    #[default]
    Any,
    /// Memory of this process.
    Memory,
    /// The emulator that runs, else one that can be started.
    PubSub,
    /// A PostgreSQL server of the cluster's own.
    Postgres,
    /// A RabbitMQ server that runs on this machine, at this port.
    RabbitMq(u16),
}

/// Port of RabbitMQ, if none is given.
const RABBITMQ_PORT: u16 = 5672;

/// Parses the broker of a cluster.
pub(super) fn cluster_broker(text: &str) -> Parsed<Wanted> {
    let rabbitmq = |port: &str| match port {
        "" => Some(RABBITMQ_PORT),
        port => port.parse().ok().filter(|port| *port > 0),
    };
    match text {
        "pubsub:" => Ok(Wanted::PubSub),
        "postgres:" => Ok(Wanted::Postgres),
        "memory:" => Ok(Wanted::Memory),
        _ => text.strip_prefix("rabbitmq:").and_then(rabbitmq).map(Wanted::RabbitMq).ok_or_else(|| {
            "is not a broker of a cluster: write pubsub:, postgres:, rabbitmq:[PORT] or memory:".to_owned()
        }),
    }
}

/// Checks a pod's name. It becomes part of the feed's name and the value of a label, and a label
/// allows the fewest characters.
pub(super) fn pod(text: &str) -> Parsed<String> {
    let is_legal = text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    match (1..=63).contains(&text.len()) && is_legal {
        true => Ok(text.to_owned()),
        false => Err("is not a pod's name: give 1 to 63 lowercase letters, digits and hyphens".to_owned()),
    }
}

/// Returns a random name such as `pod-x7k2mf`. It has no letters that look like digits. There are
/// 10^9 names, so two members hardly ever get the same one. They must not, because a pod deletes
/// all other feeds of its own name.
pub(super) fn random_pod() -> String {
    const LETTERS: &[u8] = b"abcdefghjkmnpqrstuvwxyz23456789";
    let mut rng = rand::rng();
    let suffix = (0..6).map(|_| char::from(LETTERS[rng.random_range(..LETTERS.len())]));
    format!("pod-{}", suffix.collect::<String>())
}

pub(super) fn readable_file(text: &str) -> Parsed<PathBuf> {
    match File::open(text).and_then(|file| file.metadata()) {
        Ok(metadata) if metadata.is_file() => Ok(PathBuf::from(text)),
        Ok(_) => Err("does not name a file: give the path of one".to_owned()),
        Err(problem) => Err(unreadable(&problem)),
    }
}

/// Returns the complaint about a file. It leaves out the path, which may be a secret in the wrong
/// variable.
pub(super) fn unreadable(problem: &std::io::Error) -> String {
    format!("names a file that cannot be read ({problem}): check path and permissions")
}

/// Returns the text of a secret without one final newline, since editors add one.
pub(super) fn line(bytes: Vec<u8>) -> Parsed<String> {
    let mut text = secret_text(bytes)?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}

pub(super) fn secret(bytes: Vec<u8>) -> Parsed<Secret> {
    let text = line(bytes)?;
    match text.len() >= SECRET_BYTES {
        true => Ok(Secret::new(text)),
        false => Err(format!("is too short a secret: give {SECRET_BYTES} bytes or more")),
    }
}

pub(super) fn control_secrets(bytes: Vec<u8>) -> Parsed<Secrets> {
    Secrets::parse(&secret_text(bytes)?).map_err(|error| error.to_string())
}

fn secret_text(bytes: Vec<u8>) -> Parsed<String> {
    String::from_utf8(bytes).map_err(|_| "is not UTF-8: give a secret of text, such as base64".to_owned())
}

/// Parses sources of keys, between commas.
pub(super) fn jwks_list(text: &str) -> Parsed<Vec<JwksSource>> {
    text.split(',').map(|source| jwks(source.trim())).collect()
}

/// Parses different issuers, between commas.
pub(super) fn issuers(text: &str) -> Parsed<Vec<String>> {
    let issuers: Vec<String> = text.split(',').map(|issuer| issuer.trim().to_owned()).collect();
    let distinct: HashSet<_> = issuers.iter().collect();
    match distinct.len() == issuers.len()
        && issuers.len() <= MAX_ISSUERS
        && !distinct.contains(&String::new())
    {
        true => Ok(issuers),
        false => Err(format!(
            "is no list of issuers: write 1 to {MAX_ISSUERS} different ones, with commas between"
        )),
    }
}

fn jwks(text: &str) -> Parsed<JwksSource> {
    let source = jwks_source(text)?;
    match jwks::check(&source) {
        Ok(()) => Ok(source),
        Err(SetupError::JwksFile { source, .. }) => {
            Err(format!("names a file that cannot be used: {source}"))
        }
        Err(_) => Err("is not a URL: write it like https://id.example.com/keys".to_owned()),
    }
}

fn jwks_source(text: &str) -> Parsed<JwksSource> {
    let Some((scheme, rest)) = text.split_once("://") else {
        return readable_file(text).map(JwksSource::File);
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if !matches!(scheme, "http" | "https") || authority.is_empty() || text.contains(char::is_whitespace) {
        return Err("is not a source of keys: give a file's path or an http(s) URL".to_owned());
    }
    // A failed fetch logs the URL, and would log a password in it.
    if authority.contains('@') {
        return Err("holds credentials: give a URL without them".to_owned());
    }
    Ok(JwksSource::Url(text.to_owned()))
}

pub(super) fn origins(text: &str) -> Parsed<Origins> {
    if text == "*" {
        return Ok(Origins::Any);
    }
    let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
    entries
        .map(AllowedOrigin::parse)
        .collect::<Option<Vec<_>>>()
        .filter(|list| !list.is_empty())
        .map(Origins::List)
        .ok_or_else(|| {
            "is not a list of origins: write each like https://app.example.com or https://*.example.com, nothing \
             after it, or null, or file://, or * alone"
                .to_owned()
        })
}

pub(super) fn headers(text: &str) -> Parsed<AllowedHeaders> {
    AllowedHeaders::parse(text)
        .ok_or_else(|| "is not a list of headers: write names like x-tenant,x-request-id".to_owned())
}

pub(super) fn cookie(text: &str) -> Parsed<CookieName> {
    CookieName::parse(text)
        .ok_or_else(|| "is not the name of a cookie: write it like session or __Host-session".to_owned())
}

pub(super) fn switch(text: &str) -> Parsed<bool> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("is not a switch: write on or off".to_owned()),
    }
}

/// Checks a log filter. A word that is no level names a module; a misspelt level would then silence
/// everything.
pub(super) fn log_filter(text: &str) -> Parsed<String> {
    let unknown = text.split(',').find(|directive| !logs_something(directive.trim()));
    match (EnvFilter::try_new(text), unknown) {
        (Ok(_), None) => Ok(text.to_owned()),
        (Ok(_), Some(_)) => {
            Err("names neither a level (error, warn, info, debug, trace, off) nor a module of relay \
                                 or of a library: write it like info or info,pubsub_relay=debug"
                .to_owned())
        }
        (Err(_), _) => {
            Err("is not a log filter: write a level, or such as info,pubsub_relay=debug".to_owned())
        }
    }
}

/// Returns whether a directive of a log filter names a level, or a module that exists.
fn logs_something(directive: &str) -> bool {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let target = directive.split(['=', '[']).next().unwrap_or_default();
    let is_level = LEVELS.iter().any(|level| target.eq_ignore_ascii_case(level))
        || target.parse::<u8>().is_ok_and(|level| level <= 5);
    // A span filter has no target.
    if target.is_empty() || (is_level && !directive.contains('=')) {
        return true;
    }
    let module = target.split("::").next().unwrap_or_default();
    let crates = include_str!("../../../Cargo.lock").lines().filter_map(|line| {
        line.strip_prefix("name = \"")?.strip_suffix('"').map(|name| name.replace('-', "_"))
    });
    // Our spans have a target of their own, and a target may be part of a crate's name.
    crates.chain(["relay".to_owned()]).any(|name| name.starts_with(module))
}

pub(super) fn log_format(text: &str) -> Parsed<LogFormat> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err("is not a log format: write text or json".to_owned()),
    }
}

/// Checks the URL of a collector. It holds no credentials: they are sent in headers.
pub(super) fn url(text: &str) -> Parsed<()> {
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    let authority = rest.and_then(|rest| rest.split(['/', '?', '#']).next()).unwrap_or_default();
    match is_host(authority) || host_port(authority).is_ok() {
        true => Ok(()),
        false => Err("is not the URL of a collector: write it like http://localhost:4318".to_owned()),
    }
}

pub(super) fn boolean(text: &str) -> Parsed<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err("is neither true nor false: write one of them".to_owned()),
    }
}

/// Checks the URL at which clients connect. It refuses credentials before an `@`, because `ps`
/// would show them.
pub(super) fn websocket_url(text: &str) -> Parsed<String> {
    let rest = text.strip_prefix("ws://").or_else(|| text.strip_prefix("wss://"));
    let authority = rest.and_then(|rest| rest.split(['/', '?', '#']).next()).unwrap_or_default();
    match is_host(authority) || host_port(authority).is_ok() {
        true => Ok(text.to_owned()),
        false => {
            Err("is not the URL of a WebSocket: write it like wss://relay.example.com/graphql".to_owned())
        }
    }
}

pub(super) fn duration(text: &str) -> Parsed<Duration> {
    let nanoseconds = nanoseconds(text).map(Duration::from_nanos);
    nanoseconds.ok_or_else(|| "is not a duration: write it like 90s".to_owned())
}

/// Parses a duration such as `10m` or `1h 30m` into nanoseconds.
pub(super) fn nanoseconds(text: &str) -> Option<u64> {
    humantime::parse_duration(text).ok()?.as_nanos().try_into().ok()
}

/// Parses a size such as `64MiB`, `1.5GiB` or `500kB`, or a bare number of bytes, into bytes.
pub(super) fn bytes(text: &str) -> Option<u64> {
    text.parse::<ByteSize>().ok().map(|size| size.as_u64())
}

/// Parses the memory of the ledger, in bytes. A pod with less than 16 MiB could hold nothing.
pub(super) fn memory(text: &str) -> Parsed<usize> {
    let size = bytes(text).and_then(|bytes| usize::try_from(bytes).ok());
    size.filter(|size| *size >= 16 << 20)
        .ok_or_else(|| "is not a size of 16MiB or more: write it like 768MiB".to_owned())
}

/// Parses a number of events a second; `None` for `off`.
pub(super) fn event_rate(text: &str) -> Parsed<Option<u64>> {
    rate(text, |text| text.parse().ok(), 1).ok_or_else(|| "is no rate: write it like 50, or off".to_owned())
}

/// Parses a number of bytes a second; `None` for `off`.
pub(super) fn event_bytes(text: &str) -> Parsed<Option<u64>> {
    rate(text, bytes, 1_024).ok_or_else(|| "is not 1KiB or more, or off: write it like 32KiB".to_owned())
}

/// Parses an amount a second, which may end with `/s`.
fn rate(text: &str, parse: impl Fn(&str) -> Option<u64>, least: u64) -> Option<Option<u64>> {
    if text == "off" {
        return Some(None);
    }
    let amount = parse(text.strip_suffix("/s").unwrap_or(text))?;
    (amount >= least).then_some(Some(amount))
}
