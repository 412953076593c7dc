//! The two WebSocket subprotocols as a state machine: text in, [`Action`]s out.
//!
//! `graphql-transport-ws` is the one of the graphql-ws package; `graphql-ws`, confusingly, the older one of
//! subscriptions-transport-ws. Sans-IO: no runtime, no clock, no socket, so that every rule is a plain test. The driver
//! decides who is let in and runs operations; this decides what may be said when.

mod wire;

use std::{borrow::Cow, collections::HashSet, sync::Arc};

use serde_json::{Map, Value, json};

use self::wire::{ClientFrame, Legacy, Transport, completed, error, fitting, head};
pub use self::wire::{Request, frame};

/// Which subprotocol a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// `graphql-transport-ws`.
    Transport,
    /// `graphql-ws`.
    Legacy,
}

impl Dialect {
    /// The names in the handshake, the preferred one first.
    pub const NAMES: [&'static str; 2] = ["graphql-transport-ws", "graphql-ws"];

    /// The dialect of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "graphql-transport-ws" => Some(Self::Transport),
            "graphql-ws" => Some(Self::Legacy),
            _ => None,
        }
    }
}

/// How the server ends a WebSocket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Close {
    /// The close code.
    pub code: u16,
    /// What people read; at most 123 bytes, or the frame would not be one.
    pub reason: Cow<'static, str>,
}

impl Close {
    /// A close with a fixed reason.
    #[must_use]
    pub const fn new(code: u16, reason: &'static str) -> Self {
        Self { code, reason: Cow::Borrowed(reason) }
    }

    fn bad_message(reason: &str) -> Self {
        Self { code: 4400, reason: Cow::Owned(fitting(reason).to_owned()) }
    }

    /// The code as metrics and logs name it.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self.code {
            4400 => "bad_message",
            4401 => "unauthorized",
            4403 => "forbidden",
            4406 => "bad_subprotocol",
            4408 => "init_timeout",
            4409 => "id_in_use",
            4429 => "second_init",
            _ => "refused",
        }
    }
}

/// What the driver does next.
#[derive(Debug, PartialEq)]
pub enum Action {
    /// Nothing.
    Nothing,
    /// Write this frame.
    Write(String),
    /// Find out who this is, then call [`Protocol::admitted`] or [`Protocol::refused`].
    Authenticate {
        /// What came with `connection_init`.
        payload: Option<Map<String, Value>>,
    },
    /// Run this operation; say how it ended with [`Protocol::completed`] or [`Protocol::rejected`].
    Start {
        /// The client's id of it, free until now.
        id: Arc<str>,
        /// The frame of one of its results up to the payload, for [`frame`].
        head: Arc<str>,
        /// What to run.
        request: Request,
    },
    /// End this operation, then write the frame, if any. The id is free again.
    Stop {
        /// The client's id of it.
        id: Arc<str>,
        /// What the client is told.
        reply: Option<String>,
    },
    /// End this operation, and run this one in its place.
    Restart {
        /// The client's id of both.
        id: Arc<str>,
        /// As in [`Action::Start`].
        head: Arc<str>,
        /// What to run.
        request: Request,
    },
    /// End the connection.
    Close(Close),
    /// The client said goodbye.
    Terminate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The client has not said who it is.
    New,
    /// It has, and the driver looks into it.
    Initialised,
    /// It may start operations.
    Acknowledged,
    /// Nothing counts any more.
    Ended,
}

/// One connection's side of the conversation.
#[derive(Debug)]
pub struct Protocol {
    dialect: Dialect,
    phase: Phase,
    operations: HashSet<Arc<str>>,
    max_operations: usize,
}

impl Protocol {
    /// A connection just opened, on which at most `max_operations` may run at once.
    #[must_use]
    pub fn new(dialect: Dialect, max_operations: usize) -> Self {
        Self { dialect, phase: Phase::New, operations: HashSet::new(), max_operations }
    }

    /// The client sent this text.
    pub fn on_text(&mut self, text: &str) -> Action {
        if self.phase == Phase::Ended {
            return Action::Nothing;
        }
        match self.dialect {
            Dialect::Transport => match serde_json::from_str::<Transport>(text) {
                Ok(frame) => self.on_transport(frame),
                Err(error) => self.close(Close::bad_message(&format!("Invalid message: {error}"))),
            },
            Dialect::Legacy => match ClientFrame::parse(text) {
                Ok(frame) => self.on_legacy(frame),
                Err(error) => Action::Write(wire::connection_error(&format!("invalid message: {error}"))),
            },
        }
    }

    /// The client sent bytes, which neither dialect has a use for.
    pub fn on_binary(&mut self) -> Action {
        self.close(Close::new(4400, "Invalid message: text frames only"))
    }

    /// The client has had time enough to say who it is.
    pub fn on_init_timeout(&mut self) -> Action {
        match self.phase {
            Phase::New => self.close(Close::new(4408, "Connection initialisation timeout")),
            _ => Action::Nothing,
        }
    }

    /// The client is let in: the frames to write.
    pub fn admitted(&mut self, payload: Option<&Value>) -> Vec<String> {
        self.phase = Phase::Acknowledged;
        let ack = match payload {
            Some(payload) => json!({"type": "connection_ack", "payload": payload}),
            None => json!({"type": "connection_ack"}),
        };
        let mut frames = vec![ack.to_string()];
        frames.extend(self.keep_alive());
        frames
    }

    /// The client is not let in: the frame to write, and then the end.
    pub fn refused(&mut self, why: &str) -> (Option<String>, Close) {
        self.phase = Phase::Ended;
        let frame = (self.dialect == Dialect::Legacy).then(|| wire::connection_error(why));
        (frame, Close { code: 4403, reason: Cow::Owned(fitting(&format!("Forbidden: {why}")).to_owned()) })
    }

    /// The operation has ended by itself: the frame to write, unless the client ended it first.
    pub fn completed(&mut self, id: &str) -> Option<String> {
        self.operations.remove(id).then(|| completed(id))
    }

    /// The operation was not run: the frame to write, unless the client ended it first. `errors` are GraphQL errors.
    pub fn rejected(&mut self, id: &str, errors: &Value) -> Option<String> {
        self.operations.remove(id).then(|| error(self.dialect, id, errors))
    }

    /// The frame that tells the client every now and then that the server is there, in the dialect that has one.
    #[must_use]
    pub fn keep_alive(&self) -> Option<String> {
        (self.dialect == Dialect::Legacy && self.phase == Phase::Acknowledged)
            .then(|| r#"{"type":"ka"}"#.to_owned())
    }

    fn on_transport(&mut self, frame: Transport) -> Action {
        match frame {
            Transport::ConnectionInit { payload } => self.init(payload),
            Transport::Ping { payload } => Action::Write(wire::pong(payload.as_ref())),
            Transport::Pong { .. } => Action::Nothing,
            Transport::Subscribe { .. } if self.phase != Phase::Acknowledged => {
                self.close(Close::new(4401, "Unauthorized"))
            }
            Transport::Subscribe { id, .. } if self.operations.contains(&*id.0) => {
                let reason = format!("Subscriber for {} already exists", id.0);
                self.close(Close { code: 4409, reason: Cow::Owned(fitting(&reason).to_owned()) })
            }
            Transport::Subscribe { id, payload } => self.start(id.0, payload),
            Transport::Complete { id } => self.stop(&id.0, None),
        }
    }

    fn on_legacy(&mut self, frame: ClientFrame) -> Action {
        let ClientFrame { id, content } = frame;
        let id: Arc<str> = id.unwrap_or_default().into();
        match content {
            Ok(Legacy::ConnectionInit { payload }) => self.init(payload),
            Ok(Legacy::ConnectionTerminate) => {
                self.phase = Phase::Ended;
                Action::Terminate
            }
            Ok(Legacy::Start { .. }) if self.phase != Phase::Acknowledged => {
                self.complain(&id, "a token is required")
            }
            Ok(Legacy::Start { payload }) if self.operations.contains(&id) => {
                Action::Restart { head: head(self.dialect, &id), id, request: payload }
            }
            Ok(Legacy::Start { payload }) => self.start(id, payload),
            Ok(Legacy::Stop) => self.stop(&id, Some(completed(&id))),
            Err(why) => self.complain(&id, &why),
        }
    }

    fn init(&mut self, payload: Option<Map<String, Value>>) -> Action {
        if self.phase != Phase::New {
            return self.close(Close::new(4429, "Too many initialisation requests"));
        }
        self.phase = Phase::Initialised;
        Action::Authenticate { payload }
    }

    fn start(&mut self, id: Arc<str>, request: Request) -> Action {
        if self.operations.len() >= self.max_operations {
            let text = format!("at most {} operations run on one connection", self.max_operations);
            let errors = json!([{"message": text, "extensions": {"code": "LIMIT_REACHED"}}]);
            return Action::Write(error(self.dialect, &id, &errors));
        }
        self.operations.insert(id.clone());
        Action::Start { head: head(self.dialect, &id), id, request }
    }

    fn stop(&mut self, id: &str, reply: Option<String>) -> Action {
        self.operations.take(id).map_or(Action::Nothing, |id| Action::Stop { id, reply })
    }

    fn complain(&self, id: &str, why: &str) -> Action {
        Action::Write(error(self.dialect, id, &json!([{"message": why}])))
    }

    fn close(&mut self, close: Close) -> Action {
        if self.phase == Phase::Ended {
            return Action::Nothing;
        }
        self.phase = Phase::Ended;
        Action::Close(close)
    }
}

/// The token in what came with `connection_init`: the tutorial's `token`, or `Authorization` in either case.
#[must_use]
pub fn token(payload: Option<&Map<String, Value>>) -> Option<&str> {
    let payload = payload?;
    ["token", "Authorization", "authorization"].iter().find_map(|name| payload.get(*name)?.as_str())
}

#[cfg(test)]
mod tests;
