//! Content: the header frame behind a method, and the body frames behind that (AMQP 0-9-1, 4.2.6).
//!
//! Invariant: properties and body go out as they came in; only the frames around them are made
//! here.

use std::ops::Range;

use bytes::{BufMut, BytesMut};

use crate::limits::{
    BODY_BYTES_MAX, FRAME_END, FRAME_HEAD_BYTES, FRAME_MAX_BYTES_MIN, FRAME_OVERHEAD_BYTES,
};
use crate::{DecodeError, FrameKind, FrameSnippet, Properties, frame};

/// The only class whose methods carry content.
pub const CLASS_BASIC: u16 = 60;

/// Bytes of a content header in front of the properties: class, weight, body size.
pub const HEADER_BYTES: usize = 12;

/// A decoded content header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContentHeader<'a> {
    pub class_id: u16,
    /// Unused; 0 in every header that [`ContentHeader::parse`] accepts.
    pub weight: u16,
    /// Bytes of body in the frames that follow.
    pub body_size: u64,
    /// Not validated yet: see [`Properties::validate`].
    pub properties: Properties<'a>,
}

impl<'a> ContentHeader<'a> {
    /// Decodes a header frame's payload.
    ///
    /// # Errors
    /// 501 when it is too short or announces more than [`BODY_BYTES_MAX`]; 505 when the weight is
    /// not 0.
    #[inline]
    pub fn parse(payload: &'a [u8]) -> Result<Self, DecodeError> {
        let Some((head, properties)) = payload.split_first_chunk::<HEADER_BYTES>() else {
            return Err(DecodeError::UnknownFrame {
                kind: FrameKind::Header as u8,
                payload: FrameSnippet::new(payload),
            });
        };
        let [c0, c1, w0, w1, body_size @ ..] = *head;
        let class_id = u16::from_be_bytes([c0, c1]);
        let weight = u16::from_be_bytes([w0, w1]);
        let body_size = u64::from_be_bytes(body_size);
        if properties.len() < 2 {
            return Err(DecodeError::HeaderTruncated {
                bytes: payload.len(),
            });
        }
        if weight != 0 {
            return Err(DecodeError::HeaderWeight { weight });
        }
        if body_size > BODY_BYTES_MAX {
            return Err(DecodeError::BodyTooLarge { bytes: body_size });
        }
        Ok(Self {
            class_id,
            weight,
            body_size,
            properties: Properties::from_raw(properties),
        })
    }

    /// Appends the header frame.
    pub fn encode_frame(&self, channel: u16, out: &mut BytesMut) {
        let properties = self.properties.as_bytes();
        let payload_bytes = HEADER_BYTES + properties.len();
        let size = u32::try_from(payload_bytes).expect("properties fit a frame");
        out.reserve(payload_bytes + FRAME_OVERHEAD_BYTES as usize);
        out.put_slice(&frame::head(FrameKind::Header, channel, size));
        out.put_u16(self.class_id);
        out.put_u16(self.weight);
        out.put_u64(self.body_size);
        out.put_slice(properties);
        out.put_u8(FRAME_END);
    }
}

/// One body frame: `head`, then the bytes of `range` of the body, then [`FRAME_END`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BodyFrame {
    pub head: [u8; FRAME_HEAD_BYTES],
    pub range: Range<usize>,
}

/// Splits a body into frames without touching it, for writers that send slices (`writev`). An empty
/// body has no frames.
///
/// `frame_max` is the negotiated size of a whole frame; below [`FRAME_MAX_BYTES_MIN`] (AMQP's 0 for
/// "no limit" too) that minimum is used.
#[must_use]
pub fn body_frames(channel: u16, body_bytes: usize, frame_max: u32) -> BodyFrames {
    BodyFrames {
        channel,
        sent: 0,
        body_bytes,
        payload_bytes_max: body_payload_max(frame_max),
    }
}

/// How much body goes into one frame of at most `frame_max` bytes.
#[must_use]
#[inline]
pub const fn body_payload_max(frame_max: u32) -> usize {
    let frame_max = if frame_max < FRAME_MAX_BYTES_MIN {
        FRAME_MAX_BYTES_MIN
    } else {
        frame_max
    };
    (frame_max - FRAME_OVERHEAD_BYTES) as usize
}

/// Iterates over the frames of a body.
#[derive(Debug, Clone)]
pub struct BodyFrames {
    channel: u16,
    sent: usize,
    body_bytes: usize,
    payload_bytes_max: usize,
}

impl Iterator for BodyFrames {
    type Item = BodyFrame;

    #[inline]
    fn next(&mut self) -> Option<BodyFrame> {
        if self.sent == self.body_bytes {
            return None;
        }
        let len = (self.body_bytes - self.sent).min(self.payload_bytes_max);
        let range = self.sent..self.sent + len;
        self.sent += len;
        Some(BodyFrame {
            // No cut: `len` is below frame_max, a u32.
            head: frame::head(FrameKind::Body, self.channel, len as u32),
            range,
        })
    }
}

/// Appends header frame and body frames of a message of class `basic`, copying the body.
pub fn encode(
    out: &mut BytesMut,
    channel: u16,
    properties: Properties<'_>,
    body: &[u8],
    frame_max: u32,
) {
    let frames = body.len().div_ceil(body_payload_max(frame_max)) + 1;
    let around = frames * FRAME_OVERHEAD_BYTES as usize + HEADER_BYTES;
    out.reserve(around + properties.as_bytes().len() + body.len());
    let header = ContentHeader {
        class_id: CLASS_BASIC,
        weight: 0,
        body_size: body.len() as u64,
        properties,
    };
    header.encode_frame(channel, out);
    for frame in body_frames(channel, body.len(), frame_max) {
        out.put_slice(&frame.head);
        out.put_slice(&body[frame.range]);
        out.put_u8(FRAME_END);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME_MAX: u32 = 4096;
    const PAYLOAD_MAX: usize = 4088;

    #[test]
    fn bodies_around_the_frame_size_are_split_right() {
        let cases = [
            (0, 0),
            (1, 1),
            (PAYLOAD_MAX - 1, 1),
            (PAYLOAD_MAX, 1),
            (PAYLOAD_MAX + 1, 2),
            (2 * PAYLOAD_MAX, 2),
            (2 * PAYLOAD_MAX + 1, 3),
        ];
        for (body_bytes, frames) in cases {
            let body: Vec<u8> = (0..body_bytes).map(|at| at as u8).collect();
            let mut out = BytesMut::new();
            encode(&mut out, 5, Properties::EMPTY, &body, FRAME_MAX);
            let (header, mut at) = frame::parse(&out, FRAME_MAX)
                .expect("valid")
                .expect("whole");
            assert_eq!((header.kind, header.channel), (FrameKind::Header, 5));
            let header = ContentHeader::parse(header.payload).expect("valid");
            assert_eq!(header.body_size, body_bytes as u64);
            assert_eq!(header.properties, Properties::EMPTY);
            let mut seen = Vec::new();
            let mut count = 0;
            while let Some((part, len)) = frame::parse(&out[at..], FRAME_MAX).expect("valid") {
                assert!(len <= FRAME_MAX as usize);
                seen.extend_from_slice(part.payload);
                at += len;
                count += 1;
            }
            assert_eq!((count, at), (frames, out.len()), "{body_bytes} bytes");
            assert_eq!(seen, body);
        }
    }

    #[test]
    fn each_bad_header_has_its_error() {
        let header = |weight: u16, body_size: u64, properties: &[u8]| {
            let mut raw = vec![0, 60];
            raw.extend(weight.to_be_bytes());
            raw.extend(body_size.to_be_bytes());
            raw.extend(properties);
            raw
        };
        let check = |raw: &[u8], expected| {
            assert_eq!(ContentHeader::parse(raw), Err(expected), "{raw:?}");
        };
        assert!(ContentHeader::parse(&header(0, BODY_BYTES_MAX, &[0, 0])).is_ok());
        let payload = FrameSnippet::new(&[0, 60]);
        check(&[0, 60], DecodeError::UnknownFrame { kind: 2, payload });
        check(
            &header(0, 0, &[0]),
            DecodeError::HeaderTruncated { bytes: 13 },
        );
        check(
            &header(1, 0, &[0, 0]),
            DecodeError::HeaderWeight { weight: 1 },
        );
        let bytes = BODY_BYTES_MAX + 1;
        check(
            &header(0, bytes, &[0, 0]),
            DecodeError::BodyTooLarge { bytes },
        );
    }
}
