//! [`Service`]: a fake of Google's Pub/Sub and of a metadata server, with faults on demand.
//!
//! The emulator never refuses, never runs out of a quota and asks for no credentials. The fake does
//! all that, as far as pods notice it. It speaks TLS, seeks ordered feeds and gives a new feed
//! nothing without a seek, as the real service does. It must never be easier to serve from than the
//! real one.

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    future::poll_fn,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard},
    task::Poll,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::body::{Body, to_bytes};
use bytes::{Buf as _, Bytes, BytesMut};
use http::{HeaderMap, Method, Request, Response};
use hyper_util::rt::TokioIo;
use prost::Message as _;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    select,
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{self, pki_types::PrivateKeyDer},
};
use uuid::Uuid;

use super::{Message, Setup};

/// Topic that exists from the start.
const TOPIC: &str = "projects/p-1/topics/events";

/// How often an idle stream looks for messages.
const TICK: Duration = Duration::from_millis(20);

/// Most subscriptions of one page of a listing.
const PAGE: usize = 10;

/// Secret of the pods' tokens.
const SECRET: &str = "a-secret-of-the-tests-that-is-long-enough";

/// What the fake answers instead of doing its work.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    code: i32,
    text: &'static str,
    /// Part of the resource's name; the fault is for these only.
    only: &'static str,
}

impl Fault {
    pub(crate) const fn missing() -> Self {
        Self { code: 5, text: "Resource not found.", only: "" }
    }

    pub(crate) const fn denied() -> Self {
        Self { code: 7, text: "User not authorized to perform this action.", only: "" }
    }

    pub(crate) const fn exhausted() -> Self {
        Self { code: 8, text: "Quota exceeded for quota metric.", only: "" }
    }

    pub(crate) const fn precondition(text: &'static str) -> Self {
        Self { code: 9, text, only: "" }
    }

    /// Restricts the fault to resources with this text in their names.
    pub(crate) const fn only(mut self, only: &'static str) -> Self {
        self.only = only;
        self
    }

    const fn name(&self) -> (&'static str, u16) {
        match self.code {
            5 => ("NOT_FOUND", 404),
            6 => ("ALREADY_EXISTS", 409),
            7 => ("PERMISSION_DENIED", 403),
            8 => ("RESOURCE_EXHAUSTED", 429),
            9 => ("FAILED_PRECONDITION", 400),
            _ => ("UNAVAILABLE", 503),
        }
    }
}

/// Behaviour of the metadata server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Metadata {
    #[default]
    Sound,
    Status(u16),
    Hangs,
}

/// State of the fake, which a test may change at any time.
#[derive(Default)]
pub(crate) struct State {
    /// Faults by method: `create`, `seek`, `delete`, `list`, `get`, `permissions`, `publish`,
    /// `stream`.
    pub(crate) faults: HashMap<&'static str, Fault>,
    /// Number of calls by method.
    pub(crate) calls: HashMap<&'static str, usize>,
    /// Calls that found nothing to delete.
    pub(crate) missed_deletions: usize,
    /// Names of the subscriptions that exist.
    pub(crate) feeds: BTreeMap<String, Feed>,
    /// Largest number of subscriptions at a time.
    pub(crate) most_feeds: usize,
    /// Largest number of subscriptions of one pod at a time.
    pub(crate) most_of_one_pod: usize,
    /// Number of subscriptions that may exist.
    pub(crate) quota: Option<usize>,
    pub(crate) metadata: Metadata,
    /// Permission that IAM does not grant.
    pub(crate) withheld: Option<&'static str>,
    /// Life of the metadata server's tokens, in seconds; an hour if it is zero.
    pub(crate) token_seconds: u64,
    /// How much the service's clock is ahead of this machine's, in seconds.
    pub(crate) clock: i64,
    /// Time after a seek in which it has no effect.
    pub(crate) replay_delay: Duration,
    /// Time that each message takes to a feed.
    pub(crate) delivery_delay: Duration,
    /// Part of the names of feeds whose streams bring nothing.
    pub(crate) deaf: Option<&'static str>,
    /// Time that each page of a listing takes.
    pub(crate) page_delay: Duration,
    /// Retention of the topic; ten minutes if it is not set.
    pub(crate) retention: Option<&'static str>,
    log: Vec<(Instant, PubsubMessage)>,
    /// Number of times that the service sent all its clients away.
    goaways: watch::Sender<u32>,
}

/// Subscription: indices of the messages that it has not delivered, with the time from which each
/// may be.
#[derive(Default)]
pub(crate) struct Feed {
    waiting: Vec<(Instant, usize)>,
}

impl State {
    /// Counts the call. Returns the fault that answers it, if there is one.
    fn hit(&mut self, method: &'static str, resource: &str) -> Option<Fault> {
        *self.calls.entry(method).or_default() += 1;
        self.faults.get(method).filter(|fault| resource.contains(fault.only)).cloned()
    }

    /// Updates the largest numbers of subscriptions after this one was created.
    fn count_feeds_beside(&mut self, name: &str) {
        self.most_feeds = self.most_feeds.max(self.feeds.len());
        let of_pod = name.rsplit_once('.').map_or(name, |(pod, _)| pod);
        let count = self.feeds.keys().filter(|feed| feed.starts_with(&format!("{of_pod}."))).count();
        self.most_of_one_pod = self.most_of_one_pod.max(count);
    }

    /// Returns those of the permissions that IAM grants.
    fn granted<'a>(&self, asked: &'a Value) -> Vec<&'a Value> {
        let asked = asked.as_array().into_iter().flatten();
        asked.filter(|permission| permission.as_str() != self.withheld).collect()
    }

    fn publish(&mut self, mut message: PubsubMessage) -> String {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let seconds = i64::try_from(at.as_secs()).unwrap() + self.clock;
        let nanos = i32::try_from(at.subsec_nanos()).unwrap();
        message.publish_time = Some(Timestamp { seconds, nanos });
        message.message_id = (1_000 + self.log.len()).to_string();
        let id = message.message_id.clone();
        let due = Instant::now() + self.delivery_delay;
        for feed in self.feeds.values_mut() {
            feed.waiting.push((due, self.log.len()));
        }
        self.log.push((Instant::now(), message));
        id
    }

    fn seek(&mut self, name: &str, since: i64) {
        let shown = Instant::now() + self.replay_delay;
        let is_in =
            |message: &PubsubMessage| message.publish_time.as_ref().is_some_and(|at| at.seconds >= since);
        let indices = (0..self.log.len()).filter(|&n| is_in(&self.log[n].1));
        let waiting = indices.map(|n| (shown, n)).collect();
        self.feeds.insert(name.to_owned(), Feed { waiting });
    }

    /// Takes the messages that are due for this feed; `None` if there is no such feed.
    fn take(&mut self, name: &str) -> Option<Vec<PubsubMessage>> {
        let feed = self.feeds.get_mut(name)?;
        if self.deaf.is_some_and(|deaf| name.contains(deaf)) {
            return Some(Vec::new());
        }
        let now = Instant::now();
        let (due, waiting) = std::mem::take(&mut feed.waiting).into_iter().partition(|(at, _)| *at <= now);
        feed.waiting = waiting;
        let due: Vec<(Instant, usize)> = due;
        Some(due.into_iter().map(|(_, n)| self.log[n].1.clone()).collect())
    }

    /// Publishes a message of a foreign program.
    pub(crate) fn take_foreign(&mut self, message: &Message) {
        let (attributes, data) = message.parts();
        let ordering_key = "foreign".to_owned();
        self.publish(PubsubMessage { data, attributes, ordering_key, ..PubsubMessage::default() });
    }

    /// Deletes all feeds, as an operator may by mistake.
    pub(crate) fn delete_feeds(&mut self) {
        self.feeds.clear();
    }

    /// Asks all clients to leave their connections, and ends their streams.
    pub(crate) fn send_away(&self) {
        self.goaways.send_modify(|goaways| *goaways += 1);
    }

    /// Returns the number of feeds of this pod.
    pub(crate) fn feeds_of(&self, pod: &str) -> usize {
        self.feeds.keys().filter(|name| name.contains(&format!(".{pod}."))).count()
    }
}

/// Running fake. It ends when it is dropped.
pub(crate) struct Service {
    port: u16,
    /// File with the certificate that signs the service's own.
    authority: PathBuf,
    state: Arc<Mutex<State>>,
    _tasks: JoinSet<()>,
}

impl Service {
    pub(crate) async fn start() -> Self {
        // On all addresses, since only 127.0.0.1 is always exempt from proxies.
        let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(Mutex::new(State::default()));
        let certificate =
            rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        let authority = std::env::temp_dir().join(format!("service-{}.pem", Uuid::now_v7().simple()));
        std::fs::write(&authority, certificate.cert.pem()).unwrap();
        let key = PrivateKeyDer::try_from(certificate.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ServerConfig::builder_with_provider(provider);
        let tls = tls.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let mut tls = tls.with_single_cert(vec![certificate.cert.der().clone()], key).unwrap();
        // Clients of REST offer both, those of gRPC the second only.
        tls.alpn_protocols = vec![b"http/1.1".to_vec(), b"h2".to_vec()];
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, TlsAcceptor::from(Arc::new(tls)), state.clone()));
        Self { port, authority, state, _tasks: tasks }
    }

    /// Returns its address, as `host:port`.
    pub(crate) fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Returns the state. It must not be held across an `await`.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Creates the setup of a pod that takes the fake for Google's service.
    pub(crate) fn pod(&self, name: &str) -> Setup {
        self.at(Setup::new(name))
    }

    /// Adds the access to the fake to a setup.
    pub(crate) fn at(&self, setup: Setup) -> Setup {
        setup
            .set("RELAY_BROKER", "pubsub://p-1/events")
            .set("RELAY_PUBSUB_ENDPOINT", format!("https://localhost:{}", self.port))
            .set("SSL_CERT_FILE", self.authority.to_str().unwrap())
            .set("GCE_METADATA_HOST", format!("127.0.0.1:{}", self.port))
            .set("HOME", "/nonexistent")
            .set("RELAY_AUTH", "jwt")
            .set("RELAY_JWT_SECRET", SECRET)
            .set("RELAY_HEARTBEAT_INTERVAL", "1s")
    }

    /// Returns a token of this user for the fake's pods.
    pub(crate) fn token(user: &str) -> String {
        let expires = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + 3_600;
        let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
        let claims = json!({ "sub": user, "exp": expires });
        jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).unwrap()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        std::fs::remove_file(&self.authority).ok();
    }
}

async fn accept(listener: TcpListener, tls: TlsAcceptor, state: Arc<Mutex<State>>) {
    let mut connections = JoinSet::new();
    while let Ok((socket, _)) = listener.accept().await {
        connections.spawn(serve(socket, tls.clone(), state.clone()));
        while connections.try_join_next().is_some() {}
    }
}

/// Serves gRPC or REST over TLS, or the metadata server without, as the first byte shows.
async fn serve(socket: TcpStream, tls: TlsAcceptor, state: Arc<Mutex<State>>) {
    const HANDSHAKE: u8 = 22;
    let mut head = [0];
    let Ok(1) = socket.peek(&mut head).await else { return };
    if head != [HANDSHAKE] {
        return serve_rest(socket, state).await;
    }
    let Ok(socket) = tls.accept(socket).await else { return };
    match socket.get_ref().1.alpn_protocol() {
        Some(b"h2") => serve_grpc(socket, state).await,
        _ => serve_rest(socket, state).await,
    }
}

async fn serve_rest(socket: impl AsyncRead + AsyncWrite + Unpin, state: Arc<Mutex<State>>) {
    let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
        let state = state.clone();
        async move { Ok::<_, Infallible>(rest(request.map(Body::new), &state).await) }
    });
    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service).await.ok();
}

// REST: administrative calls, and the metadata server.

fn answer(status: u16, body: &Value) -> Response<Body> {
    let builder = Response::builder().status(status).header("metadata-flavor", "Google");
    builder.header("content-type", "application/json").body(Body::from(body.to_string())).unwrap()
}

fn refuse(fault: &Fault) -> Response<Body> {
    let (name, status) = fault.name();
    let error = json!({ "code": status, "message": fault.text, "status": name });
    answer(status, &json!({ "error": error }))
}

async fn rest(request: Request<Body>, state: &Mutex<State>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path();
    if path.starts_with("/computeMetadata") {
        return metadata(path, state).await;
    }
    let has_token = parts.headers.contains_key("authorization");
    let body = to_bytes(body, 1 << 20).await.unwrap_or_default();
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    if parts.method == Method::GET && path.ends_with("/subscriptions") {
        let delay = state.lock().unwrap().page_delay;
        sleep(delay).await;
    }
    let mut state = state.lock().unwrap();
    if !has_token {
        return answer(
            401,
            &json!({ "error": { "code": 401, "message": "no token", "status": "UNAUTHENTICATED" } }),
        );
    }
    let query = parts.uri.query().unwrap_or_default();
    let page = query.split('&').find_map(|pair| pair.strip_prefix("pageToken="));
    administer(&mut state, &parts.method, path, page, &body)
}

async fn metadata(path: &str, state: &Mutex<State>) -> Response<Body> {
    let (mode, seconds) = {
        let state = state.lock().unwrap();
        (state.metadata, state.token_seconds)
    };
    match mode {
        _ if path.contains("universe") => Response::new(Body::from("googleapis.com")),
        Metadata::Sound => {
            let seconds = if seconds == 0 { 3_600 } else { seconds };
            answer(200, &json!({ "access_token": "t", "expires_in": seconds, "token_type": "Bearer" }))
        }
        Metadata::Status(status) => answer(status, &json!({})),
        Metadata::Hangs => std::future::pending().await,
    }
}

fn administer(
    state: &mut State,
    method: &Method,
    path: &str,
    page: Option<&str>,
    body: &Value,
) -> Response<Body> {
    let name = path.trim_start_matches("/v1/");
    let (name, verb) = name.split_once(':').unwrap_or((name, ""));
    let kind = name.split('/').nth(2).unwrap_or_default();
    let is_one = name.split('/').count() == 4;
    let missing = Fault::missing();
    let call = match (method.as_str(), kind, verb) {
        ("PUT", "subscriptions", "") => "create",
        ("POST", "subscriptions", "seek") => "seek",
        ("DELETE", "subscriptions", "") => "delete",
        ("GET", "subscriptions", "") if !is_one => "list",
        ("GET", "topics", "") => "get",
        ("POST", _, "testIamPermissions") => "permissions",
        _ => return refuse(&missing),
    };
    if let Some(fault) = state.hit(call, name) {
        return refuse(&fault);
    }
    let retention = state.retention.unwrap_or("600s");
    match call {
        "permissions" => answer(200, &json!({ "permissions": state.granted(&body["permissions"]) })),
        "get" if name == TOPIC => {
            answer(200, &json!({ "name": name, "messageRetentionDuration": retention }))
        }
        "create" if body["topic"] == TOPIC => {
            if state.quota.is_some_and(|quota| state.feeds.len() >= quota) {
                return refuse(&Fault::exhausted());
            }
            state.feeds.insert(name.to_owned(), Feed::default());
            state.count_feeds_beside(name);
            let mut body = body.clone();
            body["name"] = json!(name);
            body["topicMessageRetentionDuration"] = json!(retention);
            answer(200, &body)
        }
        "seek" if state.feeds.contains_key(name) => {
            let since = body["time"].as_str().unwrap_or_default();
            let since = time::OffsetDateTime::parse(since, &time::format_description::well_known::Rfc3339);
            state.seek(name, since.unwrap().unix_timestamp());
            answer(200, &json!({}))
        }
        "delete" => match state.feeds.remove(name) {
            Some(_) => answer(200, &json!({})),
            None => {
                state.missed_deletions += 1;
                refuse(&missing)
            }
        },
        "list" => {
            let labelled = |name| json!({ "name": name, "labels": { "app": "pubsub-relay" } });
            let begin = page.and_then(|page| page.parse().ok()).unwrap_or(0);
            let names: Vec<_> = state.feeds.keys().skip(begin).take(PAGE).map(labelled).collect();
            let next = begin + names.len();
            let next = if next < state.feeds.len() { next.to_string() } else { String::new() };
            answer(200, &json!({ "subscriptions": names, "nextPageToken": next }))
        }
        _ => refuse(&missing),
    }
}

// gRPC: publishing and streams.

async fn serve_grpc(socket: impl AsyncRead + AsyncWrite + Unpin, state: Arc<Mutex<State>>) {
    let Ok(mut connection) = h2::server::handshake(socket).await else { return };
    let mut goaways = state.lock().unwrap().goaways.subscribe();
    let mut calls = JoinSet::new();
    loop {
        let accepted = select! {
            accepted = connection.accept() => accepted,
            Ok(()) = goaways.changed() => {
                connection.graceful_shutdown();
                continue;
            }
        };
        let Some(Ok((request, respond))) = accepted else { return };
        let state = state.clone();
        calls.spawn(async move {
            call(request, respond, &state).await;
        });
        while calls.try_join_next().is_some() {}
    }
}

/// Answers one call; `None` if its connection has gone.
async fn call(
    request: Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
    state: &Mutex<State>,
) -> Option<()> {
    let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
    let has_token = request.headers().contains_key("authorization");
    let mut body = request.into_body();
    let first = frame(&mut body).await?;
    let refusal = match &*method {
        _ if !has_token => Some(Fault { code: 16, text: "no token", only: "" }),
        "Publish" => {
            let messages = PublishRequest::decode(first.clone()).unwrap().messages;
            let source = messages.first().and_then(|message| message.attributes.get("ce-source"));
            state.lock().unwrap().hit("publish", source.map_or("", |source| source))
        }
        "StreamingPull" => {
            let subscription = StreamingPullRequest::decode(first.clone()).unwrap().subscription;
            state.lock().unwrap().hit("stream", &subscription)
        }
        _ => None,
    };
    let head = Response::builder().header("content-type", "application/grpc");
    if let Some(fault) = refusal {
        let head = head.header("grpc-status", fault.code).header("grpc-message", fault.text);
        respond.send_response(head.body(()).unwrap(), true).ok()?;
        return Some(());
    }
    let mut stream = respond.send_response(head.body(()).unwrap(), false).ok()?;
    if method == "StreamingPull" {
        let name = StreamingPullRequest::decode(first).unwrap().subscription;
        return pull(&name, &mut stream, state).await;
    }
    let reply = match &*method {
        "Publish" => {
            let messages = PublishRequest::decode(first).unwrap().messages;
            let mut state = state.lock().unwrap();
            let message_ids = messages.into_iter().map(|message| state.publish(message)).collect();
            PublishResponse { message_ids }.encode_to_vec()
        }
        _ => Vec::new(),
    };
    send(&mut stream, &reply)?;
    end(&mut stream, 0, "")
}

/// Sends the messages of a feed until it is deleted or the connection has gone.
async fn pull(name: &str, stream: &mut h2::SendStream<Bytes>, state: &Mutex<State>) -> Option<()> {
    let (mut number, goaways) = (0, state.lock().unwrap().goaways.subscribe());
    loop {
        if goaways.has_changed().unwrap_or(true) {
            return end(stream, 14, "The service was unable to fulfill your request.");
        }
        let taken = state.lock().unwrap().take(name);
        let Some(messages) = taken else { return end(stream, 5, "Resource not found.") };
        if !messages.is_empty() {
            let received_messages = messages.into_iter().map(|message| {
                number += 1;
                ReceivedMessage { ack_id: number.to_string(), message: Some(message) }
            });
            let reply = StreamingPullResponse { received_messages: received_messages.collect() };
            send(stream, &reply.encode_to_vec())?;
        }
        sleep(TICK).await;
        // A stream whose reader has gone ends here.
        let ended = poll_fn(|context| Poll::Ready(stream.poll_reset(context))).await;
        if ended.is_ready() {
            return None;
        }
    }
}

/// Receives the first message of a call.
async fn frame(body: &mut h2::RecvStream) -> Option<Bytes> {
    let mut bytes = BytesMut::new();
    loop {
        if bytes.len() >= 5 {
            let length = (&bytes[1..5]).get_u32() as usize;
            if bytes.len() >= 5 + length {
                return Some(bytes.split_off(5).split_to(length).freeze());
            }
        }
        let chunk = body.data().await?.ok()?;
        body.flow_control().release_capacity(chunk.len()).ok()?;
        bytes.extend_from_slice(&chunk);
    }
}

fn send(stream: &mut h2::SendStream<Bytes>, message: &[u8]) -> Option<()> {
    let mut frame = vec![0];
    frame.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
    frame.extend_from_slice(message);
    stream.send_data(frame.into(), false).ok()
}

fn end(stream: &mut h2::SendStream<Bytes>, code: i32, text: &'static str) -> Option<()> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", code.into());
    trailers.insert("grpc-message", text.parse().unwrap());
    stream.send_trailers(trailers).ok()
}

// The fields of Google's messages that pods use.

#[derive(Clone, PartialEq, prost::Message)]
struct PublishRequest {
    #[prost(message, repeated, tag = "2")]
    messages: Vec<PubsubMessage>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PublishResponse {
    #[prost(string, repeated, tag = "1")]
    message_ids: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PubsubMessage {
    #[prost(bytes = "vec", tag = "1")]
    data: Vec<u8>,
    #[prost(map = "string, string", tag = "2")]
    attributes: HashMap<String, String>,
    #[prost(string, tag = "3")]
    message_id: String,
    #[prost(message, optional, tag = "4")]
    publish_time: Option<Timestamp>,
    #[prost(string, tag = "5")]
    ordering_key: String,
}

#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
struct Timestamp {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StreamingPullRequest {
    #[prost(string, tag = "1")]
    subscription: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StreamingPullResponse {
    #[prost(message, repeated, tag = "1")]
    received_messages: Vec<ReceivedMessage>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ReceivedMessage {
    #[prost(string, tag = "1")]
    ack_id: String,
    #[prost(message, optional, tag = "2")]
    message: Option<PubsubMessage>,
}
