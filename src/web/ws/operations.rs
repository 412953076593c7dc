//! The operations of one WebSocket: what [`Action`]s ask for, done by the engine.

use std::sync::Arc;

use async_graphql::{Response as GraphQLResponse, parser::types::OperationType};
use serde_json::{Map, Value, json};

use super::{
    super::{
        connection::{End, expiry},
        request,
    },
    MAX_MESSAGE_BYTES,
    driver::Connection,
    protocol::{self, Action, Close},
};
use crate::graphql::error::is_refusal;

/// What an operation is called on a WebSocket.
pub(super) struct Label {
    /// The client's id of it.
    id: Arc<str>,
    /// The frame of a result up to its payload.
    pub(super) head: Arc<str>,
}

impl Connection {
    pub(super) async fn act(&mut self, action: Action) -> Result<(), End> {
        match action {
            Action::Nothing => Ok(()),
            Action::Write(frame) => self.write([frame]).await,
            Action::Refuse(frame) => {
                self.site.connections.refuse("watchers");
                self.write([frame]).await
            }
            Action::Authenticate { payload } => self.authenticate(payload).await,
            Action::Start { id, head, request } => self.start(id, head, request).await,
            Action::Stop { id, reply } => {
                self.stop(&id);
                self.write(reply).await
            }
            Action::Restart { id, reply, head, request } => {
                self.stop(&id);
                self.write([reply]).await?;
                self.start(id, head, request).await
            }
            Action::Close(close) => Err(End::Refused(close)),
            Action::Terminate => {
                self.last_word = Some(Close::NORMAL);
                Err(End::Left)
            }
        }
    }

    async fn authenticate(&mut self, payload: Option<Map<String, Value>>) -> Result<(), End> {
        let authorization = self.authorization.take();
        let token = protocol::token(payload.as_ref()).or(authorization.as_deref());
        match self.site.auth.admit(token).await {
            Ok(pass) => {
                self.deadline = expiry(pass.expires);
                self.pass = Some(pass);
                self.socket().set_limit(MAX_MESSAGE_BYTES);
                let cursor = json!({"cursor": self.site.engine.cursor()});
                let frames = self.protocol.admitted(Some(&cursor));
                self.write(frames).await
            }
            Err(error) => {
                tracing::debug!(reason = error.reason(), "connection refused");
                let (frame, close) = self.protocol.refused(&error.to_string());
                self.write(frame).await?;
                Err(End::Refused(close))
            }
        }
    }

    async fn start(&mut self, id: Arc<str>, head: Arc<str>, request: protocol::Request) -> Result<(), End> {
        let protocol::Request { query, operation_name, variables, extensions } = request;
        let (variables, extensions) = (variables.unwrap_or_default(), extensions.unwrap_or_default());
        let request = request::build(query, operation_name, variables, extensions);
        let Some(pass) = &self.pass else { return Err(End::Lost) };
        let viewer = pass.viewer.clone();
        let prepared = match self.site.engine.prepare(request) {
            Ok(prepared) => prepared,
            Err(refusal) => return self.reject(&id, &refusal).await,
        };
        let label = Label { id: id.clone(), head };
        if prepared.kind != OperationType::Subscription {
            self.running.execute(self.site.clone(), prepared, viewer, label);
            return Ok(());
        }
        let send_queue = self.send_queue.clone();
        match self.running.watch(&self.site, prepared, viewer, send_queue, None, label).await {
            Ok(()) => Ok(()),
            Err(refusal) => self.reject(&id, &refusal).await,
        }
    }

    fn stop(&mut self, id: &str) {
        self.running.stop(|label| &*label.id == id);
    }

    async fn reject(&mut self, id: &str, refusal: &GraphQLResponse) -> Result<(), End> {
        let Ok(errors) = serde_json::to_value(&refusal.errors) else { return Err(End::Lost) };
        let frame = self.protocol.rejected(id, &errors);
        self.write(frame).await
    }

    /// A query or mutation has ended: its result, and that there will be no other.
    pub(super) async fn finish(&mut self, label: Label, response: &GraphQLResponse) -> Result<(), End> {
        if is_refusal(response) {
            return self.reject(&label.id, response).await;
        }
        let Ok(result) = serde_json::to_string(response) else { return Err(End::Lost) };
        let result = [&label.head, &*result, protocol::TAIL].concat();
        let frames = [result].into_iter().chain(self.protocol.completed(&label.id));
        self.write(frames).await
    }
}
