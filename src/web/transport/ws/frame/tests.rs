//! Tests of RFC 6455, rule by rule, with bytes split anywhere.

use std::iter;

use proptest::prelude::*;

use super::{decoder::unmask, *};

/// A limit with more than one byte of length, and no power of two.
const LIMIT: usize = 1_000;

/// Returns a client's frame with this first byte and the shortest form of the length.
pub(in super::super) fn client_frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let length = payload.len();
    let head = match length {
        0..=125 => vec![length as u8],
        126..=0xffff => [&[126][..], &(length as u16).to_be_bytes()].concat(),
        _ => [&[127][..], &(length as u64).to_be_bytes()].concat(),
    };
    masked(first, &head, payload)
}

/// Returns a client's frame with this form of the length.
fn masked(first: u8, length: &[u8], payload: &[u8]) -> Vec<u8> {
    let mask = [0x37, 0xfa, 0x21, 0x3d];
    let mut frame = vec![first, length[0] | 0x80];
    frame.extend_from_slice(&length[1..]);
    frame.extend_from_slice(&mask);
    frame.extend(payload.iter().zip(mask.into_iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// Decodes bytes in these pieces. Returns the messages, the result and the decoder.
fn decode<'b>(pieces: impl IntoIterator<Item = &'b [u8]>) -> (Vec<Message>, Result<(), FrameError>, Decoder) {
    let (mut decoder, mut messages) = (Decoder::new(LIMIT), Vec::new());
    for mut piece in pieces {
        while !piece.is_empty() {
            match decoder.decode(&mut piece) {
                Ok(message) => messages.extend(message),
                Err(error) => return (messages, Err(error), decoder),
            }
            assert!(decoder.data.capacity() <= LIMIT, "the buffer exceeds the bound");
            assert!(decoder.control.capacity() <= MAX_CONTROL);
        }
    }
    (messages, Ok(()), decoder)
}

fn messages(frames: &[Vec<u8>]) -> Vec<Message> {
    let (messages, result, decoder) = decode([&*frames.concat()]);
    assert_eq!(result, Ok(()));
    assert_eq!(
        (decoder.data.capacity(), decoder.control.capacity()),
        (0, 0),
        "the decoder holds no buffer between messages"
    );
    messages
}

/// Returns the error of these frames. It comes with their last byte at the latest, before any
/// message.
fn error(frames: &[Vec<u8>]) -> FrameError {
    let (messages, result, _) = decode([&*frames.concat()]);
    assert_eq!(messages, []);
    result.unwrap_err()
}

fn text(text: &str) -> Message {
    Message::Text(text.to_owned())
}

#[test]
fn decoder_reads_examples_of_rfc() {
    let hello = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
    assert_eq!(messages(&[hello.to_vec()]), [text("Hello")]);
    let ping = [0x89, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
    assert_eq!(messages(&[ping.to_vec()]), [Message::Ping(b"Hello".to_vec())]);
}

#[test]
fn every_form_of_length_is_read_and_written() {
    for length in [0, 1, 125, 126, 127, LIMIT] {
        let payload = vec![b'x'; length];
        assert_eq!(messages(&[client_frame(0x82, &payload)]), [Message::Binary(payload.clone())]);
    }
    for (length, head) in [
        (125, vec![0x82, 125]),
        (126, vec![0x82, 126, 0, 126]),
        (0xffff, vec![0x82, 126, 0xff, 0xff]),
        (0x1_0000, vec![0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
    ] {
        let mut frames = vec![1, 2];
        binary(&mut frames, &vec![7; length]);
        assert_eq!(frames[2..], [head, vec![7; length]].concat());
    }
}

#[test]
fn needlessly_long_length_is_refused() {
    for length in
        [&[126, 0, 125][..], &[127, 0, 0, 0, 0, 0, 0, 0xff, 0xff], &[127, 0x80, 0, 0, 0, 0, 0, 0, 0]]
    {
        assert_eq!(error(&[masked(0x82, length, b"")]).code(), 1002, "{length:?}");
    }
}

#[test]
fn control_frames_may_stand_between_fragments() {
    let frames = [
        client_frame(0x01, "zw\u{f6}lf".as_bytes().split_at(3).0),
        client_frame(0x89, b"still there?"),
        client_frame(0x00, "zw\u{f6}lf".as_bytes().split_at(3).1),
        client_frame(0x8a, b""),
        client_frame(0x80, b""),
        client_frame(0x81, b"next"),
    ];
    let expected = [Message::Ping(b"still there?".to_vec()), Message::Pong, text("zw\u{f6}lf"), text("next")];
    assert_eq!(messages(&frames), expected);
}

#[test]
fn broken_rule_of_framing_ends_with_1002() {
    let unmasked = vec![0x81, 0x01];
    let half_a_code = client_frame(0x88, &[3]);
    let fragment = client_frame(0x01, b"a");
    for frames in [
        vec![unmasked],
        vec![half_a_code],
        vec![client_frame(0xc1, b"reserved bit")],
        vec![client_frame(0x91, b"reserved bit")],
        vec![client_frame(0xa1, b"reserved bit")],
        vec![client_frame(0x83, b"reserved opcode")],
        vec![client_frame(0x8b, b"reserved opcode")],
        vec![client_frame(0x09, b"fragmented ping")],
        vec![client_frame(0x89, &[0; 126])],
        vec![client_frame(0x80, b"nothing to continue")],
        vec![fragment.clone(), client_frame(0x81, b"another message")],
    ] {
        assert_eq!(error(&frames).code(), 1002, "{frames:?}");
    }
}

#[test]
fn client_closes_with_allowed_code_or_none() {
    assert_eq!(messages(&[client_frame(0x88, b"")]), [Message::Close(Close::new(1005, ""))]);
    for code in [1000u16, 1001, 1002, 1003, 1007, 1011, 1014, 3000, 4999] {
        let payload = [&code.to_be_bytes()[..], b"bye"].concat();
        assert_eq!(messages(&[client_frame(0x88, &payload)]), [Message::Close(Close::new(code, "bye"))]);
    }
    for code in [0u16, 999, 1004, 1005, 1006, 1015, 1016, 2000, 2999, 5000, 65535] {
        assert_eq!(error(&[client_frame(0x88, &code.to_be_bytes())]).code(), 1002, "{code}");
    }
    assert_eq!(error(&[client_frame(0x88, b"\x03\xe8\xff")]), FrameError::NotUtf8);
}

#[test]
fn close_is_written_with_or_without_code() {
    let mut frames = Vec::new();
    close(&mut frames, &Close::new(1000, "bye"));
    close(&mut frames, &Close::new(Close::NO_CODE, ""));
    assert_eq!(frames, b"\x88\x05\x03\xe8bye\x88\x00");
}

#[test]
fn first_byte_that_breaks_utf_8_is_refused() {
    for (good, bad) in
        [(&b"abc"[..], 0xff), (b"\xce\xba\xe1\xbd\xb9", 0x80), (b"\xf4", 0x90), (b"\xed", 0xa0)]
    {
        let bytes = client_frame(0x81, &[good, &[bad], b"more that is to come"].concat());
        let shown = 6 + good.len();
        assert_eq!(decode([&bytes[..shown]]).1, Ok(()), "{bad:x}");
        assert_eq!(decode([&bytes[..=shown]]).1, Err(FrameError::NotUtf8), "{bad:x}");
    }
    assert_eq!(error(&[client_frame(0x81, b"cut \xe2\x82")]), FrameError::NotUtf8);
    assert_eq!(messages(&[client_frame(0x82, b"\xff")]), [Message::Binary(b"\xff".to_vec())]);
}

#[test]
fn message_over_limit_is_refused_by_header() {
    let whole = client_frame(0x81, &[b'x'; LIMIT + 1]);
    assert_eq!(decode([&whole[..4]]).1, Err(FrameError::TooBig));
    let huge = masked(0x82, &[127, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], b"");
    assert_eq!(error(&[huge]), FrameError::TooBig);
    let parts = [client_frame(0x01, &[b'x'; LIMIT]), client_frame(0x80, b"y")];
    assert_eq!(error(&parts), FrameError::TooBig);
}

/// Generates frames: most of them are valid, some are damaged.
pub(in super::super) fn stream() -> impl Strategy<Value = Vec<u8>> {
    let first = prop_oneof![
        8 => prop::sample::select(vec![0x81u8, 0x81, 0x82, 0x01, 0x00, 0x80, 0x89, 0x8a]),
        1 => Just(0x88u8),
        1 => any::<u8>(),
    ];
    let payload = prop_oneof![
        4 => any::<String>().prop_map(String::into_bytes),
        2 => prop::collection::vec(any::<u8>(), 0..200),
        1 => (0usize..2 * LIMIT).prop_map(|length| vec![b'x'; length]),
        1 => (900u16..5_000).prop_map(|code| code.to_be_bytes().to_vec()),
    ];
    let frame = (first, payload).prop_map(|(first, payload)| client_frame(first, &payload));
    let frames = prop::collection::vec(frame, 0..8).prop_map(|frames| frames.concat());
    let damage = prop::option::weighted(0.3, (any::<prop::sample::Index>(), any::<u8>()));
    prop_oneof![
        8 => (frames, damage).prop_map(|(mut bytes, damage)| {
            if let Some((at, byte)) = damage.filter(|_| !bytes.is_empty()) {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            bytes
        }),
        1 => prop::collection::vec(any::<u8>(), 0..500),
    ]
}

/// Returns the bytes in pieces of these lengths, which repeat.
pub(in super::super) fn pieces<'b>(bytes: &'b [u8], lengths: &[usize]) -> Vec<&'b [u8]> {
    let (mut rest, mut lengths) = (bytes, lengths.iter().cycle());
    iter::from_fn(|| {
        let length = *lengths.next().unwrap_or(&1);
        let (piece, behind) = rest.split_at(length.min(rest.len()));
        rest = behind;
        (!piece.is_empty()).then_some(piece)
    })
    .collect()
}

proptest! {
    #[test]
    fn any_chunking_gives_same_messages(bytes in stream(), lengths in prop::collection::vec(1usize..40, 1..8)) {
        let (messages, result, _) = decode([&*bytes]);
        let in_pieces = decode(pieces(&bytes, &lengths));
        prop_assert_eq!((&in_pieces.0, in_pieces.1), (&messages, result));
        let byte_by_byte = decode(pieces(&bytes, &[1]));
        prop_assert_eq!((&byte_by_byte.0, byte_by_byte.1), (&messages, result));
    }

    #[test]
    fn unmasking_follows_rfc(payload in prop::collection::vec(any::<u8>(), 0..50), mask in any::<[u8; 4]>()) {
        let mut unmasked = payload.clone();
        unmask(&mut unmasked, mask);
        let by_the_rfc: Vec<u8> = payload.iter().enumerate().map(|(i, byte)| byte ^ mask[i % 4]).collect();
        prop_assert_eq!(unmasked, by_the_rfc);
    }
}
