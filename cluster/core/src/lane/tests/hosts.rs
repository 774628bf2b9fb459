//! Lanes that tell each other of their unlogged rows and use each other's unlogged queues, over a
//! network that loses what it is told to lose.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

use super::double::{Ask, Double, Told, put};
use crate::batch::Outcome;
use crate::consensus::TICK_MILLIS;
use crate::ids::{Life, NodeId, Now, ShardId, Time};
use crate::inbox::{Input, Outputs};
use crate::lane::{Lane, Options};
use crate::link::{self, Class, Parcel};
use crate::log::sim::SimDisk;
use crate::rows::{Committed, RowKey, Transaction, WaitFor, Write};

/// A node, its lane while it runs, and what its watcher has seen of unlogged rows.
pub(super) struct Node {
    id: NodeId,
    disk: SimDisk,
    life: u64,
    pub(super) lane: Option<Lane<Double, u32>>,
    inputs: VecDeque<Input<Ask, u32>>,
    outputs: Outputs<Told, u32>,
    rows: BTreeMap<RowKey, Bytes>,
}

pub(super) struct Net {
    pub(super) nodes: Vec<Node>,
    linked: BTreeSet<(usize, usize)>,
    random: u64,
    /// Of 100.
    pub(super) lost: u64,
    /// How many messages replicas sent.
    pub(super) messages: BTreeMap<ShardId, u64>,
    /// How many entries they sent to each node.
    pub(super) entries: BTreeMap<(ShardId, usize), usize>,
    /// All but control messages to this node wait until [`Net::let_pass`].
    pub(super) held_up: Option<usize>,
    waiting: VecDeque<Input<Ask, u32>>,
    pub(super) now: Now,
    /// Those that have a replica of all that is logged.
    founders: Vec<NodeId>,
}

fn key(number: u64) -> RowKey {
    RowKey {
        kind: 7,
        key: Bytes::copy_from_slice(&number.to_be_bytes()),
    }
}

impl Net {
    /// That many nodes, which have nothing but what is not logged.
    fn new(nodes: u64, random: u64) -> Self {
        Self::founded_by(Vec::new(), nodes, random)
    }

    fn founded_by(founders: Vec<NodeId>, nodes: u64, random: u64) -> Self {
        let node = |id| Node {
            id: NodeId(id),
            disk: SimDisk::new(id),
            life: 0,
            lane: None,
            inputs: VecDeque::new(),
            outputs: Outputs::default(),
            rows: BTreeMap::new(),
        };
        let mut net = Self {
            nodes: (1..=nodes).map(node).collect(),
            linked: BTreeSet::new(),
            random,
            lost: 0,
            messages: BTreeMap::new(),
            entries: BTreeMap::new(),
            held_up: None,
            waiting: VecDeque::new(),
            now: Now {
                wall: Time(1_000_000),
                ..Now::default()
            },
            founders,
        };
        (0..net.nodes.len()).for_each(|at| net.start(at));
        net
    }

    /// Three nodes that have a replica of everything, after five seconds; and which of them leads
    /// the shard.
    pub(super) fn of_three(shard: ShardId) -> (Self, usize) {
        let founders = vec![NodeId(1), NodeId(2), NodeId(3)];
        let mut net = Self::founded_by(founders, 3, 1);
        for (a, b) in [(0, 1), (0, 2), (1, 2)] {
            net.link(a, b);
        }
        net.pass(5_000);
        let status = net.lane(0).status(shard);
        let leader = status.and_then(|it| it.leader).expect("somebody leads");
        (net, (leader.1.0 - 1) as usize)
    }

    pub(super) fn lane(&self, at: usize) -> &Lane<Double, u32> {
        self.nodes[at].lane.as_ref().expect("started")
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % bound
    }

    fn start(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        node.life += 1;
        let founds = self.founders.contains(&node.id);
        let options = Options {
            founders: self.founders.iter().copied().filter(|_| founds).collect(),
            ..Options::new(node.id, Life(node.life), 1)
        };
        let lane = Lane::recover(options, &mut node.disk, |_| Double::default());
        node.lane = Some(lane.expect("what it wrote it reads"));
        node.rows.clear();
        self.run();
    }

    fn crash(&mut self, at: usize) {
        for other in 0..self.nodes.len() {
            self.unlink(at, other);
        }
        let node = &mut self.nodes[at];
        node.lane = None;
        node.disk.crash();
        node.inputs.clear();
        node.outputs = Outputs::default();
    }

    pub(super) fn link(&mut self, a: usize, b: usize) {
        for (from, to) in [(a, b), (b, a)] {
            if self.linked.insert((from, to)) {
                let node = self.nodes[to].id;
                self.nodes[from].inputs.push_back(Input::Connected { node });
            }
        }
        self.run();
    }

    pub(super) fn unlink(&mut self, a: usize, b: usize) {
        for (from, to) in [(a, b), (b, a)] {
            if self.linked.remove(&(from, to)) {
                let node = self.nodes[to].id;
                let lost = Input::Disconnected { node };
                self.nodes[from].inputs.push_back(lost);
            }
        }
        self.run();
    }

    /// Steps all until nothing moves.
    fn run(&mut self) {
        super::rest(|| {
            let mut moves = false;
            for at in 0..self.nodes.len() {
                moves |= self.step(at);
            }
            moves
        });
    }

    fn step(&mut self, at: usize) -> bool {
        let (now, node) = (self.now, &mut self.nodes[at]);
        let Some(lane) = &mut node.lane else {
            node.inputs.clear();
            return false;
        };
        let (inputs, outputs) = (&mut node.inputs, &mut node.outputs);
        let more = super::step(lane, now, inputs, outputs, &mut node.disk);
        while let Some(completion) = node.disk.complete_one() {
            node.inputs.push_back(Input::Disk(completion));
        }
        for (shard, changes) in node.outputs.changes.drain(..) {
            for change in changes {
                if shard == ShardId::LOCAL_DEFINITIONS {
                    match change.value {
                        Some(value) => node.rows.insert(change.row, value),
                        None => node.rows.remove(&change.row),
                    };
                }
            }
        }
        node.outputs.roles.clear();
        let mail = std::mem::take(&mut node.outputs.mail);
        let from = node.id;
        let sent = !mail.is_empty();
        for envelope in mail {
            let (to, class) = ((envelope.to.0 - 1) as usize, envelope.class);
            let envelope = Bytes::from(envelope.parts.concat());
            for (shard, parcel) in link::open(&envelope).expect("its own") {
                if let Parcel::Raft(message) = parcel {
                    *self.messages.entry(shard).or_default() += 1;
                    *self.entries.entry((shard, to)).or_default() += message.entries_count();
                }
            }
            if self.below(100) < self.lost || !self.linked.contains(&(at, to)) {
                continue;
            }
            let at = now.mono;
            let received = Input::Received { from, envelope, at };
            if self.held_up == Some(to) && class != Class::Control {
                self.waiting.push_back(received);
            } else {
                self.nodes[to].inputs.push_back(received);
            }
        }
        more || sent || !self.nodes[at].inputs.is_empty()
    }

    /// What waited arrives, and nothing waits any more.
    pub(super) fn let_pass(&mut self) {
        if let Some(to) = self.held_up.take() {
            self.nodes[to].inputs.append(&mut self.waiting);
        }
        self.run();
    }

    pub(super) fn pass(&mut self, millis: u64) {
        for _ in 0..millis.div_ceil(40) {
            self.now.mono = self.now.mono.plus_millis(40);
            self.now.wall.0 += 40;
            for node in &mut self.nodes {
                node.inputs.push_back(Input::Tick);
            }
            self.run();
        }
    }

    fn transact(&mut self, at: usize, ticket: impl Into<Option<u32>>, write: Write) {
        self.transact_in(ShardId::LOCAL_DEFINITIONS, at, ticket, write);
    }

    pub(super) fn transact_in(
        &mut self,
        shard: ShardId,
        at: usize,
        ticket: impl Into<Option<u32>>,
        write: Write,
    ) {
        self.write(shard, at, WaitFor::everywhere(ticket.into()), write);
    }

    fn write(&mut self, shard: ShardId, at: usize, wait: WaitFor<u32>, write: Write) {
        self.nodes[at].inputs.push_back(Input::Transact {
            shard,
            transaction: Transaction {
                preconditions: Vec::new(),
                writes: vec![write],
            },
            wait,
        });
    }

    /// A row that is answered for as soon as its node has it.
    fn put_here(&mut self, at: usize, ticket: u32, number: u64) {
        let (row, value) = (key(number), Bytes::from(vec![7; 100]));
        let (shard, put) = (ShardId::LOCAL_DEFINITIONS, Write::Put { row, value });
        self.write(shard, at, WaitFor::Here(ticket), put);
        self.run();
    }

    fn catch_up(&mut self, at: usize, with: usize, ticket: u32) {
        let node = self.nodes[with].id;
        let input = Input::CatchUp { node, ticket };
        self.nodes[at].inputs.push_back(input);
        self.run();
    }

    fn caught_up(&mut self, at: usize) -> Vec<u32> {
        std::mem::take(&mut self.nodes[at].outputs.caught_up)
    }

    fn put(&mut self, at: usize, ticket: u32, number: u64) {
        let (row, value) = (key(number), Bytes::from(vec![7; 100]));
        self.transact(at, ticket, Write::Put { row, value });
        self.run();
    }

    fn propose(&mut self, at: usize, host: usize, ticket: u32, values: &[u64]) {
        let shard = ShardId::queues_of(self.nodes[host].id);
        self.propose_to(shard, at, ticket, values);
    }

    pub(super) fn propose_to(&mut self, shard: ShardId, at: usize, ticket: u32, values: &[u64]) {
        let batch = put(values, 10);
        self.nodes[at].inputs.push_back(Input::Propose {
            shard,
            batch,
            ticket,
        });
        self.run();
    }

    fn values(&self, at: usize) -> Vec<u64> {
        let node = &self.nodes[at];
        let lane = node.lane.as_ref().expect("started");
        let machine = lane.machine(ShardId::queues_of(node.id));
        machine.expect("hosted").values()
    }

    pub(super) fn done(&mut self, at: usize) -> Vec<(u32, Outcome)> {
        std::mem::take(&mut self.nodes[at].outputs.done)
    }

    pub(super) fn committed(&mut self, at: usize) -> Vec<u32> {
        let committed = std::mem::take(&mut self.nodes[at].outputs.committed);
        let yes = |committed: &Option<Committed>| matches!(committed, Some(Committed::Yes { .. }));
        assert!(committed.iter().all(|(_, it)| yes(it)), "{committed:?}");
        committed.into_iter().map(|(ticket, _)| ticket).collect()
    }
}

#[test]
fn rows_are_seen_everywhere_before_their_change_is_answered() {
    let mut net = Net::new(3, 1);
    net.put(0, 1, 1);
    assert_eq!(net.committed(0), [1], "nobody else is there");
    for (a, b) in [(0, 1), (0, 2), (1, 2)] {
        net.link(a, b);
    }
    for at in 0..3 {
        assert!(net.nodes[at].rows.contains_key(&key(1)), "told at once");
    }
    net.put(0, 2, 2);
    assert_eq!(net.committed(0), [2]);
    assert!(net.nodes[2].rows.contains_key(&key(2)));
    let row = key(1);
    net.transact(0, 3, Write::Delete { row });
    net.run();
    assert_eq!(net.committed(0), [3]);
    assert!(!net.nodes[1].rows.contains_key(&key(1)));
}

#[test]
fn what_nobody_waits_for_is_told_with_what_is_waited_for_or_at_the_next_tick() {
    let mut net = Net::new(2, 1);
    net.link(0, 1);
    net.put(0, 1, 1);
    net.put(0, 2, 2);
    let delete = |number| Write::Delete { row: key(number) };
    let has = |net: &Net, number| net.nodes[1].rows.contains_key(&key(number));
    net.transact(0, None, delete(1));
    net.run();
    assert!(has(&net, 1), "it waits for company");
    net.put(0, 3, 3);
    assert!(!has(&net, 1) && has(&net, 3), "in order, at once");
    net.transact(0, None, delete(2));
    net.run();
    assert!(has(&net, 2));
    net.pass(2 * TICK_MILLIS);
    assert!(!has(&net, 2), "with the tick");
    assert_eq!(net.committed(0), [1, 2, 3], "nobody else is answered");
}

#[test]
fn what_is_answered_for_here_is_there_for_who_asks_and_else_with_the_next_tick() {
    let mut net = Net::new(3, 1);
    for (a, b) in [(0, 1), (0, 2), (1, 2)] {
        net.link(a, b);
    }
    let has = |net: &Net, at: usize, number| net.nodes[at].rows.contains_key(&key(number));
    net.put_here(0, 1, 1);
    assert_eq!(net.committed(0), [1]);
    assert!(!has(&net, 1, 1) && !has(&net, 2, 1), "no word of it yet");
    net.catch_up(1, 0, 7);
    assert_eq!(net.caught_up(1), [7]);
    assert!(has(&net, 1, 1), "it is there with the answer");
    net.put_here(0, 2, 2);
    net.pass(2 * TICK_MILLIS);
    assert!(has(&net, 1, 2) && has(&net, 2, 2), "with the tick");
    // Nothing new: an answer all the same.
    net.catch_up(2, 0, 8);
    assert_eq!(net.caught_up(2), [8]);
    assert_eq!(net.committed(0), [2]);
}

#[test]
fn who_asks_gets_all_that_there_was_whatever_is_lost() {
    let mut gave_up = 0;
    for seed in 0..200 {
        let mut net = Net::new(2, seed);
        net.link(0, 1);
        for number in 0..20 {
            net.lost = 0;
            net.pass(600);
            net.lost = 20;
            net.put_here(0, 1, number);
            let before = net.now.mono;
            net.catch_up(1, 0, number as u32);
            while net.caught_up(1).is_empty() {
                net.pass(40);
            }
            let in_time = net.now.mono < before.plus_millis(1_000);
            let there = net.nodes[1].rows.contains_key(&key(number));
            assert!(there || !in_time, "seed {seed}, row {number}");
            gave_up += u64::from(!there);
        }
    }
    assert!(
        gave_up < 1_000,
        "most get it in time: {gave_up} of 4,000 gave up"
    );
}

#[test]
fn nobody_waits_for_rows_of_a_node_that_is_not_heard_of() {
    let mut net = Net::new(2, 1);
    net.link(0, 1);
    net.pass(1_000);
    net.lost = 100;
    net.put_here(0, 1, 1);
    net.catch_up(1, 0, 7);
    net.pass(900);
    assert_eq!(net.caught_up(1), []);
    net.pass(200);
    assert_eq!(net.caught_up(1), [7], "for a second at most");
    net.catch_up(1, 0, 8);
    assert_eq!(net.caught_up(1), [8], "and not again");
    net.lost = 0;
    net.pass(2_000);
    net.lost = 100;
    net.catch_up(1, 0, 9);
    assert_eq!(net.caught_up(1), [], "it was heard of");
    net.unlink(0, 1);
    assert_eq!(net.caught_up(1), [9], "there is no way to it");
    net.catch_up(1, 0, 10);
    assert_eq!(net.caught_up(1), [10]);
}

#[test]
fn a_node_that_does_not_listen_is_waited_for_once() {
    let mut net = Net::new(2, 1);
    net.link(0, 1);
    net.lost = 100;
    net.put(0, 1, 1);
    net.pass(900);
    assert_eq!(net.committed(0), []);
    net.pass(200);
    assert_eq!(net.committed(0), [1], "for a second at most");
    net.put(0, 2, 2);
    assert_eq!(net.committed(0), [2], "and not again");
    net.lost = 0;
    net.pass(2_000);
    assert!(net.nodes[1].rows.contains_key(&key(2)), "it was told again");
    net.lost = 100;
    net.put(0, 3, 3);
    assert_eq!(net.committed(0), [], "it had caught up");
}

#[test]
fn batches_go_to_the_host_and_their_outcomes_come_back() {
    let mut net = Net::new(2, 1);
    net.link(0, 1);
    net.propose(1, 0, 1, &[10, 11]);
    net.propose(0, 0, 2, &[12]);
    net.propose(1, 0, 3, &[13]);
    assert_eq!(net.values(0), [10, 11, 12, 13]);
    assert_eq!(net.done(0), [(2, Outcome::Stored)]);
    let both = [(1, Outcome::Stored), (3, Outcome::Stored)];
    assert_eq!(net.done(1), both);
    // A short loss is made up for, once.
    net.unlink(0, 1);
    net.propose(1, 0, 4, &[14]);
    net.pass(400);
    assert_eq!(net.done(1), []);
    net.link(0, 1);
    net.pass(1_000);
    assert_eq!(net.done(1), [(4, Outcome::Stored)]);
    assert_eq!(net.values(0), [10, 11, 12, 13, 14]);
}

#[test]
fn what_waits_for_a_host_that_is_gone_is_refused_and_what_comes_later_at_once() {
    let mut net = Net::new(2, 1);
    net.link(0, 1);
    net.propose(1, 0, 1, &[10]);
    assert_eq!(net.done(1), [(1, Outcome::Stored)]);
    net.crash(0);
    net.propose(1, 0, 2, &[11]);
    assert_eq!(net.done(1), [], "it may be back in a moment");
    net.pass(2_100);
    assert_eq!(net.done(1), [(2, Outcome::Refused)]);
    net.propose(1, 0, 3, &[12]);
    assert_eq!(net.done(1), [(3, Outcome::Refused)]);
    net.start(0);
    net.link(0, 1);
    net.pass(600);
    net.propose(1, 0, 4, &[13]);
    net.pass(600);
    assert_eq!(net.done(1), [(4, Outcome::Stored)]);
    assert_eq!(net.values(0), [13]);
}

#[test]
fn nothing_that_was_for_a_process_reaches_the_next_one() {
    let mut net = Net::new(2, 1);
    net.link(0, 1);
    net.propose(1, 0, 1, &[10]);
    net.done(1);
    net.lost = 100;
    net.propose(1, 0, 2, &[11]);
    net.crash(0);
    net.lost = 0;
    net.start(0);
    net.link(0, 1);
    net.pass(100);
    assert_eq!(net.done(1), [(2, Outcome::Refused)], "without waiting");
    assert_eq!(net.values(0), []);
}

#[test]
fn a_host_that_says_nothing_is_gone_too() {
    let mut net = Net::new(2, 1);
    net.link(0, 1);
    net.propose(1, 0, 1, &[10]);
    net.done(1);
    net.pass(10_000);
    let lane = net.nodes[1].lane.as_ref().expect("started");
    assert!(
        !lane.is_gone(NodeId(1), net.now.mono),
        "it says that it is there"
    );
    net.lost = 100;
    net.propose(1, 0, 2, &[11]);
    net.pass(2_600);
    assert_eq!(net.done(1), [(2, Outcome::Refused)]);
    net.lost = 0;
    net.pass(1_000);
    net.propose(1, 0, 3, &[12]);
    net.pass(600);
    assert_eq!(
        net.done(1),
        [(3, Outcome::Stored)],
        "it has found its way back"
    );
}

#[test]
fn a_fence_takes_a_lifes_rows_away_and_a_new_life_brings_them_back() {
    let mut net = Net::new(2, 1);
    net.link(0, 1);
    net.put(0, 1, 1);
    let fence = Input::Fence {
        node: NodeId(1),
        life: Life(1),
    };
    net.nodes[1].inputs.push_back(fence);
    net.put(0, 2, 2);
    net.pass(3_000);
    assert!(net.nodes[1].rows.is_empty(), "nothing of that life counts");
    let life = Life(2);
    net.nodes[0].inputs.push_back(Input::Renew { life });
    net.run();
    assert_eq!(net.nodes[1].rows.len(), 2);
    net.put(0, 3, 3);
    assert_eq!(net.nodes[1].rows.len(), 3);
}

#[test]
fn batches_of_others_are_refused_while_memory_is_scarce() {
    let mut net = Net::new(2, 1);
    net.link(0, 1);
    net.nodes[0]
        .inputs
        .push_back(Input::Scarce { memory: true });
    net.propose(1, 0, 1, &[10]);
    assert_eq!(net.done(1), [(1, Outcome::Refused)]);
    net.nodes[0]
        .inputs
        .push_back(Input::Scarce { memory: false });
    net.propose(1, 0, 2, &[11]);
    assert_eq!(net.done(1), [(2, Outcome::Stored)]);
    assert_eq!(net.values(0), [11]);
}

/// A node without a replica can ask nobody who leads: what it was told of that may be lost.
#[test]
fn a_node_without_a_replica_hears_who_leads_though_it_was_told_in_vain() {
    let mut net = Net::founded_by(vec![NodeId(1)], 2, 1);
    net.lost = 100;
    net.link(0, 1);
    net.lost = 0;
    net.propose_to(ShardId(1), 1, 1, &[10]);
    assert_eq!(net.done(1), []);
    net.pass(2_000);
    assert_eq!(net.done(1), [(1, Outcome::Stored)]);
    // Nor is it told of the next one before it asks: it takes the one before for the leader.
    net.lost = 100;
    net.crash(0);
    net.start(0);
    net.link(0, 1);
    net.lost = 0;
    net.pass(2_000);
    net.propose_to(ShardId(1), 1, 2, &[11]);
    net.pass(2_000);
    assert_eq!(net.done(1), [(2, Outcome::Stored)]);
}

#[test]
fn posts_arrive_where_there_is_a_way() {
    let mut net = Net::new(2, 1);
    let post = |text: &'static str| Input::Post {
        to: NodeId(2),
        bytes: Bytes::from_static(text.as_bytes()),
    };
    net.nodes[0].inputs.push_back(post("lost"));
    net.link(0, 1);
    net.nodes[0].inputs.push_back(post("here"));
    net.run();
    let here = (NodeId(1), Bytes::from_static(b"here"));
    assert_eq!(net.nodes[1].outputs.posts, [here]);
}

/// Rows come and go on every node, links and processes too, and much is lost on the way.
#[test]
fn whatever_is_lost_rows_are_the_same_everywhere_in_the_end() {
    for seed in 0..40 {
        eprintln!("seed {seed}");
        let mut net = Net::new(3, seed);
        for _ in 0..150 {
            let (at, other) = (net.below(3) as usize, net.below(3) as usize);
            // No two nodes have rows of one key.
            let row = key(net.below(300) * 3 + at as u64);
            match net.below(20) {
                0..9 => {
                    let value = Bytes::from(vec![1; net.below(2_000) as usize]);
                    net.transact(at, 0, Write::Put { row, value });
                }
                9..13 => net.transact(at, 0, Write::Delete { row }),
                13 => net.unlink(at, other),
                14 | 15 if at != other => net.link(at, other),
                16 if net.below(4) == 0 => {
                    net.crash(at);
                    net.start(at);
                }
                17 => net.lost = net.below(50),
                _ => net.pass(200),
            }
            net.run();
        }
        net.lost = 0;
        for (a, b) in [(0, 1), (0, 2), (1, 2)] {
            net.unlink(a, b);
            net.link(a, b);
        }
        net.pass(3_000);
        let mut all = BTreeMap::new();
        for node in &net.nodes {
            let lane = node.lane.as_ref().expect("started");
            let own = lane.rows(ShardId::LOCAL_DEFINITIONS).expect("hosted");
            all.extend(own.all().into_iter().map(|it| (it.row, it.version)));
        }
        for node in &net.nodes {
            assert!(
                node.outputs.foreign.is_empty(),
                "{:?}",
                node.outputs.foreign
            );
            let seen: Vec<_> = node.rows.keys().collect();
            assert_eq!(seen, all.keys().collect::<Vec<_>>(), "node {}", node.id);
        }
    }
}
