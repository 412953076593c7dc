//! Operations: one validated GraphQL subscription (document, name, variables), executed once per event for all the
//! watchers that share it.
//!
//! The executor's own stream is kept open and fed one payload at a time, so that parsing and validation happen once.

use std::{
    collections::HashMap,
    future::poll_fn,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::Poll,
    time::Duration,
};

use async_graphql::{Request, Response, Value, parser::types::ExecutableDocument};
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::FutureExt as _;
use tokio::time::timeout;

use super::{
    Api,
    document::Prepared,
    error::{Code, Error, internal, publicly},
    subscription::{Results, Source},
};
use crate::{
    event::{Event, Payload},
    hub::Render,
};

/// How many distinct operations a pod runs at once. An event executes at most this many.
const MAX_OPERATIONS: usize = 10_000;

/// How long one execution may take. Resolvers of payloads need no I/O; one that hangs would hold up every event.
const EXECUTION_TIMEOUT: Duration = Duration::from_secs(5);

/// The operations that have watchers.
pub(super) struct Operations {
    api: Arc<dyn Api>,
    live: Mutex<HashMap<Key, Weak<Operation>>>,
}

/// What makes an operation distinct.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    query: String,
    name: Option<String>,
    variables: String,
}

impl Operations {
    pub(super) fn new(api: Arc<dyn Api>) -> Self {
        Self { api, live: Mutex::default() }
    }

    /// The operation of this request, shared with whoever runs the same.
    ///
    /// # Errors
    /// The response that refuses it: it does not validate, or there are too many others.
    pub(super) async fn open(&self, prepared: Prepared) -> Result<Arc<Operation>, Box<Response>> {
        let variables = serde_json::to_string(&prepared.request.variables).map_err(|_| internal())?;
        let key = Key {
            query: prepared.request.query.clone(),
            name: prepared.request.operation_name.clone(),
            variables,
        };
        if let Some(operation) = self.live().get(&key).and_then(Weak::upgrade) {
            return Ok(operation);
        }
        let operation = Arc::new(Operation::open(self.api.clone(), prepared).await?);
        let mut live = self.live();
        if live.len() >= MAX_OPERATIONS {
            live.retain(|_, operation| operation.strong_count() > 0);
        }
        if live.len() >= MAX_OPERATIONS {
            let text = "this pod runs as many distinct subscriptions as it may";
            return Err(Error::new(Code::LimitReached, text).response().into());
        }
        live.insert(key, Arc::downgrade(&operation));
        Ok(operation)
    }

    fn live(&self) -> MutexGuard<'_, HashMap<Key, Weak<Operation>>> {
        // Nothing panics while it is held.
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A validated subscription and the executor's stream behind it.
pub(super) struct Operation {
    api: Arc<dyn Api>,
    field: Arc<str>,
    query: String,
    name: Option<String>,
    variables: async_graphql::Variables,
    document: ExecutableDocument,
    // Events are executed one after the other: the lock is never contended, and tokio's may be held across an await.
    execution: tokio::sync::Mutex<Option<Execution>>,
}

struct Execution {
    results: Results,
    source: Source,
}

impl Operation {
    async fn open(
        api: Arc<dyn Api>,
        Prepared { request, document, field, .. }: Prepared,
    ) -> Result<Self, Box<Response>> {
        let Request { query, operation_name: name, variables, .. } = request;
        let execution = tokio::sync::Mutex::default();
        let operation = Self { api, field: field.into(), query, name, variables, document, execution };
        let mut execution = operation.start();
        // Validation answers before the first payload is asked for.
        if let Some(refusal) = execution.next().await {
            return Err(publicly(refusal).into());
        }
        *operation.execution.lock().await = Some(execution);
        Ok(operation)
    }

    /// The subscription root field.
    pub(super) const fn field(&self) -> &Arc<str> {
        &self.field
    }

    fn start(&self) -> Execution {
        let source = Source::default();
        let mut request =
            Request::new(self.query.as_str()).variables(self.variables.clone()).data(source.clone());
        request.operation_name.clone_from(&self.name);
        request.set_parsed_query(self.document.clone());
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
    async fn render(&self, event: &Event, payload: &Payload) -> Option<Bytes> {
        let response = self.execute(payload).await?;
        let response = publicly(response).extension("eventId", Value::from(&*event.id));
        match serde_json::to_vec(&response) {
            Ok(bytes) => Some(bytes.into()),
            Err(error) => {
                tracing::error!(%error, "a result has no JSON form");
                None
            }
        }
    }
}
