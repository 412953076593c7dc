//! [`Decoder`]: takes a client's bytes and returns whole messages.
//!
//! It checks each byte when it comes, so that nothing is kept of what will be refused. It must
//! never hold more of a message than its limit, nor allocate for a length that is only announced.

use std::{mem, str};

use super::{Close, FrameError, MAX_CONTROL, MAX_HEADER, Message, Opcode};

/// Frame with a complete header.
#[derive(Clone, Copy, Debug)]
struct Frame {
    opcode: Opcode,
    is_final: bool,
    /// Rotated by the length of the payload that has been read.
    mask: [u8; 4],
    /// Bytes of the payload that are still missing.
    left: usize,
}

/// Decoder of a client's frames, in pieces of any length. Between messages it holds no buffer.
#[derive(Debug)]
pub struct Decoder {
    limit: usize,
    header: [u8; MAX_HEADER],
    header_length: usize,
    /// Frame with a payload that is not complete.
    frame: Option<Frame>,
    /// Kind of the message in `data`, once its first frame has begun.
    kind: Option<Opcode>,
    pub(super) data: Vec<u8>,
    /// Bytes of `data` that are known to be UTF-8.
    checked: usize,
    /// The payload of a control frame, which may come between two frames of a message.
    pub(super) control: Vec<u8>,
}

impl Decoder {
    /// Creates a decoder of messages of at most `limit` bytes.
    #[must_use]
    pub const fn new(limit: usize) -> Self {
        Self {
            limit,
            header: [0; MAX_HEADER],
            header_length: 0,
            frame: None,
            kind: None,
            data: Vec::new(),
            checked: 0,
            control: Vec::new(),
        }
    }

    /// Sets the size of the largest message, in bytes, from now on.
    pub const fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Returns the bytes that have come of a message that is not complete, and the room that they
    /// take.
    #[must_use]
    pub const fn unfinished(&self) -> (usize, usize) {
        (self.data.len(), self.data.capacity())
    }

    /// Takes bytes off `input` until a message is complete or no bytes are left.
    ///
    /// # Errors
    /// [`FrameError`] at the first byte that proves it. The decoder must not be used after it.
    pub fn decode(&mut self, input: &mut &[u8]) -> Result<Option<Message>, FrameError> {
        loop {
            let mut frame = match self.frame.take() {
                Some(frame) => frame,
                None => match self.read_header(input)? {
                    Some(frame) => frame,
                    None => return Ok(None),
                },
            };
            let (payload, rest) = input.split_at(frame.left.min(input.len()));
            *input = rest;
            self.store(&mut frame, payload)?;
            if frame.left > 0 {
                self.frame = Some(frame);
                return Ok(None);
            }
            if let Some(message) = self.finish(frame)? {
                return Ok(Some(message));
            }
        }
    }

    /// Reads as much of a header as there is, and checks each byte of it.
    fn read_header(&mut self, input: &mut &[u8]) -> Result<Option<Frame>, FrameError> {
        while let Some((&byte, rest)) = input.split_first() {
            *input = rest;
            self.header[self.header_length] = byte;
            self.header_length += 1;
            let length_ends = match self.header_length {
                1 => {
                    self.check_first(byte)?;
                    continue;
                }
                2 => {
                    check_second(self.header[0], byte)?;
                    length_end(byte)
                }
                _ => length_end(self.header[1]),
            };
            if self.header_length == length_ends {
                self.check_length()?;
            }
            if self.header_length == length_ends + 4 {
                self.header_length = 0;
                return Ok(Some(self.begin(length_ends)));
            }
        }
        Ok(None)
    }

    fn check_first(&self, byte: u8) -> Result<(), FrameError> {
        if byte & 0x70 != 0 {
            return Err(FrameError::Protocol("reserved bits are set, and no extension was agreed upon"));
        }
        let opcode = Opcode::parse(byte).ok_or(FrameError::Protocol("unknown opcode"))?;
        match (opcode, self.kind) {
            (Opcode::Continuation, None) => Err(FrameError::Protocol("nothing to continue")),
            (Opcode::Text | Opcode::Binary, Some(_)) => {
                Err(FrameError::Protocol("a message begins within another"))
            }
            _ if opcode.is_control() && byte & 0x80 == 0 => {
                Err(FrameError::Protocol("a control frame is fragmented"))
            }
            _ => Ok(()),
        }
    }

    fn check_length(&self) -> Result<(), FrameError> {
        let length = self.length();
        let is_shortest = match self.header[1] & 0x7f {
            126 => length > 125,
            127 => length > u64::from(u16::MAX),
            _ => true,
        };
        if !is_shortest || length > i64::MAX as u64 {
            return Err(FrameError::Protocol("the length is not written as it must be"));
        }
        let is_control = Opcode::parse(self.header[0]).is_some_and(Opcode::is_control);
        let room = self.limit.saturating_sub(self.data.len()) as u64;
        if !is_control && length > room { Err(FrameError::TooBig) } else { Ok(()) }
    }

    fn length(&self) -> u64 {
        let bytes = match self.header[1] & 0x7f {
            126 => &self.header[2..4],
            127 => &self.header[2..10],
            length => return length.into(),
        };
        bytes.iter().fold(0, |length, &byte| length << 8 | u64::from(byte))
    }

    /// Returns the frame that the header announces, which has been checked.
    fn begin(&mut self, length_ends: usize) -> Frame {
        let opcode = Opcode::parse(self.header[0]).unwrap_or(Opcode::Continuation);
        if matches!(opcode, Opcode::Text | Opcode::Binary) {
            self.kind = Some(opcode);
        }
        let mut mask = [0; 4];
        mask.copy_from_slice(&self.header[length_ends..length_ends + 4]);
        // The length is at most the limit, or that of a control frame.
        let left = usize::try_from(self.length()).unwrap_or(usize::MAX);
        Frame { opcode, is_final: self.header[0] & 0x80 != 0, mask, left }
    }

    fn store(&mut self, frame: &mut Frame, payload: &[u8]) -> Result<(), FrameError> {
        frame.left -= payload.len();
        let is_control = frame.opcode.is_control();
        let kept = if is_control { &mut self.control } else { &mut self.data };
        let begin = kept.len();
        let needed = begin + payload.len();
        if needed > kept.capacity() {
            // The capacity doubles each time, but never exceeds the bound.
            let bound = if is_control { MAX_CONTROL } else { self.limit };
            kept.reserve_exact((2 * begin).clamp(needed, bound.max(needed)) - begin);
        }
        kept.extend_from_slice(payload);
        unmask(&mut kept[begin..], frame.mask);
        frame.mask.rotate_left(payload.len() % 4);
        if !is_control && self.kind == Some(Opcode::Text) { self.check_text() } else { Ok(()) }
    }

    fn check_text(&mut self) -> Result<(), FrameError> {
        match str::from_utf8(&self.data[self.checked..]) {
            Ok(_) => self.checked = self.data.len(),
            // A character that the end of the piece cuts may still be completed.
            Err(error) if error.error_len().is_none() => self.checked += error.valid_up_to(),
            Err(_) => return Err(FrameError::NotUtf8),
        }
        Ok(())
    }

    fn finish(&mut self, frame: Frame) -> Result<Option<Message>, FrameError> {
        match frame.opcode {
            Opcode::Ping => return Ok(Some(Message::Ping(mem::take(&mut self.control)))),
            Opcode::Pong => {
                self.control = Vec::new();
                return Ok(Some(Message::Pong));
            }
            Opcode::Close => return parse_close(&mem::take(&mut self.control)).map(Message::Close).map(Some),
            Opcode::Continuation | Opcode::Text | Opcode::Binary if !frame.is_final => return Ok(None),
            Opcode::Continuation | Opcode::Text | Opcode::Binary => {}
        }
        self.checked = 0;
        let data = mem::take(&mut self.data);
        Ok(Some(match self.kind.take() {
            Some(Opcode::Text) => {
                Message::Text(String::from_utf8(data).map_err(|_incomplete| FrameError::NotUtf8)?)
            }
            _ => Message::Binary(data),
        }))
    }
}

fn check_second(first: u8, second: u8) -> Result<(), FrameError> {
    if second & 0x80 == 0 {
        return Err(FrameError::Protocol("a client's frame is not masked"));
    }
    let is_control = Opcode::parse(first).is_some_and(Opcode::is_control);
    if is_control && usize::from(second & 0x7f) > MAX_CONTROL {
        return Err(FrameError::Protocol("a control frame is too long"));
    }
    Ok(())
}

/// Returns where the length ends in a header with this second byte.
const fn length_end(second: u8) -> usize {
    match second & 0x7f {
        126 => 4,
        127 => 10,
        _ => 2,
    }
}

fn parse_close(payload: &[u8]) -> Result<Close, FrameError> {
    match payload {
        [] => Ok(Close::new(Close::NO_CODE, "")),
        [_] => Err(FrameError::Protocol("half a close code")),
        [high, low, reason @ ..] => {
            let code = u16::from_be_bytes([*high, *low]);
            if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
                return Err(FrameError::Protocol("a close code that may not be sent"));
            }
            let reason = str::from_utf8(reason).map_err(|_invalid| FrameError::NotUtf8)?;
            Ok(Close { code, reason: reason.to_owned().into() })
        }
    }
}

/// Removes the mask, eight bytes at a time. The compiler makes sixteen or more of them.
pub(super) fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    let [a, b, c, d] = mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, rest) = payload.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask.into_iter().cycle()) {
        *byte ^= mask;
    }
}
