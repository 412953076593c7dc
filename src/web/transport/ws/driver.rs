//! The driver of one WebSocket: passes messages to [`Protocol`] and deliveries to the socket, and
//! keeps the time.
//!
//! There is one task for each connection. The driver must never hold a rule of the subprotocols,
//! nor wait for anything without a limit. A peer that does not read, answer or authenticate is
//! ended and costs the others nothing. Most connections are idle most of the time. What an idle one
//! does not need is boxed, and made when there is something to do.

use std::{
    convert::Infallible,
    future::poll_fn,
    io, mem,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    select,
    task::{coop, yield_now},
    time::{Instant, Sleep, sleep, sleep_until},
};

use super::{
    frame::{self, Message},
    protocol::{self, Close, Dialect, Protocol},
    socket::{ReadError, Socket},
};
use crate::{
    audience::Viewer,
    budget::{Charge, Pool},
    hub::{Deliveries, Delivery, SendQueue},
    web::{
        connection::{End, Guard, expiry},
        http::request,
        operations::{Progress, Running},
        server::Peer,
        state::AppState,
    },
};

/// How long a client may take to send `connection_init`. Then the connection ends with close code
/// 4408.
const INIT_TIMEOUT: Duration = Duration::from_secs(10);

/// Time between two pings: less than the 30 s after which common proxies close an idle connection.
const KEEP_ALIVE: Duration = Duration::from_secs(25);

/// How long one write may take. Then the peer counts as dead.
const WRITE_TIMEOUT: Duration = KEEP_ALIVE;

/// How long a write may take once the connection's moment in a drain has come. The rest of the
/// deadline has room for it.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Messages of a client that are handled before other tasks run. A thousand connections that send
/// without a pause must not keep the others waiting.
const MESSAGES_AT_ONCE: u8 = 8;

/// Label of an operation on a WebSocket.
pub(super) struct Label {
    /// The client's id of the operation.
    pub(super) id: Arc<str>,
    /// The frame of a result up to its payload.
    pub(super) head: Arc<str>,
}

/// Close that the protocol chose, instead of the one that follows from the [`End`].
pub(super) struct ChosenClose {
    pub(super) close: Close,
    /// Whether the client will answer it with a close of its own.
    pub(super) expects_answer: bool,
}

/// What a connection holds until its user is known.
pub(super) struct Newcomer {
    /// Account of the client's address.
    account: Arc<str>,
    /// Token of the handshake, for clients that send none with `connection_init`.
    pub(super) token: Option<Box<str>>,
    _charge: Charge,
}

impl Newcomer {
    /// Charges the token of a handshake to the client's address. Returns `None` if there is no
    /// room.
    pub(super) fn new(pool: &Pool, peer: Option<&Peer>, token: Option<Box<str>>) -> Option<Box<Self>> {
        let account = peer.map(Peer::account).unwrap_or_default();
        let charge = pool.try_charge(&account, token.as_ref().map_or(0, |token| token.len()))?;
        Some(Self { account, token, _charge: charge }.into())
    }
}

/// Charge of what the client has sent of a message that is not complete.
struct Unfinished {
    charge: Charge,
    began: Instant,
}

/// One WebSocket, from its handshake to its close.
pub(super) struct Connection {
    pub(super) app: Arc<AppState>,
    pub(super) guard: Guard,
    socket: Socket,
    pub(super) protocol: Protocol,
    /// `None` from `connection_init` on.
    pub(super) newcomer: Option<Box<Newcomer>>,
    /// `None` if nothing is held of what the client sends.
    unfinished: Option<Box<Unfinished>>,
    /// `None` until `connection_init` has brought a good token.
    pub(super) viewer: Option<Arc<Viewer>>,
    /// When `connection_init` is due; after authentication, when the token expires.
    pub(super) deadline: Instant,
    next_ping: Instant,
    pub(super) send_queue: Arc<SendQueue>,
    pub(super) running: Running<Label>,
    /// Whether anything was received since the last ping.
    has_received: bool,
    /// Close to send instead of the one that follows from the end.
    pub(super) chosen_close: Option<ChosenClose>,
}

/// Work that is due. Each part of it is done once a round, so that none keeps the others waiting.
#[derive(Default)]
struct Due {
    drain: bool,
    time: bool,
    deliveries: bool,
    message: Option<Result<Message, ReadError>>,
    /// Whether a message has begun that is not complete. The timer has to be set.
    unfinished: bool,
    /// The end of a connection that sends more than there is room for.
    refused: Option<End>,
    progress: Option<Progress<Label>>,
}

impl Connection {
    pub(super) fn new(
        app: Arc<AppState>,
        socket: Socket,
        dialect: Dialect,
        newcomer: Box<Newcomer>,
        mut guard: Guard,
    ) -> Self {
        let now = Instant::now();
        let send_queue = SendQueue::new(app.settings.queue_bytes);
        guard.attach(send_queue.clone());
        Self {
            protocol: Protocol::new(dialect, app.settings.max_watchers),
            send_queue,
            app,
            guard,
            socket,
            newcomer: Some(newcomer),
            unfinished: None,
            viewer: None,
            deadline: now + INIT_TIMEOUT,
            next_ping: now + KEEP_ALIVE,
            running: Running::new(),
            has_received: true,
            chosen_close: None,
        }
    }

    /// Runs until the connection ends. Returns the reason.
    pub(super) async fn run(&mut self) -> End {
        match self.serve().await {
            Ok(never) => match never {},
            Err(end) => end,
        }
    }

    pub(super) const fn socket(&mut self) -> &mut Socket {
        &mut self.socket
    }

    /// Counts the connection out, with the reason of its end.
    pub(super) fn end(self, end: End) {
        self.guard.end(end);
    }

    /// Ends all operations. Returns the close to send, if any, and whether the client will answer
    /// it.
    pub(super) fn prepare_close(&mut self, end: &End) -> (Option<Close>, bool) {
        // Nothing more is dispatched to the connection while it is closed.
        self.running = Running::new();
        let expects_answer = !matches!(end, End::TooBig | End::Malformed(_) | End::Overloaded | End::Late);
        if !expects_answer {
            self.socket.forget();
            self.unfinished = None;
        }
        match self.chosen_close.take() {
            Some(ChosenClose { close, expects_answer }) => (Some(close), expects_answer),
            None => (Close::of(end), expects_answer),
        }
    }

    async fn serve(&mut self) -> Result<Infallible, End> {
        let mut drained = pin!(self.guard.drained());
        let mut timer = pin!(sleep_until(self.next_time()));
        // The drain is polled once, so that it wakes this task, and again only when it has begun. A
        // poll takes a lock that all connections of the pod share.
        let mut is_first = true;
        // Every other round looks for deliveries alone. Mostly there is nothing else, and the next
        // round looks for everything.
        let mut has_delivered = false;
        let mut messages = 0;
        loop {
            let due = poll_fn(|cx| {
                if !has_delivered && !self.running.is_behind() && self.send_queue.poll_changed(cx).is_ready()
                {
                    return Poll::Ready(Due { deliveries: true, ..Due::default() });
                }
                let may_drain = mem::take(&mut is_first) || self.guard.is_draining();
                self.poll(cx, may_drain.then_some(drained.as_mut()), timer.as_mut())
            })
            .await;
            has_delivered = due.deliveries;
            // Before the live deliveries: a notice of a gap comes first.
            if let Some(progress) = due.progress {
                Box::pin(self.on_progress(progress)).await?;
            }
            if due.deliveries || due.drain {
                self.deliver().await?;
            }
            if due.drain {
                while self.send_queue.is_behind() {
                    self.deliver().await?;
                }
                return Err(End::Drained);
            }
            if let Some(end) = due.refused {
                return Err(end);
            }
            if let Some(message) = due.message {
                Box::pin(self.receive(message)).await?;
                messages = (messages + 1) % MESSAGES_AT_ONCE;
                if messages == 0 {
                    yield_now().await;
                }
            }
            if due.time {
                Box::pin(self.on_time()).await?;
            }
            let next = self.next_time();
            if timer.deadline() != next {
                timer.as_mut().reset(next);
            }
            // A connection that always has work must not keep the other connections of the thread
            // waiting.
            coop::consume_budget().await;
        }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        drained: Option<Pin<&mut impl Future<Output = ()>>>,
        timer: Pin<&mut Sleep>,
    ) -> Poll<Due> {
        let message = ready(self.socket.poll_message(cx));
        let was_unfinished = self.unfinished.is_some();
        let due = Due {
            drain: drained.is_some_and(|drained| drained.poll(cx).is_ready()),
            time: timer.poll(cx).is_ready(),
            deliveries: self.send_queue.poll_changed(cx).is_ready(),
            refused: self.hold(message.is_some()).err(),
            unfinished: !was_unfinished && self.unfinished.is_some(),
            message,
            // Replays may go on: their earlier deliveries are written by now.
            progress: ready(self.running.poll(cx, true)),
        };
        let is_due = due.drain || due.time || due.deliveries || due.unfinished || due.refused.is_some();
        if is_due || due.message.is_some() || due.progress.is_some() {
            Poll::Ready(due)
        } else {
            Poll::Pending
        }
    }

    /// Charges what is held of what the client sends, to its user or else to its address.
    fn hold(&mut self, is_complete: bool) -> Result<(), End> {
        let bytes = self.socket.held();
        if bytes == 0 {
            self.unfinished = None;
            return Ok(());
        }
        let has_room = match &mut self.unfinished {
            Some(unfinished) => {
                if is_complete {
                    unfinished.began = Instant::now();
                }
                unfinished.charge.resize(bytes)
            }
            None => {
                let charge = self.charge(bytes);
                self.unfinished = charge.map(|charge| Unfinished { charge, began: Instant::now() }.into());
                self.unfinished.is_some()
            }
        };
        if has_room { Ok(()) } else { Err(End::Overloaded) }
    }

    fn charge(&self, bytes: usize) -> Option<Charge> {
        let of_user = self.viewer.as_ref().map(|viewer| &viewer.user);
        let account = of_user.or(self.newcomer.as_ref().map(|newcomer| &newcomer.account))?;
        self.app.budget.requests.try_charge(account, bytes)
    }

    /// Returns when the next thing is due that no other task causes.
    fn next_time(&self) -> Instant {
        let next = self.next_ping.min(self.deadline);
        self.message_due().map_or(next, |due| next.min(due))
    }

    /// Returns when more of the unfinished message must have come.
    fn message_due(&self) -> Option<Instant> {
        let bytes = Some(self.socket.unfinished()).filter(|bytes| *bytes > 0)?;
        Some(request::due(self.unfinished.as_ref()?.began, bytes))
    }

    /// Writes everything that waits, together.
    async fn deliver(&mut self) -> Result<(), End> {
        let deliveries = self.send_queue.take();
        // A queue that has overflowed is empty.
        if deliveries.is_empty()
            && let Some(overflow) = self.send_queue.overflowed()
        {
            return Err(overflow.into());
        }
        self.write_deliveries(deliveries).await
    }

    async fn on_progress(&mut self, progress: Progress<Label>) -> Result<(), End> {
        match progress {
            Progress::Missed(deliveries) => {
                self.send_queue.hold(&deliveries);
                self.write_deliveries(deliveries.into()).await
            }
            Progress::Finished(label, answer) => self.finish(&label, *answer).await,
            Progress::Refused(label, refusal) => self.reject(&label.id, &refusal).await,
        }
    }

    async fn write_deliveries(&mut self, mut deliveries: Deliveries) -> Result<(), End> {
        let running = &self.running;
        let encode = |frames: &mut Vec<u8>| {
            // Results for an operation that the client has ended meanwhile are dropped.
            deliveries.retain(|Delivery { watcher, result }| {
                let Some(label) = running.label(*watcher) else { return false };
                frame::text(frames, [&label.head, &result.payload, protocol::TAIL]);
                true
            });
        };
        let written = self.socket.write(encode);
        if self.socket.is_blocked() {
            self.send_queue.blocked();
        }
        self.await_write(written).await?;
        self.send_queue.written();
        self.guard.delivered(&deliveries);
        Ok(())
    }

    async fn receive(&mut self, message: Result<Message, ReadError>) -> Result<(), End> {
        self.has_received = true;
        let mut held = None;
        let action = match message {
            Err(ReadError::Lost(_)) => return Err(End::Lost),
            Err(ReadError::Frame(frame::FrameError::TooBig)) => return Err(End::TooBig),
            Err(ReadError::Frame(error)) => return Err(End::Malformed(error.code())),
            Ok(Message::Close(close)) => {
                // The answer has the same code and an empty reason.
                let close = Close::new(close.code, "");
                self.chosen_close = Some(ChosenClose { close, expects_answer: false });
                return Err(End::Left);
            }
            Ok(Message::Ping(payload)) => {
                let written = self.socket.write(|frames| frame::pong(frames, &payload));
                return self.await_write(written).await;
            }
            Ok(Message::Pong) => return Ok(()),
            Ok(Message::Text(text)) => {
                let bytes = request::weight(text.as_bytes()).ok_or(End::TooBig)?;
                held = Some(self.charge(bytes).ok_or(End::Overloaded)?);
                self.protocol.on_text(&text)
            }
            Ok(Message::Binary(_)) => self.protocol.on_binary(),
        };
        self.act(action, held).await
    }

    async fn on_time(&mut self) -> Result<(), End> {
        let now = Instant::now();
        if self.message_due().is_some_and(|due| now >= due) {
            return Err(End::Late);
        }
        if now >= self.deadline {
            self.on_deadline().await?;
        }
        if now >= self.next_ping {
            self.next_ping = now + KEEP_ALIVE;
            self.keep_alive().await?;
        }
        Ok(())
    }

    async fn on_deadline(&mut self) -> Result<(), End> {
        if self.viewer.is_some() {
            return Err(End::Expired);
        }
        self.deadline = expiry(None);
        let action = self.protocol.on_init_timeout();
        self.act(action, None).await
    }

    async fn keep_alive(&mut self) -> Result<(), End> {
        if !mem::take(&mut self.has_received) {
            return Err(End::Dead);
        }
        let keep_alive = self.protocol.keep_alive();
        let written = self.socket.write(|frames| {
            if let Some(text) = keep_alive {
                frame::text(frames, [text]);
            }
            frame::ping(frames);
        });
        self.await_write(written).await
    }

    /// Writes the texts together.
    pub(super) async fn write(&mut self, texts: impl IntoIterator<Item = String>) -> Result<(), End> {
        let written = self.socket.write(|frames| {
            for text in texts {
                frame::text(frames, [&text]);
            }
        });
        self.await_write(written).await
    }

    /// Waits until the kernel has taken what was written. Ends the connection if the peer is stuck,
    /// or if the send queue overflows meanwhile.
    pub(super) async fn await_write(&mut self, written: io::Result<()>) -> Result<(), End> {
        match written {
            Ok(()) if self.socket.is_blocked() => Box::pin(self.unblock()).await,
            Ok(()) => Ok(()),
            Err(_lost) => Err(End::Lost),
        }
    }

    async fn unblock(&mut self) -> Result<(), End> {
        let drained = self.guard.drained();
        let drained = async {
            drained.await;
            sleep(DRAIN_TIMEOUT).await;
        };
        select! {
            // A write that is finished counts, whatever else is due.
            biased;
            flushed = self.socket.flush() => flushed.map_err(|_lost| End::Lost),
            overflow = self.send_queue.overflow() => Err(overflow.into()),
            () = sleep(WRITE_TIMEOUT) => Err(End::Dead),
            () = drained => Err(End::Drained),
        }
    }
}

fn ready<T>(poll: Poll<T>) -> Option<T> {
    match poll {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}
