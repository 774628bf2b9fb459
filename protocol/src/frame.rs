//! Frames: type, channel, payload size, payload, end octet (AMQP 0-9-1, 4.2.3).
//!
//! Invariants:
//! - a frame borrows its payload from the input; nothing is copied;
//! - a size over the limit is refused as soon as the seven bytes in front of the payload are there,
//!   so a peer cannot make us wait for, or keep, more than frame_max.

use bytes::{BufMut, BytesMut};

use crate::limits::{FRAME_END, FRAME_HEAD_BYTES, FRAME_OVERHEAD_BYTES};
use crate::{DecodeError, FrameSnippet};

/// The heartbeat frame.
pub const HEARTBEAT: [u8; 8] = [FrameKind::Heartbeat as u8, 0, 0, 0, 0, 0, 0, FRAME_END];

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    Method = 1,
    Header = 2,
    Body = 3,
    Heartbeat = 8,
}

impl FrameKind {
    /// The kind with this number on the wire.
    #[must_use]
    #[inline]
    pub const fn from_wire(kind: u8) -> Option<Self> {
        match kind {
            1 => Some(Self::Method),
            2 => Some(Self::Header),
            3 => Some(Self::Body),
            8 => Some(Self::Heartbeat),
            _ => None,
        }
    }
}

/// One frame of the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    pub kind: FrameKind,
    pub channel: u16,
    pub payload: &'a [u8],
}

/// The frame at the start of `input` and how many bytes it takes, or `None` when more bytes are
/// needed ([`bytes_needed`] says how many).
///
/// `frame_max` is the negotiated size of a whole frame. As RabbitMQ we let a peer that forgot to
/// count the eight bytes around the payload pass: the payload alone may be `frame_max` bytes.
/// AMQP's 0 for "no limit" has no meaning here; the caller puts the real limit in its place.
///
/// # Errors
/// 501 for a frame that is too large, of unknown type or with a wrong end octet, and for a
/// heartbeat with a payload; 505 for a heartbeat on a channel.
#[inline]
pub fn parse(input: &[u8], frame_max: u32) -> Result<Option<(Frame<'_>, usize)>, DecodeError> {
    let Some((head, rest)) = input.split_first_chunk::<FRAME_HEAD_BYTES>() else {
        return Ok(None);
    };
    let [kind, channel_high, channel_low, size @ ..] = *head;
    let channel = u16::from_be_bytes([channel_high, channel_low]);
    let payload_bytes = u32::from_be_bytes(size);
    if payload_bytes > frame_max {
        return Err(DecodeError::FrameTooLarge {
            kind,
            payload_bytes,
            payload_bytes_limit: frame_max.saturating_sub(FRAME_OVERHEAD_BYTES),
        });
    }
    let payload_bytes = payload_bytes as usize;
    let known = match FrameKind::from_wire(kind) {
        Some(FrameKind::Heartbeat) if payload_bytes != 0 => None,
        known => known,
    };
    let Some(kind_known) = known else {
        return Err(unknown_frame(kind, payload_bytes, rest));
    };
    let Some((payload, [end, ..])) = rest.split_at_checked(payload_bytes) else {
        return Ok(None);
    };
    if *end != FRAME_END {
        return Err(DecodeError::FrameEnd {
            kind,
            found: *end,
            payload: FrameSnippet::new(payload),
        });
    }
    if kind_known == FrameKind::Heartbeat && channel != 0 {
        return Err(DecodeError::HeartbeatOnChannel { channel });
    }
    let frame = Frame {
        kind: kind_known,
        channel,
        payload,
    };
    Ok(Some((frame, FRAME_HEAD_BYTES + payload_bytes + 1)))
}

#[cold]
fn unknown_frame(kind: u8, payload_bytes: usize, rest: &[u8]) -> DecodeError {
    DecodeError::UnknownFrame {
        kind,
        payload: FrameSnippet::new(&rest[..payload_bytes.min(rest.len())]),
    }
}

/// How many bytes `input` must have in all before [`parse`] can say more about its first frame.
#[must_use]
pub fn bytes_needed(input: &[u8]) -> usize {
    match input {
        [_, _, _, a, b, c, d, ..] => {
            let payload_bytes = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
            FRAME_HEAD_BYTES + payload_bytes + 1
        }
        _ => FRAME_HEAD_BYTES,
    }
}

/// The seven bytes in front of a payload.
#[must_use]
#[inline]
pub const fn head(kind: FrameKind, channel: u16, payload_bytes: u32) -> [u8; FRAME_HEAD_BYTES] {
    let [c0, c1] = channel.to_be_bytes();
    let [s0, s1, s2, s3] = payload_bytes.to_be_bytes();
    [kind as u8, c0, c1, s0, s1, s2, s3]
}

/// Appends a whole frame. `payload` has to fit the peer's frame_max, which the caller has checked.
pub fn encode(out: &mut BytesMut, kind: FrameKind, channel: u16, payload: &[u8]) {
    let payload_bytes = u32::try_from(payload.len()).expect("frames stay below frame_max, a u32");
    out.reserve(payload.len() + FRAME_OVERHEAD_BYTES as usize);
    out.put_slice(&head(kind, channel, payload_bytes));
    out.put_slice(payload);
    out.put_u8(FRAME_END);
}

/// Appends a heartbeat.
pub fn encode_heartbeat(out: &mut BytesMut) {
    out.put_slice(&HEARTBEAT);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ReplyCode;

    const FRAME_MAX: u32 = 4096;

    fn frame_bytes(kind: u8, channel: u16, payload: &[u8], end: u8) -> Vec<u8> {
        let mut bytes = vec![kind];
        bytes.extend(channel.to_be_bytes());
        bytes.extend((payload.len() as u32).to_be_bytes());
        bytes.extend(payload);
        bytes.push(end);
        bytes
    }

    #[test]
    fn a_frame_is_there_when_its_last_byte_is() {
        let bytes = frame_bytes(3, 7, b"body", FRAME_END);
        for cut in 0..bytes.len() {
            assert_eq!(parse(&bytes[..cut], FRAME_MAX), Ok(None));
            assert!(bytes_needed(&bytes[..cut]) > cut);
        }
        let expected = Frame {
            kind: FrameKind::Body,
            channel: 7,
            payload: b"body",
        };
        assert_eq!(parse(&bytes, FRAME_MAX), Ok(Some((expected, bytes.len()))));
        assert_eq!(bytes_needed(&bytes), bytes.len());
        let mut encoded = BytesMut::new();
        encode(&mut encoded, FrameKind::Body, 7, b"body");
        assert_eq!(encoded, bytes);
    }

    #[test]
    fn size_is_judged_at_the_head_and_eight_bytes_over_are_tolerated() {
        let limit = FRAME_MAX as usize;
        let fits = frame_bytes(3, 1, &vec![0; limit], FRAME_END);
        assert!(matches!(parse(&fits, FRAME_MAX), Ok(Some(_))));
        let head = head(FrameKind::Body, 1, FRAME_MAX + 1);
        assert_eq!(
            parse(&head, FRAME_MAX),
            Err(DecodeError::FrameTooLarge {
                kind: 3,
                payload_bytes: 4097,
                payload_bytes_limit: 4088
            })
        );
    }

    #[test]
    fn each_bad_frame_has_its_error() {
        let cases: &[(Vec<u8>, ReplyCode, &str)] = &[
            (
                frame_bytes(1, 1, b"abc", 0),
                ReplyCode::FrameError,
                "type 1, all octets = <<\"abc\">>: {invalid_frame_end_marker,0}",
            ),
            (
                frame_bytes(4, 1, &[1, 2], FRAME_END),
                ReplyCode::FrameError,
                "type 4, all octets = <<1,2>>: unknown_frame",
            ),
            (
                frame_bytes(8, 0, b"x", FRAME_END),
                ReplyCode::FrameError,
                "type 8, all octets = <<\"x\">>: unknown_frame",
            ),
            (
                frame_bytes(8, 3, b"", FRAME_END),
                ReplyCode::UnexpectedFrame,
                "type 8, all octets = <<>>",
            ),
        ];
        for (bytes, code, text) in cases {
            let error = parse(bytes, FRAME_MAX).expect_err(text);
            assert_eq!(error.reply_code(), *code, "{text}");
            assert_eq!(error.to_string(), *text);
        }
    }

    #[test]
    fn heartbeats_round_trip() {
        let (frame, consumed) = parse(&HEARTBEAT, FRAME_MAX).expect("valid").expect("whole");
        assert_eq!(
            (frame.kind, frame.channel, consumed),
            (FrameKind::Heartbeat, 0, 8)
        );
    }
}
