//! [`Client`]: a user's WebSocket connection to one pod, in either dialect.
//!
//! It is written by hand where libraries hide what a test asserts. It must never retry.

use std::collections::BTreeSet;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        protocol::{
            CloseFrame, Role,
            frame::{Frame, FrameHeader, coding::CloseCode},
        },
    },
};

pub(crate) use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

use super::{PATIENCE, Relay};

/// Subscription of every watcher.
pub(crate) const WATCH: &str = "subscription { templateAdded { id name shareLocationIds } }";
/// Size of a small receive buffer: two segments of the loopback device.
const NARROW: u32 = 128 << 10;
/// Id of that subscription.
const ID: &str = "watch";

/// Subprotocol for GraphQL over WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// `graphql-transport-ws`: today's clients.
    Transport,
    /// `graphql-ws` of subscriptions-transport-ws: the tutorial's clients.
    Legacy,
}

impl Dialect {
    pub(crate) const fn subprotocol(self) -> &'static str {
        match self {
            Self::Transport => "graphql-transport-ws",
            Self::Legacy => "graphql-ws",
        }
    }

    const fn start(self) -> &'static str {
        match self {
            Self::Transport => "subscribe",
            Self::Legacy => "start",
        }
    }

    const fn next(self) -> &'static str {
        match self {
            Self::Transport => "next",
            Self::Legacy => "data",
        }
    }
}

/// End of a connection. Code 1006 stands for an end without a close frame, as in browsers.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) code: u16,
    pub(crate) reason: String,
}

/// WebSocket after the handshake, before any message.
pub(crate) struct Socket {
    stream: WebSocketStream<TcpStream>,
    /// Subprotocol that the pod chose.
    pub(crate) subprotocol: Option<String>,
}

impl Socket {
    /// Connects by hand, since libraries reject some of the answers that tests examine.
    pub(crate) async fn open(port: u16, subprotocol: Option<&str>) -> Self {
        Self::over(TcpStream::connect(("127.0.0.1", port)).await.unwrap(), port, subprotocol).await
    }

    async fn over(mut tcp: TcpStream, port: u16, subprotocol: Option<&str>) -> Self {
        let wanted =
            subprotocol.map(|name| format!("Sec-WebSocket-Protocol: {name}\r\n")).unwrap_or_default();
        let request = format!(
            "GET /graphql HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{wanted}\r\n"
        );
        tcp.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            // Byte by byte, because the bytes after the head belong to the WebSocket
            head.push(timeout(PATIENCE, tcp.read_u8()).await.expect("an answer in time").unwrap());
        }
        let head = String::from_utf8(head).unwrap();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        let chosen = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("sec-websocket-protocol").then(|| value.trim().to_owned())
        });
        let stream = WebSocketStream::from_raw_socket(tcp, Role::Client, None).await;
        Self { stream, subprotocol: chosen }
    }

    pub(crate) async fn send(&mut self, message: Value) {
        self.send_text(message.to_string()).await;
    }

    pub(crate) async fn send_text(&mut self, text: String) {
        self.stream.send(Message::text(text)).await.unwrap();
    }

    pub(crate) async fn send_binary(&mut self, bytes: Vec<u8>) {
        self.stream.send(Message::binary(bytes)).await.unwrap();
    }

    /// Sends one frame unchecked, valid or not.
    pub(crate) async fn send_frame(&mut self, opcode: OpCode, payload: &[u8], is_final: bool) {
        let header = FrameHeader { opcode, is_final, ..FrameHeader::default() };
        let frame = Frame::from_payload(header, payload.to_vec().into());
        self.stream.send(Message::Frame(frame)).await.unwrap();
    }

    /// Sends one frame unchecked, and ignores errors: the pod may have closed the connection.
    pub(crate) async fn try_send_frame(&mut self, opcode: OpCode, payload: &[u8], is_final: bool) {
        let header = FrameHeader { opcode, is_final, ..FrameHeader::default() };
        let frame = Frame::from_payload(header, payload.to_vec().into());
        self.stream.send(Message::Frame(frame)).await.ok();
    }

    /// Returns the payload of the next pong. Any other message fails the test.
    pub(crate) async fn receive_pong(&mut self) -> Vec<u8> {
        match timeout(PATIENCE, self.stream.next()).await.expect("a pong in time") {
            Some(Ok(Message::Pong(payload))) => payload.to_vec(),
            other => panic!("{other:?}"),
        }
    }

    /// Closes with this code and returns the code of the answer.
    pub(crate) async fn close_with(&mut self, code: u16) -> u16 {
        let frame = CloseFrame { code: code.into(), reason: "".into() };
        self.stream.close(Some(frame)).await.unwrap();
        self.receive_to_end().await.1.code
    }

    /// Sends a text and ignores errors: the pod may have closed the connection.
    pub(crate) async fn try_send_text(&mut self, text: String) {
        self.stream.send(Message::text(text)).await.ok();
    }

    /// Returns the next message that is no ping, no pong without a payload and no keep-alive, or
    /// the end of the connection.
    pub(crate) async fn receive(&mut self) -> Result<Value, End> {
        timeout(PATIENCE, self.receive_without_limit()).await.expect("a message in time")
    }

    async fn receive_without_limit(&mut self) -> Result<Value, End> {
        loop {
            let message = match self.stream.next().await {
                Some(Ok(Message::Text(text))) => serde_json::from_str::<Value>(&text).unwrap(),
                Some(Ok(Message::Close(frame))) => {
                    return Err(frame.map_or(End { code: 1005, reason: String::new() }, |frame| End {
                        code: frame.code.into(),
                        reason: frame.reason.to_string(),
                    }));
                }
                Some(Ok(_)) => continue,
                Some(Err(_)) | None => return Err(End { code: 1006, reason: String::new() }),
            };
            match message["type"].as_str() {
                Some("ka") => {}
                Some("pong") if message["payload"].is_null() => {}
                Some("ping") => self.send(json!({ "type": "pong" })).await,
                _ => return Ok(message),
            }
        }
    }

    /// Returns all messages until the connection ends, and its end.
    pub(crate) async fn receive_to_end(&mut self) -> (Vec<Value>, End) {
        let mut messages = Vec::new();
        loop {
            match self.receive().await {
                Ok(message) => messages.push(message),
                Err(end) => return (messages, end),
            }
        }
    }

    /// Closes the connection with a close handshake.
    pub(crate) async fn close(mut self) {
        let frame = CloseFrame { code: CloseCode::Normal, reason: "".into() };
        self.stream.close(Some(frame)).await.unwrap();
        while !matches!(timeout(PATIENCE, self.stream.next()).await, Ok(None | Some(Err(_)))) {}
    }

    /// Resets the connection without a close frame, as if the client's machine were gone.
    pub(crate) fn abort(self) {
        self.stream.get_ref().set_zero_linger().unwrap();
    }
}

/// Connection of an authenticated user.
pub(crate) struct Client {
    pub(crate) socket: Socket,
    pub(crate) user: String,
    dialect: Dialect,
    /// Cursor of the connection's start; `None` in the legacy dialect.
    cursor: Option<String>,
}

impl Client {
    /// Connects as this demo user and waits for the ack.
    pub(crate) async fn connect(port: u16, dialect: Dialect, user: &str) -> Self {
        Self::greet(Socket::open(port, Some(dialect.subprotocol())).await, dialect, user).await
    }

    /// Watches with a small receive buffer. For a client that does not read, the kernel may
    /// otherwise receive tens of megabytes. Returns once the pod counts the watcher; no other one
    /// may come or go meanwhile.
    pub(crate) async fn watch_narrowly(pod: &Relay, user: &str) -> Self {
        let before = pod.metric("relay_watchers").await;
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(NARROW).unwrap();
        let tcp = socket.connect(([127, 0, 0, 1], pod.port()).into()).await.unwrap();
        let dialect = Dialect::Transport;
        let socket = Socket::over(tcp, pod.port(), Some(dialect.subprotocol())).await;
        let mut client = Self::greet(socket, dialect, user).await;
        client.watch().await;
        pod.until_metric("relay_watchers", before + 1.0).await;
        client
    }

    async fn greet(mut socket: Socket, dialect: Dialect, user: &str) -> Self {
        assert_eq!(socket.subprotocol.as_deref(), Some(dialect.subprotocol()));
        socket
            .send(json!({ "type": "connection_init", "payload": { "token": format!("Bearer {user}") } }))
            .await;
        let ack = socket.receive().await.unwrap();
        assert_eq!(ack["type"], "connection_ack", "{ack}");
        let cursor = ack["payload"]["cursor"].as_str().map(str::to_owned);
        Self { socket, user: user.to_owned(), dialect, cursor }
    }

    /// Connects and leaves again. Returns the cursor of the connection's start.
    pub(crate) async fn cursor_at_start(port: u16, user: &str) -> String {
        Self::connect(port, Dialect::Transport, user).await.cursor.unwrap()
    }

    /// Sends the subscription. The pod answers nothing yet; its `relay_watchers` shows when it
    /// watches.
    pub(crate) async fn watch(&mut self) {
        self.start(ID, WATCH).await;
    }

    /// Subscribes to what came after this cursor.
    pub(crate) async fn watch_after(&mut self, cursor: &str) {
        let cursor = Value::from(cursor);
        self.start(
            ID,
            &format!("subscription {{ templateAdded(after: {cursor}) {{ id name shareLocationIds }} }}"),
        )
        .await;
    }

    pub(crate) async fn start(&mut self, id: &str, query: &str) {
        let message = json!({ "id": id, "type": self.dialect.start(), "payload": { "query": query } });
        self.socket.send(message).await;
    }

    /// Returns the name of the next template. Any other message fails the test.
    pub(crate) async fn next(&mut self) -> String {
        let message = match self.socket.receive().await {
            Ok(message) => message,
            Err(end) => panic!("{} waits for a template, but the connection ended: {end:?}", self.user),
        };
        assert_eq!(
            (&message["type"], &message["id"]),
            (&json!(self.dialect.next()), &json!(ID)),
            "{message}"
        );
        assert_eq!(message["payload"].get("errors"), None, "{message}");
        message["payload"]["data"]["templateAdded"]["name"].as_str().unwrap().to_owned()
    }

    /// Returns the names of templates until all of `last` have arrived, in any order.
    pub(crate) async fn until_all(&mut self, last: impl IntoIterator<Item = String>) -> Vec<String> {
        let mut missing: BTreeSet<String> = last.into_iter().collect();
        let mut names = Vec::new();
        while !missing.is_empty() {
            let name = self.next().await;
            missing.remove(&name);
            names.push(name);
        }
        names
    }

    /// Returns the names of the templates that arrive before this one.
    pub(crate) async fn before(&mut self, name: &str) -> Vec<String> {
        let mut names = self.until_all([name.to_owned()]).await;
        names.pop();
        names
    }
}

/// Connects these users to this pod and returns once the pod counts all of them as watchers. No
/// other watcher may come or go meanwhile.
pub(crate) async fn watchers_on(pod: &Relay, dialect: Dialect, users: &[&str]) -> Vec<Client> {
    let before = pod.metric("relay_watchers").await;
    let mut clients = Vec::new();
    for user in users {
        let mut client = Client::connect(pod.port(), dialect, user).await;
        client.watch().await;
        clients.push(client);
    }
    let added = u32::try_from(clients.len()).unwrap();
    pod.until_metric("relay_watchers", before + f64::from(added)).await;
    clients
}
