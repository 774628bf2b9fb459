//! A client that speaks bytes: it declares the queues, then publishes or consumes.
//!
//! What it may rely on it reports to the checker at the moment when a real application could:
//! a publish when its bytes leave, a confirm when it is read, an acknowledgement when the broker
//! has read it.

use std::collections::{BTreeMap, VecDeque};

use bytes::BytesMut;
use warren_protocol::methods::{
    BasicAck, BasicConsume, BasicDeliver, BasicNack, BasicPublish, BasicQos, BasicReject,
    ChannelOpen, ConfirmSelect, ConnectionOpen, ConnectionStartOk, ConnectionTuneOk, QueueDeclare,
};
use warren_protocol::{
    ContentHeader, FrameKind, LongStr, Method, ShortStr, Table, content, frame, preamble,
};

use crate::checker::{Checker, MessageKey};
use crate::rng::Rng;

const CHANNEL: u16 = 1;
const FRAME_MAX: u32 = 131_072;
/// Bytes in front of a body's filling: queue, publisher, seq.
const ID_BYTES: usize = 16;

/// A queue of the simulation.
#[derive(Clone, Copy, Debug)]
pub struct QueueSpec {
    pub number: u32,
    pub durable: bool,
}

impl QueueSpec {
    fn name(self) -> String {
        format!(
            "{}-{}",
            if self.durable { "durable" } else { "transient" },
            self.number
        )
    }
}

/// What a client is for.
#[derive(Clone, Copy, Debug)]
pub enum Role {
    /// Publishes to all queues. `id` stays over reconnects.
    Publisher { id: u32 },
    /// Consumes one queue. `id` is new at each connection.
    Consumer {
        queue: QueueSpec,
        id: u64,
        auto_ack: bool,
        prefetch: u16,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Handshake,
    /// Declaring the queue with this index.
    Declaring(usize),
    Preparing,
    Ready,
    Closed,
}

/// A client and both ends of its socket's buffers.
pub struct Client {
    role: Role,
    queues: Vec<QueueSpec>,
    stage: Stage,
    rng: Rng,
    /// Bytes on their way to the broker.
    pub to_broker: BytesMut,
    /// Bytes of `to_broker` since the connection began, and how many the broker has read.
    sent: u64,
    read: u64,
    from_broker: BytesMut,
    unconfirmed: BTreeMap<u64, MessageKey>,
    publish_number: u64,
    next_seq: u64,
    delivering: Option<(u64, bool, u64)>,
    body: Vec<u8>,
    held: VecDeque<(u64, MessageKey)>,
    /// Acknowledged when the broker has read up to this byte.
    acknowledging: VecDeque<(u64, MessageKey)>,
    /// Only acknowledge and take: the end of the run.
    pub draining: bool,
}

impl Client {
    #[must_use]
    pub fn new(role: Role, queues: Vec<QueueSpec>, next_seq: u64, rng: Rng) -> Self {
        let mut client = Self {
            role,
            queues,
            stage: Stage::Handshake,
            rng,
            to_broker: BytesMut::new(),
            sent: 0,
            read: 0,
            from_broker: BytesMut::new(),
            unconfirmed: BTreeMap::new(),
            publish_number: 0,
            next_seq,
            delivering: None,
            body: Vec::new(),
            held: VecDeque::new(),
            acknowledging: VecDeque::new(),
            draining: false,
        };
        client.send(|out| out.extend_from_slice(&preamble::PROTOCOL_HEADER));
        client
    }

    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }

    /// The number that the next publish will carry: a new connection goes on from it.
    #[must_use]
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.stage == Stage::Closed
    }

    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.stage == Stage::Ready
    }

    /// Nothing is on its way or waited for.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.is_ready()
            && self.to_broker.is_empty()
            && self.unconfirmed.is_empty()
            && self.held.is_empty()
            && self.acknowledging.is_empty()
    }

    fn send(&mut self, write: impl FnOnce(&mut BytesMut)) {
        let before = self.to_broker.len();
        write(&mut self.to_broker);
        self.sent += (self.to_broker.len() - before) as u64;
    }

    /// The broker has read `count` more bytes.
    pub fn broker_read(&mut self, count: usize, checker: &mut Checker) {
        self.read += count as u64;
        while let Some((at, key)) = self.acknowledging.front().copied() {
            if at > self.read {
                break;
            }
            self.acknowledging.pop_front();
            checker.acknowledged(key);
        }
    }

    /// Takes bytes from the broker.
    pub fn handle_bytes(&mut self, bytes: &[u8], checker: &mut Checker) {
        self.from_broker.extend_from_slice(bytes);
        let mut input = std::mem::take(&mut self.from_broker);
        let mut used = 0;
        while let Some((kind, payload, count)) = self.next_frame(&input[used..], checker) {
            self.handle_frame(kind, &input[used + payload.0..used + payload.1], checker);
            used += count;
        }
        self.from_broker = input.split_off(used);
    }

    fn next_frame(
        &mut self,
        input: &[u8],
        checker: &mut Checker,
    ) -> Option<(FrameKind, (usize, usize), usize)> {
        match frame::parse(input, FRAME_MAX) {
            Ok(Some((frame, used))) => {
                let start = warren_protocol::limits::FRAME_HEAD_BYTES;
                Some((frame.kind, (start, start + frame.payload.len()), used))
            }
            Ok(None) => None,
            Err(error) => {
                checker.violate("wire", format!("the broker sent a bad frame: {error}"));
                self.stage = Stage::Closed;
                None
            }
        }
    }

    fn handle_frame(&mut self, kind: FrameKind, payload: &[u8], checker: &mut Checker) {
        match kind {
            FrameKind::Heartbeat => {}
            FrameKind::Method => match Method::parse(payload) {
                Ok(method) => self.handle_method(&method, checker),
                Err(error) => {
                    checker.violate("wire", format!("the broker sent a bad method: {error}"));
                }
            },
            FrameKind::Header => {
                let size = ContentHeader::parse(payload).map_or(0, |header| header.body_size);
                if let Some(delivering) = &mut self.delivering {
                    delivering.2 = size;
                }
                self.finish_delivery(checker);
            }
            FrameKind::Body => {
                self.body.extend_from_slice(payload);
                self.finish_delivery(checker);
            }
        }
    }

    fn handle_method(&mut self, method: &Method<'_>, checker: &mut Checker) {
        match method {
            Method::ConnectionStart(_) => self.send(|out| {
                ConnectionStartOk {
                    client_properties: Table::from_raw(&[]),
                    mechanism: ShortStr::truncated("PLAIN"),
                    response: LongStr(b"\0guest\0guest"),
                    locale: ShortStr::truncated("en_US"),
                }
                .encode_frame(0, out);
            }),
            Method::ConnectionTune(_) => self.send(|out| {
                ConnectionTuneOk {
                    channel_max: 2047,
                    frame_max: FRAME_MAX,
                    heartbeat: 0,
                }
                .encode_frame(0, out);
                ConnectionOpen {
                    virtual_host: ShortStr::truncated("/"),
                }
                .encode_frame(0, out);
            }),
            Method::ConnectionOpenOk(_) => self.send(|out| ChannelOpen.encode_frame(CHANNEL, out)),
            Method::ChannelOpenOk(_) => self.declare(0),
            Method::QueueDeclareOk(_) => self.declared(),
            Method::ConfirmSelectOk(_) | Method::BasicConsumeOk(_) => self.stage = Stage::Ready,
            Method::BasicDeliver(deliver) => self.begin_delivery(deliver),
            Method::BasicAck(ack) => self.confirm(ack.delivery_tag, ack.multiple, true, checker),
            Method::BasicNack(nack) => {
                self.confirm(nack.delivery_tag, nack.multiple, false, checker);
            }
            Method::ChannelClose(close) => {
                checker.violate("wire", format!("channel closed: {close:?}"));
                self.stage = Stage::Closed;
            }
            Method::ConnectionClose(close) => {
                checker.violate("wire", format!("connection closed: {close:?}"));
                self.stage = Stage::Closed;
            }
            _ => {}
        }
    }

    fn declare(&mut self, index: usize) {
        self.stage = Stage::Declaring(index);
        let queue = self.queues[index];
        let name = queue.name();
        self.send(|out| {
            QueueDeclare {
                queue: ShortStr::truncated(&name),
                passive: false,
                durable: queue.durable,
                exclusive: false,
                auto_delete: false,
                nowait: false,
                arguments: Table::from_raw(&[]),
            }
            .encode_frame(CHANNEL, out);
        });
    }

    fn declared(&mut self) {
        let Stage::Declaring(index) = self.stage else {
            return;
        };
        if index + 1 < self.queues.len() {
            self.declare(index + 1);
            return;
        }
        self.stage = Stage::Preparing;
        match self.role {
            Role::Publisher { .. } => {
                self.send(|out| ConfirmSelect { nowait: false }.encode_frame(CHANNEL, out));
            }
            Role::Consumer {
                queue,
                auto_ack,
                prefetch,
                ..
            } => self.send(|out| {
                BasicQos {
                    prefetch_size: 0,
                    prefetch_count: prefetch,
                    global: false,
                }
                .encode_frame(CHANNEL, out);
                BasicConsume {
                    queue: ShortStr::truncated(&queue.name()),
                    consumer_tag: ShortStr::truncated("c"),
                    no_local: false,
                    no_ack: auto_ack,
                    exclusive: false,
                    nowait: false,
                    arguments: Table::from_raw(&[]),
                }
                .encode_frame(CHANNEL, out);
            }),
        }
    }

    fn confirm(&mut self, tag: u64, multiple: bool, stored: bool, checker: &mut Checker) {
        let first = if multiple { 0 } else { tag };
        let settled: Vec<u64> = self
            .unconfirmed
            .range(first..=tag)
            .map(|(tag, _)| *tag)
            .collect();
        for tag in settled {
            if let Some(key) = self.unconfirmed.remove(&tag) {
                if stored {
                    checker.confirmed(key);
                } else {
                    checker.refused(key);
                }
            }
        }
    }

    fn begin_delivery(&mut self, deliver: &BasicDeliver<'_>) {
        self.delivering = Some((deliver.delivery_tag, deliver.redelivered, u64::MAX));
        self.body.clear();
    }

    fn finish_delivery(&mut self, checker: &mut Checker) {
        let Some((tag, redelivered, size)) = self.delivering else {
            return;
        };
        if self.body.len() as u64 != size {
            return;
        }
        self.delivering = None;
        let Role::Consumer { id, auto_ack, .. } = self.role else {
            return;
        };
        let Some((key, whole)) = read_body(&self.body) else {
            checker.violate("no-ghosts", "a body without an id was delivered".to_owned());
            return;
        };
        checker.delivered(id, key, redelivered, whole);
        if auto_ack {
            checker.acknowledged(key);
        } else {
            self.held.push_back((tag, key));
        }
    }

    /// Does something that its role allows.
    pub fn act(&mut self, checker: &mut Checker) {
        if self.stage != Stage::Ready {
            return;
        }
        match self.role {
            Role::Publisher { id } => self.publish_some(id, checker),
            Role::Consumer { .. } => self.settle_some(),
        }
    }

    fn publish_some(&mut self, publisher: u32, checker: &mut Checker) {
        if self.draining || self.unconfirmed.len() > 200 {
            return;
        }
        for _ in 0..self.rng.between(1, 12) {
            let queue = self.queues[self.rng.below(self.queues.len() as u64) as usize];
            let key = MessageKey {
                queue: queue.number,
                publisher,
                seq: self.next_seq,
            };
            self.next_seq += 1;
            self.publish_number += 1;
            let filling = match self.rng.below(40) {
                0 => self.rng.between(100_000, 300_000),
                1..10 => self.rng.below(4000),
                _ => self.rng.below(64),
            };
            let body = write_body(key, filling as usize);
            checker.published(key, !queue.durable);
            self.unconfirmed.insert(self.publish_number, key);
            self.send(|out| {
                BasicPublish {
                    exchange: ShortStr::EMPTY,
                    routing_key: ShortStr::truncated(&queue.name()),
                    mandatory: false,
                    immediate: false,
                }
                .encode_frame(CHANNEL, out);
                let properties = warren_protocol::Properties::from_raw(&[]);
                content::encode(out, CHANNEL, properties, &body, FRAME_MAX);
            });
        }
    }

    fn settle_some(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let count = self.rng.between(1, self.held.len() as u64) as usize;
        let choice = if self.draining { 0 } else { self.rng.below(10) };
        match choice {
            0..=5 => {
                let (tag, _) = self.held[count - 1];
                self.send(|out| {
                    BasicAck {
                        delivery_tag: tag,
                        multiple: true,
                    }
                    .encode_frame(CHANNEL, out);
                });
                let settled: Vec<_> = self.held.drain(..count).collect();
                let at = self.sent;
                self.acknowledging
                    .extend(settled.into_iter().map(|(_, key)| (at, key)));
            }
            6..=7 => {
                let Some((tag, key)) = self.held.remove(count - 1) else {
                    return;
                };
                self.send(|out| {
                    BasicAck {
                        delivery_tag: tag,
                        multiple: false,
                    }
                    .encode_frame(CHANNEL, out);
                });
                self.acknowledging.push_back((self.sent, key));
            }
            8 => {
                let (tag, _) = self.held[count - 1];
                self.send(|out| {
                    BasicNack {
                        delivery_tag: tag,
                        multiple: true,
                        requeue: true,
                    }
                    .encode_frame(CHANNEL, out);
                });
                self.held.drain(..count);
            }
            _ => {
                let Some((tag, _)) = self.held.remove(count - 1) else {
                    return;
                };
                self.send(|out| {
                    BasicReject {
                        delivery_tag: tag,
                        requeue: true,
                    }
                    .encode_frame(CHANNEL, out);
                });
            }
        }
    }
}

fn filling(key: MessageKey, at: usize) -> u8 {
    (key.seq as u8)
        .wrapping_mul(31)
        .wrapping_add(at as u8)
        .wrapping_add(key.queue as u8)
}

fn write_body(key: MessageKey, bytes: usize) -> Vec<u8> {
    let mut body = Vec::with_capacity(ID_BYTES + bytes);
    body.extend_from_slice(&key.queue.to_le_bytes());
    body.extend_from_slice(&key.publisher.to_le_bytes());
    body.extend_from_slice(&key.seq.to_le_bytes());
    body.extend((0..bytes).map(|at| filling(key, at)));
    body
}

/// The id in a body, and whether the rest is what belongs to it.
fn read_body(body: &[u8]) -> Option<(MessageKey, bool)> {
    let (id, rest) = body.split_first_chunk::<ID_BYTES>()?;
    let number = |at: usize| u32::from_le_bytes([id[at], id[at + 1], id[at + 2], id[at + 3]]);
    let seq = u64::from(number(8)) | u64::from(number(12)) << 32;
    let key = MessageKey {
        queue: number(0),
        publisher: number(4),
        seq,
    };
    let whole = rest
        .iter()
        .enumerate()
        .all(|(at, byte)| *byte == filling(key, at));
    Some((key, whole))
}
