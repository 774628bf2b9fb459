//! Publishes, encoded many at a time into one buffer for one write.
//!
//! Invariant: the buffer's bytes are whole messages, and a batch is filled only when the one before
//! it is written. With a single target all messages have the same bytes but for their stamps, so
//! they are laid out once and only stamped again.

use anyhow::Result;
use bytes::BytesMut;
use warren_protocol::methods::BasicPublish;
use warren_protocol::{Method, Properties, ShortStr, content};

use super::client::Connection;
use super::stamp::Stamp;

/// A batch ends with the message that reaches this.
const BATCH_BYTES: usize = 128 * 1024;

/// The bytes of messages to some targets.
#[derive(Debug)]
pub(super) struct Batch {
    /// The publish frame of each target.
    methods: Vec<Box<[u8]>>,
    /// Header frame and body frames, the same for all.
    content: Box<[u8]>,
    /// Where in `content` the stamp goes; `None` when the body is too small for one.
    stamp_at: Option<usize>,
    buffer: Vec<u8>,
    /// How much of `buffer` is this batch, and of it, written.
    end: usize,
    written: usize,
    messages: u64,
}

/// What the messages of a batch are made of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape<'a> {
    pub(super) exchange: &'a str,
    pub(super) mandatory: bool,
    pub(super) properties: &'a [u8],
    pub(super) body: &'a [u8],
    /// The one that was negotiated.
    pub(super) frame_max: u32,
}

impl Batch {
    /// One message to each of `routing_keys`, without its stamp.
    ///
    /// # Errors
    /// When a name is longer than 255 bytes.
    pub(super) fn new(
        channel: u16,
        routing_keys: impl Iterator<Item = String>,
        shape: &Shape<'_>,
    ) -> Result<Self> {
        let mut methods = Vec::new();
        let mut out = BytesMut::new();
        for routing_key in routing_keys {
            let publish = BasicPublish {
                exchange: ShortStr::new(shape.exchange.as_bytes())?,
                routing_key: ShortStr::new(routing_key.as_bytes())?,
                mandatory: shape.mandatory,
                immediate: false,
            };
            Method::BasicPublish(publish).encode_frame(channel, &mut out);
            methods.push(Box::from(&*out.split()));
        }
        let properties = Properties::from_raw(shape.properties);
        content::encode(&mut out, channel, properties, shape.body, shape.frame_max);
        let head_bytes = warren_protocol::limits::FRAME_HEAD_BYTES;
        let header_bytes = head_bytes + content::HEADER_BYTES + shape.properties.len() + 1;
        let stamped = shape.body.len() >= Stamp::BYTES;
        Ok(Self {
            methods,
            content: Box::from(&*out),
            stamp_at: stamped.then_some(header_bytes + head_bytes),
            buffer: Vec::new(),
            end: 0,
            written: 0,
            messages: 0,
        })
    }

    pub(super) const fn is_written(&self) -> bool {
        self.written == self.end
    }

    pub(super) const fn is_full(&self) -> bool {
        self.end >= BATCH_BYTES
    }

    /// Begins the next batch; gives how many messages the last one had.
    pub(super) fn clear(&mut self) -> u64 {
        self.end = 0;
        self.written = 0;
        if self.methods.len() > 1 {
            self.buffer.clear();
        }
        std::mem::take(&mut self.messages)
    }

    /// Appends a message.
    #[inline]
    pub(super) fn push(&mut self, target: usize, stamp: &Stamp) {
        let method = &self.methods[target];
        let content_at = self.end + method.len();
        let end = content_at + self.content.len();
        if self.buffer.len() < end {
            self.buffer.extend_from_slice(method);
            self.buffer.extend_from_slice(&self.content);
        }
        if let Some(at) = self.stamp_at
            && let Some(room) = self.buffer[content_at + at..].first_chunk_mut()
        {
            stamp.write(room);
        }
        self.end = end;
        self.messages += 1;
    }

    /// Writes what it can; true when the batch is written.
    ///
    /// # Errors
    /// When the connection is lost.
    pub(super) fn write(&mut self, connection: &Connection) -> Result<bool> {
        while self.written < self.end {
            match connection.write(&self.buffer[self.written..self.end])? {
                0 => return Ok(false),
                bytes => self.written += bytes,
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::perf::stamp::blank_body;
    use warren_protocol::{ContentHeader, FrameKind, frame};

    /// Routing key and stamp of each message in the batch.
    fn messages(batch: &Batch, run: u64) -> Vec<(String, Option<Stamp>)> {
        let mut input = &batch.buffer[..batch.end];
        let mut next = || {
            let (found, bytes) = frame::parse(input, 4096).expect("valid")?;
            input = &input[bytes..];
            Some(found)
        };
        let mut found = Vec::new();
        while let Some(method) = next() {
            let Ok(Method::BasicPublish(publish)) = Method::parse(method.payload) else {
                panic!("a publish: {method:?}");
            };
            let header = next().expect("a header");
            let header = ContentHeader::parse(header.payload).expect("a header");
            let mut body = Vec::new();
            while body.len() < header.body_size as usize {
                let frame = next().expect("body");
                assert_eq!(frame.kind, FrameKind::Body);
                body.extend_from_slice(frame.payload);
            }
            let key = publish.routing_key.as_str().expect("text").to_owned();
            found.push((key, Stamp::read(&body, run)));
        }
        found
    }

    fn stamp(sequence: u64) -> Stamp {
        Stamp {
            resent: false,
            stream: 3,
            sequence,
            due_ns: sequence * 7,
        }
    }

    #[test]
    fn batches_are_whole_messages_with_their_stamps() {
        for (targets, size) in [(1, 16), (3, 16), (1, 1024), (3, 10_000), (1, 200_000)] {
            let shape = Shape {
                exchange: "x",
                mandatory: true,
                properties: &[0x10, 0, 2],
                body: &blank_body(size, 5),
                frame_max: 4096,
            };
            let keys = (0..targets).map(|target| format!("key{target}"));
            let mut batch = Batch::new(1, keys, &shape).expect("short names");
            for round in 0..3 {
                for number in 0..4 {
                    batch.push(number % targets, &stamp(round * 10 + number as u64));
                }
                let expected: Vec<_> = (0..4)
                    .map(|number| {
                        let stamp = stamp(round * 10 + number as u64);
                        (format!("key{}", number % targets), Some(stamp))
                    })
                    .collect();
                assert_eq!(messages(&batch, 5), expected);
                assert_eq!(batch.clear(), 4);
            }
        }
    }

    #[test]
    fn a_small_body_has_no_stamp() {
        let shape = Shape {
            exchange: "",
            mandatory: false,
            properties: &[0, 0],
            body: b"tiny",
            frame_max: 4096,
        };
        let keys = std::iter::once("k".to_owned());
        let mut batch = Batch::new(1, keys, &shape).expect("short names");
        batch.push(0, &stamp(1));
        assert_eq!(messages(&batch, 5), [("k".to_owned(), None)]);
    }
}
