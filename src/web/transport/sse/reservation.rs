//! The single connection mode of graphql-sse: a client reserves one stream of events and runs many
//! operations on it.
//!
//! Each operation is started by a request of its own. A reservation exists on this pod only, so all
//! its requests must reach this pod. Its token cannot be guessed. Only its viewer may run or end
//! operations on it. It ends soon if no reader comes. It counts as a connection only from its
//! reader on; until then it takes one of few places of its user.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use axum::{
    extract::Request,
    http::{
        HeaderMap, StatusCode, Uri,
        header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE},
    },
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use super::{EVENTS, heartbeat, parameter};
use crate::{
    auth::Session,
    budget::Charge,
    graphql::error::{self, Code},
    web::{
        connection::End,
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

/// Reservations without a reader, for each user. A page needs one.
const MAX_UNREAD_PER_USER: usize = 4;

/// What a reservation without a reader takes, in bytes. It is charged to its user.
const RESERVATION_BYTES: usize = 4 << 10;

/// Random bytes of a token: twice the 128 bits that cannot be guessed.
const TOKEN_BYTES: usize = 32;

/// Commands of one connection that wait for its driver. Further ones wait in their requests.
const MAX_WAITING_COMMANDS: usize = 4;

/// The longest accepted id of an operation, in bytes, since each result repeats it. A longer one is
/// refused with 400.
const MAX_ID_BYTES: usize = 256;

/// Reservations of one pod.
#[derive(Default)]
pub struct Reservations(Mutex<State>);

#[derive(Default)]
struct State {
    by_token: HashMap<Arc<str>, Reservation>,
    /// Number of reservations without a reader, by user. A user without any has no entry.
    unread: HashMap<Arc<str>, usize>,
}

impl State {
    /// Adds a reservation without a reader. Returns `false` if there are as many as may be.
    fn insert(&mut self, token: Arc<str>, reservation: Reservation) -> bool {
        let of_user = self.unread.get(&reservation.user).copied().unwrap_or_default();
        if of_user >= MAX_UNREAD_PER_USER {
            return false;
        }
        self.unread.insert(reservation.user.clone(), of_user + 1);
        self.by_token.insert(token, reservation);
        true
    }

    /// Counts a reservation of this user as read, or as ended.
    fn on_read(&mut self, user: &Arc<str>) {
        if let Some(unread) = self.unread.get_mut(user) {
            *unread -= 1;
            if *unread == 0 {
                self.unread.remove(user);
            }
        }
    }
}

struct Reservation {
    user: Arc<str>,
    commands: mpsc::Sender<Command>,
    /// `None` once a reader has come.
    handoff: Option<(HandoffRequest, Charge)>,
}

/// Guard that removes the reservation when its connection ends.
struct ReservationGuard {
    reservations: Arc<Reservations>,
    token: Arc<str>,
}

impl Drop for ReservationGuard {
    fn drop(&mut self) {
        let mut state = self.reservations.lock();
        if let Some(Reservation { user, handoff: Some(_), .. }) = state.by_token.remove(&self.token) {
            state.on_read(&user);
        }
    }
}

impl Reservations {
    fn lock(&self) -> MutexGuard<'_, State> {
        crate::lock::lock(&self.0)
    }

    /// Returns the channel to the connection, if the reservation is the viewer's.
    fn find(&self, token: &str, session: &Session) -> Option<mpsc::Sender<Command>> {
        let state = self.lock();
        let reservation = state.by_token.get(token)?;
        (reservation.user == session.viewer.user).then(|| reservation.commands.clone())
    }

    /// Returns the handoff and the channel for the first reader; the inner `None` is for later
    /// ones. A reader without `Authorization` is the viewer's `EventSource`, which cannot send the
    /// header.
    fn take(
        &self,
        token: &str,
        session: Option<&Session>,
    ) -> Option<Option<(HandoffRequest, mpsc::Sender<Command>)>> {
        let mut state = self.lock();
        let reservation = state.by_token.get_mut(token)?;
        if session.is_some_and(|session| reservation.user != session.viewer.user) {
            return None;
        }
        let commands = reservation.commands.clone();
        let handoff = reservation.handoff.take().map(|(handoff, _released)| (handoff, commands));
        if handoff.is_some() {
            let user = reservation.user.clone();
            state.on_read(&user);
        }
        Some(handoff)
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
    let peer = Peer::of(request.extensions()).cloned();
    let session = app.receive(request.headers(), peer.as_ref()).await?;
    if app.connections.is_draining() {
        return Err(Refusal::unavailable(&End::Drained));
    }
    let token: Arc<str> = URL_SAFE_NO_PAD.encode(rand::random::<[u8; TOKEN_BYTES]>()).into();
    let (commands, receiver) = mpsc::channel(MAX_WAITING_COMMANDS);
    let (handoff, socket) = HandoffRequest::new();
    let end_guard = ReservationGuard { reservations: reservations.clone(), token: token.clone() };
    let user = session.viewer.user.clone();
    let charge = app.budget.requests.try_charge(&user, RESERVATION_BYTES).ok_or_else(Refusal::no_room)?;
    let reservation = Reservation { user, commands, handoff: Some((handoff, charge)) };
    if !reservations.lock().insert(token.clone(), reservation) {
        app.connections.refuse("reservations");
        return Err(Refusal::busy(
            "there are as many unread streams as may be; read one, or try again later",
        ));
    }
    let guard = app.connections.reserve(EVENTS.transport());
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
    let heartbeat = heartbeat(request.uri())?;
    let place = app.connections.place(EVENTS.transport(), Peer::of(request.extensions()));
    let place = place.map_err(|end| Refusal::unavailable(&end))?;
    let taken = reservations.take(token, session.as_ref()).ok_or_else(unknown)?;
    let (handoff, commands) = taken.ok_or_else(|| {
        Refusal::new(StatusCode::CONFLICT, Code::BadRequest, "the stream is being read already")
    })?;
    commands.send(Command::Read(Box::new(place), heartbeat)).await.map_err(|_| unknown())?;
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
    let peer = Peer::of(request.extensions()).cloned();
    let session = app.receive(request.headers(), peer.as_ref()).await?;
    let commands = reservations.find(token, &session).ok_or_else(unknown)?;
    let after = stream::last_event_id(request.headers()).map(str::to_owned);
    let (request, held) = request::read(request, &app.budget.requests, &session.viewer.user).await?;
    let _place = app.run(&session)?;
    let id = request.extensions.get("operationId").cloned().and_then(|id| id.into_json().ok());
    let id = id.as_ref().and_then(operation_id).ok_or_else(no_operation_id)?;
    let refused = |refusal: Box<_>| Refusal::at_present(&refusal).map_or_else(|| Ok(bad(&refusal)), Err);
    let prepared = match app.engine.prepare(request, &session.viewer.user).await {
        Ok(prepared) => prepared,
        Err(refusal) => return refused(refusal),
    };
    let (reply, answer) = oneshot::channel();
    let operation = operations::Start { prepared, viewer: session.viewer, after, held: Some(held) };
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
        Ok(Err(Rejected::Refused(refusal))) => refused(refusal),
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
    let peer = Peer::of(request.extensions()).cloned();
    let session = app.receive(request.headers(), peer.as_ref()).await?;
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
