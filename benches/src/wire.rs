//! AMQP's bytes: publishes in, deliveries out.

use std::hint::black_box;

use bytes::BytesMut;
use warren_protocol::hot::{self, Deliver};
use warren_protocol::{ContentHeader, FrameKind, Properties, frame, limits};

use crate::{BATCH, PERSISTENT};

const FRAME_MAX: u32 = limits::FRAME_MAX_BYTES_DEFAULT;

/// Reads all frames as a session does; gives the bytes of bodies.
///
/// # Panics
/// When they are not what [`crate::publishes`] makes.
#[inline(never)]
#[must_use]
pub fn decode(input: &[u8]) -> usize {
    let (mut rest, mut bytes) = (input, 0);
    while let Ok(Some((frame, used))) = frame::parse(rest, FRAME_MAX) {
        match frame.kind {
            FrameKind::Method => drop(black_box(hot::parse(frame.payload))),
            FrameKind::Header => {
                let header = ContentHeader::parse(frame.payload).expect("ours");
                black_box(header.properties.validate()).expect("ours");
            }
            FrameKind::Body => bytes += black_box(frame.payload).len(),
            FrameKind::Heartbeat => {}
        }
        rest = &rest[used..];
    }
    bytes
}

/// Writes [`BATCH`] deliveries of a body; gives their bytes.
#[inline(never)]
pub fn deliveries(out: &mut BytesMut, body: &[u8]) -> usize {
    out.clear();
    for delivery_tag in 0..BATCH as u64 {
        let deliver = Deliver {
            consumer_tag: b"a consumer's tag",
            delivery_tag,
            redelivered: false,
            exchange: b"amq.topic",
            routing_key: b"a.routing.key",
        };
        let properties = Properties::from_raw(&PERSISTENT);
        hot::encode_delivery(out, 1, &deliver, properties, body, FRAME_MAX);
    }
    black_box(out.len())
}
