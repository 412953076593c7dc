//! The driver of one WebSocket: frames to [`Protocol`], its decisions to the engine, deliveries to the socket.
//!
//! One task a connection. It holds no rule of the subprotocols, and nothing that it waits for is unbounded: a peer that
//! does not read, answer or say who it is ends, and costs the others nothing.

pub mod protocol;

use std::{
    collections::{HashMap, VecDeque},
    convert::Infallible,
    mem,
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_graphql::{Request, Response as GraphQLResponse, Variables, parser::types::OperationType};
use axum::{
    Error as SocketError,
    body::Bytes,
    extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade},
    http::{HeaderMap, header::AUTHORIZATION},
    response::Response,
};
use futures_util::SinkExt as _;
use serde_json::{Map, Value, json};
use tokio::{
    pin, select,
    task::{AbortHandle, JoinError, JoinSet},
    time::{Instant, MissedTickBehavior, interval_at, sleep, sleep_until, timeout},
};
use tungstenite::error::{CapacityError, Error as WireError, ProtocolError};

use self::protocol::{Action, Close, Dialect, Protocol};
use super::{
    Site,
    connection::{End, Guard},
};
use crate::{
    auth::Pass,
    graphql::{Watched, error::is_refusal},
    hub::{Delivery, Outbox, Replay, Step, Watching},
};

/// The name of this transport in metrics.
pub const TRANSPORT: &str = "ws";

/// How long a client may take to say who it is.
const INIT_TIMEOUT: Duration = Duration::from_secs(10);

/// Between two pings; under the 30 s after which common proxies give up an idle connection.
const KEEP_ALIVE: Duration = Duration::from_secs(25);

/// How long one write may take before the peer counts as dead.
const WRITE_TIMEOUT: Duration = KEEP_ALIVE;

/// How long a peer may take to answer our close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Longer than any connection lives.
const FAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The largest message of a client, in bytes: a mutation with the most location ids is under 100 KiB.
const MAX_MESSAGE_BYTES: usize = 128 << 10;

/// The library's default of 128 KiB is zeroed before every read, and held by every connection.
const READ_BUFFER_BYTES: usize = 4 << 10;

/// Answers the handshake and drives the connection in a task of its own, which a drain waits for.
pub fn accept(site: Arc<Site>, upgrade: WebSocketUpgrade, headers: &HeaderMap, guard: Guard) -> Response {
    let authorization = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let tasks = site.connections.tasks().clone();
    upgrade
        .protocols(Dialect::NAMES)
        .read_buffer_size(READ_BUFFER_BYTES)
        .max_message_size(MAX_MESSAGE_BYTES)
        .max_frame_size(MAX_MESSAGE_BYTES)
        .on_upgrade(move |socket| {
            tasks.track_future(async move {
                let dialect = socket.protocol().and_then(|name| name.to_str().ok()).and_then(Dialect::parse);
                let Some(dialect) = dialect else {
                    let end = End::Refused(Close::new(4406, "Subprotocol not acceptable"));
                    return goodbye(socket, guard, end).await;
                };
                let mut connection = Connection::new(site, socket, guard, dialect);
                connection.authorization = authorization;
                let end = connection.run().await;
                let Connection { socket, guard, .. } = connection;
                goodbye(socket, guard, end).await;
            })
        })
}

struct Connection {
    site: Arc<Site>,
    socket: WebSocket,
    guard: Guard,
    protocol: Protocol,
    /// The `Authorization` header of the handshake, for clients that cannot send a token with `connection_init`.
    authorization: Option<String>,
    pass: Option<Pass>,
    /// When the client must have said who it is; then, when its token expires.
    deadline: Instant,
    outbox: Arc<Outbox>,
    /// By a number that is never used twice, so that what is left of an operation cannot pass for its successor's.
    running: HashMap<u64, Running>,
    next_number: u64,
    jobs: JoinSet<(u64, GraphQLResponse)>,
    /// The watchers that have not caught up, taking turns.
    behind: VecDeque<Box<Replay>>,
    heard: bool,
}

/// An operation that the client has not been told the end of.
struct Running {
    id: Arc<str>,
    /// The frame of a result up to its payload.
    head: Arc<str>,
    _work: Work,
}

/// Ends with its owner.
enum Work {
    Watching(#[expect(dead_code, reason = "held for its drop")] Watching),
    /// Its replay is in [`Connection::behind`].
    Behind,
    Job(AbortHandle),
}

impl Drop for Work {
    fn drop(&mut self) {
        if let Self::Job(job) = self {
            job.abort();
        }
    }
}

impl Connection {
    fn new(site: Arc<Site>, socket: WebSocket, guard: Guard, dialect: Dialect) -> Self {
        let max_watchers = site.settings.max_watchers;
        Self {
            outbox: Outbox::new(site.settings.queue_bytes),
            protocol: Protocol::new(dialect, max_watchers),
            deadline: Instant::now() + INIT_TIMEOUT,
            site,
            socket,
            guard,
            authorization: None,
            pass: None,
            running: HashMap::new(),
            next_number: 0,
            jobs: JoinSet::new(),
            behind: VecDeque::new(),
            heard: true,
        }
    }

    /// Runs until the connection ends, and says why it did.
    async fn run(&mut self) -> End {
        match self.serve().await {
            Ok(never) => match never {},
            Err(end) => end,
        }
    }

    async fn serve(&mut self) -> Result<Infallible, End> {
        let mut keep_alive = interval_at(Instant::now() + KEEP_ALIVE, KEEP_ALIVE);
        keep_alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let deadline = sleep_until(self.deadline);
        pin!(deadline);
        loop {
            select! {
                () = self.guard.drained() => {
                    self.deliver().await?;
                    return Err(End::Drained);
                }
                () = self.outbox.changed() => self.deliver().await?,
                // At the pace of the client: the next step is taken when the last one is written.
                Some(step) = next_step(&mut self.behind) => self.replay(step).await?,
                message = self.socket.recv() => self.receive(message).await?,
                Some(job) = self.jobs.join_next() => self.finish(job).await?,
                _ = keep_alive.tick() => self.keep_alive().await?,
                () = &mut deadline => self.late().await?,
            }
            if deadline.deadline() != self.deadline {
                deadline.as_mut().reset(self.deadline);
            }
        }
    }

    /// Writes all that waits, together.
    async fn deliver(&mut self) -> Result<(), End> {
        let deliveries = self.outbox.take();
        if self.outbox.overflowed() {
            return Err(End::Slow);
        }
        self.write_deliveries(deliveries.into()).await
    }

    async fn replay(&mut self, step: Step) -> Result<(), End> {
        let Some(replay) = self.behind.pop_front() else { return Ok(()) };
        let (deliveries, watching) = match step {
            Step::Deliveries(deliveries) => {
                self.behind.push_back(replay);
                return self.write_deliveries(deliveries).await;
            }
            Step::Live(watching) => (Vec::new(), watching),
            Step::Gap(notice, watching) => (vec![notice], watching),
        };
        if let Some(running) = self.running.get_mut(&replay.watcher()) {
            running._work = Work::Watching(watching);
        }
        self.write_deliveries(deliveries).await
    }

    async fn write_deliveries(&mut self, mut deliveries: Vec<Delivery>) -> Result<(), End> {
        // What was under way to an operation that the client has ended meanwhile is dropped.
        deliveries.retain(|delivery| self.running.contains_key(&delivery.watcher));
        let frame = |delivery: &Delivery| {
            let running = self.running.get(&delivery.watcher)?;
            Some(protocol::frame(&running.head, &delivery.payload))
        };
        let frames = deliveries.iter().filter_map(frame).collect();
        self.write(frames).await?;
        self.guard.delivered(&deliveries);
        Ok(())
    }

    async fn receive(&mut self, message: Option<Result<Message, SocketError>>) -> Result<(), End> {
        self.heard = true;
        let action = match message {
            None => return Err(End::Lost),
            Some(Err(error)) => return Err(broken(error)),
            Some(Ok(Message::Close(_))) => return Err(End::Left),
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => return Ok(()),
            Some(Ok(Message::Text(text))) => self.protocol.on_text(&text),
            Some(Ok(Message::Binary(_))) => self.protocol.on_binary(),
        };
        self.act(action).await
    }
}

impl Connection {
    async fn act(&mut self, action: Action) -> Result<(), End> {
        match action {
            Action::Nothing => Ok(()),
            Action::Write(frame) => self.write(vec![frame]).await,
            Action::Authenticate { payload } => self.authenticate(payload).await,
            Action::Start { id, head, request } => self.start(id, head, request).await,
            Action::Stop { id, reply } => {
                self.stop(&id);
                self.write(reply.into_iter().collect()).await
            }
            Action::Restart { id, reply, head, request } => {
                self.stop(&id);
                self.write(vec![reply]).await?;
                self.start(id, head, request).await
            }
            Action::Close(close) => Err(End::Refused(close)),
            Action::Terminate => Err(End::Left),
        }
    }

    async fn authenticate(&mut self, payload: Option<Map<String, Value>>) -> Result<(), End> {
        let token = protocol::token(payload.as_ref()).or(self.authorization.as_deref());
        match self.site.auth.admit(token).await {
            Ok(pass) => {
                self.deadline = pass.expires.map_or_else(far_future, from_now);
                self.pass = Some(pass);
                let cursor = json!({"cursor": self.site.engine.cursor()});
                let frames = self.protocol.admitted(Some(&cursor));
                self.write(frames).await
            }
            Err(error) => {
                tracing::debug!(reason = error.reason(), "connection refused");
                let (frame, close) = self.protocol.refused(&error.to_string());
                self.write(frame.into_iter().collect()).await?;
                Err(End::Refused(close))
            }
        }
    }

    async fn start(&mut self, id: Arc<str>, head: Arc<str>, request: protocol::Request) -> Result<(), End> {
        let protocol::Request { query, operation_name, variables, .. } = request;
        let variables = Variables::from_json(variables.unwrap_or_default().into());
        let mut request = Request::new(query).variables(variables);
        request.operation_name = operation_name;
        let Some(pass) = &self.pass else { return Err(End::Lost) };
        let viewer = pass.viewer.clone();
        let number = self.next_number;
        self.next_number += 1;
        let prepared = match self.site.engine.prepare(request) {
            Ok(prepared) => prepared,
            Err(refusal) => return self.reject(&id, &refusal).await,
        };
        let work = if prepared.kind == OperationType::Subscription {
            match self.site.engine.watch(prepared, viewer, self.outbox.clone(), number, None).await {
                Ok(Watched::Live(watching)) => Work::Watching(watching),
                Ok(Watched::Behind(replay)) => {
                    self.behind.push_back(replay);
                    Work::Behind
                }
                Err(refusal) => return self.reject(&id, &refusal).await,
            }
        } else {
            let site = self.site.clone();
            let job = async move { (number, site.engine.execute(prepared, viewer).await) };
            Work::Job(self.jobs.spawn(job))
        };
        self.running.insert(number, Running { id, head, _work: work });
        Ok(())
    }

    fn stop(&mut self, id: &str) {
        self.running.retain(|_, running| &*running.id != id);
        self.behind.retain(|replay| self.running.contains_key(&replay.watcher()));
    }

    async fn reject(&mut self, id: &str, refusal: &GraphQLResponse) -> Result<(), End> {
        let Ok(errors) = serde_json::to_value(&refusal.errors) else { return Err(End::Lost) };
        let frame = self.protocol.rejected(id, &errors);
        self.write(frame.into_iter().collect()).await
    }

    /// A query or mutation has ended: its result, and that there will be no other.
    async fn finish(&mut self, job: Result<(u64, GraphQLResponse), JoinError>) -> Result<(), End> {
        // A job that was aborted is nobody's any more.
        let Ok((number, response)) = job else { return Ok(()) };
        let Some(running) = self.running.remove(&number) else { return Ok(()) };
        if is_refusal(&response) {
            return self.reject(&running.id, &response).await;
        }
        let Ok(result) = serde_json::to_string(&response) else { return Err(End::Lost) };
        let mut frames = vec![protocol::frame(&running.head, &result)];
        frames.extend(self.protocol.completed(&running.id));
        self.write(frames).await
    }

    async fn keep_alive(&mut self) -> Result<(), End> {
        if !mem::take(&mut self.heard) {
            return Err(End::Dead);
        }
        let frames = self.protocol.keep_alive().into_iter().map(Message::from);
        self.send(frames.chain([Message::Ping(Bytes::new())])).await
    }

    async fn late(&mut self) -> Result<(), End> {
        if self.pass.is_some() {
            return Err(End::Expired);
        }
        self.deadline = far_future();
        let action = self.protocol.on_init_timeout();
        self.act(action).await
    }

    async fn write(&mut self, frames: Vec<String>) -> Result<(), End> {
        self.send(frames.into_iter().map(Message::from)).await
    }

    /// Writes the messages together, unless the peer is stuck or the queue behind them overflows meanwhile.
    async fn send(&mut self, messages: impl Iterator<Item = Message>) -> Result<(), End> {
        let socket = &mut self.socket;
        let written = async move {
            for message in messages {
                socket.feed(message).await?;
            }
            socket.flush().await
        };
        select! {
            // A write that is done is done, whatever else is due.
            biased;
            result = written => result.map_err(broken),
            () = self.outbox.overflow() => Err(End::Slow),
            () = sleep(WRITE_TIMEOUT) => Err(End::Dead),
        }
    }
}

/// Tells the client why, if there is anybody to tell, and lets it answer.
async fn goodbye(mut socket: WebSocket, guard: Guard, end: End) {
    let farewell = async {
        if let Some(Close { code, reason }) = end.close() {
            let frame = CloseFrame { code, reason: reason.as_ref().into() };
            socket.send(Message::Close(Some(frame))).await?;
        }
        while let Some(message) = socket.recv().await {
            message?;
        }
        Ok::<_, SocketError>(())
    };
    if let Ok(Err(error)) = timeout(CLOSE_TIMEOUT, farewell).await {
        tracing::trace!(%error, "no answer to the close");
    }
    guard.end(end);
}

/// The next step of the first of these.
async fn next_step(behind: &mut VecDeque<Box<Replay>>) -> Option<Step> {
    Some(behind.front_mut()?.step().await)
}

/// Why the socket gave an error instead of a message.
fn broken(error: SocketError) -> End {
    match error.into_inner().downcast_ref::<WireError>() {
        Some(WireError::Capacity(CapacityError::MessageTooLong { .. })) => End::TooBig,
        Some(WireError::Utf8(_)) => End::Malformed(1007),
        Some(WireError::Protocol(problem)) if *problem != ProtocolError::ResetWithoutClosingHandshake => {
            End::Malformed(1002)
        }
        _ => End::Lost,
    }
}

fn from_now(time: SystemTime) -> Instant {
    Instant::now() + time.duration_since(SystemTime::now()).unwrap_or_default().min(FAR)
}

fn far_future() -> Instant {
    Instant::now() + FAR
}
