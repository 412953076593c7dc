//! The operations of one WebSocket: what [`Action`]s ask for, done by the engine.
//!
//! An operation ends with its [`Running`], whichever way that goes; nothing of it may be written after that.

use std::sync::Arc;

use async_graphql::{Response as GraphQLResponse, parser::types::OperationType};
use futures_util::future::BoxFuture;
use serde_json::{Map, Value, json};
use tokio::task::{AbortHandle, JoinSet};

use super::{
    super::{connection::End, request},
    driver::Connection,
    protocol::{self, Action, Close},
};
use crate::{
    graphql::{Watched, error::is_refusal},
    hub::{Replay, Step, Watching},
};

/// An operation that the client has not been told the end of.
pub(super) struct Running {
    pub(super) number: u64,
    id: Arc<str>,
    /// The frame of a result up to its payload.
    pub(super) head: Arc<str>,
    pub(super) work: Work,
}

/// Ends with its owner.
pub(super) enum Work {
    Watching(#[expect(dead_code, reason = "held for its drop")] Watching),
    /// Its replay is in `Connection::behind`.
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

/// The number of a query or mutation that has ended, and its result.
pub(super) type Finished = (u64, Box<GraphQLResponse>);

/// A replay, going its next step.
pub(super) struct Turn {
    number: u64,
    pub(super) step: BoxFuture<'static, (Box<Replay>, Box<Step>)>,
}

/// Lets the replay go its next step.
pub(super) fn turn(mut replay: Box<Replay>) -> Turn {
    let number = replay.watcher();
    let step = async move {
        let step = Box::new(replay.step().await);
        (replay, step)
    };
    Turn { number, step: Box::pin(step) }
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
                self.last_word = Some(Close::new(1000, ""));
                Err(End::Left)
            }
        }
    }

    async fn authenticate(&mut self, payload: Option<Map<String, Value>>) -> Result<(), End> {
        let authorization = self.authorization.take();
        let token = protocol::token(payload.as_ref()).or(authorization.as_deref());
        match self.site.auth.admit(token).await {
            Ok(pass) => {
                self.expire_at(pass.expires);
                self.pass = Some(pass);
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
                    self.behind.push_back(turn(replay));
                    Work::Behind
                }
                Err(refusal) => return self.reject(&id, &refusal).await,
            }
        } else {
            let site = self.site.clone();
            let job = async move { (number, Box::new(site.engine.execute(prepared, viewer).await)) };
            Work::Job(self.jobs.get_or_insert_with(JoinSet::new).spawn(job))
        };
        // Most connections have one operation all their life.
        self.running.reserve_exact(usize::from(self.running.is_empty()));
        self.running.push(Running { number, id, head, work });
        Ok(())
    }

    fn stop(&mut self, id: &str) {
        self.running.retain(|running| &*running.id != id);
        let running = &self.running;
        self.behind.retain(|turn| running.iter().any(|running| running.number == turn.number));
    }

    async fn reject(&mut self, id: &str, refusal: &GraphQLResponse) -> Result<(), End> {
        let Ok(errors) = serde_json::to_value(&refusal.errors) else { return Err(End::Lost) };
        let frame = self.protocol.rejected(id, &errors);
        self.write(frame).await
    }

    /// A query or mutation has ended: its result, and that there will be no other.
    pub(super) async fn finish(&mut self, (number, response): Finished) -> Result<(), End> {
        let Ok(at) = self.find(number) else { return Ok(()) };
        let running = self.running.remove(at);
        if is_refusal(&response) {
            return self.reject(&running.id, &response).await;
        }
        let Ok(result) = serde_json::to_string(&response) else { return Err(End::Lost) };
        let result = [&running.head, &*result, protocol::TAIL].concat();
        let frames = [result].into_iter().chain(self.protocol.completed(&running.id));
        self.write(frames).await
    }
}
