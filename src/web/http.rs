//! What every transport over HTTP shares: origins, media types, requests in, refusals out.
//!
//! It must never know a transport or the app state, so that each of them can use it.

pub mod negotiate;
pub mod origin;
pub mod refusal;
pub mod request;
