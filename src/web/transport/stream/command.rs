//! `Command`: starts or stops an operation on a stream that several operations share.
//!
//! A request sends it to the stream's task. It must never wait for the stream's client.

use std::{num::NonZeroU8, sync::Arc};

use async_graphql::Response as GraphQLResponse;
use tokio::sync::oneshot;

use crate::web::{connection::Place, operations};

/// Command of a request to a shared stream.
pub(in crate::web) enum Command {
    /// The stream has a reader, with this place among the connections and this time between
    /// heartbeats, in seconds.
    Read(Box<Place>, Option<NonZeroU8>),
    /// Start of this operation.
    Start(Box<Start>),
    /// End of this operation, if it runs.
    Stop(Arc<str>),
}

/// Operation to start.
pub(in crate::web) struct Start {
    /// The client's id of the operation, a JSON string.
    pub(in crate::web) id: Arc<str>,
    /// What to run.
    pub(in crate::web) operation: operations::Start,
    /// Channel for the answer to the request.
    pub(in crate::web) reply: Reply,
}

/// Channel that answers the request: the results go into the body, or the operation was rejected.
pub(in crate::web) type Reply = oneshot::Sender<Result<(), Rejected>>;

/// Reason why an operation does not run.
pub(in crate::web) enum Rejected {
    /// Another operation has this id.
    Taken,
    /// The stream has as many operations as it may.
    Full,
    /// The engine refused the operation with this response.
    Refused(Box<GraphQLResponse>),
}

/// Label of an operation on a stream.
#[derive(Default)]
pub(super) struct Label {
    /// The client's id of the operation, where several share the stream.
    pub(super) id: Option<Arc<str>>,
    /// Channel to the request that waits for an answer.
    pub(super) reply: Option<Reply>,
}

impl Label {
    /// Answers the request that started the operation, once.
    pub(super) fn reply(&mut self, answer: Result<(), Rejected>) {
        // The request may have ended before.
        self.reply.take().map(|reply| reply.send(answer));
    }
}
