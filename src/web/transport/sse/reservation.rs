//! The single connection mode of graphql-sse: a client reserves one stream of events and runs many
//! operations on it.
//!
//! Each operation is started by a request of its own. A reservation exists on this pod only, so all
//! its requests must reach this pod. Its token cannot be guessed. Only its viewer may run or end
//! operations on it. It counts as a connection from the beginning, and ends soon if no reader
//! comes.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use axum::{
    extract::{Query, Request},
    http::{
        HeaderMap, StatusCode, Uri,
        header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE},
    },
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use super::EVENTS;
use crate::{
    auth::Session,
    graphql::error::{self, Code},
    web::{
        http::{
            refusal::{Refusal, json},
            request,
        },
        operations,
        server::{HandoffRequest, Peer},
        state::AppState,
        transport::stream::{
            self, Stream,
            command::{Command, Rejected, Start},
            response,
        },
    },
};

/// Header that names the reservation.
pub const TOKEN_HEADER: &str = "x-graphql-event-stream-token";

/// How long a reservation waits for its reader. Then it ends.
const READER_TIMEOUT: Duration = Duration::from_secs(10);

/// Random bytes of a token: twice the 128 bits that cannot be guessed.
const TOKEN_BYTES: usize = 32;

/// Commands of one connection that wait for its driver. Further ones wait in their requests.
const MAX_WAITING_COMMANDS: usize = 4;

/// The longest accepted id of an operation, in bytes, since each result repeats it. A longer one is
/// refused with 400.
const MAX_ID_BYTES: usize = 256;

/// Reservations of one pod, by token.
#[derive(Default)]
pub struct Reservations(Mutex<HashMap<Arc<str>, Reservation>>);

struct Reservation {
    user: Arc<str>,
    commands: mpsc::Sender<Command>,
    /// `None` once a reader has come.
    handoff: Option<HandoffRequest>,
}

/// Guard that removes the reservation when its connection ends.
struct ReservationGuard {
    reservations: Arc<Reservations>,
    token: Arc<str>,
}

impl Drop for ReservationGuard {
    fn drop(&mut self) {
        self.reservations.lock().remove(&self.token);
    }
}

impl Reservations {
    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Reservation>> {
        crate::lock::lock(&self.0)
    }

    /// Returns the channel to the connection, if the reservation is the viewer's.
    fn find(&self, token: &str, session: &Session) -> Option<mpsc::Sender<Command>> {
        let reservations = self.lock();
        let reservation = reservations.get(token)?;
        (reservation.user == session.viewer.user).then(|| reservation.commands.clone())
    }

    /// Returns the handoff for the first reader; the inner `None` is for later ones. A reader
    /// without `Authorization` is the viewer's `EventSource`, which cannot send the header.
    fn take(&self, token: &str, session: Option<&Session>) -> Option<Option<HandoffRequest>> {
        let mut reservations = self.lock();
        let reservation = reservations.get_mut(token)?;
        let is_owner = session.is_none_or(|session| reservation.user == session.viewer.user);
        is_owner.then(|| reservation.handoff.take())
    }
}

/// Returns the reservation that a request names, in its header or, for an `EventSource`, in its
/// URL.
pub(in crate::web) fn token(headers: &HeaderMap, uri: &Uri) -> Option<String> {
    let header = headers.get(TOKEN_HEADER).and_then(|value| value.to_str().ok()).map(str::to_owned);
    header.or_else(|| parameter(uri, "token"))
}

/// Answers `PUT /graphql`: reserves a stream.
pub(in crate::web) async fn reserve(
    app: Arc<AppState>,
    reservations: &Arc<Reservations>,
    request: Request,
) -> Result<Response, Refusal> {
    let session = app.authenticate(request.headers()).await?;
    let guard = app.connections.enter(EVENTS.transport(), Peer::of(request.extensions()));
    let guard = guard.map_err(|end| Refusal::unavailable(&end))?;
    let token: Arc<str> = URL_SAFE_NO_PAD.encode(rand::random::<[u8; TOKEN_BYTES]>()).into();
    let (commands, receiver) = mpsc::channel(MAX_WAITING_COMMANDS);
    let (handoff, socket) = HandoffRequest::new();
    let end_guard = ReservationGuard { reservations: reservations.clone(), token: token.clone() };
    let user = session.viewer.user.clone();
    let reservation = Reservation { user, commands, handoff: Some(handoff) };
    reservations.lock().insert(token.clone(), reservation);
    Stream::new(app, guard, EVENTS, &session)
        .reserve(receiver, READER_TIMEOUT, Box::new(end_guard))
        .spawn(socket);
    let headers = [(CONTENT_TYPE, "text/plain; charset=utf-8"), (CACHE_CONTROL, "no-store")];
    Ok((StatusCode::CREATED, headers, token.to_string()).into_response())
}

/// Answers `GET /graphql` with a token: the one stream of the reservation.
pub(in crate::web) async fn read(
    app: &AppState,
    reservations: &Reservations,
    request: Request,
    token: &str,
) -> Result<Response, Refusal> {
    let headers = request.headers();
    let session = match headers.contains_key(AUTHORIZATION) {
        true => Some(app.authenticate(headers).await?),
        false => None,
    };
    let handoff = reservations.take(token, session.as_ref()).ok_or_else(unknown)?;
    let handoff = handoff.ok_or_else(|| {
        Refusal::new(StatusCode::CONFLICT, Code::BadRequest, "the stream is being read already")
    })?;
    Ok(response::respond(EVENTS, handoff))
}

/// Answers `POST /graphql` with a token: starts an operation that writes its results into the
/// stream.
pub(in crate::web) async fn submit(
    app: &AppState,
    reservations: &Reservations,
    request: Request,
    token: &str,
) -> Result<Response, Refusal> {
    let session = app.authenticate(request.headers()).await?;
    let commands = reservations.find(token, &session).ok_or_else(unknown)?;
    let after = stream::last_event_id(request.headers()).map(str::to_owned);
    let request = request::read(request).await?;
    let id = request.extensions.get("operationId").cloned().and_then(|id| id.into_json().ok());
    let id = id.as_ref().and_then(operation_id).ok_or_else(no_operation_id)?;
    let prepared = match app.engine.prepare(request) {
        Ok(prepared) => prepared,
        Err(refusal) => return Ok(bad(&refusal)),
    };
    let (reply, answer) = oneshot::channel();
    let operation = operations::Start { prepared, viewer: session.viewer, after };
    let start = Start { id, operation, reply };
    commands.send(Command::Start(Box::new(start))).await.map_err(|_| unknown())?;
    match answer.await {
        Ok(Ok(())) => Ok(StatusCode::ACCEPTED.into_response()),
        Ok(Err(Rejected::Taken)) => {
            let text = "an operation with this `operationId` is running";
            Err(Refusal::new(StatusCode::CONFLICT, Code::BadRequest, text))
        }
        Ok(Err(Rejected::Full)) => {
            let text = "this stream has as many operations as it may";
            Err(Refusal::new(StatusCode::TOO_MANY_REQUESTS, Code::LimitReached, text))
        }
        Ok(Err(Rejected::Refused(refusal))) => Ok(bad(&refusal)),
        // The operation, or the whole stream, ended before there was an answer.
        Err(_) => Err(unknown()),
    }
}

/// Answers `DELETE /graphql`: ends an operation.
pub(in crate::web) async fn stop(
    app: &AppState,
    reservations: &Reservations,
    request: Request,
    token: &str,
) -> Result<Response, Refusal> {
    let session = app.authenticate(request.headers()).await?;
    let commands = reservations.find(token, &session).ok_or_else(unknown)?;
    let id = parameter(request.uri(), "operationId").map(Value::String);
    let id = id.as_ref().and_then(operation_id).ok_or_else(no_operation_id)?;
    commands.send(Command::Stop(id)).await.map_err(|_| unknown())?;
    Ok(StatusCode::OK.into_response())
}

/// Returns the id as it stands in every result: a JSON string.
fn operation_id(id: &Value) -> Option<Arc<str>> {
    let Value::String(text) = id else { return None };
    (1..=MAX_ID_BYTES).contains(&text.len()).then(|| id.to_string().into())
}

fn parameter(uri: &Uri, name: &str) -> Option<String> {
    let Query(parameters) = Query::<HashMap<String, String>>::try_from_uri(uri).ok()?;
    parameters.get(name).filter(|value| !value.is_empty()).cloned()
}

fn bad(refusal: &async_graphql::Response) -> Response {
    json(StatusCode::BAD_REQUEST, None, &error::Body::from(refusal))
}

fn unknown() -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, Code::NotFound, "there is no such stream; reserve one by PUT")
}

fn no_operation_id() -> Refusal {
    let text = "name the operation: 1 to 256 bytes as `operationId`";
    Refusal::new(StatusCode::BAD_REQUEST, Code::BadRequest, text)
}
