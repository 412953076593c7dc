//! [`Cursor`]: an opaque position in the stream of events, the same on every pod.
//!
//! A cursor holds when an event was published, by the topic's clock, and which event it was. Any
//! pod of the same topic finds its place by it. A cursor is checked, not signed: it must never give
//! a client more than the audience rule does. This file is pure.

mod written;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use thiserror::Error;

pub use self::written::{BadWritten, Written};

/// First byte of a cursor: its [`Source`]. Readers must accept what the release before and the
/// release after write.
const SOURCES: [(u8, Source); 3] = [(1, Source::Result), (2, Source::Query), (3, Source::Start)];

/// Longest text of a cursor, in bytes: an event's source has 1,024 bytes at most, its id 256.
/// Longer text is refused.
const MAX_TEXT_BYTES: usize = 1_728;

/// Number of bytes before the event's id: source, check, time.
const HEAD_BYTES: usize = 1 + 4 + 8;

/// Position in the stream of events: right after the event that it names. Cursors are ordered as
/// their events are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cursor {
    /// Time at which the event was published, by the topic's clock.
    pub published: SystemTime,
    /// Identity of the event, as `Event::identity` returns it; empty for a position that belongs to
    /// no event.
    pub event: Arc<str>,
}

/// Where a client got a cursor. It decides how far before the cursor a replay begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// With a result of a subscription. Events of other authors from before it may be new to the
    /// client: pods receive them in different order.
    Result,
    /// With the result of a query or mutation, which may not have shown the latest events.
    Query,
    /// At the start of a connection. Events from before it are from before the client.
    Start,
}

/// Cursor as a client holds it: a position, and where the client got it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCursor {
    /// Position to resume from.
    pub cursor: Cursor,
    /// Where the client got it.
    pub source: Source,
}

impl From<Cursor> for ClientCursor {
    /// Takes the cursor for that of a result.
    fn from(cursor: Cursor) -> Self {
        Self { cursor, source: Source::Result }
    }
}

/// The text is not a cursor of this topic.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("not a cursor of this service")]
pub struct BadCursor;

impl Cursor {
    /// Returns the cursor as text for a result: about 70 characters for ids of the relay's own
    /// events. `topic` is the topic's name.
    #[must_use]
    pub fn encode(&self, topic: &str) -> String {
        self.encode_from(topic, Source::Result)
    }

    /// Returns the cursor as text for this source.
    #[must_use]
    pub fn encode_from(&self, topic: &str, source: Source) -> String {
        encode(topic, SOURCES[source as usize].0, self.published, &self.event)
    }

    /// Reads a cursor of the same topic, whatever its source.
    ///
    /// # Errors
    /// [`BadCursor`] for any text that [`encode_from`](Self::encode_from) did not write for this
    /// topic.
    pub fn decode(text: &str, topic: &str) -> Result<Self, BadCursor> {
        ClientCursor::decode(text, topic).map(|read| read.cursor)
    }
}

impl ClientCursor {
    /// Reads a cursor of the same topic, with its source.
    ///
    /// # Errors
    /// Those of [`Cursor::decode`].
    pub fn decode(text: &str, topic: &str) -> Result<Self, BadCursor> {
        let (first, published, event) = decode(text, topic).ok_or(BadCursor)?;
        let known = SOURCES.iter().find(|(byte, _)| *byte == first);
        let source = known.map(|(_, source)| *source).ok_or(BadCursor)?;
        Ok(Self { cursor: Cursor { published, event: event.into() }, source })
    }
}

/// Returns the text of a time and an event. `first` is the first byte.
fn encode(topic: &str, first: u8, time: SystemTime, event: &str) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let nanos = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX).to_be_bytes();
    let check = check(topic, first, &nanos, event.as_bytes());
    let bytes = [&[first], &check[..], &nanos, event.as_bytes()].concat();
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Returns the first byte, the time and the event of a text that [`encode`] wrote for this topic;
/// `None` of any other text.
fn decode(text: &str, topic: &str) -> Option<(u8, SystemTime, String)> {
    if text.len() > MAX_TEXT_BYTES {
        return None;
    }
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    let (head, event) = bytes.split_first_chunk::<HEAD_BYTES>()?;
    let (&[first, a, b, c, d], nanos) = head.split_first_chunk::<5>()?;
    if first == 0 || check(topic, first, nanos, event) != [a, b, c, d] {
        return None;
    }
    let nanos = nanos.iter().fold(0_u64, |nanos, byte| nanos << 8 | u64::from(*byte));
    let time = SystemTime::UNIX_EPOCH.checked_add(Duration::from_nanos(nanos))?;
    Some((first, time, std::str::from_utf8(event).ok()?.to_owned()))
}

/// Returns the check bytes: FNV-1a, folded to 32 bits. They distinguish a cursor from other text,
/// and from the cursors of other topics.
///
/// The first source stands for none, so that its cursors look as they always did.
fn check(topic: &str, source: u8, nanos: &[u8], event: &[u8]) -> [u8; 4] {
    let bytes = topic.bytes().chain([source - 1]).chain(nanos.iter().copied()).chain(event.iter().copied());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let [a, b, c, d, e, f, g, h] = hash.to_be_bytes();
    [a ^ e, b ^ f, c ^ g, d ^ h]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cursor(nanos: u64, event: &str) -> Cursor {
        Cursor { published: SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos), event: event.into() }
    }

    #[test]
    fn cursor_of_another_topic_is_bad() {
        let text = cursor(1, "a").encode("projects/p/topics/t");
        assert_eq!(Cursor::decode(&text, "projects/p/topics/other"), Err(BadCursor));
    }

    #[test]
    fn text_form_never_changes() {
        let text = cursor(1_764_000_000_123_456_789, "019ab3c4-0000-7000-8000-000000000001").encode("t");
        assert_eq!(text, "AbJneJkYevynbyXNFTAxOWFiM2M0LTAwMDAtNzAwMC04MDAwLTAwMDAwMDAwMDAwMQ");
    }

    #[test]
    fn longest_identity_fits_into_text() {
        let longest = cursor(u64::MAX, &"x".repeat(1_024 + "#".len() + 256));
        assert_eq!(Cursor::decode(&longest.encode("t"), "t"), Ok(longest));
    }

    proptest! {
        #[test]
        fn cursor_survives_round_trip(nanos in any::<u64>(), event in ".{0,60}", topic in "[a-z/]{1,20}") {
            let cursor = cursor(nanos, &event);
            prop_assert_eq!(Cursor::decode(&cursor.encode(&topic), &topic), Ok(cursor.clone()));
            for (_, source) in SOURCES {
                let read = ClientCursor::decode(&cursor.encode_from(&topic, source), &topic);
                prop_assert_eq!(read, Ok(ClientCursor { cursor: cursor.clone(), source }));
            }
        }

        #[test]
        fn arbitrary_text_is_bad_and_never_panics(text in prop_oneof![".{0,500}", "[A-Za-z0-9_-]{0,100}"]) {
            prop_assert_eq!(Cursor::decode(&text, "t"), Err(BadCursor));
        }

        #[test]
        fn changed_character_makes_cursor_bad(nanos in any::<u64>(), at in any::<prop::sample::Index>(), with in "[A-Za-z0-9_-]") {
            let text = cursor(nanos, "event").encode("t");
            let at = at.index(text.len() - 1);
            let mut forged = text.clone();
            forged.replace_range(at..=at, &with);
            if forged != text {
                prop_assert_eq!(Cursor::decode(&forged, "t"), Err(BadCursor));
            }
        }

        #[test]
        fn cursors_order_by_time_then_id(a in (0u64..4, "[ab]"), b in (0u64..4, "[ab]")) {
            prop_assert_eq!(cursor(a.0, &a.1).cmp(&cursor(b.0, &b.1)), a.cmp(&b));
        }
    }
}
