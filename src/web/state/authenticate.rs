//! Whom a request comes from, and whether it may: the same for every way in.

use axum::http::{
    HeaderMap, StatusCode,
    header::{AUTHORIZATION, ORIGIN},
};

use super::{super::http::refusal::Refusal, AppState};
use crate::{auth::Session, graphql::error::Code};

impl AppState {
    /// Who asks, by the request's `Authorization`.
    ///
    /// # Errors
    /// 401, or 503 if tokens cannot be checked.
    pub(in crate::web) async fn authenticate(&self, headers: &HeaderMap) -> Result<Session, Refusal> {
        let authorization = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        Ok(self.auth.authenticate(authorization).await?)
    }

    /// Whether the page that sends the request, if it is one, may.
    ///
    /// What protects against requests that other sites have a browser send: nobody is let in without an `Authorization` header,
    /// which no browser adds by itself as it does a cookie, and a page that adds it, or a body of JSON, has to ask by a preflight
    /// that we answer for allowed origins only. Forms can send neither, and a GET changes nothing. That much holds without this
    /// check. It is for what may come to stand in front of the pod, such as a proxy that turns a cookie into a token: with
    /// it, a request whose `Origin` is not allowed never runs, whatever it carries. Programs send no `Origin`.
    ///
    /// # Errors
    /// 403.
    pub(in crate::web) fn check_origin(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        match headers.get(ORIGIN) {
            Some(origin) if !self.settings.origins.allow(origin.as_bytes(), headers) => {
                Err(Refusal::new(StatusCode::FORBIDDEN, Code::Forbidden, "this origin is not allowed"))
            }
            _ => Ok(()),
        }
    }
}
