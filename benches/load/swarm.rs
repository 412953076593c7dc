//! Clients of a server: up to tens of thousands of watchers in one thread, and the publishers of
//! mutations.
//!
//! It uses epoll directly, with one `read` for all that waits on a socket, so that the load costs
//! less than the server. It must never wait for one socket while another has data.

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr},
    rc::Rc,
    time::Duration,
};

use anyhow::{Context as _, bail};
use mio::{Events, Interest, Poll, Token, net::TcpStream};
use socket2::{Domain, Socket, Type};
use tokio::time::Instant;

use super::{
    tally::{Seen, Tally},
    wire,
};

/// First token of the publishers; smaller tokens are watchers.
const PUBLISHERS: usize = 1 << 24;

/// Connections under way at once: fewer than the listener's backlog, beyond which a connection
/// waits for a second.
const HANDSHAKES: usize = 256;

/// Connections from one loopback address: a few thousand fewer than it has ports.
const PORTS: usize = 20_000;

/// Time without any progress after which the swarm gives up.
const PATIENCE: Duration = Duration::from_secs(20);

/// Size of the read buffer that all sockets share, in bytes.
const READ_BUFFER: usize = 256 << 10;

/// Transport of the watchers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    /// WebSocket, graphql-transport-ws.
    WebSocket,
    /// Server-sent events. They are not counted, so this transport serves `memory` only.
    EventStream,
}

/// Stage of a watcher's connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Connecting,
    Upgrading,
    Acknowledging,
    Subscribing,
    Live,
    Ended,
}

struct Watcher {
    stream: TcpStream,
    stage: Stage,
    token: Rc<str>,
    /// Bytes of an incomplete frame.
    rest: Vec<u8>,
    seen: Seen,
    is_meant: bool,
}

struct Publisher {
    stream: TcpStream,
    rest: Vec<u8>,
    is_busy: bool,
}

/// User that publishes, and the templates that it adds.
#[derive(Clone, Debug)]
pub(crate) struct Author {
    pub(crate) token: String,
    pub(crate) location: String,
    /// Length of the templates' names in characters.
    pub(crate) name_chars: usize,
}

/// All watchers and publishers of one server.
pub(crate) struct Swarm {
    address: SocketAddr,
    host: String,
    transport: Transport,
    author: Author,
    poll: Poll,
    events: Events,
    buffer: Box<[u8]>,
    watchers: Vec<Watcher>,
    publishers: Vec<Publisher>,
    pub(crate) tally: Tally,
    /// Number of mutations or queries that have been answered.
    pub(crate) answers: u64,
    /// Body that the publishers send instead of mutations.
    query: Option<String>,
    live: usize,
    /// The server's last answer that was wrong.
    pub(crate) complaint: Option<String>,
}

impl Swarm {
    pub(crate) fn new(address: SocketAddr, transport: Transport, author: Author) -> anyhow::Result<Self> {
        Ok(Self {
            address,
            host: address.to_string(),
            transport,
            author,
            poll: Poll::new()?,
            events: Events::with_capacity(4_096),
            buffer: vec![0; READ_BUFFER].into(),
            watchers: Vec::new(),
            publishers: Vec::new(),
            tally: Tally::new(),
            answers: 0,
            query: None,
            live: 0,
            complaint: None,
        })
    }

    /// Connects watchers, with the tokens in turn, and returns once each of them is subscribed.
    /// `is_meant` states whether the events match these watchers.
    pub(crate) fn connect(
        &mut self,
        count: usize,
        tokens: &[Rc<str>],
        is_meant: bool,
    ) -> anyhow::Result<Duration> {
        let began = Instant::now();
        let (mut progress, mut live) = (began, self.live);
        let goal = self.live + count;
        let mut left = count;
        while self.live < goal {
            while left > 0 && self.watchers.len() - self.live < HANDSHAKES {
                self.open(tokens[left % tokens.len()].clone(), is_meant)?;
                left -= 1;
            }
            self.turn(Duration::from_millis(100))?;
            if self.watchers.iter().rev().take(HANDSHAKES).any(|watcher| watcher.stage == Stage::Ended) {
                bail!("the server refused a watcher: {}", self.complaint.as_deref().unwrap_or("it hung up"));
            }
            if self.live > live {
                (progress, live) = (Instant::now(), self.live);
            } else if progress.elapsed() > PATIENCE {
                bail!("{} of {goal} watchers are subscribed and the server says no more", self.live);
            }
        }
        if is_meant {
            self.tally.expected += u32::try_from(count)?;
        }
        Ok(began.elapsed())
    }

    fn open(&mut self, token: Rc<str>, is_meant: bool) -> anyhow::Result<()> {
        let index = self.watchers.len();
        let mut stream = self.dial(index)?;
        self.poll.registry().register(&mut stream, Token(index), Interest::READABLE | Interest::WRITABLE)?;
        let seen = Seen::since(self.tally.published());
        let (stage, rest) = (Stage::Connecting, Vec::new());
        self.watchers.push(Watcher { stream, stage, token, rest, seen, is_meant });
        Ok(())
    }

    /// Begins to connect. It uses a further loopback address when one has no more ports.
    fn dial(&self, index: usize) -> anyhow::Result<TcpStream> {
        let socket = Socket::new(Domain::for_address(self.address), Type::STREAM, None)
            .context("cannot open a socket: raise `ulimit -n`")?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        if self.address.ip() == Ipv4Addr::LOCALHOST && index >= PORTS {
            let last = u8::try_from(1 + index / PORTS)?;
            socket.bind(&SocketAddr::from(([127, 0, 0, last], 0)).into())?;
        }
        match socket.connect(&self.address.into()) {
            Err(error) if error.raw_os_error() != Some(EINPROGRESS) => {
                Err(error).with_context(|| format!("cannot connect to {}", self.address))
            }
            _ => Ok(TcpStream::from_std(socket.into())),
        }
    }

    /// Opens the connections for mutations. Each has one mutation in flight at most.
    pub(crate) fn publishers(&mut self, count: usize) -> anyhow::Result<()> {
        while self.publishers.len() < count {
            let stream = std::net::TcpStream::connect(self.address).context("cannot connect to publish")?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            let mut stream = TcpStream::from_std(stream);
            let token = Token(PUBLISHERS + self.publishers.len());
            self.poll.registry().register(&mut stream, token, Interest::READABLE)?;
            self.publishers.push(Publisher { stream, rest: Vec::new(), is_busy: false });
        }
        Ok(())
    }

    /// Adds a template, and waits for the answer. Returns the template's id and the token of the
    /// write.
    pub(crate) fn write(&mut self) -> anyhow::Result<(String, String)> {
        let Author { token, location, name_chars } = &self.author;
        let body = wire::add_template(&wire::name(0, *name_chars), location);
        let body = body.replace("{ success }", "{ template { id } }");
        let request = wire::post(&self.host, token, "application/json", &body);
        let mut stream = std::net::TcpStream::connect(self.address).context("cannot connect to publish")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(&request)?;
        let mut answer = Vec::new();
        loop {
            if let Some((head, end)) = wire::parse_http(&answer) {
                let answer: serde_json::Value = serde_json::from_slice(&answer[head.len()..end])?;
                let id = answer["data"]["addTemplate"]["template"]["id"].as_str();
                let written = answer["extensions"]["written"].as_str();
                let (id, written) =
                    id.zip(written).with_context(|| format!("no token of a write: {answer}"))?;
                return Ok((id.to_owned(), written.to_owned()));
            }
            let count = stream.read(&mut self.buffer).context("a mutation was not answered")?;
            if count == 0 {
                bail!("the server hung up on a mutation");
            }
            answer.extend(&self.buffer[..count]);
        }
    }

    /// Lets the publishers ask for the template of this id instead, with the token of a write or
    /// without.
    pub(crate) fn ask(&mut self, id: &str, token: Option<&str>) {
        self.query = Some(wire::template_by_id(id, token));
    }

    /// Publishes one more event, due `at`. Returns false if every publisher waits for an answer.
    pub(crate) fn publish(&mut self, at: Instant) -> anyhow::Result<bool> {
        let Some(publisher) = self.publishers.iter_mut().find(|publisher| !publisher.is_busy) else {
            return Ok(false);
        };
        let number = self.tally.publish(at);
        let Author { token, location, name_chars } = &self.author;
        let mutation = || wire::add_template(&wire::name(number, *name_chars), location);
        let body = self.query.clone().unwrap_or_else(mutation);
        let request = wire::post(&self.host, token, "application/json", &body);
        publisher.is_busy = true;
        publisher.stream.write_all(&request).context("cannot publish: the server hung up")?;
        Ok(true)
    }

    /// Returns the number of mutations that are not answered yet.
    pub(crate) fn unanswered(&self) -> usize {
        self.publishers.iter().filter(|publisher| publisher.is_busy).count()
    }

    /// Reads for `duration`, so that pings are answered.
    pub(crate) fn idle(&mut self, duration: Duration) -> anyhow::Result<()> {
        let until = Instant::now() + duration;
        while Instant::now() < until {
            self.turn(Duration::from_millis(100))?;
        }
        Ok(())
    }

    /// Waits until every watcher has every event. It gives up after [`PATIENCE`] without progress;
    /// the rest counts as missing.
    pub(crate) fn settle(&mut self) -> anyhow::Result<()> {
        let state = |swarm: &Self| (swarm.tally.deliveries, swarm.answers);
        let (mut progress, mut last) = (Instant::now(), state(self));
        while self.tally.in_flight() > 0 || self.unanswered() > 0 {
            self.turn(Duration::from_millis(100))?;
            if state(self) != last {
                (progress, last) = (Instant::now(), state(self));
            } else if progress.elapsed() > PATIENCE {
                break;
            }
        }
        Ok(())
    }

    /// Counts the missing deliveries and closes all watchers' connections.
    pub(crate) fn disconnect(&mut self) {
        let published = self.tally.published();
        for watcher in self.watchers.drain(..).filter(|watcher| watcher.is_meant) {
            self.tally.faults.missing += watcher.seen.missing(published);
        }
        self.live = 0;
        self.tally.expected = 0;
    }

    /// Handles the sockets that are ready, after a wait of `limit` at most.
    pub(crate) fn turn(&mut self, limit: Duration) -> anyhow::Result<()> {
        let mut events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        match self.poll.poll(&mut events, Some(limit)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            polled => polled?,
        }
        for event in &events {
            let Token(token) = event.token();
            if token >= PUBLISHERS {
                self.answer(token - PUBLISHERS)?;
            } else if token < self.watchers.len() {
                self.watcher_ready(token);
            }
        }
        self.events = events;
        Ok(())
    }

    fn answer(&mut self, index: usize) -> anyhow::Result<()> {
        let publisher = &mut self.publishers[index];
        match publisher.stream.read(&mut self.buffer) {
            Ok(0) => bail!("the server hung up on a mutation"),
            Ok(count) => publisher.rest.extend(&self.buffer[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error).context("a mutation was not answered"),
        }
        while let Some((_, end)) = wire::parse_http(&publisher.rest) {
            let answer: Vec<u8> = publisher.rest.drain(..end).collect();
            publisher.is_busy = false;
            self.answers += 1;
            let expected =
                if self.query.is_some() { &br#""templateById":{"#[..] } else { br#""success":true"# };
            if !contains(&answer, expected) {
                self.tally.faults.wrong += 1;
                self.complaint = Some(String::from_utf8_lossy(&answer).into_owned());
            }
        }
        Ok(())
    }

    fn watcher_ready(&mut self, index: usize) {
        if let Err(problem) = self.read(index) {
            let watcher = &mut self.watchers[index];
            if watcher.stage == Stage::Live {
                self.tally.faults.wrong += 1;
            }
            watcher.stage = Stage::Ended;
            self.complaint = Some(problem.to_string());
        }
    }

    /// Reads all that waits on a socket. Returns an error if the connection ends.
    fn read(&mut self, index: usize) -> io::Result<()> {
        let Self { watchers, buffer, tally, transport, host, live, .. } = self;
        let watcher = &mut watchers[index];
        if watcher.stage == Stage::Ended {
            return Ok(());
        }
        if watcher.stage == Stage::Connecting {
            return watcher.greet(*transport, host);
        }
        loop {
            let kept = watcher.rest.len();
            buffer[..kept].copy_from_slice(&watcher.rest);
            let count = match watcher.stream.read(&mut buffer[kept..]) {
                Ok(0) => return Err(io::Error::other("a watcher's connection was closed")),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            let bytes = &buffer[..kept + count];
            let was_live = watcher.stage == Stage::Live;
            let used = watcher.take(bytes, *transport, tally)?;
            *live += usize::from(!was_live && watcher.stage == Stage::Live);
            watcher.rest.clear();
            watcher.rest.extend(&bytes[used..]);
            // the read did not fill the buffer, so nothing more waits
            if kept + count < buffer.len() {
                return Ok(());
            }
        }
    }
}

/// Error number of a connection that is still being made; the same on every Linux.
const EINPROGRESS: i32 = 115;

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

impl Watcher {
    /// Sends the first request once the connection is established.
    fn greet(&mut self, transport: Transport, host: &str) -> io::Result<()> {
        if let Some(error) = self.stream.take_error()? {
            return Err(error);
        }
        match self.stream.peer_addr() {
            Err(error) if error.kind() == ErrorKind::NotConnected => return Ok(()),
            peer => peer?,
        };
        self.stage = Stage::Upgrading;
        let greeting = match transport {
            Transport::WebSocket => wire::upgrade(host),
            Transport::EventStream => wire::event_stream(host, &self.token),
        };
        self.stream.write_all(&greeting)
    }

    /// Handles the complete messages in these bytes and returns how many bytes they had.
    fn take(&mut self, bytes: &[u8], transport: Transport, tally: &mut Tally) -> io::Result<usize> {
        let mut used = 0;
        if self.stage == Stage::Upgrading {
            let Some((head, end)) = wire::parse_http(bytes) else { return Ok(0) };
            let expected = if transport == Transport::WebSocket { "HTTP/1.1 101" } else { "HTTP/1.1 200" };
            let is_stream =
                wire::field(head, "content-type").is_none_or(|kind| kind.contains("event-stream"));
            if !head.starts_with(expected) || !is_stream {
                return Err(io::Error::other(String::from_utf8_lossy(&bytes[..end]).into_owned()));
            }
            used = end;
            if transport == Transport::EventStream {
                self.stage = Stage::Live;
            } else {
                self.stage = Stage::Acknowledging;
                self.stream.write_all(&wire::init(&self.token))?;
            }
        }
        if transport == Transport::EventStream {
            return Ok(bytes.len());
        }
        let now = Instant::now();
        while let Some(frame) = wire::parse(&bytes[used..]) {
            let payload = &bytes[used..][frame.payload.clone()];
            used += frame.payload.end;
            self.frame(frame.opcode, payload, tally, now)?;
        }
        Ok(used)
    }

    fn frame(&mut self, opcode: u8, payload: &[u8], tally: &mut Tally, now: Instant) -> io::Result<()> {
        match (opcode, self.stage) {
            (wire::TEXT, Stage::Live) => {
                let number = wire::number(payload, &mut tally.hint);
                tally.frame_bytes = payload.len();
                tally.take(&mut self.seen, self.is_meant, number, now);
            }
            (wire::TEXT, Stage::Acknowledging) if contains(payload, b"connection_ack") => {
                self.stage = Stage::Subscribing;
                self.stream.write_all(&wire::subscribe())?;
            }
            (wire::TEXT, Stage::Subscribing) if contains(payload, b"\"pong\"") => self.stage = Stage::Live,
            (wire::PING, _) => self.stream.write_all(&wire::frame(PONG, payload))?,
            (wire::CLOSE, _) => {
                let code = payload.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code));
                let reason = String::from_utf8_lossy(payload.get(2..).unwrap_or_default());
                return Err(io::Error::other(format!("a watcher was closed: {code} {reason}")));
            }
            (wire::TEXT, _) => return Err(io::Error::other(String::from_utf8_lossy(payload).into_owned())),
            _ => {}
        }
        Ok(())
    }
}

/// Opcode of a pong.
const PONG: u8 = 10;
