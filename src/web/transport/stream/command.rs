//! [`Command`]: what requests ask of a stream that several operations share.

use std::sync::Arc;

use async_graphql::Response as GraphQLResponse;
use tokio::sync::oneshot;

use crate::web::operations;

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
    pub(in crate::web) operation: operations::Start,
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
#[derive(Default)]
pub(super) struct Label {
    /// The client's id of it, where several share the stream.
    pub(super) id: Option<Arc<str>>,
    /// The request that waits for an answer.
    pub(super) reply: Option<Reply>,
}

impl Label {
    /// Answers the request that started the operation, once.
    pub(super) fn reply(&mut self, answer: Result<(), Rejected>) {
        // The request may have ended before.
        self.reply.take().map(|reply| reply.send(answer));
    }
}
