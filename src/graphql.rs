//! GraphQL for every transport: one [`Engine`] checks, runs and watches operations.
//!
//! The schema is the domain's ([`Api`]). Limits, sharing of operations and the error boundary are
//! here, so that all transports behave alike. Nothing here may name a transport.

mod answer;
mod api;
pub mod document;
pub mod error;
pub mod event_publisher;
mod nulls;
mod operation;
pub mod plan;
mod read_after;
mod receipt;
mod space;
pub mod subscription;
mod test_event;
mod viewer;

use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_graphql::{Request, Response, parser::types::OperationType};
use futures_util::FutureExt as _;
use opentelemetry::context::FutureExt as _;
use tracing::Instrument as _;

use self::{
    answer::Room,
    document::{Documents, pick, turn},
    error::Code,
    nulls::Nulls,
    operation::{Operations, Subscribed},
    plan::{Copied, Operation},
};
pub use self::{
    answer::{Answer, Bounded, take_room},
    api::{Api, Planned, build, build_dynamic, build_planned},
    document::{PERSISTED_QUERY, Prepared, Turn, Turns},
    error::Error,
    event_publisher::EventPublisher,
    read_after::{READ_AFTER, ReadAfter},
    receipt::Receipt,
    space::Space,
    test_event::{NotPublished, TestEvent},
    viewer::viewer,
};
use crate::{
    audience::Viewer,
    budget::Budget,
    counts::{Counting, Counts, TooMany},
    cursor::Source,
    hub::{Hub, Replay, SendQueue, Watch, Watching},
    telemetry::{Refusals, traces},
};

/// How long a query or mutation waits for room for its answer. Then it is refused with
/// `OVERLOADED`.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);

/// Bytes that are charged for each root field of a mutation before it runs. The largest template
/// fits. What a mutation returns is mostly what it was given. A longer answer charges more before
/// it is written.
const MUTATION_BYTES: usize = 128 << 10;

/// GraphQL engine of one pod.
pub struct Engine {
    api: Arc<dyn Api>,
    nulls: Arc<Nulls>,
    event_publisher: Arc<EventPublisher>,
    documents: Documents,
    operations: Operations,
    hub: Hub,
    refusals: Refusals,
    budget: Budget,
    read_after: Option<ReadAfter>,
    counts: Option<Counts>,
    mutations: AtomicU64,
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
        let operations = Operations::new(api.clone(), nulls.clone(), documents.kept().clone());
        let (event_publisher, budget) = (Arc::new(event_publisher), Budget::default());
        let mutations = AtomicU64::default();
        Self {
            api,
            nulls,
            event_publisher,
            documents,
            operations,
            hub,
            refusals,
            budget,
            read_after: None,
            counts: None,
            mutations,
        }
    }

    /// Charges answers, operations and kept documents to this ledger, instead of one of its own.
    #[must_use]
    pub fn with_budget(mut self, budget: Budget) -> Self {
        self.documents.set_budget(&budget);
        self.operations.set_budget(budget.clone(), self.documents.kept().clone());
        self.budget = budget;
        self
    }

    /// Lets requests wait for the events that they must see. Without a call they run at once.
    #[must_use]
    pub fn with_read_after(mut self, read_after: ReadAfter) -> Self {
        self.read_after = Some(read_after);
        self
    }

    /// Counts the viewers who listen to keys, for domains whose clients may ask.
    #[must_use]
    pub fn with_counts(mut self, counts: Option<Counts>) -> Self {
        self.counts = counts;
        self
    }

    /// Returns how many mutations have begun since the pod's start.
    #[must_use]
    pub fn mutations(&self) -> u64 {
        self.mutations.load(Ordering::Relaxed)
    }

    /// Counts the limit that a refused request exceeded, if the response names one.
    fn count(&self, response: &Response) {
        if let Some(limit) = error::limit(response) {
            self.refusals.count(limit);
        }
    }

    /// Parses the request of this user and picks the operation that will run. New documents of one
    /// user are parsed one at a time.
    ///
    /// # Errors
    /// A response that refuses the request.
    pub async fn prepare(&self, request: Request, user: &Arc<str>) -> Result<Prepared, Box<Response>> {
        self.documents.prepare(request, user).await.inspect_err(|refusal| self.count(refusal))
    }

    /// Answers a query or a mutation. If it names events that it must see, it first waits for them.
    ///
    /// The largest answer of a query, and the usual one of a mutation, is charged to the viewer
    /// before it runs. The charge then changes to the true size. It waits for room for at most 5 s.
    ///
    /// The result carries a cursor that was taken before the operation ran. A client that watches
    /// from this cursor misses no event that the result lacks.
    pub async fn answer(&self, prepared: Prepared, viewer: Arc<Viewer>) -> Answer {
        if let Some(read_after) = self.read_after.as_ref().filter(|_| !prepared.read_after.is_empty())
            && let Err(error) = read_after.wait(&prepared.read_after, &viewer.user).await
        {
            return Answer::refused(error.response().into());
        }
        let limit = self.budget.answer_bytes;
        let bytes = match prepared.kind {
            OperationType::Mutation => limit.min(MUTATION_BYTES.saturating_mul(prepared.root_fields())),
            OperationType::Query | OperationType::Subscription => limit,
        };
        let Some(charge) = self.budget.answers.charge(&viewer.user, bytes, ANSWER_PATIENCE).await else {
            self.refusals.count("answers");
            return Answer::overloaded();
        };
        let (cursor, space) = (self.cursor(Source::Query), Space::new(charge, limit));
        let receipt = Arc::new(Receipt::default());
        let outcome = self.execute(prepared, viewer, &space, &receipt).await;
        let extensions = receipt.extensions(&cursor);
        match outcome {
            Outcome::Executed(mut response) => {
                response.extensions.extend(extensions);
                Answer::encode(response, space)
            }
            Outcome::Copied(copied) => Answer::copied(&copied, &extensions, space),
        }
    }

    /// Runs a query or a mutation for the viewer. A resolver that panics fails only its own
    /// request.
    async fn execute(
        &self,
        prepared: Prepared,
        viewer: Arc<Viewer>,
        space: &Space,
        receipt: &Arc<Receipt>,
    ) -> Outcome {
        let (span, client) =
            (prepared.span(&self.event_publisher.messaging.pod), traces::client(prepared.client()));
        // One expression: a future that is moved takes its room in this one twice.
        let executed = AssertUnwindSafe(self.run(prepared, viewer, space, receipt))
            .catch_unwind()
            .instrument(span.clone())
            .with_context(client)
            .await;
        let outcome = executed.unwrap_or_else(|_| Outcome::Executed(error::internal()));
        let is_failed = match &outcome {
            Outcome::Executed(response) => {
                self.count(response);
                response.is_err()
            }
            Outcome::Copied(copied) => !copied.errors.is_empty(),
        };
        if is_failed {
            traces::fail(&span, "graphql");
        }
        outcome
    }

    /// Runs a query or a mutation by plan if the schema has one, else by the executor.
    async fn run(
        &self,
        prepared: Prepared,
        viewer: Arc<Viewer>,
        space: &Space,
        receipt: &Arc<Receipt>,
    ) -> Outcome {
        if prepared.kind == OperationType::Mutation {
            self.mutations.fetch_add(1, Ordering::Relaxed);
            tracing::debug!("mutation began");
        }
        if let Some(planned) = self.api.planned() {
            match self.copy(planned, &prepared, &viewer, space, receipt).await {
                Ok(Some(copied)) => return Outcome::Copied(copied),
                Ok(None) => {}
                Err(refusal) => return Outcome::Executed(*refusal),
            }
        }
        // Boxed: the executor's futures are large, and most requests run by plan.
        Outcome::Executed(Box::pin(self.run_by_executor(prepared, viewer, receipt)).await)
    }

    async fn run_by_executor(
        &self,
        prepared: Prepared,
        viewer: Arc<Viewer>,
        receipt: &Arc<Receipt>,
    ) -> Response {
        // The executor has a document of its own.
        let bytes = prepared.document.bytes();
        let Some(_charge) = self.budget.requests.try_charge(&viewer.user, bytes) else {
            return error::overloaded();
        };
        // The answer of the schema takes long, and the executor makes it without a pause.
        let _turn = match prepared.document.asks_for_schema() {
            true => match turn(&self.budget.documents, &viewer.user).await {
                Ok(turn) => Some(turn),
                Err(error) => return error.response(),
            },
            false => None,
        };
        let request = prepared.request.data(viewer).data(self.event_publisher.clone());
        let mut request = request.data(Room::new(self.budget.answer_bytes)).data(receipt.clone());
        let (document, name) = (prepared.document, request.operation_name.clone());
        request.set_parsed_query(document.tree().clone());
        let response = self.api.execute(request).await;
        error::publicly(self.nulls.fill(response, document.tree(), name.as_deref()))
    }

    /// Runs a query or a mutation by plan. `None`: the executor has to run it.
    ///
    /// # Errors
    /// A response that refuses the request.
    async fn copy(
        &self,
        planned: &Planned,
        prepared: &Prepared,
        viewer: &Viewer,
        space: &Space,
        receipt: &Receipt,
    ) -> Result<Option<Copied>, Box<Response>> {
        let turns = &self.budget.documents;
        planned.validate(prepared, turns, &viewer.user).await?;
        let operation = pick(prepared.document.tree(), prepared.request.operation_name.as_deref());
        let Ok(definition) = operation else { return Ok(None) };
        let operation = Operation {
            document: prepared.document.tree(),
            definition: &definition.node,
            variables: &prepared.request.variables,
            viewer,
            event_publisher: &self.event_publisher,
            space,
            receipt,
            turns: Turns::new(turns, &viewer.user),
            counts: self.counts.as_ref(),
        };
        planned.plans().execute(&operation).await.map_err(|error| error.response().into())
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
        let user = viewer.user.clone();
        let subscribed = self.operations.subscribe(prepared, viewer).await;
        let (field, operation, viewer) = match subscribed.inspect_err(|refusal| self.count(refusal))? {
            Subscribed::Events { field, operation, viewer } => (field, operation, viewer),
            Subscribed::Count { key, response_key } => {
                let Some(counts) = &self.counts else { return Err(error::internal().into()) };
                let counting = counts.watch(&user, key, &response_key, send_queue, id);
                let refused = |error: TooMany| Error::new(Code::LimitReached, error.to_string()).response();
                return counting.map(Watched::Counting).map_err(|error| refused(error).into());
            }
        };
        let watch = Watch { id, field, viewer, operation, send_queue };
        Ok(match after {
            None => Watched::Live(self.hub.watch(watch)),
            Some(after) => Watched::Behind(Box::new(self.hub.resume(watch, after))),
        })
    }

    /// Publishes an event that an operator has written. Returns its identity.
    ///
    /// # Errors
    /// As of [`EventPublisher::publish_test`].
    pub async fn publish_test(&self, test: TestEvent) -> Result<Arc<str>, NotPublished> {
        self.event_publisher.publish_test(test).await
    }

    /// Returns the cursor of the feed's present position, for a client that gets it from this
    /// source. A subscription that resumes from it misses no event from now on.
    #[must_use]
    pub fn cursor(&self, source: Source) -> String {
        self.hub.cursor(source)
    }
}

/// Result of a query or a mutation that is not yet encoded.
enum Outcome {
    Executed(Response),
    Copied(Copied),
}

/// A watcher that was accepted.
pub enum Watched {
    /// The watcher receives events from now on.
    Live(Watching),
    /// The watcher receives a count whenever it has changed.
    Counting(Counting),
    /// The watcher must first receive the events that it missed.
    Behind(Box<Replay>),
}
