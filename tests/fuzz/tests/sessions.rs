//! Clients that send anything at all to a whole node: after a valid handshake, methods in any
//! order with any arguments, damaged frames, bare bytes, and sockets that go at any moment.
//!
//! Whatever they do: the node goes on, says only well-formed frames, has nothing left of a client
//! that is gone, and starts again on what its disk holds.

use bytes::BytesMut;
use std::sync::Arc;
use warren_broker_core::ids::SessionId;
use warren_broker_core::session::SessionOptions;
use warren_cluster_core::ids::{self, Instant, NodeId, Now, Time};
use warren_cluster_core::inbox::Input;
use warren_cluster_core::lane;
use warren_cluster_core::log::sim::SimDisk;
use warren_fuzz::bytes_up_to;
use warren_protocol::{FrameKind, Method, frame, limits};
use warren_sim::node::{Life, Node, Options};
use warren_sim::trace::Trace;

mod methods;

/// Long enough for any node that is well to come to rest, each 20 ms apart.
const ROUNDS_MAX: usize = 2_000;

/// What is left of the input; zeros behind its end.
struct Choices<'a>(&'a [u8]);

impl<'a> Choices<'a> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    fn below(&mut self, end: usize) -> usize {
        usize::from(self.byte()) % end
    }

    fn flag(&mut self) -> bool {
        self.byte() & 1 != 0
    }

    fn bytes(&mut self) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(usize::from(self.byte()).min(self.0.len()));
        self.0 = rest;
        taken
    }
}

/// A node and its clients.
struct World {
    node: Node,
    disk: SimDisk,
    trace: Trace,
    now: Instant,
    clients: Vec<(SessionId, BytesMut)>,
    connected: u64,
}

impl World {
    fn new() -> Self {
        let mut disk = SimDisk::new(1);
        let mut world = Self {
            node: Node::start(options(), &mut disk, 1).expect("a new disk"),
            disk,
            trace: Trace::new(false),
            now: Instant(1_000_000),
            clients: Vec::new(),
            connected: 0,
        };
        world.until(|node| node.life() == Life::Serving);
        for _ in 0..2 {
            world.connect();
        }
        world
    }

    fn connect(&mut self) {
        self.connected += 1;
        let id = self.node.open_session(self.now, self.connected);
        self.clients.push((id, BytesMut::new()));
        let mut out = BytesMut::new();
        methods::handshake(&mut out);
        self.send(self.clients.len() - 1, &out);
    }

    /// Takes bytes for a client and reads them as a client would; what is closed it opens again.
    fn listen(&mut self, client: usize, count: usize) {
        let mut answers = BytesMut::new();
        let (id, heard) = &mut self.clients[client];
        self.node.take_bytes(*id, count, heard);
        while let Some((frame, used)) =
            frame::parse(heard, limits::FRAME_MAX_BYTES_DEFAULT).expect("well-formed")
        {
            if frame.kind == FrameKind::Method {
                let method = Method::parse(frame.payload).expect("a method");
                methods::answer(&method, frame.channel, &mut answers);
            }
            let _ = heard.split_to(used);
        }
        self.node.receive(*id, &answers);
    }

    fn send(&mut self, client: usize, bytes: &[u8]) {
        let (id, _) = self.clients[client];
        self.node.receive(id, bytes);
        self.turn(client, 0);
    }

    fn turn(&mut self, client: usize, events_max: usize) {
        let (id, _) = self.clients[client];
        self.node.turn(id, self.now, events_max);
    }

    fn step(&mut self) {
        let now = Now {
            mono: self.now,
            wall: Time(1_700_000_000_000 + self.now.0 / 1000),
        };
        self.node
            .step(now, &mut self.disk, &mut self.trace)
            .expect("the lane lives");
    }

    fn complete(&mut self) -> bool {
        let completion = self.disk.complete_one();
        let is_one = completion.is_some();
        self.node.push(completion.map_or(Input::Tick, Input::Disk));
        is_one
    }

    /// Everybody does what they can until it `is_done`.
    fn until(&mut self, is_done: impl Fn(&Node) -> bool) {
        for _ in 0..ROUNDS_MAX {
            if is_done(&self.node) {
                return;
            }
            self.now = self.now.plus_millis(20);
            self.round();
        }
        panic!("no rest: {}", self.node.state());
    }

    /// Everybody gets a turn.
    fn round(&mut self) {
        while self.complete() {}
        self.step();
        while self.node.do_chores(self.now) {}
        for id in self.node.sessions() {
            self.node.turn(id, self.now, usize::MAX);
        }
        for client in 0..self.clients.len() {
            self.listen(client, usize::MAX);
        }
    }

    fn act(&mut self, choices: &mut Choices<'_>) {
        let client = choices.below(self.clients.len());
        match choices.below(32) {
            0 | 1 => self.step(),
            2 => drop(self.complete()),
            3 => self.turn(client, choices.below(16)),
            4 => self.listen(client, 1 << choices.below(20)),
            5 => self.now = self.now.plus_millis(1 << choices.below(14)),
            6 => self.node.alarm(choices.flag().then_some("low on memory")),
            7 => self.send(client, choices.bytes()),
            8 => {
                let (id, _) = self.clients.swap_remove(client);
                self.node.disconnect(id, self.now);
                self.connect();
            }
            9 => drop(self.node.do_chores(self.now)),
            10 => {
                let mut out = BytesMut::new();
                methods::any(choices, &mut out);
                if let Some(byte) = out.get_mut(usize::from(choices.byte())) {
                    *byte ^= choices.byte();
                }
                self.send(client, &out);
            }
            _ => {
                let mut out = BytesMut::new();
                methods::any(choices, &mut out);
                self.send(client, &out);
            }
        }
        if choices.below(4) != 0 {
            self.round();
        }
        let client = client.min(self.clients.len() - 1);
        let (id, _) = self.clients[client];
        if self.node.has_closed(id) {
            self.clients.swap_remove(client);
            self.node.disconnect(id, self.now);
            self.connect();
        }
    }

    /// All clients go; the node stops and starts again.
    fn end(mut self) {
        self.node.alarm(None);
        for (id, _) in std::mem::take(&mut self.clients) {
            self.node.disconnect(id, self.now);
        }
        self.until(|node| node.is_idle() && node.sessions().is_empty());
        self.node.stop();
        self.until(|node| node.life() == Life::Stopped);
        Node::start(options(), &mut self.disk, 2).expect("what it wrote");
    }
}

fn options() -> Options {
    let session = SessionOptions {
        // Small enough that a few hundred bytes reach them.
        in_flight_bytes_max: 4096,
        held_bytes_max: 1024,
        content_bytes_max: 8192,
        transaction_bytes_max: 2048,
        outbox_bytes: 1024,
        ..SessionOptions::default()
    };
    Options {
        lane: lane::Options {
            segment_bytes: 64 << 10,
            checkpoint_bytes_min: 16 << 10,
            last_checkpoint_bytes_min: 1,
            ..lane::Options::new(NodeId(1), ids::Life(1), 2)
        },
        session: Arc::new(session),
        founds: true,
        replica: None,
    }
}

#[test]
fn sessions() {
    let input = bytes_up_to(4000);
    bolero::check!()
        .with_generator(input)
        .for_each(|bytes: &Vec<u8>| {
            let mut choices = Choices(bytes);
            let mut world = World::new();
            while !choices.0.is_empty() {
                world.act(&mut choices);
            }
            world.end();
        });
}
