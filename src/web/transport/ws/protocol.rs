//! [`Protocol`]: the two WebSocket subprotocols as one state machine.
//!
//! The client's frames and the driver's decisions go in, [`Action`]s come out. There is no socket,
//! clock or executor, so that every rule is a plain test. Where PROTOCOL.md of the legacy dialect
//! is silent, the last release of its library is the model. An operation must never start before
//! its viewer is authenticated. Nothing of an operation may be written after its end.

mod close;
mod dialect;
mod wire;

use std::{collections::HashSet, sync::Arc};

use serde_json::{Map, Value, json, value::RawValue};

use self::wire::{ClientFrame, Malformed};
pub use self::{
    close::Close,
    dialect::Dialect,
    wire::{Request, TAIL},
};
use crate::graphql::error::Code;

/// Action that the driver takes next.
// Only tests may print it: it holds tokens and variables.
#[cfg_attr(test, derive(Debug, PartialEq))]
pub enum Action {
    /// Nothing.
    Nothing,
    /// Write this frame.
    Write(String),
    /// Write this frame: the client has as many operations as it may.
    Refuse(String),
    /// Authenticate the viewer and call [`Protocol::acknowledged`] or [`Protocol::refused`], before
    /// the next frame is read. Legacy clients start operations right behind `connection_init`.
    Authenticate {
        /// Payload of `connection_init`; see [`token`].
        payload: Option<Map<String, Value>>,
    },
    /// Check the token in the payload, and answer with [`Protocol::refreshed`].
    Refresh {
        /// Payload of the `ping`; see [`token`].
        payload: Map<String, Value>,
    },
    /// Run this operation and report its end with [`Protocol::completed`] or
    /// [`Protocol::rejected`].
    Start {
        /// The client's id of the operation, free until now.
        id: Arc<str>,
        /// Beginning of the frame of each result, followed by the result and [`TAIL`].
        head: Arc<str>,
        /// Request to run.
        request: Request,
    },
    /// End the operation, then write the reply, if any. Nothing of the operation may be written any
    /// more; its id is free.
    Stop {
        /// The client's id of the operation.
        id: Arc<str>,
        /// Frame for the client, if the dialect answers.
        reply: Option<String>,
    },
    /// A [`Stop`](Self::Stop), then a [`Start`](Self::Start) with the same id.
    Restart {
        /// The client's id of both operations.
        id: Arc<str>,
        /// Frame for the client about the operation that ends.
        reply: String,
        /// Beginning of the frame of each result of the new operation.
        head: Arc<str>,
        /// Request to run.
        request: Request,
    },
    /// End the connection with all its operations.
    Close(Close),
    /// End the connection with a normal close, as the client wishes.
    Terminate,
}

/// Phase of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// `connection_init` has not come yet.
    Opened,
    /// The driver authenticates the viewer.
    Initialised,
    /// The viewer is authenticated: operations may start.
    Acknowledged,
    /// The connection ends: nothing is answered any more.
    Ended,
}

/// Protocol state of one connection, on the server's side.
#[derive(Debug)]
pub struct Protocol {
    dialect: Dialect,
    phase: Phase,
    /// Ids in use.
    operations: HashSet<Arc<str>>,
    /// Operations at a time. A further one is refused with `LIMIT_REACHED`.
    max_operations: usize,
}

impl Protocol {
    /// Creates the state of a connection that has just been opened. At most `max_operations` may
    /// run on it at a time.
    #[must_use]
    pub fn new(dialect: Dialect, max_operations: usize) -> Self {
        Self { dialect, phase: Phase::Opened, operations: HashSet::new(), max_operations }
    }

    /// Handles a text of the client.
    pub fn on_text(&mut self, text: &str) -> Action {
        if self.phase == Phase::Ended {
            return Action::Nothing;
        }
        match ClientFrame::parse(self.dialect, text) {
            Ok(ClientFrame::Init { payload }) => self.init(payload),
            Ok(ClientFrame::Ping { payload }) => self.ping(payload),
            Ok(ClientFrame::Pong) => Action::Nothing,
            Ok(ClientFrame::Start { id, request }) => self.start(id, request),
            Ok(ClientFrame::Stop { id }) => self.stop(&id),
            Ok(ClientFrame::Terminate) => self.end(Action::Terminate),
            Err(malformed) => self.on_malformed(malformed),
        }
    }

    /// Handles bytes of the client. Neither dialect uses them, so the connection is closed.
    pub fn on_binary(&mut self) -> Action {
        self.close(Close::bad_message("only text is understood"))
    }

    /// Handles the end of the time for `connection_init`.
    pub fn on_init_timeout(&mut self) -> Action {
        match self.phase {
            Phase::Opened => self.close(Close::INIT_TIMEOUT),
            _ => Action::Nothing,
        }
    }

    /// Acknowledges the viewer. Returns the frames to write, none if no `connection_init` waits for
    /// an answer. `payload` is for the client.
    pub fn acknowledged(&mut self, payload: Option<&Value>) -> Vec<String> {
        if self.phase != Phase::Initialised {
            return Vec::new();
        }
        self.phase = Phase::Acknowledged;
        // Only the legacy library sends a keep-alive at once.
        let first = self.keep_alive().filter(|_| self.dialect == Dialect::Legacy).map(str::to_owned);
        [wire::connection_ack(payload)].into_iter().chain(first).collect()
    }

    /// Refuses the viewer for a reason that the client may read. Returns the frame to write, if
    /// any, and the close that follows it.
    pub fn refused(&mut self, reason: &str) -> (Option<String>, Close) {
        let has_frame = self.dialect == Dialect::Legacy && self.phase != Phase::Ended;
        self.end(Action::Nothing);
        (has_frame.then(|| wire::connection_error(reason)), Close::forbidden(reason))
    }

    /// Records the end of an operation and frees its id. Returns the frame to write, unless the
    /// client ended the operation first.
    pub fn completed(&mut self, id: &str) -> Option<String> {
        self.operations.remove(id).then(|| wire::complete(id))
    }

    /// Records that an operation cannot run, and frees its id. Returns the frame to write, unless
    /// the client ended the operation first. `errors` is an array of at least one GraphQL error;
    /// legacy clients get the first one.
    pub fn rejected(&mut self, id: &str, errors: &Value) -> Option<String> {
        self.operations.remove(id).then(|| wire::error(self.dialect, Some(id), errors))
    }

    /// Returns the frame that shows a page that the server is alive: a page sees no pings of the
    /// WebSocket. `None` before the acknowledgement.
    #[must_use]
    pub fn keep_alive(&self) -> Option<&'static str> {
        let frame = match self.dialect {
            Dialect::Transport => r#"{"type":"ping"}"#,
            Dialect::Legacy => r#"{"type":"ka"}"#,
        };
        (self.phase == Phase::Acknowledged).then_some(frame)
    }

    /// Returns the answer to a ping whose token was checked. It never holds the token.
    #[must_use]
    pub fn refreshed(outcome: &Value) -> String {
        json!({ "type": "pong", "payload": { "refresh": outcome } }).to_string()
    }

    /// Handles a ping. One with a token asks to extend the connection's life; any other is echoed.
    fn ping(&self, payload: Option<&RawValue>) -> Action {
        let read = |raw: &RawValue| serde_json::from_str::<Map<String, Value>>(raw.get()).ok();
        let object = payload.filter(|_| self.phase == Phase::Acknowledged).and_then(read);
        match object {
            Some(payload) if token(Some(&payload)).is_some() => Action::Refresh { payload },
            _ => Action::Write(wire::pong(payload)),
        }
    }

    fn init(&mut self, payload: Option<Map<String, Value>>) -> Action {
        if self.phase != Phase::Opened {
            // The legacy library would authenticate again. A connection of this server has one
            // viewer to its end.
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
            // The operation may have ended by itself while the client's frame was on its way.
            return Action::Nothing;
        };
        // Only the server of the legacy library answers, because of the way its iterators end.
        let reply = (self.dialect == Dialect::Legacy).then(|| wire::complete(&id));
        Action::Stop { id, reply }
    }

    fn on_malformed(&mut self, malformed: Malformed) -> Action {
        match (self.dialect, malformed) {
            (Dialect::Transport, Malformed::Text(reason) | Malformed::Frame { reason, .. }) => {
                self.close(Close::bad_message(&reason))
            }
            (_, Malformed::Operation { id, reason }) if self.phase == Phase::Acknowledged => {
                self.refuse_operation(&id, &reason)
            }
            (Dialect::Transport, Malformed::Operation { .. }) => self.close(Close::UNAUTHORIZED),
            (Dialect::Legacy, Malformed::Operation { id, .. }) => {
                Action::Write(self.error(Some(&id), "Unauthorized", Code::Unauthenticated))
            }
            (Dialect::Legacy, Malformed::Text(reason)) => Action::Write(wire::connection_error(&reason)),
            (Dialect::Legacy, Malformed::Frame { id, reason }) => {
                // An `error` is the last frame for an id, also for an id that is in use.
                match id {
                    Some(id) => self.refuse_operation(&id, &reason),
                    None => Action::Write(self.error(None, &reason, Code::BadRequest)),
                }
            }
        }
    }

    /// Refuses an operation that cannot be read. In the newer dialect an id in use closes the
    /// connection, as it does for an operation that can be read.
    fn refuse_operation(&mut self, id: &str, reason: &str) -> Action {
        if self.dialect == Dialect::Transport && self.operations.contains(id) {
            return self.close(Close::id_in_use(id));
        }
        let error = self.error(Some(id), reason, Code::BadRequest);
        match self.operations.take(id) {
            Some(id) => Action::Stop { id, reply: Some(error) },
            None => Action::Write(error),
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

/// Returns the token in the payload of `connection_init` or `ping`: `token`, else `Authorization`,
/// else `Authorization` in an object `headers`. The case of the names does not count.
#[must_use]
pub fn token(payload: Option<&Map<String, Value>>) -> Option<&str> {
    let payload = payload?;
    let own = ["token", "Authorization"].into_iter().find_map(|name| field(payload, name)?.as_str());
    own.or_else(|| field(field(payload, "headers")?.as_object()?, "Authorization")?.as_str())
}

/// Returns a field by its name in any case. The exact name wins.
fn field<'p>(payload: &'p Map<String, Value>, name: &str) -> Option<&'p Value> {
    let in_any_case = || payload.iter().find(|(other, _)| other.eq_ignore_ascii_case(name));
    payload.get(name).or_else(|| in_any_case().map(|(_, value)| value))
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
