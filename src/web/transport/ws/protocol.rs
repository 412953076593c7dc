//! The two WebSocket subprotocols as one state machine: the client's frames and the driver's decisions in, [`Action`]s out.
//!
//! No socket, clock or executor, so that every rule is a plain test. Where the legacy dialect's own PROTOCOL.md is silent,
//! the last release of its library is the model. It must never let an operation start before its viewer is let in, nor
//! say anything of an operation after its end.

mod close;
mod dialect;
mod wire;

use std::{collections::HashSet, sync::Arc};

use serde_json::{Map, Value, json};

use self::wire::{ClientFrame, Malformed};
pub use self::{
    close::Close,
    dialect::Dialect,
    wire::{Request, TAIL},
};
use crate::graphql::error::Code;

/// What the driver does next.
// Only tests may print it: it holds tokens and variables.
#[cfg_attr(test, derive(Debug, PartialEq))]
pub enum Action {
    /// Nothing.
    Nothing,
    /// Write this frame.
    Write(String),
    /// The same, of a client that has as many operations as it may.
    Refuse(String),
    /// Find out who this is and call [`Protocol::admitted`] or [`Protocol::refused`], before the next frame is read:
    /// legacy clients start operations on the heels of `connection_init`.
    Authenticate {
        /// What came with `connection_init`; see [`token`].
        payload: Option<Map<String, Value>>,
    },
    /// Run this operation, and say how it ended with [`Protocol::completed`] or [`Protocol::rejected`].
    Start {
        /// The client's id of it, free until now.
        id: Arc<str>,
        /// The beginning of the frame of each of its results, to be followed by the result and [`TAIL`].
        head: Arc<str>,
        /// What to run.
        request: Request,
    },
    /// End the operation, then write the reply, if any. Nothing of it may be written any more; its id is free.
    Stop {
        /// The client's id of it.
        id: Arc<str>,
        /// What the client is told.
        reply: Option<String>,
    },
    /// A [`Stop`](Self::Stop), then a [`Start`](Self::Start) with the same id.
    Restart {
        /// The client's id of both.
        id: Arc<str>,
        /// What the client is told of the one that ends.
        reply: String,
        /// The beginning of the frame of each result of the one that starts.
        head: Arc<str>,
        /// What to run.
        request: Request,
    },
    /// End the connection, all its operations with it.
    Close(Close),
    /// The same, as the client wishes: a normal close.
    Terminate,
}

/// How far the conversation has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The client has not said who it is.
    Opened,
    /// It has; the driver looks into it.
    Initialised,
    /// It is let in.
    Acknowledged,
    /// Nothing counts any more.
    Ended,
}

/// The server's side of one connection.
#[derive(Debug)]
pub struct Protocol {
    dialect: Dialect,
    phase: Phase,
    /// The ids in use.
    operations: HashSet<Arc<str>>,
    max_operations: usize,
}

impl Protocol {
    /// A connection that has just been opened, on which at most `max_operations` may run at once.
    #[must_use]
    pub fn new(dialect: Dialect, max_operations: usize) -> Self {
        Self { dialect, phase: Phase::Opened, operations: HashSet::new(), max_operations }
    }

    /// The client sent this text.
    pub fn on_text(&mut self, text: &str) -> Action {
        if self.phase == Phase::Ended {
            return Action::Nothing;
        }
        match ClientFrame::parse(self.dialect, text) {
            Ok(ClientFrame::Init { payload }) => self.init(payload),
            Ok(ClientFrame::Ping { payload }) => Action::Write(wire::pong(payload)),
            Ok(ClientFrame::Pong) => Action::Nothing,
            Ok(ClientFrame::Start { id, request }) => self.start(id, request),
            Ok(ClientFrame::Stop { id }) => self.stop(&id),
            Ok(ClientFrame::Terminate) => self.end(Action::Terminate),
            Err(malformed) => self.complain(malformed),
        }
    }

    /// The client sent bytes, which neither dialect has a use for.
    pub fn on_binary(&mut self) -> Action {
        self.close(Close::bad_message("only text is understood"))
    }

    /// The client has had time enough to say who it is.
    pub fn on_init_timeout(&mut self) -> Action {
        match self.phase {
            Phase::Opened => self.close(Close::INIT_TIMEOUT),
            _ => Action::Nothing,
        }
    }

    /// The viewer is let in: the frames to write, none if nobody asked. The payload is for the client to read.
    pub fn admitted(&mut self, payload: Option<&Value>) -> Vec<String> {
        if self.phase != Phase::Initialised {
            return Vec::new();
        }
        self.phase = Phase::Acknowledged;
        [wire::connection_ack(payload)].into_iter().chain(self.keep_alive()).collect()
    }

    /// The viewer is not let in, for a reason fit for the client: the frame to write, if any, and how to close then.
    pub fn refused(&mut self, reason: &str) -> (Option<String>, Close) {
        let speaks = self.dialect == Dialect::Legacy && self.phase != Phase::Ended;
        self.end(Action::Nothing);
        (speaks.then(|| wire::connection_error(reason)), Close::forbidden(reason))
    }

    /// The operation has come to its end: the frame to write, unless the client ended it first. The id is free.
    pub fn completed(&mut self, id: &str) -> Option<String> {
        self.operations.remove(id).then(|| wire::complete(id))
    }

    /// The operation cannot run: the frame to write, unless the client ended it first. The id is free. `errors` is
    /// an array of at least one GraphQL error; legacy clients are told the first.
    pub fn rejected(&mut self, id: &str, errors: &Value) -> Option<String> {
        self.operations.remove(id).then(|| wire::error(self.dialect, Some(id), errors))
    }

    /// The frame that tells a client every now and then that the server is there, if the dialect has one. (In the other,
    /// the WebSocket's own pings do.)
    #[must_use]
    pub fn keep_alive(&self) -> Option<String> {
        let due = self.dialect == Dialect::Legacy && self.phase == Phase::Acknowledged;
        due.then(|| r#"{"type":"ka"}"#.to_owned())
    }

    fn init(&mut self, payload: Option<Map<String, Value>>) -> Action {
        if self.phase != Phase::Opened {
            // The legacy library would ask again who this is; a connection of ours has one viewer all its life.
            return self.close(Close::SECOND_INIT);
        }
        self.phase = Phase::Initialised;
        Action::Authenticate { payload }
    }

    fn start(&mut self, id: Arc<str>, request: Request) -> Action {
        if self.phase != Phase::Acknowledged {
            return match self.dialect {
                Dialect::Transport => self.close(Close::UNAUTHORIZED),
                Dialect::Legacy => {
                    Action::Write(self.error(Some(&id), "Unauthorized", Code::Unauthenticated))
                }
            };
        }
        let head = wire::head(self.dialect, &id);
        if self.operations.contains(&id) {
            return match self.dialect {
                Dialect::Transport => self.close(Close::id_in_use(&id)),
                Dialect::Legacy => Action::Restart { reply: wire::complete(&id), id, head, request },
            };
        }
        if self.operations.len() >= self.max_operations {
            let message = format!("at most {} operations may run on a connection", self.max_operations);
            return Action::Refuse(self.error(Some(&id), &message, Code::LimitReached));
        }
        self.operations.insert(id.clone());
        Action::Start { id, head, request }
    }

    fn stop(&mut self, id: &str) -> Action {
        let Some(id) = self.operations.take(id) else {
            // It may have ended by itself while the client's frame was on its way.
            return Action::Nothing;
        };
        // Only the legacy library's server answers, by the way its iterators end.
        let reply = (self.dialect == Dialect::Legacy).then(|| wire::complete(&id));
        Action::Stop { id, reply }
    }

    fn complain(&mut self, malformed: Malformed) -> Action {
        match (self.dialect, malformed) {
            (Dialect::Transport, Malformed::Text(reason) | Malformed::Frame { reason, .. }) => {
                self.close(Close::bad_message(&reason))
            }
            (Dialect::Legacy, Malformed::Text(reason)) => Action::Write(wire::connection_error(&reason)),
            (Dialect::Legacy, Malformed::Frame { id, reason }) => {
                let id = id.as_deref();
                let error = self.error(id, &reason, Code::BadRequest);
                // An `error` is the last that a client hears of an id, also of one that happens to be in use.
                match id.and_then(|id| self.operations.take(id)) {
                    Some(id) => Action::Stop { id, reply: Some(error) },
                    None => Action::Write(error),
                }
            }
        }
    }

    fn error(&self, id: Option<&str>, message: &str, code: Code) -> String {
        let error = json!([{ "message": message, "extensions": { "code": code.as_str() } }]);
        wire::error(self.dialect, id, &error)
    }

    fn close(&mut self, close: Close) -> Action {
        self.end(Action::Close(close))
    }

    /// Ends the conversation with `last`, unless it has ended.
    fn end(&mut self, last: Action) -> Action {
        if self.phase == Phase::Ended {
            return Action::Nothing;
        }
        self.phase = Phase::Ended;
        self.operations = HashSet::new();
        last
    }
}

/// The token in the payload of `connection_init`: `token`, or else `Authorization` in either case.
#[must_use]
pub fn token(payload: Option<&Map<String, Value>>) -> Option<&str> {
    let payload = payload?;
    ["token", "Authorization", "authorization"].into_iter().find_map(|name| payload.get(name)?.as_str())
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
