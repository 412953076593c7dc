//! The operations of one WebSocket: carries out the [`Action`]s of the protocol with the engine.
//!
//! It must never decide what a client may do: the protocol does.

use std::sync::Arc;

use async_graphql::Response as GraphQLResponse;
use serde_json::{Map, Value, json};

use super::{
    driver::{ChosenClose, Connection, Label},
    frame,
    protocol::{self, Action, Close, Protocol},
};
use crate::{
    budget::Charge,
    cursor::Source,
    graphql::Answer,
    rfc3339,
    web::{
        connection::{End, expiry},
        http::{
            refusal::{self, end_of},
            request,
        },
        operations::Start,
    },
};

/// Place of the token, for a client that sent none. It fits into the reason of a close.
const TOKEN_PLACE: &str = "`token` or `Authorization` in connection_init's payload";

impl Connection {
    /// Carries out an action of the protocol. `held` is the charge of its message.
    pub(super) async fn act(&mut self, action: Action, held: Option<Charge>) -> Result<(), End> {
        match action {
            Action::Nothing => Ok(()),
            Action::Write(frame) => self.write([frame]).await,
            Action::Refuse(frame) => {
                self.app.connections.refuse("watchers");
                self.write([frame]).await
            }
            Action::Authenticate { payload } => self.authenticate(payload).await,
            Action::Refresh { payload } => self.refresh(&payload).await,
            Action::Start { id, head, request } => self.start(id, head, request, held).await,
            Action::Stop { id, reply } => {
                self.stop(&id);
                self.write(reply).await
            }
            Action::Restart { id, reply, head, request } => {
                self.stop(&id);
                self.write([reply]).await?;
                self.start(id, head, request, held).await
            }
            Action::Close(close) => Err(self.refuse(close)),
            Action::Terminate => {
                self.chosen_close = Some(ChosenClose { close: Close::NORMAL, expects_answer: false });
                Err(End::Left)
            }
        }
    }

    async fn authenticate(&mut self, payload: Option<Map<String, Value>>) -> Result<(), End> {
        let newcomer = self.newcomer.take();
        let of_handshake = newcomer.as_ref().and_then(|newcomer| newcomer.token.as_deref());
        let token = protocol::token(payload.as_ref()).or(of_handshake);
        match self.app.auth.authenticate(token).await {
            Ok(session) => {
                self.deadline = expiry(session.expires);
                self.app.identify(&mut self.guard, &session);
                self.viewer = Some(session.viewer);
                self.socket().set_limit(request::MAX_REQUEST_BYTES);
                let cursor = json!({"cursor": self.app.engine.cursor(Source::Start)});
                let frames = self.protocol.acknowledged(Some(&cursor));
                self.write(frames).await
            }
            Err(error) => {
                tracing::debug!(reason = error.reason(), "connection refused");
                let text = self.app.auth.explain(&error, TOKEN_PLACE);
                let (frame, close) = self.protocol.refused(&text);
                self.write(frame).await?;
                Err(self.refuse(close))
            }
        }
    }

    /// Extends the connection's life by a new token of the same viewer. A token that does not fit
    /// changes nothing, and the answer says why.
    async fn refresh(&mut self, payload: &Map<String, Value>) -> Result<(), End> {
        let Some(viewer) = self.viewer.clone() else { return Err(End::Lost) };
        let refuse = |code: &str, message: &str| json!({ "refused": { "code": code, "message": message } });
        let outcome = match self.app.auth.authenticate(protocol::token(Some(payload))).await {
            Err(error) => refuse(refusal::code(&error).as_str(), &error.to_string()),
            Ok(session) if session.viewer.user != viewer.user => {
                refuse("OTHER_USER", "the token is of another user; open a connection of its own")
            }
            // What runs here was checked for the old rights.
            Ok(session) if *session.viewer != *viewer => {
                refuse("RIGHTS_CHANGED", "the token has other rights; connect again, and resume")
            }
            Ok(session) => {
                self.deadline = expiry(session.expires);
                self.app.identify(&mut self.guard, &session);
                self.viewer = Some(session.viewer);
                let expires = session.expires.and_then(rfc3339::write);
                json!({ "accepted": { "expires": expires } })
            }
        };
        self.write([Protocol::refreshed(&outcome)]).await
    }

    async fn start(
        &mut self,
        id: Arc<str>,
        head: Arc<str>,
        request: protocol::Request,
        held: Option<Charge>,
    ) -> Result<(), End> {
        let protocol::Request { query, operation_name, variables, extensions } = request;
        let (variables, extensions) = (variables.unwrap_or_default(), extensions.unwrap_or_default());
        let request = request::build(query.unwrap_or_default(), operation_name, variables, extensions);
        let Some(viewer) = self.viewer.clone() else { return Err(End::Lost) };
        let prepared = match self.app.engine.prepare(request, &viewer.user).await {
            Ok(prepared) => prepared,
            Err(refusal) => return self.turn_down(&id, &refusal).await,
        };
        let label = Label { id, head };
        let (send_queue, start) = (self.send_queue.clone(), Start { prepared, viewer, after: None, held });
        match self.running.start(&self.app, start, send_queue, label).await {
            Ok(_) => Ok(()),
            Err((label, refusal)) => self.turn_down(&label.id, &refusal).await,
        }
    }

    /// Refuses an operation that has not begun, or ends the connection if it may pass later.
    async fn turn_down(&mut self, id: &str, refusal: &GraphQLResponse) -> Result<(), End> {
        match end_of(refusal) {
            Some(end) => Err(end),
            None => self.reject(id, refusal).await,
        }
    }

    /// Keeps the close that the protocol chose. Returns the end that goes with it.
    fn refuse(&mut self, close: Close) -> End {
        let label = close.label();
        self.chosen_close = Some(ChosenClose { close, expects_answer: true });
        End::Refused(label)
    }

    fn stop(&mut self, id: &str) {
        self.running.stop(|label| &*label.id == id);
    }

    pub(super) async fn reject(&mut self, id: &str, refusal: &GraphQLResponse) -> Result<(), End> {
        let Ok(errors) = serde_json::to_value(&refusal.errors) else { return Err(End::Lost) };
        let frame = self.protocol.rejected(id, &errors);
        self.write(frame).await
    }

    /// Writes the result of a query or mutation, and that no other one follows. The charge is
    /// released when the kernel has taken all of it.
    pub(super) async fn finish(&mut self, label: &Label, answer: Answer) -> Result<(), End> {
        let Answer { text, charge, .. } = answer;
        let completed = self.protocol.completed(&label.id);
        let written = self.socket().write(|frames| {
            frame::text(frames, [&label.head, &text, protocol::TAIL]);
            if let Some(completed) = completed {
                frame::text(frames, [&completed]);
            }
        });
        drop(text);
        let taken = self.await_write(written).await;
        drop(charge);
        taken
    }
}
