//! The operations of one stream: started and stopped by commands where several share it, one from the beginning where not.

use async_graphql::Response as GraphQLResponse;

use super::{
    command::{Command, Label, Rejected, Start},
    driver::Stream,
    response::write_result,
};
use crate::web::operations;

impl Stream {
    pub(super) async fn act(&mut self, command: Command) {
        match command {
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
                // The result of a query or mutation is its answer.
                Ok(None) => {}
                Err((mut label, refusal)) => label.reply(Err(Rejected::Refused(refusal))),
            };
        };
        // Whoever asked may be gone; its operation is ended like any other.
        let _ = reply.send(answer);
    }

    /// Runs an operation on this stream.
    pub(super) async fn run(
        &mut self,
        operation: operations::Start,
        label: Label,
    ) -> Result<Option<&mut Label>, (Label, Box<GraphQLResponse>)> {
        self.running.start(&self.app, operation, self.send_queue.clone(), label).await
    }

    /// Writes the result of a query or mutation, and that there will be no other.
    pub(super) fn finish(&mut self, mut label: Label, response: &GraphQLResponse) {
        write_result(self.format, &mut self.chunk, label.id.as_deref(), response);
        self.format.complete(&mut self.chunk, label.id.as_deref());
        label.reply(Ok(()));
    }
}
