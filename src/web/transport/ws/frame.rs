//! The frames of RFC 6455 as a server sees them: [`Decoder`] reads those of clients, functions
//! append its own.
//!
//! It takes bytes, returns [`Message`]s and has no socket: tests can split the bytes anywhere. It
//! must never agree to an extension: permessage-deflate would cost each connection 40 KiB and more
//! in each direction. That is ten times all the rest of a connection.

mod decoder;

use thiserror::Error;

pub use self::decoder::Decoder;
use super::protocol::Close;

/// The longest payload of a control frame, in bytes (RFC 6455, 5.5).
const MAX_CONTROL: usize = 125;

/// The longest header of a client's frame, in bytes: two, eight of length, four of mask.
const MAX_HEADER: usize = 14;

/// Message of a client, whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Text, from any number of frames.
    Text(String),
    /// Bytes, from any number of frames.
    Binary(Vec<u8>),
    /// A ping. Its answer is a pong with the same bytes.
    Ping(Vec<u8>),
    /// A pong, requested or not.
    Pong,
    /// A close. Code 1005 stands for a close without a code.
    Close(Close),
}

/// Reason why the connection fails: the client's bytes are no valid WebSocket. Nothing more can be
/// read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    /// The bytes break a rule of RFC 6455.
    #[error("{0}")]
    Protocol(&'static str),
    /// Text, or the reason of a close, is not UTF-8.
    #[error("text is not UTF-8")]
    NotUtf8,
    /// The message is over the limit.
    #[error("message too big")]
    TooBig,
}

impl FrameError {
    /// Returns the close code for the error.
    #[must_use]
    pub const fn code(self) -> u16 {
        match self {
            Self::Protocol(_) => 1002,
            Self::NotUtf8 => 1007,
            Self::TooBig => 1009,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Opcode {
    Continuation = 0,
    Text = 1,
    Binary = 2,
    Close = 8,
    Ping = 9,
    Pong = 10,
}

impl Opcode {
    const fn parse(byte: u8) -> Option<Self> {
        Some(match byte & 0x0f {
            0 => Self::Continuation,
            1 => Self::Text,
            2 => Self::Binary,
            8 => Self::Close,
            9 => Self::Ping,
            10 => Self::Pong,
            _ => return None,
        })
    }

    const fn is_control(self) -> bool {
        self as u8 >= 8
    }
}

/// Appends a text message that consists of these parts.
///
/// Every delivery comes this way. The parts are copied once, straight into the buffer that the
/// socket writes.
#[inline]
pub fn text<const N: usize>(frames: &mut Vec<u8>, parts: [&str; N]) {
    encode(frames, Opcode::Text, parts.map(str::as_bytes));
}

/// Appends a message of bytes.
pub fn binary(frames: &mut Vec<u8>, payload: &[u8]) {
    encode(frames, Opcode::Binary, [payload]);
}

/// Appends a ping without a payload.
pub fn ping(frames: &mut Vec<u8>) {
    encode(frames, Opcode::Ping, []);
}

/// Appends the answer to a ping.
pub fn pong(frames: &mut Vec<u8>, payload: &[u8]) {
    encode(frames, Opcode::Pong, [payload]);
}

/// Appends a close, the last frame of a connection.
pub fn close(frames: &mut Vec<u8>, close: &Close) {
    match close.code {
        Close::NO_CODE => encode(frames, Opcode::Close, []),
        code => encode(frames, Opcode::Close, [&code.to_be_bytes(), close.reason.as_bytes()]),
    }
}

#[inline]
fn encode<const N: usize>(frames: &mut Vec<u8>, opcode: Opcode, parts: [&[u8]; N]) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    frames.reserve(length + MAX_HEADER);
    let first = 0x80 | opcode as u8;
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short @ ..=125), _) => frames.extend_from_slice(&[first, short]),
        (_, Ok(medium)) => {
            let [high, low] = medium.to_be_bytes();
            frames.extend_from_slice(&[first, 126, high, low]);
        }
        _ => {
            frames.extend_from_slice(&[first, 127]);
            frames.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    for part in parts {
        frames.extend_from_slice(part);
    }
}

#[cfg(test)]
pub(super) mod fuzz;
#[cfg(test)]
pub(super) mod tests;
