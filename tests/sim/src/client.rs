//! A client that speaks bytes: it declares the queues, then publishes or consumes.
//!
//! What it may rely on it reports to the checker at the moment when a real application could:
//! a publish when its bytes leave, a confirm when it is read, an acknowledgement when the broker
//! has read it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::BytesMut;
use warren_protocol::methods::{
    BasicConsume, BasicQos, ChannelCloseOk, ChannelOpen, ConfirmSelect, ConnectionCloseOk,
    ConnectionOpen, ConnectionStartOk, ConnectionTuneOk, QueueBind, QueueDeclare,
};
use warren_protocol::{
    ContentHeader, FrameKind, LongStr, Method, ReplyCode, ShortStr, Table, frame, preamble,
};

use crate::body;
use crate::checker::{Checker, MessageKey};
use crate::rng::Rng;

mod act;
mod caller;
mod churn;
mod fleeting;

const CHANNEL: u16 = 1;
const FRAME_MAX: u32 = 131_072;
/// The queue in the id of a message that was published to all queues at once.
const ALL_QUEUES: u32 = u32::MAX;
const FANOUT: &str = "amq.fanout";

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

/// What a client is for. Ids are new at each connection.
#[derive(Clone, Copy, Debug)]
pub enum Role {
    /// Publishes to all queues.
    Publisher { id: u32 },
    /// Consumes one queue.
    Consumer {
        queue: QueueSpec,
        id: u64,
        auto_ack: bool,
        prefetch: u16,
    },
    /// Fetches single messages from one queue, with acknowledgements.
    Getter { queue: QueueSpec, id: u64 },
    /// Asks what is left in the queues.
    Inspector,
    /// Declares and deletes queues of its own. The id stays: names are made of it.
    Churner { id: u32 },
    /// Uses an auto-delete queue of its own. The id stays.
    Fleeting { id: u32 },
    /// Has an exclusive queue that others publish to.
    Caller,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Handshake,
    /// Declaring the queue with this index.
    Declaring(usize),
    /// Binding it to the fanout exchange.
    Binding(usize),
    Preparing,
    Ready,
    /// Has done all that it was for.
    Idle,
    Closed,
}

/// The delivery whose content is on its way.
#[derive(Clone, Copy, Debug)]
struct Delivering {
    tag: u64,
    redelivered: bool,
    size: Option<u64>,
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
    /// By the number of the publish; one key for each queue that it goes to.
    unconfirmed: BTreeMap<u64, Vec<MessageKey>>,
    /// Of these the ones that went to all queues, known to this client or not.
    to_all: BTreeSet<u64>,
    publish_number: u64,
    delivering: Option<Delivering>,
    body: Vec<u8>,
    held: VecDeque<(u64, MessageKey)>,
    /// Acknowledged when the broker has read up to this byte.
    acknowledging: VecDeque<(u64, MessageKey)>,
    churn: churn::Churn,
    calls: caller::Calls,
    /// What an inspector was told: queue, messages that are ready, consumers.
    counts: Vec<(u32, u32, u32)>,
    /// Only acknowledge and take: the end of the run.
    pub draining: bool,
    /// Its node has heard of all that was declared anywhere.
    pub trusting: bool,
    /// It declares nothing: others were told that all its queues are there and bound.
    pub hasty: bool,
    /// Queues that others may have bound: they get what is for all.
    pub others: Vec<QueueSpec>,
    /// Others may take away what it uses alone: the node that it was on may have been ruled out.
    pub lenient: bool,
    /// The node that it is connected to, where there are several.
    pub node: u64,
    /// A `basic.get` was not answered.
    getting: bool,
}

impl Client {
    #[must_use]
    pub fn new(role: Role, queues: Vec<QueueSpec>, rng: Rng) -> Self {
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
            to_all: BTreeSet::new(),
            publish_number: 0,
            delivering: None,
            body: Vec::new(),
            held: VecDeque::new(),
            acknowledging: VecDeque::new(),
            churn: churn::Churn::default(),
            calls: caller::Calls::default(),
            counts: Vec::new(),
            draining: false,
            trusting: true,
            hasty: false,
            others: Vec::new(),
            lenient: false,
            node: 0,
            getting: false,
        };
        client.send(|out| out.extend_from_slice(&preamble::PROTOCOL_HEADER));
        client
    }

    #[must_use]
    pub fn role(&self) -> Role {
        self.role
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
        matches!(self.stage, Stage::Ready | Stage::Idle)
            && self.to_broker.is_empty()
            && self.unconfirmed.is_empty()
            && self.held.is_empty()
            && self.acknowledging.is_empty()
            && self.churn.is_quiet()
            && self.calls.is_quiet()
            && !self.getting
    }

    /// Asked for something that was not answered.
    #[must_use]
    pub fn is_churning(&self) -> bool {
        !self.churn.is_quiet()
    }

    /// The id under which it gets messages, if it does.
    #[must_use]
    pub fn consumer(&self) -> Option<u64> {
        match self.role {
            Role::Consumer { id, .. } | Role::Getter { id, .. } => Some(id),
            _ => None,
        }
    }

    fn release(&self, key: MessageKey, checker: &mut Checker) {
        if let Some(id) = self.consumer() {
            checker.released(id, key);
        }
    }

    /// Where it stands, for a person.
    #[must_use]
    pub fn state(&self) -> String {
        format!(
            "is {:?}, {} unconfirmed, {} held, {} bytes unsent, {} acknowledgements unread",
            self.stage,
            self.unconfirmed.len(),
            self.held.len(),
            self.to_broker.len(),
            self.acknowledging.len()
        )
    }

    /// What an inspector was told: queue, messages that are ready, consumers.
    #[must_use]
    pub fn counts(&self) -> &[(u32, u32, u32)] {
        &self.counts
    }

    fn send(&mut self, write: impl FnOnce(&mut BytesMut)) {
        let before = self.to_broker.len();
        write(&mut self.to_broker);
        self.sent += (self.to_broker.len() - before) as u64;
    }

    /// The broker has read `count` more bytes, and does what they say unless it `closes` the
    /// connection.
    pub fn broker_read(&mut self, count: usize, closes: bool, checker: &mut Checker) {
        self.read += count as u64;
        while let Some((at, key)) = self.acknowledging.front().copied() {
            if at > self.read {
                break;
            }
            self.acknowledging.pop_front();
            if closes {
                checker.acknowledged_in_vain(key);
            } else {
                checker.acknowledged(key);
            }
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
                    delivering.size = Some(size);
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
            Method::ConnectionClose(close) => {
                // A change of definitions whose outcome its node has not heard of.
                let unknown = self.lenient && close.reply_code == ReplyCode::InternalError.code();
                checker.unavailable += u64::from(unknown);
                if !unknown && close.reply_code != ReplyCode::ConnectionForced.code() {
                    checker.violate("wire", format!("connection closed: {close:?}"));
                }
                self.send(|out| ConnectionCloseOk.encode_frame(0, out));
                self.stage = Stage::Closed;
                self.hang_up(checker);
            }
            Method::ConnectionOpenOk(_) => self.send(|out| ChannelOpen.encode_frame(CHANNEL, out)),
            method => match self.role {
                Role::Churner { id } => self.churned(id, method, checker),
                Role::Fleeting { id } => {
                    if !self.fleeted(id, method, checker) {
                        self.answered(method, checker);
                    }
                }
                Role::Caller => {
                    if !self.called(method, checker) {
                        self.answered(method, checker);
                    }
                }
                _ => self.answered(method, checker),
            },
        }
    }

    /// What the broker says on the channel of a client that works with the common queues.
    fn answered(&mut self, method: &Method<'_>, checker: &mut Checker) {
        match method {
            Method::ChannelOpenOk(_) if self.hasty => {
                self.go_on_declaring(self.queues.len(), checker);
            }
            Method::ChannelOpenOk(_) => self.declare(0, checker),
            Method::QueueDeclareOk(ok) => {
                self.declared(ok.message_count, ok.consumer_count, checker);
            }
            Method::QueueBindOk(_) => self.bound(checker),
            Method::ConfirmSelectOk(_) | Method::BasicConsumeOk(_) => self.stage = Stage::Ready,
            Method::BasicDeliver(deliver) => {
                self.begin_delivery(deliver.delivery_tag, deliver.redelivered);
            }
            Method::BasicGetOk(ok) => self.begin_delivery(ok.delivery_tag, ok.redelivered),
            Method::BasicGetEmpty(_) => self.getting = false,
            Method::BasicAck(ack) => self.confirm(ack.delivery_tag, ack.multiple, true, checker),
            Method::BasicNack(nack) => {
                self.confirm(nack.delivery_tag, nack.multiple, false, checker);
            }
            Method::BasicReturn(_) | Method::BasicCancel(_) => {
                checker.violate("declared-is-declared", format!("{method:?}"));
            }
            Method::ChannelClose(close) => {
                let excused = self.lenient && matches!(self.role, Role::Fleeting { .. });
                if excused && close.reply_code == ReplyCode::NotFound.code() {
                    self.stage = Stage::Preparing;
                    self.send(|out| {
                        ChannelCloseOk.encode_frame(CHANNEL, out);
                        ChannelOpen.encode_frame(CHANNEL, out);
                    });
                    return;
                }
                checker.violate("wire", format!("channel closed: {close:?}"));
                self.stage = Stage::Closed;
            }
            _ => {}
        }
    }

    fn declare(&mut self, index: usize, checker: &Checker) {
        self.stage = Stage::Declaring(index);
        let queue = self.queues[index];
        let name = queue.name();
        let is_known = checker.is_declared(queue.number);
        let inspects = matches!(self.role, Role::Inspector);
        let passive = inspects || (is_known && self.trusting && self.rng.permille(500));
        self.send(|out| {
            QueueDeclare {
                queue: ShortStr::truncated(&name),
                passive,
                durable: queue.durable,
                exclusive: false,
                auto_delete: false,
                nowait: false,
                arguments: Table::from_raw(&[]),
            }
            .encode_frame(CHANNEL, out);
        });
    }

    fn declared(&mut self, messages: u32, consumers: u32, checker: &mut Checker) {
        let Stage::Declaring(index) = self.stage else {
            return;
        };
        let queue = self.queues[index];
        checker.declared(queue.number, !queue.durable);
        if matches!(self.role, Role::Inspector) {
            self.counts.push((queue.number, messages, consumers));
            self.go_on_declaring(index + 1, checker);
            return;
        }
        self.stage = Stage::Binding(index);
        checker.binds(queue.number);
        self.send(|out| {
            QueueBind {
                queue: ShortStr::truncated(&queue.name()),
                exchange: ShortStr::truncated(FANOUT),
                routing_key: ShortStr::EMPTY,
                nowait: false,
                arguments: Table::from_raw(&[]),
            }
            .encode_frame(CHANNEL, out);
        });
    }

    fn bound(&mut self, checker: &mut Checker) {
        if let Stage::Binding(index) = self.stage {
            checker.bound(self.queues[index].number);
            self.go_on_declaring(index + 1, checker);
        }
    }

    fn go_on_declaring(&mut self, next: usize, checker: &Checker) {
        if next < self.queues.len() {
            self.declare(next, checker);
            return;
        }
        self.stage = Stage::Preparing;
        match self.role {
            Role::Inspector
            | Role::Churner { .. }
            | Role::Fleeting { .. }
            | Role::Caller
            | Role::Getter { .. } => {
                self.stage = Stage::Ready;
            }
            Role::Publisher { .. } => {
                self.send(|out| ConfirmSelect { nowait: false }.encode_frame(CHANNEL, out));
            }
            Role::Consumer {
                queue,
                auto_ack,
                prefetch,
                ..
            } => self.send(|out| consume(queue, auto_ack, prefetch, out)),
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
            let Some(keys) = self.unconfirmed.remove(&tag) else {
                continue;
            };
            // Of one that went to all queues any may have refused it.
            let to_all = keys.len() > 1 || self.to_all.remove(&tag);
            let known = stored || !to_all;
            for key in keys {
                match (known, stored) {
                    (true, true) => checker.confirmed(key),
                    (true, false) => checker.refused(key),
                    // Some queue has refused it, others may have it.
                    (false, _) => {}
                }
            }
        }
    }

    fn begin_delivery(&mut self, tag: u64, redelivered: bool) {
        self.delivering = Some(Delivering {
            tag,
            redelivered,
            size: None,
        });
        self.body.clear();
    }

    fn finish_delivery(&mut self, checker: &mut Checker) {
        let Some(delivering) = self.delivering else {
            return;
        };
        if delivering.size != Some(self.body.len() as u64) {
            return;
        }
        self.delivering = None;
        self.getting = false;
        let (id, auto_ack, queue) = match self.role {
            Role::Consumer {
                id,
                auto_ack,
                queue,
                ..
            } => (id, auto_ack, queue),
            Role::Getter { id, queue } => (id, false, queue),
            _ => return,
        };
        let Some((mut key, mut whole)) = body::read(&self.body) else {
            checker.violate("no-ghosts", "a body without an id was delivered".to_owned());
            return;
        };
        if key.queue == ALL_QUEUES {
            key.queue = queue.number;
        }
        whole &= key.queue == queue.number;
        checker.delivered(id, key, delivering.redelivered, whole);
        if auto_ack {
            checker.released(id, key);
            checker.acknowledged(key);
        } else {
            self.held.push_back((delivering.tag, key));
        }
    }
}

fn consume(queue: QueueSpec, auto_ack: bool, prefetch: u16, out: &mut BytesMut) {
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
}
