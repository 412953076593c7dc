//! What all transports over HTTP share: origins, cookies, media types, requests and refusals.
//!
//! It must never depend on a transport or on the app state, so that each of them can use it.

mod charged;
pub mod cookie;
pub mod negotiate;
pub mod origin;
pub mod refusal;
pub mod request;

pub(in crate::web) use self::charged::charged;
