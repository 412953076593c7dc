//! Operations: one validated GraphQL subscription (document, name, variables), executed once per
//! event for all watchers that share it.
//!
//! The executor's stream stays open and receives one payload at a time, so parsing and validation
//! happen once. An operation must never depend on a viewer, because viewers share its results.

mod notice;
mod planned;
mod replayed;

use std::{
    collections::HashMap,
    future::poll_fn,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, Weak},
    task::Poll,
    time::Duration,
};

use async_graphql::{Request, Response, Value, Variables, parser::types::ExecutableDocument};
use async_trait::async_trait;
use futures_util::FutureExt as _;
use tokio::time::timeout;

use self::{planned::PlannedOperations, replayed::Replayed};
use super::{
    answer,
    api::{Api, Planned},
    document::{Document, Kept, Prepared, turn, value_bytes},
    error::{Code, Error, internal, own_operations, publicly, refuse, too_many_operations},
    nulls::Nulls,
    plan::{Compiled, Subscription},
    subscription::{Results, Source},
};
use crate::{
    audience::{self, Viewer},
    budget::{Budget, Charge, Exhausted},
    event::Payload,
    hub::{Relayed, Render},
    lock::lock,
};

/// Most distinct operations that a pod runs at once. An event executes at most this many; one more
/// subscription is refused.
const MAX_OPERATIONS: usize = 10_000;

/// Bytes of an operation, besides what its document and its variables decide.
const OPERATION_BYTES: usize = 6_144;

/// Bytes of an operation that runs by plan, besides what its plan and its variables decide.
const PLANNED_BYTES: usize = 1_024;

/// Longest variables of a subscription as JSON: 16 KiB. Longer ones are refused.
const MAX_VARIABLES_BYTES: usize = 16 << 10;

/// Longest time of one execution. Resolvers of payloads need no I/O; one that hangs would delay
/// every event. At the limit its watchers receive `INTERNAL` for the event.
const EXECUTION_TIMEOUT: Duration = Duration::from_secs(5);

/// The operations that have watchers.
pub(super) struct Operations {
    api: Arc<dyn Api>,
    nulls: Arc<Nulls>,
    running: Arc<Mutex<Running>>,
    replayed: Arc<Mutex<Replayed>>,
    planned: PlannedOperations,
    budget: Budget,
    kept: Arc<Kept>,
}

/// What a watcher of a subscription needs.
pub(super) enum Subscribed {
    /// It watches events.
    Events {
        /// Name of the subscription's root field.
        field: Arc<str>,
        /// Renderer of its results.
        operation: Arc<dyn Render>,
        /// Viewer whose interests decide which events it receives.
        viewer: Arc<Viewer>,
    },
    /// It counts the viewers who listen to a key.
    Count {
        /// The key.
        key: audience::Key,
        /// Name of the root field in results.
        response_key: String,
    },
}

/// Running operations. Each stays until its last `Arc` is dropped.
#[derive(Default)]
struct Running {
    operations: HashMap<Arc<Key>, Weak<Operation>>,
}

/// Parts of a request that make its operation distinct.
#[derive(PartialEq, Eq, Hash)]
struct Key {
    query: String,
    name: Option<String>,
    variables: String,
}

/// Returns the memory that variables take, in bytes.
fn variables_bytes(variables: &Variables) -> usize {
    variables.iter().map(|(name, value)| 64 + name.len() + value_bytes(value)).sum()
}

impl Operations {
    pub(super) fn new(api: Arc<dyn Api>, nulls: Arc<Nulls>, kept: Arc<Kept>) -> Self {
        Self {
            api,
            nulls,
            running: Arc::default(),
            replayed: Arc::default(),
            planned: PlannedOperations::default(),
            budget: Budget::default(),
            kept,
        }
    }

    /// Charges operations to this ledger, instead of one of their own. Kept documents make room for
    /// operations.
    pub(super) fn set_budget(&mut self, budget: Budget, kept: Arc<Kept>) {
        (self.budget, self.kept) = (budget, kept);
    }

    /// Subscribes to the operation of this request, by plan if the schema has plans.
    ///
    /// # Errors
    /// A response that refuses the request, as of [`Self::get_or_create`].
    pub(super) async fn subscribe(
        &self,
        prepared: Prepared,
        viewer: Arc<Viewer>,
    ) -> Result<Subscribed, Box<Response>> {
        let Some(planned) = self.api.planned() else {
            let operation = self.get_or_create(prepared, &viewer.user).await?;
            return Ok(Subscribed::Events { field: operation.field().clone(), operation, viewer });
        };
        self.plan(planned, prepared, viewer).await
    }

    async fn plan(
        &self,
        planned: &Planned,
        prepared: Prepared,
        viewer: Arc<Viewer>,
    ) -> Result<Subscribed, Box<Response>> {
        let variables = &prepared.request.variables;
        if serde_json::to_string(variables).map_err(|_| internal())?.len() > MAX_VARIABLES_BYTES {
            return too_many_variables();
        }
        planned.validate(&prepared, &self.budget.documents, &viewer.user).await?;
        let Some((definition, field)) = prepared.root() else { return Err(internal().into()) };
        let document = prepared.document.tree();
        let subscription = Subscription { document, field, definition, variables, viewer: &viewer };
        let (plan, interests) = match planned.plans().plan(&subscription).map_err(Error::response)? {
            Compiled::Events { plan, interests } => (plan, interests),
            Compiled::Count(key) => {
                return Ok(Subscribed::Count { key, response_key: prepared.response_key });
            }
        };
        let bytes = PLANNED_BYTES + plan.bytes() + variables_bytes(variables);
        let Prepared { field: name, response_key, charge: of_document, .. } = prepared;
        // The plan needs the document no more, which may make room for it.
        drop(of_document);
        let bytes = bytes + 2 * response_key.len();
        let charge = || self.charge(&viewer.user, bytes);
        let limit = self.budget.result_bytes;
        let operation = self.planned.get_or_create(&response_key, plan, limit, charge)?;
        let viewer = match interests {
            Some(interests) => Arc::new(Viewer::narrowed(&viewer, interests)),
            None => viewer,
        };
        Ok(Subscribed::Events { field: name.into(), operation, viewer })
    }

    /// Returns the operation of this request. Requests for the same subscription share one.
    ///
    /// # Errors
    /// A response that refuses the request: it does not validate, its variables are too long, or
    /// too many operations run.
    pub(super) async fn get_or_create(
        &self,
        prepared: Prepared,
        user: &Arc<str>,
    ) -> Result<Arc<Operation>, Box<Response>> {
        let Request { query, operation_name: name, variables, .. } = *prepared.request;
        let key = Key { query, name, variables: serde_json::to_string(&variables).map_err(|_| internal())? };
        if key.variables.len() > MAX_VARIABLES_BYTES {
            return too_many_variables();
        }
        if let Some(operation) = lock(&self.running).get(&key) {
            return Ok(operation);
        }
        // From here on the operation is charged for the document, which may make room for it.
        drop(prepared.charge);
        // The executor has a document and variables of its own.
        let held = prepared.document.bytes() + variables_bytes(&variables);
        let charge =
            self.charge(user, OPERATION_BYTES + 2 * (held + key.query.len() + key.variables.len()))?;
        let mut operation = Operation {
            _charge: charge,
            limit: self.budget.result_bytes,
            api: self.api.clone(),
            nulls: self.nulls.clone(),
            running: self.running.clone(),
            replayed: self.replayed.clone(),
            number: lock(&self.replayed).number(),
            field: prepared.field.into(),
            response_key: prepared.response_key,
            key: key.into(),
            variables,
            document: prepared.document,
            execution: tokio::sync::Mutex::default(),
        };
        let turn = turn(&self.budget.documents, user).await.map_err(Error::response)?;
        operation.validate().await?;
        turn.end().await;
        let operation = Arc::new(operation);
        // The lock is released before `operation` is dropped. If another task was faster, that drop
        // takes the lock again.
        lock(&self.running).insert(&operation)
    }
}

impl Operations {
    /// Charges a new operation to the user who watches it first.
    fn charge(&self, user: &Arc<str>, bytes: usize) -> Result<Charge, Box<Response>> {
        let charge = || self.budget.charge_operation(user, bytes);
        let charge = charge().or_else(|exhausted| {
            self.kept.make_room(exhausted, user);
            charge()
        });
        charge.or_else(|exhausted| match exhausted {
            Exhausted::Share => {
                // The next ones are refused by their text alone.
                self.budget.operations.note_refusal(user, bytes);
                own_operations()
            }
            Exhausted::Pool => too_many_operations(),
        })
    }
}

fn too_many_variables<T>() -> Result<T, Box<Response>> {
    let text = format!("the variables of a subscription have more than {MAX_VARIABLES_BYTES} bytes");
    refuse(Code::BadRequest, text)
}

impl Running {
    fn get(&self, key: &Key) -> Option<Arc<Operation>> {
        self.operations.get(key).and_then(Weak::upgrade)
    }

    /// Adds the operation, or returns the same one if another task has added it meanwhile.
    fn insert(&mut self, operation: &Arc<Operation>) -> Result<Arc<Operation>, Box<Response>> {
        if let Some(same) = self.get(&operation.key) {
            return Ok(same);
        }
        if self.operations.len() >= MAX_OPERATIONS {
            return too_many_operations();
        }
        self.operations.insert(operation.key.clone(), Arc::downgrade(operation));
        Ok(operation.clone())
    }

    /// Removes the operation at this address, when its last `Arc` is dropped. A newer operation
    /// with the same key stays.
    fn remove(&mut self, key: &Key, address: *const Operation) {
        if self.operations.get(key).is_some_and(|operation| operation.as_ptr() == address) {
            self.operations.remove(key);
        }
    }
}

/// A validated subscription, with the executor's stream for it.
pub(super) struct Operation {
    api: Arc<dyn Api>,
    nulls: Arc<Nulls>,
    running: Arc<Mutex<Running>>,
    replayed: Arc<Mutex<Replayed>>,
    /// Number of the operation. Unlike an address, it is never used again.
    number: u64,
    field: Arc<str>,
    response_key: String,
    key: Arc<Key>,
    variables: Variables,
    document: Arc<Document>,
    // It is held across an await, so it is tokio's mutex. The relay dispatches one event at a time;
    // only replays contend for it.
    execution: tokio::sync::Mutex<Option<Execution>>,
    /// Most bytes of a result.
    limit: usize,
    _charge: Charge,
}

struct Execution {
    results: Results,
    source: Source,
}

impl Drop for Operation {
    fn drop(&mut self) {
        lock(&self.running).remove(&self.key, self);
    }
}

impl Operation {
    /// Starts the execution. Validation fails before the executor asks for a first payload.
    async fn validate(&mut self) -> Result<(), Box<Response>> {
        let mut execution = self.start();
        if let Some(refusal) = execution.next().await {
            return Err(publicly(refusal).into());
        }
        *self.execution.get_mut() = Some(execution);
        Ok(())
    }

    /// Returns the name of the subscription's root field.
    pub(super) const fn field(&self) -> &Arc<str> {
        &self.field
    }

    fn start(&self) -> Execution {
        let mut request = Request::new(self.key.query.as_str()).variables(self.variables.clone());
        request.operation_name.clone_from(&self.key.name);
        Execution::start(&*self.api, request, self.document.tree())
    }

    async fn execute(&self, payload: &Payload) -> Option<Response> {
        let mut kept = self.execution.lock().await;
        let mut execution = kept.take().unwrap_or_else(|| {
            // The last execution panicked, hung or ended.
            self.start()
        });
        execution.source.put(payload.clone());
        let result = timeout(EXECUTION_TIMEOUT, AssertUnwindSafe(execution.next()).catch_unwind()).await;
        match result {
            Ok(Ok(response)) => {
                *kept = Some(execution);
                response
            }
            Ok(Err(_)) => {
                tracing::error!(field = %self.field, "a resolver panicked");
                Some(internal())
            }
            Err(_) => {
                tracing::error!(field = %self.field, "a resolver did not end in time");
                Some(internal())
            }
        }
    }
}

impl Execution {
    /// Starts the execution of a subscription, with a source that is empty.
    fn start(api: &dyn Api, request: Request, document: &ExecutableDocument) -> Self {
        let source = Source::default();
        let mut request = request.data(source.clone());
        request.set_parsed_query(document.clone());
        Self { results: api.execute_stream(request), source }
    }

    /// Returns the result for the payload that was put in; `None` if the resolver filtered it out.
    async fn next(&mut self) -> Option<Response> {
        poll_fn(|task| match self.results.as_mut().poll_next(task) {
            Poll::Pending if self.source.is_drained() => Poll::Ready(None),
            next => next,
        })
        .await
    }
}

impl Operation {
    async fn result(&self, relayed: &Relayed) -> Option<Response> {
        let response = self.execute(&relayed.payload).await?;
        let response = self.nulls.fill(response, self.document.tree(), self.key.name.as_deref());
        let response = publicly(response)
            .extension("eventId", Value::from(&*relayed.position.event))
            .extension("cursor", Value::from(&*relayed.cursor));
        Some(response)
    }
}

impl Operation {
    /// Returns the JSON of a result, or of the error of a result that is too large.
    fn encode(&self, response: &Response, relayed: &Relayed, is_replayed: bool) -> Arc<str> {
        match answer::encode(response, self.limit) {
            Some(text) => text.into(),
            None => notice::too_large(relayed, self.limit, is_replayed),
        }
    }
}

#[async_trait]
impl Render for Operation {
    async fn render(&self, relayed: &Relayed) -> Option<Arc<str>> {
        Some(self.encode(&self.result(relayed).await?, relayed, false))
    }

    async fn render_again(&self, relayed: &Relayed) -> Option<Arc<str>> {
        let key = (self.number, relayed.position.clone());
        let recall = || lock(&self.replayed).get(&key);
        if let Some(result) = recall() {
            return result;
        }
        let result = self.result(relayed).await;
        let result = result
            .map(|result| self.encode(&result.extension(notice::REPLAYED, Value::from(true)), relayed, true));
        lock(&self.replayed).insert(key, result.clone());
        result
    }

    fn gap(&self, reason: &str, cursor: &str) -> Arc<str> {
        notice::gap(&self.response_key, reason, cursor)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use async_graphql::{Context, EmptyMutation, Object, Schema, Subscription};
    use bytes::Bytes;
    use futures_util::{Stream, StreamExt as _};

    use super::*;
    use crate::{
        audience::Audience,
        cursor::Cursor,
        event::Event,
        graphql::{self, document::Documents, subscription::payloads},
    };

    struct Query;

    #[Object]
    impl Query {
        async fn nothing(&self) -> bool {
            true
        }
    }

    #[derive(Clone)]
    struct Number(u32);

    #[Object]
    impl Number {
        async fn value(&self, ctx: &Context<'_>) -> u32 {
            ctx.data_unchecked::<Arc<AtomicUsize>>().fetch_add(1, Ordering::Relaxed);
            assert_ne!(self.0, 13, "unlucky");
            self.0
        }

        async fn half(&self) -> Result<Option<u32>, Error> {
            let is_even = self.0.is_multiple_of(2);
            if is_even { Ok(Some(self.0 / 2)) } else { Err(Error::bad_input("the number is odd")) }
        }

        async fn slow(&self) -> u32 {
            tokio::time::sleep(Duration::from_secs(u64::from(self.0))).await;
            self.0
        }
    }

    struct Numbers;

    #[Subscription]
    impl Numbers {
        async fn even(&self, ctx: &Context<'_>) -> impl Stream<Item = Number> {
            payloads::<Number>(ctx).filter(|number| std::future::ready(number.0.is_multiple_of(2)))
        }

        async fn all(&self, ctx: &Context<'_>) -> impl Stream<Item = Number> {
            payloads::<Number>(ctx)
        }
    }

    fn operations() -> (Operations, Arc<AtomicUsize>) {
        let executions = Arc::new(AtomicUsize::new(0));
        let schema = Schema::build(Query, EmptyMutation, Numbers).data(executions.clone());
        let api = graphql::build(schema);
        let nulls = Arc::new(Nulls::new(&api.sdl()));
        (Operations::new(api, nulls, Documents::new(true).kept().clone()), executions)
    }

    async fn get(operations: &Operations, document: &str) -> Result<Arc<Operation>, serde_json::Value> {
        let operation = match Documents::new(true).prepare(Request::new(document), &document.into()).await {
            // Each document has a user of its own, so that only the pod's bounds count.
            Ok(prepared) => operations.get_or_create(prepared, &document.into()).await,
            Err(refusal) => Err(refusal),
        };
        operation.map_err(|refusal| serde_json::to_value(&refusal.errors[0]).unwrap())
    }

    async fn render(operation: &Operation, number: u32) -> Option<serde_json::Value> {
        let text = operation.render(&relayed("e", number)).await?;
        Some(serde_json::from_str(&text).unwrap())
    }

    fn relayed(id: &str, number: u32) -> Relayed {
        let mut event = Event::new("/test".into(), "number", None, Bytes::new());
        event.id = id.into();
        let position = Cursor { published: event.time, event: event.id.clone() };
        let (cursor, fields) = ("c".into(), vec!["all".into()]);
        Relayed {
            event,
            position,
            cursor,
            fields,
            audience: Audience::none(),
            payload: Arc::new(Number(number)),
        }
    }

    #[tokio::test]
    async fn same_subscriptions_share_one_execution_per_event() {
        let (operations, executions) = operations();
        let first = get(&operations, "subscription { all { value } }").await.unwrap();
        let second = get(&operations, "subscription { all { value } }").await.unwrap();
        assert!(Arc::ptr_eq(&first, &second));
        let result = render(&first, 1).await.unwrap();
        assert_eq!(result["data"]["all"]["value"], 1);
        assert_eq!(result["extensions"], serde_json::json!({"cursor": "c", "eventId": "e"}));
        assert_eq!(render(&first, 2).await.unwrap()["data"]["all"]["value"], 2);
        assert_eq!(executions.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn replayed_event_is_rendered_once_per_operation() {
        let (operations, executions) = operations();
        let all = get(&operations, "subscription { all { value } }").await.unwrap();
        let other = get(&operations, "subscription { x: all { value } }").await.unwrap();
        let (first, second) = (relayed("first", 1), relayed("second", 2));
        for _ in 0..3 {
            assert!(all.render_again(&first).await.unwrap().contains(r#""all":{"value":1}"#));
            assert!(all.render_again(&second).await.unwrap().contains(r#""all":{"value":2}"#));
            assert!(other.render_again(&first).await.unwrap().contains(r#""x":{"value":1}"#));
        }
        assert_eq!(executions.load(Ordering::Relaxed), 3);
    }

    #[tokio::test]
    async fn failed_field_of_result_is_null() {
        let (operations, _) = operations();
        let document = "subscription S { all { half ... F } } fragment F on Number { value }";
        let all = get(&operations, document).await.unwrap();
        let text = all.render(&relayed("e", 1)).await.unwrap();
        assert!(text.starts_with(r#"{"data":{"all":{"half":null,"value":1}}"#), "{text}");
        assert!(text.contains(r#""path":["all","half"]"#), "{text}");
        let text = all.render(&relayed("e", 2)).await.unwrap();
        assert!(text.starts_with(r#"{"data":{"all":{"half":1,"value":2}}"#), "{text}");
    }

    #[tokio::test]
    async fn gap_notice_uses_clients_field_alias() {
        let (operations, _) = operations();
        let aliased = get(&operations, "subscription { x: all { value } }").await.unwrap();
        let notice: serde_json::Value = serde_json::from_str(&aliased.gap("WHY", "c")).unwrap();
        let expected =
            serde_json::json!({"data": {"x": null}, "extensions": {"gap": {"reason": "WHY"}, "cursor": "c"}});
        assert_eq!(notice, expected);
    }

    #[tokio::test]
    async fn filtered_payload_renders_nothing() {
        let (operations, _) = operations();
        let even = get(&operations, "subscription { even { value } }").await.unwrap();
        assert_eq!(render(&even, 1).await, None);
        assert_eq!(render(&even, 2).await.unwrap()["data"]["even"]["value"], 2);
        assert_eq!(render(&even, 3).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn hanging_resolver_is_cut_off() {
        let (operations, _) = operations();
        let slow = get(&operations, "subscription { all { slow } }").await.unwrap();
        assert_eq!(render(&slow, 4).await.unwrap()["data"]["all"]["slow"], 4);
        assert_eq!(render(&slow, 60).await.unwrap()["errors"][0]["extensions"]["code"], "INTERNAL");
        assert_eq!(
            render(&slow, 1).await.unwrap()["data"]["all"]["slow"],
            1,
            "a timeout must not affect the next event"
        );
    }

    #[tokio::test]
    async fn panicking_resolver_fails_one_event_only() {
        let (operations, _) = operations();
        let all = get(&operations, "subscription { all { value } }").await.unwrap();
        assert_eq!(render(&all, 13).await.unwrap()["errors"][0]["extensions"]["code"], "INTERNAL");
        assert_eq!(render(&all, 1).await.unwrap()["data"]["all"]["value"], 1);
    }

    #[tokio::test]
    async fn invalid_subscription_is_refused() {
        let (operations, _) = operations();
        for (document, code) in [
            ("subscription { all { nonsense } }", "GRAPHQL_VALIDATION_FAILED"),
            ("subscription { all { value } even { value } }", "GRAPHQL_VALIDATION_FAILED"),
            ("subscription { ... on Numbers { all { value } } }", "GRAPHQL_VALIDATION_FAILED"),
            ("subscription {", "GRAPHQL_PARSE_FAILED"),
            ("", "BAD_REQUEST"),
        ] {
            let error = get(&operations, document).await.err().unwrap();
            assert_eq!(error["extensions"]["code"], code, "{document}");
        }
    }

    #[tokio::test]
    async fn dropped_operations_make_room() {
        let (mut operations, _) = operations();
        let budget = Budget::new(crate::budget::Settings { memory: 8 << 30, ..Default::default() }, 1_024);
        let kept = operations.kept.clone();
        operations.set_budget(budget, kept);
        let document = |n: usize| format!("subscription Name{n} {{ all {{ value }} }}");
        let mut held = Vec::new();
        for n in 0..MAX_OPERATIONS {
            held.push(get(&operations, &document(n)).await.unwrap());
        }
        let error = get(&operations, &document(MAX_OPERATIONS)).await.err().unwrap();
        assert_eq!(error["extensions"]["code"], "OVERLOADED");
        held.pop();
        assert!(get(&operations, &document(MAX_OPERATIONS)).await.is_ok());
        drop(held);
        assert!(lock(&operations.running).operations.is_empty(), "dropped operations leave nothing");
        assert_eq!(operations.budget.operations.used(), 0);
    }

    #[test]
    fn operation_is_charged_all_its_memory() {
        let (operations, _) = operations();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for document in [
            "subscription { all { value } }".to_owned(),
            format!("subscription {{ all {{ {} }} }}", "value ".repeat(990)),
            format!("subscription {{ all {{ {} }} }}", "...{value} ".repeat(190)),
            format!("subscription {{ all {{ value }} }} #{}", "x".repeat(30_000)),
        ] {
            let mut held = None;
            let subscribe = || held = Some(runtime.block_on(get(&operations, &document)).unwrap());
            let memory = allocation_counter::measure(subscribe).bytes_current;
            let charged = operations.budget.operations.used();
            assert!(memory <= charged as i64, "{memory} of {charged}: {document:.50}");
        }
    }

    #[tokio::test]
    async fn exhausted_pool_and_share_differ() {
        let (mut operations, _) = operations();
        let settings = crate::budget::Settings { memory: 16 << 20, ..Default::default() };
        let budget = Budget::new(settings, 1_024);
        let kept = Arc::new(Kept::new(budget.operations.clone()));
        operations.set_budget(budget.clone(), kept);
        let subscribe = async |n: usize, user: &str| {
            let document = format!("subscription Name{n} {{ all {{ value }} }}");
            let prepared =
                Documents::new(true).prepare(Request::new(document), &user.into()).await.ok().unwrap();
            let operation = operations.get_or_create(prepared, &user.into()).await;
            operation.map_err(|refusal| refusal.errors[0].extensions.clone().unwrap().get("code").cloned())
        };
        let filler = budget.operations.try_charge(&"a".into(), 120 << 10).unwrap();
        let refused = subscribe(1, "a").await.err().unwrap();
        assert_eq!(refused, Some(Value::from("LIMIT_REACHED")));
        assert!(budget.operations.is_refused("a"), "the next ones are refused by their text");
        drop(filler);
        assert!(!budget.operations.is_refused("a"));
        let share = budget.operations.share();
        let fillers: Vec<_> =
            (0..16).map(|n| budget.operations.try_charge(&format!("b{n}").into(), share).unwrap()).collect();
        let refused = subscribe(2, "c").await.err().unwrap();
        assert_eq!(refused, Some(Value::from("OVERLOADED")));
        drop(fillers);
    }
}
