//! Checks which viewer sends a request, and from which origin: the same for every transport.
//!
//! It must never let a request through without a token or from a page of a foreign origin.

use axum::http::{
    HeaderMap, StatusCode,
    header::{AUTHORIZATION, ORIGIN},
};

use super::{super::http::refusal::Refusal, AppState};
use crate::{auth::Session, graphql::error::Code};

impl AppState {
    /// Authenticates the viewer by the request's `Authorization` header.
    ///
    /// # Errors
    /// 401 if the token is not valid, 503 if tokens cannot be checked.
    pub(in crate::web) async fn authenticate(&self, headers: &HeaderMap) -> Result<Session, Refusal> {
        let authorization = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        Ok(self.auth.authenticate(authorization).await?)
    }

    /// Checks whether the page that sends the request, if it is one, may do so.
    ///
    /// Even without this check no other site can make a browser send a request that runs. Each
    /// request needs an `Authorization` header, which no browser adds by itself as it adds a
    /// cookie. A page that adds the header, or a body of JSON, needs a preflight, which succeeds
    /// for allowed origins only. Forms can send neither, and a GET changes nothing.
    ///
    /// The check protects pods behind other software, such as a proxy that turns a cookie into a
    /// token. A request with an `Origin` that is not allowed never runs, whatever it carries.
    /// Programs send no `Origin`.
    ///
    /// # Errors
    /// 403 if the origin is not allowed.
    pub(in crate::web) fn check_origin(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        match headers.get(ORIGIN) {
            Some(origin) if !self.settings.origins.allow(origin.as_bytes(), headers) => {
                Err(Refusal::new(StatusCode::FORBIDDEN, Code::Forbidden, "this origin is not allowed"))
            }
            _ => Ok(()),
        }
    }
}
