//! Checks which viewer sends a request, and from which origin: the same for every transport.
//!
//! It must never let a request through without a token or from a page of a foreign origin.

use axum::http::{
    HeaderMap, StatusCode, Uri, Version,
    header::{AUTHORIZATION, HOST, ORIGIN},
    uri::Authority,
};

use super::{super::http::refusal::Refusal, AppState};
use crate::{
    auth::{AuthError, Session},
    budget::Charge,
    graphql::error::Code,
    web::server::Peer,
};

/// Place of the token, for a client that sent none.
const TOKEN_PLACE: &str = "send it in the header `Authorization: Bearer <token>`";

impl AppState {
    /// Returns the token of a request: that of its `Authorization` header, else that of the cookie
    /// that may hold one.
    pub(in crate::web) fn token<'h>(&self, headers: &'h HeaderMap) -> Option<&'h str> {
        match headers.get(AUTHORIZATION) {
            Some(authorization) => authorization.to_str().ok(),
            None => self.settings.cookie.as_ref()?.token(headers, &self.settings.origins),
        }
    }

    /// Authenticates the viewer by the request's `Authorization` header, or by its cookie.
    ///
    /// # Errors
    /// 401 if the token is not valid, 403 if the domain refuses its user, 503 if tokens cannot be
    /// checked.
    pub(in crate::web) async fn authenticate(&self, headers: &HeaderMap) -> Result<Session, Refusal> {
        self.auth.authenticate(self.token(headers)).await.map_err(|error| self.refuse(&error))
    }

    /// Refuses a request whose token was not accepted.
    fn refuse(&self, error: &AuthError) -> Refusal {
        let place = match &self.settings.cookie {
            None => TOKEN_PLACE.to_owned(),
            Some(cookie) => {
                format!("{TOKEN_PLACE}, or from a listed origin in the cookie `{}`", cookie.as_str())
            }
        };
        Refusal::of_viewer(error, self.auth.explain(error, &place))
    }

    /// Authenticates the viewer of a request. Its socket counts for the viewer from then on.
    ///
    /// # Errors
    /// Those of [`authenticate`](Self::authenticate).
    pub(in crate::web) async fn receive(
        &self,
        headers: &HeaderMap,
        peer: Option<&Peer>,
    ) -> Result<Session, Refusal> {
        let session = self.authenticate(headers).await?;
        peer.into_iter().for_each(|peer| peer.is_of(&session.viewer.user));
        Ok(session)
    }

    /// Takes one of the places that a user has for requests that run. Dropping the charge gives it
    /// back. A request whose body has not come needs none: its socket may be closed.
    ///
    /// # Errors
    /// 401 if the token was revoked while the body came, 503 if the user has no place left.
    pub(in crate::web) fn run(&self, session: &Session) -> Result<Charge, Refusal> {
        self.auth.check_again(session).map_err(|error| self.refuse(&error))?;
        self.budget.running.try_charge(&session.viewer.user, 1).ok_or_else(Refusal::no_room)
    }

    /// Checks the parts of a request's head that say from where it comes: `Host`, `Origin` and
    /// `Authorization`, each of which must stand once at most.
    ///
    /// Even without the check of the origin no other site can make a browser send a request that
    /// runs. Each request needs an `Authorization` header, which no browser adds by itself, or a
    /// cookie, which counts for pages of listed origins only. A page that adds the header, or a
    /// body of JSON, needs a preflight, which succeeds for allowed origins only. Forms can send
    /// neither, and a GET changes nothing. The check protects pods behind other software, such as a
    /// proxy that turns a cookie into a token.
    ///
    /// Demo tokens are no secret. So a pod for demo users also checks the name in `Host`: a page
    /// whose own name resolves to this machine (DNS rebinding) shares the origin of the pod.
    ///
    /// # Errors
    /// 400 for a repeated header, an HTTP/1.1 request without `Host` (RFC 9112, 3.2), or one whose
    /// target names another host. 403 for an
    /// origin or a host that is not allowed.
    pub(in crate::web) fn check_head(
        &self,
        uri: &Uri,
        version: Version,
        headers: &HeaderMap,
    ) -> Result<(), Refusal> {
        for name in [HOST, ORIGIN, AUTHORIZATION] {
            if headers.get_all(&name).iter().nth(1).is_some() {
                return Err(Refusal::bad(format!("the header `{name}` stands more than once")));
            }
        }
        let host = headers.get(HOST);
        if host.is_none() && version == Version::HTTP_11 {
            return Err(Refusal::bad("the header `host` is missing"));
        }
        let is_same = |authority: &Authority| {
            host.is_some_and(|host| host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()))
        };
        if uri.authority().is_some_and(|authority| !is_same(authority)) {
            return Err(Refusal::bad("the header `host` and the target of the request differ"));
        }
        let origins = &self.settings.origins;
        let forbidden = |limit, text| {
            self.connections.refuse(limit);
            Err(Refusal::new(StatusCode::FORBIDDEN, Code::Forbidden, text))
        };
        if self.auth.is_demo() && host.is_some() && !origins.allow_host(headers, self.port) {
            let text = "demo users need `Host` to be an address, localhost, or the host of an allowed origin";
            return forbidden("host", text);
        }
        match headers.get(ORIGIN) {
            Some(origin) if !origins.allow(origin.as_bytes(), headers) => {
                forbidden("origin", "this origin is not allowed")
            }
            _ => Ok(()),
        }
    }
}
