//! The few methods that travel with every message, by hand: publish, ack, nack and reject in;
//! deliver, get-ok, return, ack and nack out.
//!
//! Invariants:
//! - what is read and written here is what [`Method`] reads and writes, bit for bit (a test
//!   compares);
//! - [`parse`] gives `None` for whatever it does not know or like; [`Method::parse`] then has the
//!   answer, or the error;
//! - an encoder reserves once and then writes without asking again whether there is room.
//!
//! Unsafe: one place, the end of `append`, makes the bytes written into the spare room part of the
//! buffer. Strings longer than a short string are a bug of the caller and panic.

use std::mem::MaybeUninit;

use bytes::BytesMut;

use crate::content::{self, HEADER_BYTES};
use crate::limits::{FRAME_END, FRAME_HEAD_BYTES, FRAME_OVERHEAD_BYTES, SHORTSTR_BYTES_MAX};
use crate::methods::{BasicAck, BasicNack, BasicPublish, BasicReject};
use crate::wire::Reader;
use crate::{FrameKind, Properties, ShortStr, frame};

#[cfg(doc)]
use crate::Method;

const OVERHEAD: usize = FRAME_OVERHEAD_BYTES as usize;

const BASIC_PUBLISH: [u8; 4] = ids(40);
const BASIC_RETURN: [u8; 4] = ids(50);
const BASIC_DELIVER: [u8; 4] = ids(60);
const BASIC_GET_OK: [u8; 4] = ids(71);
const BASIC_ACK: [u8; 4] = ids(80);
const BASIC_REJECT: [u8; 4] = ids(90);
const BASIC_NACK: [u8; 4] = ids(120);

/// Class and method id of a method of class `basic`, as they stand on the wire.
const fn ids(method_id: u8) -> [u8; 4] {
    [0, content::CLASS_BASIC as u8, 0, method_id]
}

/// A method that clients send with every message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hot<'a> {
    Publish(BasicPublish<'a>),
    Ack(BasicAck),
    Nack(BasicNack),
    Reject(BasicReject),
}

/// Decodes a method frame's payload if it is one of [`Hot`] and well-formed.
#[must_use]
#[inline]
pub fn parse(payload: &[u8]) -> Option<Hot<'_>> {
    let (method, fields) = payload.split_first_chunk::<4>()?;
    match *method {
        BASIC_PUBLISH => publish(fields).map(Hot::Publish),
        BASIC_ACK => settle(fields).map(|(delivery_tag, bits)| {
            Hot::Ack(BasicAck {
                delivery_tag,
                multiple: bits & 1 != 0,
            })
        }),
        BASIC_NACK => settle(fields).map(|(delivery_tag, bits)| {
            Hot::Nack(BasicNack {
                delivery_tag,
                multiple: bits & 1 != 0,
                requeue: bits & 2 != 0,
            })
        }),
        BASIC_REJECT => settle(fields).map(|(delivery_tag, bits)| {
            Hot::Reject(BasicReject {
                delivery_tag,
                requeue: bits & 1 != 0,
            })
        }),
        _ => None,
    }
}

#[inline]
fn publish(fields: &[u8]) -> Option<BasicPublish<'_>> {
    let mut reader = Reader::new(fields);
    let [_, _, exchange_bytes] = reader.array()?;
    let exchange = reader.bytes(usize::from(exchange_bytes))?;
    let routing_key = reader.short_str()?;
    let [bits] = *reader.rest() else { return None };
    Some(BasicPublish {
        exchange: ShortStr::from_wire(exchange),
        routing_key,
        mandatory: bits & 1 != 0,
        immediate: bits & 2 != 0,
    })
}

#[inline]
fn settle(fields: &[u8]) -> Option<(u64, u8)> {
    let [tag @ .., bits] = <[u8; 9]>::try_from(fields).ok()?;
    Some((u64::from_be_bytes(tag), bits))
}

/// The fields of a basic.deliver. The strings have at most 255 bytes.
#[derive(Debug, Clone, Copy)]
pub struct Deliver<'a> {
    pub consumer_tag: &'a [u8],
    pub delivery_tag: u64,
    pub redelivered: bool,
    pub exchange: &'a [u8],
    pub routing_key: &'a [u8],
}

/// The fields of a basic.get-ok. The strings have at most 255 bytes.
#[derive(Debug, Clone, Copy)]
pub struct GetOk<'a> {
    pub delivery_tag: u64,
    pub redelivered: bool,
    pub exchange: &'a [u8],
    pub routing_key: &'a [u8],
    pub message_count: u32,
}

/// The fields of a basic.return. The strings have at most 255 bytes.
#[derive(Debug, Clone, Copy)]
pub struct Return<'a> {
    pub reply_code: u16,
    pub reply_text: &'a [u8],
    pub exchange: &'a [u8],
    pub routing_key: &'a [u8],
}

/// Appends the method frame of a delivery; content follows, see [`content`].
#[inline]
pub fn encode_deliver(out: &mut BytesMut, channel: u16, deliver: &Deliver<'_>) {
    append(out, OVERHEAD + deliver.payload_bytes(), |cut| {
        deliver.write(cut, channel);
    });
}

/// Appends a whole delivery: method frame, header frame and the body, copied into body frames of at
/// most
/// `frame_max` bytes. For bodies too big to copy: [`encode_delivery_head`].
#[inline]
pub fn encode_delivery(
    out: &mut BytesMut,
    channel: u16,
    deliver: &Deliver<'_>,
    properties: Properties<'_>,
    body: &[u8],
    frame_max: u32,
) {
    let method_bytes = OVERHEAD + deliver.payload_bytes();
    let content_bytes = content_bytes(properties, body.len(), frame_max);
    append(out, method_bytes + content_bytes, |cut| {
        deliver.write(cut, channel);
        cut.header_frame(channel, properties, body.len());
        cut.body_frames(channel, body, frame_max);
    });
}

/// Appends method frame and header frame of a delivery whose body the caller sends by reference, in
/// the frames of [`content::body_frames`].
#[inline]
pub fn encode_delivery_head(
    out: &mut BytesMut,
    channel: u16,
    deliver: &Deliver<'_>,
    properties: Properties<'_>,
    body_bytes: usize,
) {
    let header_bytes = OVERHEAD + HEADER_BYTES + properties.as_bytes().len();
    append(
        out,
        OVERHEAD + deliver.payload_bytes() + header_bytes,
        |cut| {
            deliver.write(cut, channel);
            cut.header_frame(channel, properties, body_bytes);
        },
    );
}

/// Appends the method frame of a get-ok; content follows.
pub fn encode_get_ok(out: &mut BytesMut, channel: u16, get_ok: &GetOk<'_>) {
    let payload_bytes = 4 + 8 + 1 + 1 + get_ok.exchange.len() + 1 + get_ok.routing_key.len() + 4;
    append(out, OVERHEAD + payload_bytes, |cut| {
        cut.frame_head(FrameKind::Method, channel, payload_bytes);
        cut.put(BASIC_GET_OK);
        cut.put(get_ok.delivery_tag.to_be_bytes());
        cut.put([u8::from(get_ok.redelivered)]);
        cut.short_str(get_ok.exchange);
        cut.short_str(get_ok.routing_key);
        cut.put(get_ok.message_count.to_be_bytes());
        cut.put([FRAME_END]);
    });
}

/// Appends the method frame of a return; content follows.
pub fn encode_return(out: &mut BytesMut, channel: u16, returned: &Return<'_>) {
    let strings = [returned.reply_text, returned.exchange, returned.routing_key];
    let payload_bytes = 4 + 2 + strings.iter().map(|text| 1 + text.len()).sum::<usize>();
    append(out, OVERHEAD + payload_bytes, |cut| {
        cut.frame_head(FrameKind::Method, channel, payload_bytes);
        cut.put(BASIC_RETURN);
        cut.put(returned.reply_code.to_be_bytes());
        for text in strings {
            cut.short_str(text);
        }
        cut.put([FRAME_END]);
    });
}

/// Appends a basic.ack, which confirms publishes.
#[inline]
pub fn encode_ack(out: &mut BytesMut, channel: u16, delivery_tag: u64, multiple: bool) {
    encode_settle(out, channel, BASIC_ACK, delivery_tag, u8::from(multiple));
}

/// Appends a basic.nack, which refuses publishes (`requeue` is false toward publishers).
#[inline]
pub fn encode_nack(
    out: &mut BytesMut,
    channel: u16,
    delivery_tag: u64,
    multiple: bool,
    requeue: bool,
) {
    let bits = u8::from(multiple) | u8::from(requeue) << 1;
    encode_settle(out, channel, BASIC_NACK, delivery_tag, bits);
}

#[inline]
fn encode_settle(out: &mut BytesMut, channel: u16, method: [u8; 4], delivery_tag: u64, bits: u8) {
    const PAYLOAD_BYTES: usize = 4 + 8 + 1;
    let mut frame = [0; OVERHEAD + PAYLOAD_BYTES];
    let head = frame::head(FrameKind::Method, channel, PAYLOAD_BYTES as u32);
    frame[..7].copy_from_slice(&head);
    frame[7..11].copy_from_slice(&method);
    frame[11..19].copy_from_slice(&delivery_tag.to_be_bytes());
    frame[19] = bits;
    frame[20] = FRAME_END;
    out.extend_from_slice(&frame);
}

impl Deliver<'_> {
    #[inline]
    const fn payload_bytes(&self) -> usize {
        4 + 1
            + self.consumer_tag.len()
            + 8
            + 1
            + 1
            + self.exchange.len()
            + 1
            + self.routing_key.len()
    }

    #[inline]
    fn write(&self, cut: &mut Cut<'_>, channel: u16) {
        cut.frame_head(FrameKind::Method, channel, self.payload_bytes());
        cut.put(BASIC_DELIVER);
        cut.short_str(self.consumer_tag);
        cut.put(self.delivery_tag.to_be_bytes());
        cut.put([u8::from(self.redelivered)]);
        cut.short_str(self.exchange);
        cut.short_str(self.routing_key);
        cut.put([FRAME_END]);
    }
}

/// Bytes of header frame and body frames.
#[inline]
fn content_bytes(properties: Properties<'_>, body_bytes: usize, frame_max: u32) -> usize {
    let payload_max = content::body_payload_max(frame_max);
    let body_frames = if body_bytes <= payload_max {
        usize::from(body_bytes != 0)
    } else {
        body_bytes.div_ceil(payload_max)
    };
    OVERHEAD + HEADER_BYTES + properties.as_bytes().len() + body_frames * OVERHEAD + body_bytes
}

/// Appends exactly `bytes` bytes, which `fill` writes.
#[inline]
fn append(out: &mut BytesMut, bytes: usize, fill: impl FnOnce(&mut Cut<'_>)) {
    out.reserve(bytes);
    let mut cut = Cut {
        rest: &mut out.spare_capacity_mut()[..bytes],
    };
    fill(&mut cut);
    assert!(cut.rest.is_empty(), "fewer bytes written than announced");
    let len = out.len() + bytes;
    // SAFETY: the capacity holds `bytes` more, and all of them are written: `rest` began as those
    // bytes, only `Cut::slice` shortens it, by what it has just written, and nothing of it is left.
    unsafe { out.set_len(len) };
}

/// Room in the buffer that is not written yet; filled front to back.
struct Cut<'a> {
    rest: &'a mut [MaybeUninit<u8>],
}

impl Cut<'_> {
    #[inline]
    fn slice(&mut self, bytes: &[u8]) {
        let (room, rest) = std::mem::take(&mut self.rest).split_at_mut(bytes.len());
        room.write_copy_of_slice(bytes);
        self.rest = rest;
    }

    #[inline]
    fn put<const N: usize>(&mut self, bytes: [u8; N]) {
        self.slice(&bytes);
    }

    #[inline]
    fn short_str(&mut self, text: &[u8]) {
        assert!(
            text.len() <= SHORTSTR_BYTES_MAX,
            "a short string of {} bytes",
            text.len()
        );
        self.put([text.len() as u8]);
        self.slice(text);
    }

    #[inline]
    fn frame_head(&mut self, kind: FrameKind, channel: u16, payload_bytes: usize) {
        // No cut: payloads stay below frame_max, a u32.
        self.put::<FRAME_HEAD_BYTES>(frame::head(kind, channel, payload_bytes as u32));
    }

    #[inline]
    fn header_frame(&mut self, channel: u16, properties: Properties<'_>, body_bytes: usize) {
        let properties = properties.as_bytes();
        self.frame_head(FrameKind::Header, channel, HEADER_BYTES + properties.len());
        self.put([0, content::CLASS_BASIC as u8, 0, 0]);
        self.put((body_bytes as u64).to_be_bytes());
        self.slice(properties);
        self.put([FRAME_END]);
    }

    #[inline]
    fn body_frames(&mut self, channel: u16, body: &[u8], frame_max: u32) {
        for frame in content::body_frames(channel, body.len(), frame_max) {
            self.put(frame.head);
            self.slice(&body[frame.range]);
            self.put([FRAME_END]);
        }
    }
}
