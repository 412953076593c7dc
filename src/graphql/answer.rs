//! [`Answer`]: the result of a query or mutation as it is written, bounded and charged.
//!
//! A result is encoded as soon as it exists, so that only its bytes wait for the client. Encoding
//! stops at the bound. The charge goes with the bytes until they are written.

use std::{
    collections::BTreeMap,
    io::{self, ErrorKind},
    mem,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_graphql::{Context, Response, Value};
use serde::Serialize;
use serde_json::json;

use super::{
    error::{Body, Code, Error},
    plan::Copied,
    space::Space,
};
use crate::budget::Charge;

/// Extensions of a result.
type Extensions = BTreeMap<String, Value>;

/// Text of an answer that was left out, since other answers wait for their clients.
const NO_ROOM: &str = "the operation has run; there is no room for its result now";

/// Answer to a query or mutation.
#[derive(Debug)]
pub struct Answer {
    /// JSON of the response.
    pub text: String,
    /// Response without its data: the headers of resolvers and, if the request did not run, the
    /// errors that refuse it.
    pub response: Box<Response>,
    /// Code of a request that did not run; `None` if it ran.
    pub refusal: Option<Code>,
    /// Charge of the text; `None` if there was no room to run the request.
    pub charge: Option<Charge>,
}

impl Answer {
    /// Encodes a response in the space of its answer. The answer is `RESULT_TOO_LARGE` if it is
    /// larger than one may be, and `OVERLOADED` if the charge cannot grow to its size.
    pub(super) fn encode(mut response: Response, space: Space) -> Self {
        let body = Body::from(&response);
        let refusal = body.refusal();
        let mut text = if is_cut(&response) { Err(Code::ResultTooLarge) } else { Ok(None) };
        while let Ok(None) = text {
            text = match encode(&body, space.bytes()) {
                Some(text) => Ok(Some(text)),
                None => space.grow().map(|_| None),
            };
        }
        let text = match text {
            Ok(text) => text.unwrap_or_default(),
            Err(code) => without_data(&space, &response.extensions, code),
        };
        response.data = Value::Null;
        Self { response: response.into(), refusal, charge: Some(space.into_charge(text.len())), text }
    }

    /// Encodes data that a plan wrote, as [`Self::encode`] does a response.
    pub(super) fn copied(copied: &Copied, extensions: &Extensions, space: Space) -> Self {
        let Copied { data, errors } = copied;
        let text = match data {
            Ok(data) => {
                let errors = match errors.as_slice() {
                    [] => String::new(),
                    errors => format!(",\"errors\":{}", encode(&errors, space.limit()).unwrap_or_default()),
                };
                let extensions = encode(extensions, usize::MAX).unwrap_or_default();
                format!("{{\"data\":{data}{errors},\"extensions\":{extensions}}}")
            }
            Err(code) => without_data(&space, extensions, *code),
        };
        let text =
            if space.resize(text.len()) { text } else { without_data(&space, extensions, Code::Overloaded) };
        let charge = Some(space.into_charge(text.len()));
        Self { text, response: Box::new(Response::default()), refusal: None, charge }
    }

    /// Creates the answer to a request that was not run for want of room.
    pub(super) fn overloaded() -> Self {
        let text = "too many answers of this user or this pod are not read yet; try again later";
        Self::refused(Error::new(Code::Overloaded, text).response().into())
    }

    /// Creates the answer to a request that was not run, without a charge: its errors are few.
    pub fn refused(response: Box<Response>) -> Self {
        let body = Body::from(&*response);
        let (refusal, text) = (body.refusal(), encode(&body, usize::MAX).unwrap_or_default());
        Self { text, response, refusal, charge: None }
    }
}

/// Room that one request has left for its answer, in the request's data.
pub(super) struct Room(AtomicUsize);

impl Room {
    pub(super) fn new(bytes: usize) -> Arc<Self> {
        Arc::new(Self(bytes.into()))
    }
}

/// Takes this many bytes of the room for the request's answer.
///
/// A resolver calls it before it returns a list that may be long: the executor makes every item
/// before the answer is encoded.
///
/// # Errors
/// `RESULT_TOO_LARGE`, which then is the whole answer.
pub fn take_room(ctx: &Context<'_>, bytes: usize) -> Result<(), Error> {
    let Some(Room(left)) = ctx.data_opt::<Arc<Room>>().map(|room| &**room) else { return Ok(()) };
    let took = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes));
    let text = "the list has more bytes than an answer may have";
    took.map(drop).map_err(|_| Error::new(Code::ResultTooLarge, text))
}

/// Returns whether a resolver had no room left.
fn is_cut(response: &Response) -> bool {
    let code = Value::from(Code::ResultTooLarge.as_str());
    let codes = response.errors.iter().filter_map(|error| error.extensions.as_ref()?.get("code"));
    codes.into_iter().any(|of_error| *of_error == code)
}

/// Returns the JSON of the result of an operation that ran, with an error instead of its data.
fn without_data(space: &Space, extensions: &Extensions, code: Code) -> String {
    let text = match code {
        Code::Overloaded => NO_ROOM.to_owned(),
        _ => format!("the result has more than {} bytes; ask for less", space.limit()),
    };
    let errors = json!([{"message": text, "extensions": {"code": code.as_str()}}]);
    json!({"data": null, "errors": errors, "extensions": extensions}).to_string()
}

/// Returns the JSON of a value; `None` if it has more than `limit` bytes.
pub(super) fn encode(value: &impl Serialize, limit: usize) -> Option<String> {
    let mut text = Bounded::new(limit);
    serde_json::to_writer(&mut text, value).ok()?;
    String::from_utf8(text.into_bytes()).ok()
}

/// Buffer of the bytes of one answer. It refuses every byte beyond its limit.
#[derive(Debug)]
pub struct Bounded {
    bytes: Vec<u8>,
    limit: usize,
}

impl Bounded {
    /// Creates an empty buffer for at most `limit` bytes.
    #[must_use]
    pub const fn new(limit: usize) -> Self {
        Self { bytes: Vec::new(), limit }
    }

    /// Returns the bytes.
    #[must_use]
    pub fn into_bytes(mut self) -> Vec<u8> {
        mem::take(&mut self.bytes)
    }
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > self.limit - self.bytes.len() {
            return Err(ErrorKind::StorageFull.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::budget::Pool;

    const LIMIT: usize = 100;

    fn answer(length: usize, pool: &Pool) -> (serde_json::Value, Charge) {
        let user: Arc<str> = "a".into();
        let response = Response::new(Value::from("x".repeat(length)));
        let response = response.extension("cursor", Value::from("c"));
        let answer = Answer::encode(response, Space::new(pool.try_charge(&user, 10).unwrap(), LIMIT));
        assert_eq!(answer.refusal, None);
        let charge = answer.charge.unwrap();
        assert_eq!(charge.bytes().min(10), answer.text.len().min(10));
        (serde_json::from_str(&answer.text).unwrap(), charge)
    }

    #[test]
    fn result_stops_at_its_bound() {
        let pool = Pool::new("test", 1_000, 1_000);
        let around = r#"{"data":"","extensions":{"cursor":"c"}}"#.len();
        let (whole, charge) = answer(LIMIT - around, &pool);
        assert_eq!((whole["data"].as_str().unwrap().len(), charge.bytes()), (LIMIT - around, LIMIT));
        let (refused, _charge) = answer(LIMIT - around + 1, &pool);
        assert_eq!(refused["errors"][0]["extensions"]["code"], "RESULT_TOO_LARGE");
        assert_eq!((&refused["data"], &refused["extensions"]["cursor"]), (&json!(null), &json!("c")));
    }

    #[test]
    fn result_without_room_is_left_out() {
        let (refused, charge) = answer(50, &Pool::new("test", 20, 20));
        assert_eq!(refused["errors"][0]["extensions"]["code"], "OVERLOADED");
        assert_eq!(charge.bytes(), 20, "it grew as far as there was room");
    }
}
