//! A node in one thread, with a disk in memory, one publisher with confirms and one consumer:
//! each round publishes a batch and takes it out again, and says how long each stage took.
//!
//! The state is the same after every round, so rounds can be repeated for ever.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant as Clock};

use bytes::BytesMut;
use warren_broker_core::ids::SessionId;
use warren_broker_core::session::SessionOptions;
use warren_cluster_core::ids::{self, Instant, NodeId, Now, Time};
use warren_cluster_core::inbox::Input;
use warren_cluster_core::lane;
use warren_cluster_core::log::sim::SimDisk;
use warren_protocol::methods::{
    BasicConsume, ChannelOpen, ConfirmSelect, ConnectionOpen, ConnectionStartOk, ConnectionTuneOk,
    QueueDeclare,
};
use warren_protocol::{LongStr, ShortStr, Table, limits, preamble};
use warren_sim::node::{Life, Node, Options};
use warren_sim::trace::Trace;

use crate::{BATCH, publishes};

const QUEUE: &str = "q";

/// How long the stages of a round took.
#[derive(Clone, Copy, Default, Debug)]
pub struct Stages {
    /// The publisher's turn: bytes to batches.
    pub publish: Duration,
    /// The lane's steps, until the messages are stored and handed out; not the disk's work.
    pub lane: Duration,
    /// The consumer's turn: deliveries to bytes, and the settles of an automatic acknowledgement.
    pub deliver: Duration,
    /// The publisher's turn with the outcomes: confirms to bytes.
    pub confirm: Duration,
}

/// The node and its clients.
pub struct Stand {
    node: Node,
    disk: SimDisk,
    trace: Trace,
    now: Instant,
    publisher: SessionId,
    consumer: SessionId,
    publishes: BytesMut,
    body_bytes: usize,
    written: BytesMut,
}

impl Stand {
    /// A node that serves, with a queue that is logged or not; messages have `body_bytes`.
    ///
    /// # Panics
    /// When the node does not come up.
    #[must_use]
    pub fn new(durable: bool, body_bytes: usize) -> Self {
        let options = Options {
            lane: lane::Options {
                segment_bytes: 4 << 20,
                ..lane::Options::new(NodeId(1), ids::Life(1), 1)
            },
            session: Arc::new(SessionOptions::default()),
            founds: true,
            replica: None,
        };
        let mut disk = SimDisk::new(1);
        let node = Node::start(options, &mut disk, 1).expect("a new disk");
        let mut stand = Self {
            node,
            disk,
            trace: Trace::new(false),
            now: Instant(1_000_000),
            publisher: SessionId(0),
            consumer: SessionId(0),
            publishes: publishes("", QUEUE, body_bytes),
            body_bytes,
            written: BytesMut::new(),
        };
        while stand.node.life() != Life::Serving {
            stand.drain_lane();
        }
        stand.publisher = stand.connect();
        stand.consumer = stand.connect();
        let mut out = BytesMut::new();
        declare(durable, &mut out);
        ConfirmSelect { nowait: false }.encode_frame(1, &mut out);
        stand.say(stand.publisher, &out);
        out.clear();
        consume(&mut out);
        stand.say(stand.consumer, &out);
        stand.round();
        stand
    }

    fn connect(&mut self) -> SessionId {
        let id = self.node.open_session(self.now, 1);
        let mut out = BytesMut::new();
        handshake(&mut out);
        self.say(id, &out);
        id
    }

    /// Hands bytes in and waits until everything that they set off has happened.
    fn say(&mut self, id: SessionId, bytes: &[u8]) {
        self.node.receive(id, bytes);
        for _ in 0..20 {
            self.node.turn(id, self.now, usize::MAX);
            self.drain_lane();
            self.node.turn(id, self.now, usize::MAX);
            self.write(id);
        }
    }

    fn drain_lane(&mut self) {
        loop {
            // Whatever waits for company or time gets it.
            self.now = self.now.plus_millis(10);
            self.step();
            let mut completed = false;
            while let Some(completion) = self.disk.complete_one() {
                self.node.push(Input::Disk(completion));
                completed = true;
            }
            if !completed && !self.node.wants_step {
                return;
            }
        }
    }

    // Counted by their names: equal functions would be made one.
    #[inline(never)]
    fn publish(&mut self) {
        black_box("publish");
        self.node.turn(self.publisher, self.now, usize::MAX);
    }

    #[inline(never)]
    fn confirm(&mut self) {
        black_box("confirm");
        self.node.turn(self.publisher, self.now, usize::MAX);
    }

    #[inline(never)]
    fn deliver(&mut self) {
        self.node.turn(self.consumer, self.now, usize::MAX);
    }

    #[inline(never)]
    fn step(&mut self) {
        let now = Now {
            mono: self.now,
            wall: Time(1_700_000_000_000 + self.now.0 / 1000),
        };
        self.node
            .step(now, &mut self.disk, &mut self.trace)
            .expect("a lane that lives");
    }

    /// Steps until the lane has no work; gives the time that its steps took, without the disk's.
    /// The node's clock stands still: nothing that only waits is driven on.
    fn run_lane(&mut self) -> Duration {
        let mut spent = Duration::ZERO;
        loop {
            let begun = Clock::now();
            self.step();
            spent += begun.elapsed();
            if self.disk.waiting().is_empty() && !self.node.wants_step {
                return spent;
            }
            while let Some(completion) = self.disk.complete_one() {
                self.node.push(Input::Disk(completion));
            }
        }
    }

    fn write(&mut self, id: SessionId) {
        self.written.clear();
        loop {
            let before = self.written.len();
            self.node.take_bytes(id, usize::MAX, &mut self.written);
            if self.written.len() == before {
                return;
            }
        }
    }

    /// Publishes a batch, stores it, delivers and settles it, confirms it.
    ///
    /// # Panics
    /// When a message is missing: what was measured would not be what it says.
    pub fn round(&mut self) -> Stages {
        let mut stages = Stages::default();
        self.node.receive(self.publisher, &self.publishes);
        let begun = Clock::now();
        self.publish();
        stages.publish = begun.elapsed();

        stages.lane = self.run_lane();

        let begun = Clock::now();
        self.confirm();
        stages.confirm = begun.elapsed();
        self.write(self.publisher);

        let begun = Clock::now();
        self.deliver();
        stages.deliver = begun.elapsed();
        self.write(self.consumer);
        let delivered = self.written.len();
        assert!(delivered >= BATCH * self.body_bytes, "all are delivered");

        // Credit and settles, outside of all stages: in a busy node they ride with the next batch.
        self.node.turn(self.consumer, self.now, usize::MAX);
        self.drain_lane();
        stages
    }
}

fn handshake(out: &mut BytesMut) {
    out.extend_from_slice(&preamble::PROTOCOL_HEADER);
    let start_ok = ConnectionStartOk {
        client_properties: Table::from_raw(&[]),
        mechanism: ShortStr::truncated("PLAIN"),
        response: LongStr(b"\0guest\0guest"),
        locale: ShortStr::truncated("en_US"),
    };
    start_ok.encode_frame(0, out);
    let tune_ok = ConnectionTuneOk {
        channel_max: 8,
        frame_max: limits::FRAME_MAX_BYTES_DEFAULT,
        heartbeat: 0,
    };
    tune_ok.encode_frame(0, out);
    let virtual_host = ShortStr::truncated("/");
    ConnectionOpen { virtual_host }.encode_frame(0, out);
    ChannelOpen.encode_frame(1, out);
}

fn declare(durable: bool, out: &mut BytesMut) {
    let declare = QueueDeclare {
        queue: ShortStr::truncated(QUEUE),
        passive: false,
        durable,
        exclusive: false,
        auto_delete: false,
        nowait: false,
        arguments: Table::from_raw(&[]),
    };
    declare.encode_frame(1, out);
}

fn consume(out: &mut BytesMut) {
    let consume = BasicConsume {
        queue: ShortStr::truncated(QUEUE),
        consumer_tag: ShortStr::truncated("c"),
        no_local: false,
        no_ack: true,
        exclusive: false,
        nowait: false,
        arguments: Table::from_raw(&[]),
    };
    consume.encode_frame(1, out);
}
