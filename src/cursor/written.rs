//! [`Written`]: an opaque token of one event that the topic has acknowledged to a mutation.
//!
//! A client sends the token with a later request, so that the request waits for this event on
//! whatever pod runs it. A token is checked, not signed: it must never show a client anything.

use std::{sync::Arc, time::SystemTime};

use thiserror::Error;

use super::{decode, encode};

/// First byte of a token. Cursors begin with others.
const FIRST: u8 = 4;

/// What separates the source of the event from its id, which has none.
const SEPARATOR: char = '#';

/// An event that a pod has published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Time at which the topic acknowledged the event, by the topic's clock.
    pub time: SystemTime,
    /// Source of the event.
    pub source: Arc<str>,
    /// Id of the event.
    pub id: Arc<str>,
}

/// The text is not a token of this topic.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("`readAfter` takes what mutations of this service return as `extensions.written`")]
pub struct BadWritten;

impl Written {
    /// Returns the token as text: about 90 characters, and at most 1,728. `topic` is the topic's
    /// name.
    #[must_use]
    pub fn encode(&self, topic: &str) -> String {
        encode(topic, FIRST, self.time, &format!("{}{SEPARATOR}{}", self.source, self.id))
    }

    /// Reads a token of the same topic.
    ///
    /// # Errors
    /// [`BadWritten`] for any text that [`encode`](Self::encode) did not write for this topic.
    pub fn decode(text: &str, topic: &str) -> Result<Self, BadWritten> {
        let (first, time, event) = decode(text, topic).ok_or(BadWritten)?;
        let (source, id) = event.rsplit_once(SEPARATOR).filter(|_| first == FIRST).ok_or(BadWritten)?;
        Ok(Self { time, source: source.into(), id: id.into() })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::cursor::{BadCursor, Cursor};

    fn written(nanos: u64, source: &str, id: &str) -> Written {
        let time = SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos);
        Written { time, source: source.into(), id: id.into() }
    }

    #[test]
    fn token_is_no_cursor() {
        let token = written(1, "/pods/a", "1");
        assert_eq!(Cursor::decode(&token.encode("t"), "t"), Err(BadCursor));
        let cursor = Cursor { published: token.time, event: "/pods/a#1".into() };
        assert_eq!(Written::decode(&cursor.encode("t"), "t"), Err(BadWritten));
        assert_eq!(Written::decode(&token.encode("t"), "other"), Err(BadWritten));
    }

    #[test]
    fn token_of_long_names_is_bounded() {
        let longest = written(u64::MAX, &"x".repeat(1_024), &"y".repeat(256));
        let text = longest.encode("t");
        assert!(text.len() <= 1_728, "{}", text.len());
        assert_eq!(Written::decode(&text, "t"), Ok(longest));
    }

    proptest! {
        #[test]
        fn token_survives_round_trip(nanos in any::<u64>(), source in ".{0,60}", id in "[^#]{0,40}", topic in ".{1,20}") {
            let written = written(nanos, &source, &id);
            prop_assert_eq!(Written::decode(&written.encode(&topic), &topic), Ok(written));
        }

        #[test]
        fn arbitrary_text_is_no_token(text in prop_oneof![".{0,500}", "[A-Za-z0-9_-]{0,100}"]) {
            prop_assert_eq!(Written::decode(&text, "t"), Err(BadWritten));
        }
    }
}
