//! What several benchmarks need: publishes as bytes, and a node with a publisher and a consumer.

pub mod definitions;
pub mod queues;
pub mod stand;
pub mod wire;

use bytes::BytesMut;
use warren_protocol::methods::BasicPublish;
use warren_protocol::{Properties, ShortStr, content, limits};

/// Messages in everything that is measured: about what one read from a busy socket holds.
pub const BATCH: usize = 64;

/// Property flags and fields of a persistent message without anything else.
pub const PERSISTENT: [u8; 3] = [0x10, 0x00, 2];

/// [`BATCH`] publishes on channel 1, as they come from a socket.
#[must_use]
pub fn publishes(exchange: &str, routing_key: &str, body_bytes: usize) -> BytesMut {
    let mut out = BytesMut::new();
    let body = vec![b'x'; body_bytes];
    for _ in 0..BATCH {
        let publish = BasicPublish {
            exchange: ShortStr::truncated(exchange),
            routing_key: ShortStr::truncated(routing_key),
            mandatory: false,
            immediate: false,
        };
        publish.encode_frame(1, &mut out);
        let properties = Properties::from_raw(&PERSISTENT);
        content::encode(
            &mut out,
            1,
            properties,
            &body,
            limits::FRAME_MAX_BYTES_DEFAULT,
        );
    }
    out
}
