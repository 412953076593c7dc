//! The operations of one stream: started and stopped by commands where several share it, one from the beginning where not.

use std::sync::Arc;

use async_graphql::{Response as GraphQLResponse, parser::types::OperationType};
use tokio::sync::oneshot;

use super::{driver::Stream, result};
use crate::{
    audience::Viewer,
    graphql::{Prepared, error::is_refusal},
};

/// What the operations of a connection that several share are started and stopped by.
pub(in crate::web) enum Command {
    /// Run this operation.
    Start(Box<Start>),
    /// End this operation, if it runs.
    Stop(Arc<str>),
}

/// An operation to run.
pub(in crate::web) struct Start {
    /// The client's id of it, a JSON string.
    pub(in crate::web) id: Arc<str>,
    /// What to run.
    pub(in crate::web) prepared: Prepared,
    /// For whom.
    pub(in crate::web) viewer: Arc<Viewer>,
    /// The cursor to resume from, if not the document's own.
    pub(in crate::web) after: Option<String>,
    /// Told whether its results go into the body.
    pub(in crate::web) reply: Reply,
}

/// Tells the request that started an operation what became of it.
pub(in crate::web) type Reply = oneshot::Sender<Result<(), Rejected>>;

/// Why an operation does not run.
pub(in crate::web) enum Rejected {
    /// Another one has its id.
    Taken,
    /// There are as many others as there may be.
    Full,
    /// The engine says so.
    Refused(Box<GraphQLResponse>),
}

/// What an operation is called on a stream.
pub(super) struct Label {
    /// The client's id of it, where several share the stream.
    pub(super) id: Option<Arc<str>>,
    /// Who waits for the end of a query or mutation.
    reply: Option<Reply>,
}

impl Stream {
    pub(super) async fn act(&mut self, command: Command) {
        match command {
            Command::Start(start) => self.start(*start).await,
            Command::Stop(id) => self.running.stop(|label| label.id.as_ref() == Some(&id)),
        }
    }

    async fn start(&mut self, start: Start) {
        let Start { id, prepared, viewer, after, reply } = start;
        let answer = if self.running.has(|label| label.id.as_ref() == Some(&id)) {
            Err(Rejected::Taken)
        } else if self.running.len() >= self.site.settings.max_watchers {
            Err(Rejected::Full)
        } else if prepared.kind == OperationType::Subscription {
            self.watch(Some(id), prepared, viewer, after.as_deref()).await.map_err(Rejected::Refused)
        } else {
            let label = Label { id: Some(id), reply: Some(reply) };
            return self.running.execute(self.site.clone(), prepared, viewer, label);
        };
        // Whoever asked may be gone; its operation is ended like any other.
        let _ = reply.send(answer);
    }

    pub(super) async fn watch(
        &mut self,
        id: Option<Arc<str>>,
        prepared: Prepared,
        viewer: Arc<Viewer>,
        after: Option<&str>,
    ) -> Result<(), Box<GraphQLResponse>> {
        let (send_queue, label) = (self.send_queue.clone(), Label { id, reply: None });
        self.running.watch(&self.site, prepared, viewer, send_queue, after, label).await
    }

    /// A query or mutation has ended: its result, and that there will be no other.
    pub(super) fn finish(&mut self, label: Label, response: Box<GraphQLResponse>) {
        let Label { id, reply } = label;
        let answer = if is_refusal(&response) {
            Err(Rejected::Refused(response))
        } else {
            result(self.format, &mut self.chunk, id.as_deref(), &response);
            self.format.complete(&mut self.chunk, id.as_deref());
            Ok(())
        };
        // Whoever asked may be gone.
        reply.map(|reply| reply.send(answer));
    }
}
