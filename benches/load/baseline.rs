//! Hand-written loop: the most that this machine can do with a program that only writes to sockets.
//!
//! It has one thread, one epoll, no GraphQL, no tokens, no filter and no bound on queues. Every
//! watcher gets every event, as a frame that is encoded once. The loop is the bound that the relay
//! is compared with, so it must never cheat: the handshake is real, and it waits for a socket that
//! is full.

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    net::SocketAddr,
};

use anyhow::Context as _;
use mio::{
    Events, Interest, Poll, Token,
    net::{TcpListener, TcpStream},
};
use socket2::{Domain, Socket, Type};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::wire;

const LISTENER: Token = Token(usize::MAX);

/// The relay's own answer to the mutation.
const ADDED: &str = r#"{"data":{"addTemplate":{"success":true}}}"#;

/// Number of frames in one `send`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Writes {
    /// One `send` per frame.
    Each,
    /// One `send` for all frames that wait for a socket.
    Together,
}

struct Peer {
    stream: TcpStream,
    is_socket: bool,
    is_watcher: bool,
    /// Bytes of an incomplete request or frame.
    rest: Vec<u8>,
    /// Bytes that wait until the socket is writable.
    waiting: Vec<u8>,
}

struct Loop {
    peers: Vec<Option<Peer>>,
    free: Vec<usize>,
    buffer: Box<[u8]>,
    frame_bytes: usize,
    /// Frames of the mutations that this turn of the loop has read.
    frames: Vec<Vec<u8>>,
}

/// Serves until the process is killed. Every event's frame has a payload of `frame_bytes` bytes, or
/// more if the event needs more.
pub(crate) fn run(listen: SocketAddr, writes: Writes, frame_bytes: usize) -> anyhow::Result<()> {
    let mut poll = Poll::new()?;
    let mut listener = listener(listen).with_context(|| format!("cannot listen on {listen}"))?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut events = Events::with_capacity(4_096);
    let buffer = vec![0; 64 << 10].into();
    let mut server = Loop { peers: Vec::new(), free: Vec::new(), buffer, frame_bytes, frames: Vec::new() };
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            polled => polled?,
        }
        for event in &events {
            match event.token() {
                LISTENER => server.accept(&listener, &poll)?,
                Token(index) => server.ready(index),
            }
        }
        server.deliver(writes);
    }
}

/// Opens the listener. Its backlog is 4,096 connections, the same as the relay's.
fn listener(listen: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(listen), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&listen.into())?;
    socket.listen(4_096)?;
    Ok(TcpListener::from_std(socket.into()))
}

impl Loop {
    fn accept(&mut self, listener: &TcpListener, poll: &Poll) -> anyhow::Result<()> {
        loop {
            let mut stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).context("cannot accept"),
            };
            stream.set_nodelay(true)?;
            let index = self.free.pop().unwrap_or(self.peers.len());
            poll.registry().register(&mut stream, Token(index), Interest::READABLE | Interest::WRITABLE)?;
            let (rest, waiting) = (Vec::new(), Vec::new());
            let peer = Some(Peer { stream, is_socket: false, is_watcher: false, rest, waiting });
            if index == self.peers.len() {
                self.peers.push(peer);
            } else {
                self.peers[index] = peer;
            }
        }
    }

    fn ready(&mut self, index: usize) {
        let Some(peer) = &mut self.peers[index] else { return };
        peer.write(&[]);
        let is_open = loop {
            match peer.stream.read(&mut self.buffer) {
                Ok(0) => break false,
                Ok(count) => {
                    peer.rest.extend(&self.buffer[..count]);
                    if count < self.buffer.len() {
                        break true;
                    }
                }
                Err(error) => break error.kind() == ErrorKind::WouldBlock,
            }
        };
        while peer.step(&mut self.frames, self.frame_bytes) {}
        if !is_open {
            self.peers[index] = None;
            self.free.push(index);
        } else if peer.rest.is_empty() {
            peer.rest = Vec::new();
        }
    }

    fn deliver(&mut self, writes: Writes) {
        let frames = std::mem::take(&mut self.frames);
        let frames = match writes {
            _ if frames.is_empty() => return,
            Writes::Each => frames,
            Writes::Together => vec![frames.concat()],
        };
        for frame in &frames {
            for peer in self.peers.iter_mut().flatten().filter(|peer| peer.is_watcher) {
                peer.write(frame);
            }
        }
    }
}

impl Peer {
    /// Writes the bytes. What the socket does not take is kept until the socket is writable.
    fn write(&mut self, bytes: &[u8]) {
        if self.waiting.is_empty() {
            let written = if bytes.is_empty() { 0 } else { self.stream.write(bytes).unwrap_or(0) };
            self.waiting.extend(&bytes[written..]);
        } else {
            self.waiting.extend(bytes);
            let written = self.stream.write(&self.waiting).unwrap_or(0);
            self.waiting.drain(..written);
        }
    }

    /// Handles the next complete request or frame. Returns false if there is none.
    fn step(&mut self, frames: &mut Vec<Vec<u8>>, frame_bytes: usize) -> bool {
        if self.is_socket { self.frame() } else { self.request(frames, frame_bytes) }
    }

    fn request(&mut self, frames: &mut Vec<Vec<u8>>, frame_bytes: usize) -> bool {
        let Some((head, end)) = wire::parse_http(&self.rest) else { return false };
        let answer = if let Some(key) = wire::field(head, "sec-websocket-key") {
            self.is_socket = true;
            format!(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Protocol: graphql-transport-ws\r\nSec-WebSocket-Accept: {}\r\n\r\n",
                derive_accept_key(key.as_bytes())
            )
        } else {
            // the clients read only the number in the name
            frames.extend(wire::number(&self.rest[..end], &mut 0).map(|number| frame(number, frame_bytes)));
            format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{ADDED}",
                ADDED.len()
            )
        };
        self.rest.drain(..end);
        self.write(answer.as_bytes());
        true
    }

    fn frame(&mut self) -> bool {
        let Some(frame) = wire::parse(&self.rest) else { return false };
        let key = frame.mask.and_then(|at| self.rest[at..].first_chunk::<4>().copied()).unwrap_or_default();
        let bytes = self.rest[frame.payload.clone()].iter().zip(key.iter().cycle());
        let text =
            String::from_utf8_lossy(&bytes.map(|(byte, key)| byte ^ key).collect::<Vec<_>>()).into_owned();
        self.rest.drain(..frame.payload.end);
        let answer = if text.contains("\"connection_init\"") {
            r#"{"type":"connection_ack"}"#
        } else if text.contains("\"ping\"") {
            r#"{"type":"pong"}"#
        } else {
            self.is_watcher |= text.contains("\"subscribe\"");
            return true;
        };
        self.write(&wire::unmasked(wire::TEXT, answer.as_bytes()));
        true
    }
}

/// Returns the frame that a watcher gets for the event, padded to `bytes` bytes.
fn frame(number: u32, bytes: usize) -> Vec<u8> {
    let name = wire::name(number, 0);
    let begin =
        format!(r#"{{"type":"next","id":"1","payload":{{"data":{{"templateAdded":{{"name":"{name}"}}}}"#);
    wire::unmasked(wire::TEXT, format!("{begin:<0$}}}}}", bytes.saturating_sub(2)).as_bytes())
}
