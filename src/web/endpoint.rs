//! The dispatcher of `/graphql`: queries and mutations over plain HTTP, and the entry to every
//! transport.
//!
//! Queries come by GET and POST, mutations by POST only. Every refusal is a GraphQL error body with
//! a code, whatever the status. It must never hold a rule of one transport.

use std::sync::Arc;

use async_graphql::parser::types::OperationType;
use axum::{
    extract::{Request, State},
    http::{
        HeaderValue, Method, StatusCode,
        header::{ALLOW, CACHE_CONTROL, LOCATION, VARY},
    },
    response::{IntoResponse as _, Response},
};

use super::{
    http::{
        charged,
        negotiate::{Accept, Form},
        refusal::{Refusal, headers},
        request,
    },
    server::Peer,
    state::AppState,
    transport::{
        multipart::PARTS,
        sse::{
            self, EVENTS,
            reservation::{self, Reservations},
        },
        stream::{self, Caller, format::Format, response},
        ws,
    },
};
use crate::graphql::{Answer, error::Code};

/// Error text for a subscription without a transport: how to subscribe.
const TRANSPORTS: &str = "a subscription needs a transport for many results: at this address, a WebSocket with the subprotocol \
                          graphql-transport-ws (or the older graphql-ws), or a request with `Accept: text/event-stream` or \
                          `Accept: multipart/mixed;subscriptionSpec=\"1.0\"`";

/// State of the endpoint: the app state, and the reservations of graphql-sse.
#[derive(Clone)]
pub struct Endpoint {
    app: Arc<AppState>,
    reservations: Arc<Reservations>,
}

impl Endpoint {
    /// Creates the state of an endpoint, without reservations.
    #[must_use]
    pub fn new(app: Arc<AppState>) -> Self {
        Self { app, reservations: Arc::default() }
    }
}

/// Answers every method on `/graphql`: an operation, a reservation of graphql-sse, or a WebSocket's
/// handshake.
pub async fn graphql(State(endpoint): State<Endpoint>, request: Request) -> Response {
    let app = &endpoint.app;
    let accept = Accept::read(request.headers());
    let answered = match app.check_head(request.uri(), request.version(), request.headers()) {
        Ok(()) if ws::handshake::is_wanted(request.headers()) => return ws::accept(app, &request),
        Ok(()) if is_page_wanted(app, request.method(), &accept) => return to_page(),
        // Boxed: the layers around this handler move its future several times.
        Ok(()) => Box::pin(run(&endpoint, request, &accept)).await,
        Err(refusal) => Err(refusal),
    };
    answered.unwrap_or_else(|refusal| {
        if let Some(limit) = refusal.limit() {
            app.connections.refuse(limit);
        }
        refusal.answer(accept.result())
    })
}

/// Reports whether a browser opens the address, and there is a page to show.
fn is_page_wanted(app: &AppState, method: &Method, accept: &Accept) -> bool {
    app.settings.page.is_some() && matches!(*method, Method::GET | Method::HEAD) && accept.prefers_page()
}

/// Answers with the way to the page.
fn to_page() -> Response {
    let headers = [(LOCATION, "/"), (VARY, "accept"), (CACHE_CONTROL, "no-store")];
    (StatusCode::SEE_OTHER, headers).into_response()
}

async fn run(endpoint: &Endpoint, request: Request, accept: &Accept) -> Result<Response, Refusal> {
    let Endpoint { app, reservations } = endpoint;
    let reserved = reservation::token(request.headers(), request.uri());
    match (request.method(), reserved) {
        (&Method::PUT, _) => reservation::reserve(app.clone(), reservations, request).await,
        (&Method::DELETE, token) => {
            reservation::stop(app, reservations, request, &token.unwrap_or_default()).await
        }
        (&Method::POST, Some(token)) => reservation::submit(app, reservations, request, &token).await,
        (&Method::GET, Some(token)) if accept.stream() == Some(Form::EventStream) => {
            reservation::read(app, reservations, request, &token).await
        }
        (&Method::GET | &Method::HEAD | &Method::POST, _) => execute(app.clone(), request, accept).await,
        _ => {
            let text = "send the request by GET or POST";
            let allow = HeaderValue::from_static("GET, HEAD, POST, PUT, DELETE");
            Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, Code::BadRequest, text).with(ALLOW, allow))
        }
    }
}

async fn execute(app: Arc<AppState>, request: Request, accept: &Accept) -> Result<Response, Refusal> {
    let form = accept.result().ok_or_else(not_acceptable)?;
    let peer = Peer::of(request.extensions()).cloned();
    let session = app.receive(request.headers(), peer.as_ref()).await?;
    let may_change = request.method() == Method::POST;
    let after = stream::last_event_id(request.headers()).map(str::to_owned);
    let heartbeat = sse::heartbeat(request.uri())?;
    let user = &session.viewer.user;
    let (request, held) = request::read(request, &app.budget.requests, user).await?;
    let _place = app.run(&session)?;
    let prepared = match app.engine.prepare(request, user).await {
        Ok(prepared) => prepared,
        Err(response) => {
            return Refusal::at_present(&response)
                .map_or_else(|| Ok(result(form, Answer::refused(response))), Err);
        }
    };
    match prepared.kind {
        OperationType::Subscription => {
            let format = accept.stream().and_then(format).ok_or_else(|| Refusal::bad(TRANSPORTS))?;
            let caller = Caller { session, after, peer, heartbeat, held };
            Box::pin(stream::subscribe(app, format, prepared, caller)).await
        }
        OperationType::Mutation if !may_change => {
            let text = "send mutations by POST";
            let refusal = Refusal::new(StatusCode::METHOD_NOT_ALLOWED, Code::BadRequest, text);
            Err(refusal.with(ALLOW, HeaderValue::from_static("POST")))
        }
        _ => {
            let answer = app.engine.answer(prepared, session.viewer).await;
            drop(held);
            match answer.refusal.and_then(|_| Refusal::at_present(&answer.response)) {
                Some(refusal) => Err(refusal),
                None => Ok(result(form, answer)),
            }
        }
    }
}

fn not_acceptable() -> Refusal {
    let text = "accept `application/graphql-response+json` or `application/json`";
    Refusal::new(StatusCode::NOT_ACCEPTABLE, Code::BadRequest, text)
}

/// Returns the format of a stream; `None` if the form holds one result only.
const fn format(form: Form) -> Option<&'static dyn Format> {
    match form {
        Form::EventStream => Some(EVENTS),
        Form::Multipart => Some(PARTS),
        Form::Json | Form::GraphqlResponseJson => None,
    }
}

/// Answers with one result.
///
/// With `application/json` every request that was understood gets 200: clients cannot tell our
/// other statuses from those of a proxy. The client of a stream cannot read a status. It gets 400
/// only for what cannot be parsed.
fn result(form: Form, answer: Answer) -> Response {
    let json = |status: StatusCode, form, answer: Answer| {
        let Answer { text, response, charge, .. } = answer;
        let mut answered = (status, headers(form), charged(text.into_bytes(), charge)).into_response();
        for (name, value) in &response.http_headers {
            answered.headers_mut().append(name, value.clone());
        }
        answered
    };
    match (answer.refusal, form, format(form)) {
        (Some(Code::ParseFailed | Code::BadRequest), _, Some(_)) => {
            json(StatusCode::BAD_REQUEST, None, answer)
        }
        (_, _, Some(format)) => response::once(format, answer),
        (Some(refusal), Form::GraphqlResponseJson, _) => json(status(refusal), Some(form), answer),
        _ => json(StatusCode::OK, Some(form), answer),
    }
}

/// Returns the status of a request that was understood and not run.
const fn status(code: Code) -> StatusCode {
    match code {
        Code::Unauthenticated | Code::TokenRevoked => StatusCode::UNAUTHORIZED,
        Code::Forbidden => StatusCode::FORBIDDEN,
        Code::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::BAD_REQUEST,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn future_of_handler_is_small() {
        const fn size<S, R, F>(_: &impl FnOnce(S, R) -> F) -> usize {
            size_of::<F>()
        }
        // The layers around the handler move its future some ten times for each request.
        assert!(size(&graphql) <= 1_024, "{}", size(&graphql));
    }
}
