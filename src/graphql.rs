//! GraphQL for every transport: one [`Engine`] checks, runs and watches operations.
//!
//! The schema is the domain's ([`Api`]). Limits, sharing of operations and the error boundary are
//! here, so that all transports behave alike. Nothing here may name a transport.

mod api;
pub mod document;
pub mod error;
pub mod event_publisher;
mod nulls;
mod operation;
pub mod plan;
pub mod subscription;
mod viewer;

use std::{panic::AssertUnwindSafe, sync::Arc};

use async_graphql::{Request, Response, Value};
use futures_util::FutureExt as _;
use opentelemetry::context::FutureExt as _;
use tracing::Instrument as _;

pub use self::{
    api::{Api, build, build_dynamic, build_planned},
    document::{PERSISTED_QUERY, Prepared},
    error::Error,
    event_publisher::EventPublisher,
    viewer::viewer,
};
use self::{
    document::Documents,
    error::Code,
    nulls::Nulls,
    operation::{Operations, Subscribed},
};
use crate::{
    audience::Viewer,
    cursor::Source,
    hub::{Hub, Replay, SendQueue, Watch, Watching},
    telemetry::{Refusals, traces},
};

/// GraphQL engine of one pod.
pub struct Engine {
    api: Arc<dyn Api>,
    nulls: Arc<Nulls>,
    event_publisher: Arc<EventPublisher>,
    documents: Documents,
    operations: Operations,
    hub: Hub,
    refusals: Refusals,
}

impl Engine {
    /// Creates the engine of one pod. It runs the operations of `api`, publishes through
    /// `event_publisher` and watches in `hub`. Only with `introspection` may clients read the
    /// schema.
    #[must_use]
    pub fn new(
        api: Arc<dyn Api>,
        event_publisher: EventPublisher,
        hub: Hub,
        introspection: bool,
        refusals: Refusals,
    ) -> Self {
        let nulls = Arc::new(Nulls::new(&api.sdl()));
        let documents = Documents::new(introspection);
        let operations = Operations::new(api.clone(), nulls.clone());
        Self { api, nulls, event_publisher: Arc::new(event_publisher), documents, operations, hub, refusals }
    }

    /// Counts the limit that a refused request exceeded, if the response names one.
    fn count(&self, response: &Response) {
        if let Some(limit) = error::limit(response) {
            self.refusals.count(limit);
        }
    }

    /// Parses the request and picks the operation that will run.
    ///
    /// # Errors
    /// A response that refuses the request.
    pub fn prepare(&self, request: Request) -> Result<Prepared, Box<Response>> {
        self.documents.prepare(request).inspect_err(|refusal| self.count(refusal))
    }

    /// Runs a query or a mutation for the viewer. A resolver that panics fails only its own
    /// request.
    ///
    /// The result carries a cursor that was taken before the operation ran. A client that watches
    /// from this cursor misses no event that the result lacks.
    pub async fn execute(&self, prepared: Prepared, viewer: Arc<Viewer>) -> Response {
        let cursor = self.cursor(Source::Query);
        let (span, client) =
            (prepared.span(&self.event_publisher.messaging.pod), traces::client(prepared.client()));
        let mut request = prepared.request.data(viewer).data(self.event_publisher.clone());
        let (document, name) = (prepared.document, request.operation_name.clone());
        request.set_parsed_query((*document).clone());
        let executed = AssertUnwindSafe(self.api.execute(request)).catch_unwind();
        let executed = executed.instrument(span.clone()).with_context(client).await;
        let response = match executed {
            Ok(response) => {
                let response = self.nulls.fill(response, &document, name.as_deref());
                error::publicly(response).extension("cursor", Value::from(cursor))
            }
            Err(_) => error::internal(),
        };
        if response.is_err() {
            self.count(&response);
            traces::fail(&span, "graphql");
        }
        response
    }

    /// Starts a watcher of a subscription. Its results go to the send queue, marked with `id`,
    /// until the guard is dropped. With a cursor (`after`, or else the request's own), the events
    /// missed since then come first.
    ///
    /// # Errors
    /// A response that refuses the request.
    pub async fn watch(
        &self,
        prepared: Prepared,
        viewer: Arc<Viewer>,
        send_queue: Arc<SendQueue>,
        id: u64,
        after: Option<&str>,
    ) -> Result<Watched, Box<Response>> {
        // An empty text is no cursor: clients send it before they have one.
        let after = after.or(prepared.after.as_deref()).filter(|text| !text.is_empty());
        let after = match after.map(|text| self.hub.read_cursor(text)) {
            None => None,
            Some(Ok(cursor)) => Some(cursor),
            Some(Err(bad)) => return Err(Error::new(Code::BadCursor, bad.to_string()).response().into()),
        };
        let subscribed = self.operations.subscribe(prepared, viewer).await;
        let Subscribed { field, operation, viewer } =
            subscribed.inspect_err(|refusal| self.count(refusal))?;
        let watch = Watch { id, field, viewer, operation, send_queue };
        Ok(match after {
            None => Watched::Live(self.hub.watch(watch)),
            Some(after) => Watched::Behind(Box::new(self.hub.resume(watch, after))),
        })
    }

    /// Returns the cursor of the feed's present position, for a client that gets it from this
    /// source. A subscription that resumes from it misses no event from now on.
    #[must_use]
    pub fn cursor(&self, source: Source) -> String {
        self.hub.cursor(source)
    }
}

/// A watcher that was accepted.
pub enum Watched {
    /// The watcher receives events from now on.
    Live(Watching),
    /// The watcher must first receive the events that it missed.
    Behind(Box<Replay>),
}
