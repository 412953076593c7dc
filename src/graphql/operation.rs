//! Operations: one validated GraphQL subscription (document, name, variables), executed once per event for all the
//! watchers that share it.
//!
//! The executor's own stream is kept open and fed one payload at a time, so that parsing and validation happen once.

mod replayed;

use std::{
    collections::HashMap,
    future::poll_fn,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, Weak},
    task::Poll,
    time::Duration,
};

use async_graphql::{Name, Request, Response, Value, parser::types::ExecutableDocument};
use async_trait::async_trait;
use futures_util::FutureExt as _;
use tokio::time::timeout;

use self::replayed::Replayed;
use super::{
    api::Api,
    document::Prepared,
    error::{Code, Error, internal, publicly},
    subscription::{Results, Source},
};
use crate::{
    event::Payload,
    hub::{Relayed, Render},
    lock::lock,
};

/// How many distinct operations a pod runs at once. An event executes at most this many.
const MAX_OPERATIONS: usize = 10_000;

/// What they may take together, in bytes: twice what so many of a usual size do.
const MAX_OPERATIONS_BYTES: usize = 128 << 20;

/// How long the variables of a subscription may be as JSON, in bytes.
const MAX_VARIABLES_BYTES: usize = 16 << 10;

/// How long one execution may take. Resolvers of payloads need no I/O; one that hangs would hold up every event.
const EXECUTION_TIMEOUT: Duration = Duration::from_secs(5);

/// The operations that have watchers.
pub(super) struct Operations {
    api: Arc<dyn Api>,
    live: Arc<Mutex<Live>>,
    replayed: Arc<Mutex<Replayed>>,
}

/// Each operation for as long as somebody holds it.
#[derive(Default)]
struct Live {
    operations: HashMap<Arc<Key>, Weak<Operation>>,
    bytes: usize,
}

/// What makes an operation distinct.
#[derive(PartialEq, Eq, Hash)]
struct Key {
    query: String,
    name: Option<String>,
    variables: String,
}

impl Key {
    /// What an operation takes in memory, in bytes, roughly: a parsed document some twenty times its text.
    fn bytes(&self) -> usize {
        4_096 + 20 * self.query.len() + 4 * self.variables.len()
    }
}

impl Operations {
    pub(super) fn new(api: Arc<dyn Api>) -> Self {
        Self { api, live: Arc::default(), replayed: Arc::default() }
    }

    /// The operation of this request, shared with whoever runs the same.
    ///
    /// # Errors
    /// The response that refuses it: it does not validate, or there are too many others.
    pub(super) async fn open(&self, prepared: Prepared) -> Result<Arc<Operation>, Box<Response>> {
        let Request { query, operation_name: name, variables, .. } = prepared.request;
        let key = Key { query, name, variables: serde_json::to_string(&variables).map_err(|_| internal())? };
        if key.variables.len() > MAX_VARIABLES_BYTES {
            let text = format!("the variables of a subscription have more than {MAX_VARIABLES_BYTES} bytes");
            return Err(Error::new(Code::BadRequest, text).response().into());
        }
        if let Some(operation) = lock(&self.live).get(&key) {
            return Ok(operation);
        }
        let mut operation = Operation {
            api: self.api.clone(),
            live: self.live.clone(),
            replayed: self.replayed.clone(),
            number: lock(&self.replayed).number(),
            field: prepared.field.into(),
            response_key: prepared.response_key,
            key: key.into(),
            variables,
            document: prepared.document,
            execution: tokio::sync::Mutex::default(),
        };
        operation.validate().await?;
        let operation = Arc::new(operation);
        // The lock is free again before `operation` goes, which takes it if another one is shared.
        lock(&self.live).insert(&operation)
    }
}

impl Live {
    fn get(&self, key: &Key) -> Option<Arc<Operation>> {
        self.operations.get(key).and_then(Weak::upgrade)
    }

    /// Adds the operation, unless somebody else was faster.
    fn insert(&mut self, operation: &Arc<Operation>) -> Result<Arc<Operation>, Box<Response>> {
        if let Some(same) = self.get(&operation.key) {
            return Ok(same);
        }
        let bytes = self.bytes + operation.key.bytes();
        if self.operations.len() >= MAX_OPERATIONS || bytes > MAX_OPERATIONS_BYTES {
            let text = "this pod runs as many distinct subscriptions as it may";
            return Err(Error::new(Code::LimitReached, text).response().into());
        }
        if self.operations.insert(operation.key.clone(), Arc::downgrade(operation)).is_none() {
            self.bytes = bytes;
        }
        Ok(operation.clone())
    }

    /// Removes the operation at this address, whose last holder is gone; a successor of the same key stays.
    fn remove(&mut self, key: &Key, address: *const Operation) {
        if self.operations.get(key).is_some_and(|operation| operation.as_ptr() == address) {
            self.operations.remove(key);
            self.bytes -= key.bytes();
        }
    }
}

/// A validated subscription and the executor's stream behind it.
pub(super) struct Operation {
    api: Arc<dyn Api>,
    live: Arc<Mutex<Live>>,
    replayed: Arc<Mutex<Replayed>>,
    /// Never that of another operation, as an address might be.
    number: u64,
    field: Arc<str>,
    response_key: String,
    key: Arc<Key>,
    variables: async_graphql::Variables,
    document: Arc<ExecutableDocument>,
    // Events are executed one after the other: the lock is never contended, and tokio's may be held across an await.
    execution: tokio::sync::Mutex<Option<Execution>>,
}

struct Execution {
    results: Results,
    source: Source,
}

impl Drop for Operation {
    fn drop(&mut self) {
        lock(&self.live).remove(&self.key, self);
    }
}

impl Operation {
    /// Begins its execution. Validation answers before the first payload is asked for.
    async fn validate(&mut self) -> Result<(), Box<Response>> {
        let mut execution = self.start();
        if let Some(refusal) = execution.next().await {
            return Err(publicly(refusal).into());
        }
        *self.execution.get_mut() = Some(execution);
        Ok(())
    }

    /// The subscription root field.
    pub(super) const fn field(&self) -> &Arc<str> {
        &self.field
    }

    fn start(&self) -> Execution {
        let source = Source::default();
        let mut request =
            Request::new(self.key.query.as_str()).variables(self.variables.clone()).data(source.clone());
        request.operation_name.clone_from(&self.key.name);
        request.set_parsed_query((*self.document).clone());
        Execution { results: self.api.execute_stream(request), source }
    }

    async fn execute(&self, payload: &Payload) -> Option<Response> {
        let mut kept = self.execution.lock().await;
        let mut execution = kept.take().unwrap_or_else(|| {
            // The last one panicked, hung or ended: begin anew.
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
    /// The result for the payload that was put in; `None` if the resolver left it out.
    async fn next(&mut self) -> Option<Response> {
        poll_fn(|task| match self.results.as_mut().poll_next(task) {
            Poll::Pending if self.source.is_drained() => Poll::Ready(None),
            next => next,
        })
        .await
    }
}

#[async_trait]
impl Render for Operation {
    async fn render(&self, relayed: &Relayed) -> Option<Arc<str>> {
        let response = self.execute(&relayed.payload).await?;
        let response = publicly(response)
            .extension("eventId", Value::from(&*relayed.event.id))
            .extension("cursor", Value::from(&*relayed.cursor));
        match serde_json::to_string(&response) {
            Ok(text) => Some(text.into()),
            Err(error) => {
                tracing::error!(%error, "a result has no JSON form");
                None
            }
        }
    }

    async fn render_again(&self, relayed: &Relayed) -> Option<Arc<str>> {
        let key = (self.number, relayed.position.clone());
        let recall = || lock(&self.replayed).get(&key);
        if let Some(result) = recall() {
            return result;
        }
        let result = self.render(relayed).await;
        lock(&self.replayed).insert(key, result.clone());
        result
    }

    fn gap(&self, reason: &str, cursor: &str) -> Arc<str> {
        let data = Value::Object([(Name::new(&self.response_key), Value::Null)].into_iter().collect());
        let gap = Value::Object([(Name::new("reason"), Value::from(reason))].into_iter().collect());
        let notice = Response::new(data).extension("gap", gap).extension("cursor", Value::from(cursor));
        serde_json::to_string(&notice).expect("names and texts have a JSON form").into()
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
        (Operations::new(graphql::build(schema)), executions)
    }

    async fn open(operations: &Operations, document: &str) -> Result<Arc<Operation>, serde_json::Value> {
        let opened = match Documents::new(true).prepare(Request::new(document)) {
            Ok(prepared) => operations.open(prepared).await,
            Err(refusal) => Err(refusal),
        };
        opened.map_err(|refusal| serde_json::to_value(&refusal.errors[0]).unwrap())
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
    async fn the_same_subscription_is_one_operation_executed_once_an_event() {
        let (operations, executions) = operations();
        let first = open(&operations, "subscription { all { value } }").await.unwrap();
        let second = open(&operations, "subscription { all { value } }").await.unwrap();
        assert!(Arc::ptr_eq(&first, &second));
        let result = render(&first, 1).await.unwrap();
        assert_eq!(result["data"]["all"]["value"], 1);
        assert_eq!(result["extensions"], serde_json::json!({"cursor": "c", "eventId": "e"}));
        assert_eq!(render(&first, 2).await.unwrap()["data"]["all"]["value"], 2);
        assert_eq!(executions.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn what_many_missed_is_rendered_once() {
        let (operations, executions) = operations();
        let all = open(&operations, "subscription { all { value } }").await.unwrap();
        let other = open(&operations, "subscription { x: all { value } }").await.unwrap();
        let (first, second) = (relayed("first", 1), relayed("second", 2));
        for _ in 0..3 {
            assert!(all.render_again(&first).await.unwrap().contains(r#""all":{"value":1}"#));
            assert!(all.render_again(&second).await.unwrap().contains(r#""all":{"value":2}"#));
            assert!(other.render_again(&first).await.unwrap().contains(r#""x":{"value":1}"#));
        }
        assert_eq!(executions.load(Ordering::Relaxed), 3);
    }

    #[tokio::test]
    async fn a_gap_is_told_under_the_clients_own_name_of_the_field() {
        let (operations, _) = operations();
        let aliased = open(&operations, "subscription { x: all { value } }").await.unwrap();
        let notice: serde_json::Value = serde_json::from_str(&aliased.gap("WHY", "c")).unwrap();
        let told =
            serde_json::json!({"data": {"x": null}, "extensions": {"gap": {"reason": "WHY"}, "cursor": "c"}});
        assert_eq!(notice, told);
    }

    #[tokio::test]
    async fn what_the_resolver_leaves_out_nobody_gets() {
        let (operations, _) = operations();
        let even = open(&operations, "subscription { even { value } }").await.unwrap();
        assert_eq!(render(&even, 1).await, None);
        assert_eq!(render(&even, 2).await.unwrap()["data"]["even"]["value"], 2);
        assert_eq!(render(&even, 3).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_resolver_may_wait_but_not_for_long() {
        let (operations, _) = operations();
        let slow = open(&operations, "subscription { all { slow } }").await.unwrap();
        assert_eq!(render(&slow, 4).await.unwrap()["data"]["all"]["slow"], 4);
        assert_eq!(render(&slow, 60).await.unwrap()["errors"][0]["extensions"]["code"], "INTERNAL");
        assert_eq!(
            render(&slow, 1).await.unwrap()["data"]["all"]["slow"],
            1,
            "the next event is not its concern"
        );
    }

    #[tokio::test]
    async fn a_resolver_that_panics_costs_one_event_one_error() {
        let (operations, _) = operations();
        let all = open(&operations, "subscription { all { value } }").await.unwrap();
        assert_eq!(render(&all, 13).await.unwrap()["errors"][0]["extensions"]["code"], "INTERNAL");
        assert_eq!(render(&all, 1).await.unwrap()["data"]["all"]["value"], 1);
    }

    #[tokio::test]
    async fn what_does_not_validate_is_refused_before_it_watches() {
        let (operations, _) = operations();
        for (document, code) in [
            ("subscription { all { nonsense } }", "GRAPHQL_VALIDATION_FAILED"),
            ("subscription { all { value } even { value } }", "GRAPHQL_VALIDATION_FAILED"),
            ("subscription { ... on Numbers { all { value } } }", "GRAPHQL_VALIDATION_FAILED"),
            ("subscription {", "GRAPHQL_PARSE_FAILED"),
            ("", "BAD_REQUEST"),
        ] {
            let error = open(&operations, document).await.err().unwrap();
            assert_eq!(error["extensions"]["code"], code, "{document}");
        }
    }

    #[tokio::test]
    async fn operations_that_nobody_watches_make_room() {
        let (operations, _) = operations();
        let document = |n: usize| format!("subscription Name{n} {{ all {{ value }} }}");
        let mut held = Vec::new();
        for n in 0..MAX_OPERATIONS {
            held.push(open(&operations, &document(n)).await.unwrap());
        }
        let error = open(&operations, &document(MAX_OPERATIONS)).await.err().unwrap();
        assert_eq!(error["extensions"]["code"], "LIMIT_REACHED");
        held.pop();
        assert!(open(&operations, &document(MAX_OPERATIONS)).await.is_ok());
        drop(held);
        let live = lock(&operations.live);
        assert_eq!((live.operations.len(), live.bytes), (0, 0), "nothing is kept of what nobody holds");
    }

    #[tokio::test]
    async fn operations_are_bounded_in_bytes_as_well() {
        let (operations, _) = operations();
        let document =
            |n: usize| format!("subscription Name{n} {{ all {{ value }} }} #{}", "x".repeat(30_000));
        let mut held = Vec::new();
        let refused = loop {
            match open(&operations, &document(held.len())).await {
                Ok(operation) => held.push(operation),
                Err(refused) => break refused,
            }
        };
        assert_eq!(refused["extensions"]["code"], "LIMIT_REACHED");
        assert!(held.len() < 250);
    }
}
