//! [`ReadAfter`]: lets a request wait until this pod has applied the events that its client wrote.
//!
//! Every pod applies events when its own feed brings them, so a read may run on a pod that is a
//! moment behind the pod of the write. A request that names the event waits for it, 2 s at most. It
//! must never wait without a charge, nor for any other event.

use std::{sync::Arc, time::Duration};

use async_graphql::{Request, Response, Value};
use opentelemetry::{
    KeyValue,
    metrics::{BoundCounter, Counter, Meter},
};
use tokio::time::timeout;

use super::error::{Code, Error, refuse};
use crate::{applied::Applied, budget::Pool, cursor::Written, telemetry};

/// Extension of a request with the tokens of the writes that it must see.
pub const READ_AFTER: &str = "readAfter";

/// Most tokens of one request. One author's events keep their order, so a client needs one for each
/// author that it writes as.
const MAX_TOKENS: usize = 8;

/// How long a request waits for its events. Then it is refused with `NOT_CAUGHT_UP`.
const PATIENCE: Duration = Duration::from_secs(2);

/// Bytes that are charged for a request while it waits: its task and its place. The user's share of
/// the pool of requests bounds how many wait.
const WAITER_BYTES: usize = 4 << 10;

/// Outcomes in metrics.
const APPLIED: &str = "applied";
const WAITED: &str = "waited";
const NOT_CAUGHT_UP: &str = "not_caught_up";
const OVERLOADED: &str = "overloaded";
const BAD: &str = "bad";

/// Takes the tokens out of a request. An empty text is no token.
///
/// # Errors
/// A response that refuses the request: the extension is neither a text nor a list of texts, or it
/// has more than eight of them.
pub(super) fn take(request: &mut Request) -> Result<Vec<String>, Box<Response>> {
    let values = match request.extensions.remove(READ_AFTER) {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::List(values)) => values,
        Some(value) => vec![value],
    };
    let mut tokens = Vec::with_capacity(values.len().min(MAX_TOKENS));
    for value in values {
        match value {
            Value::String(token) if token.is_empty() => {}
            Value::String(token) if tokens.len() < MAX_TOKENS => tokens.push(token),
            _ => return refuse(Code::BadRequest, "`extensions.readAfter` must be a token, or up to eight"),
        }
    }
    Ok(tokens)
}

/// Requests that wait for events, on one pod.
pub struct ReadAfter {
    applied: Applied,
    topic: Arc<str>,
    pool: Pool,
    requests: Counter<u64>,
    /// Those whose events were applied, which is the rule: counting them looks no label up.
    ready: BoundCounter<u64>,
}

impl ReadAfter {
    /// Creates the waiting room of a pod that has applied these events of the topic. Requests that
    /// wait are charged to the pool.
    #[must_use]
    pub fn new(applied: Applied, topic: Arc<str>, pool: Pool, meter: &Meter) -> Self {
        let requests = telemetry::counter_by(
            meter,
            "relay.read_after.requests",
            "Requests that had to see an event, by outcome.",
            "outcome",
            [APPLIED, WAITED, NOT_CAUGHT_UP, OVERLOADED, BAD],
        );
        let ready = requests.bind(&[KeyValue::new("outcome", APPLIED)]);
        Self { applied, topic, pool, requests, ready }
    }

    /// Waits until this pod has applied the events of all tokens, for a request of this user.
    ///
    /// # Errors
    /// `BAD_READ_AFTER`: a text is no token of this topic. `NOT_CAUGHT_UP`: an event has not come
    /// within 2 s. `OVERLOADED`: too many requests of the user, or of the pod, wait.
    pub(super) async fn wait(&self, tokens: &[String], user: &Arc<str>) -> Result<(), Error> {
        let waited = self.wait_for(tokens, user).await;
        match &waited {
            Ok(APPLIED) => self.ready.add(1),
            Ok(outcome) | Err((outcome, _)) => self.requests.add(1, &[KeyValue::new("outcome", *outcome)]),
        }
        waited.map(drop).map_err(|(_, error)| error)
    }

    /// Waits as [`wait`](Self::wait) does. Returns the outcome.
    async fn wait_for(
        &self,
        tokens: &[String],
        user: &Arc<str>,
    ) -> Result<&'static str, (&'static str, Error)> {
        let events: Result<Vec<_>, _> =
            tokens.iter().map(|token| Written::decode(token, &self.topic)).collect();
        let mut events = events.map_err(|bad| (BAD, Error::new(Code::BadReadAfter, bad.to_string())))?;
        events.retain(|event| !self.applied.shows(event));
        if events.is_empty() {
            return Ok(APPLIED);
        }
        let Some(_charge) = self.pool.try_charge(user, WAITER_BYTES) else {
            let text = "too many requests of this user or this pod wait for events; try again later";
            return Err((OVERLOADED, Error::new(Code::Overloaded, text)));
        };
        let all = async {
            for event in &events {
                self.applied.wait(event).await;
            }
        };
        match timeout(PATIENCE, all).await {
            Ok(()) => Ok(WAITED),
            // The feed may have caught up meanwhile without the event.
            Err(_) if events.iter().all(|event| self.applied.shows(event)) => Ok(WAITED),
            Err(_) => Err((NOT_CAUGHT_UP, Error::not_caught_up())),
        }
    }
}

#[cfg(test)]
mod tests;
