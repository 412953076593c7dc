//! The operations of one stream. Commands start and stop them where several share it; else there is
//! one from the beginning.
//!
//! It must never write to the socket: results go into the next chunk.

use async_graphql::Response as GraphQLResponse;

use super::{
    command::{Command, Label, Rejected, Start},
    driver::Stream,
};
use crate::{graphql::Answer, web::operations};

impl Stream {
    /// Carries out a command.
    pub(super) async fn act(&mut self, command: Command) {
        match command {
            Command::Read(place, heartbeat) => {
                self.guard.occupy(*place);
                self.beat(heartbeat, None);
            }
            Command::Start(start) => self.start(*start).await,
            Command::Stop(id) => self.running.stop(|label| label.id.as_ref() == Some(&id)),
        }
    }

    async fn start(&mut self, Start { id, operation, reply }: Start) {
        let answer = if self.running.has(|label| label.id.as_ref() == Some(&id)) {
            Err(Rejected::Taken)
        } else if self.running.len() >= self.app.settings.max_watchers {
            Err(Rejected::Full)
        } else {
            let label = Label { id: Some(id), reply: Some(reply) };
            return match self.run(operation, label).await {
                Ok(Some(label)) => label.reply(Ok(())),
                // The request is answered when the query or mutation has its result.
                Ok(None) => {}
                Err((mut label, refusal)) => label.reply(Err(Rejected::Refused(refusal))),
            };
        };
        // Errors are ignored: the request may have ended meanwhile.
        let _ = reply.send(answer);
    }

    /// Starts an operation on this stream.
    pub(super) async fn run(
        &mut self,
        operation: operations::Start,
        label: Label,
    ) -> Result<Option<&mut Label>, (Label, Box<GraphQLResponse>)> {
        self.running.start(&self.app, operation, self.send_queue.clone(), label).await
    }

    /// Writes the result of a query or mutation, and that no other one follows.
    pub(super) fn finish(&mut self, mut label: Label, answer: Answer) {
        self.format.next(&mut self.chunk, label.id.as_deref(), None, &answer.text);
        self.hold(answer.charge);
        self.format.complete(&mut self.chunk, label.id.as_deref());
        label.reply(Ok(()));
    }
}
