//! Lanes of several nodes with a network that loses, delays, doubles and reorders what they send,
//! partitions, and disks that lose power: what was answered stays, once, in order, everywhere.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

use super::double::{Ask, Double, put};
use crate::batch::Outcome;
use crate::ids::{Index, Instant, Life, NodeId, Now, ShardId, Term, Time};
use crate::inbox::{Input, Outputs};
use crate::lane::{Lane, Options};
use crate::link::Class;
use crate::log::sim::SimDisk;
use crate::rows::{Committed, RowKey, Transaction, WaitFor, Write};

const SHARDS: u32 = 2;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ticket {
    Values {
        shard: ShardId,
        first: u64,
        count: u64,
    },
    Row {
        key: u8,
        value: u64,
    },
}

struct Node {
    id: NodeId,
    disk: SimDisk,
    lane: Option<Lane<Double, Ticket>>,
    inputs: VecDeque<Input<Ask, Ticket>>,
    /// The wall clock is off by so many milliseconds.
    skew: u64,
    /// Its disk answers nothing.
    hangs: bool,
    /// Bumped with each start: what was sent to an earlier life is not received.
    life: u32,
    /// In which term whom it last took for the leader, in this life.
    leaders: BTreeMap<ShardId, (Term, NodeId)>,
}

struct Letter {
    at: Instant,
    from: NodeId,
    to: NodeId,
    life: u32,
    bytes: Bytes,
}

#[derive(Clone, Copy, Default)]
struct Weather {
    /// Of 100.
    lost: u64,
    doubled: u64,
    delay_micros: u64,
}

pub(super) struct Cluster {
    seed: u64,
    random: u64,
    nodes: Vec<Node>,
    letters: Vec<Letter>,
    weather: Weather,
    /// Pairs (from, to) that nothing passes.
    cut: BTreeSet<(NodeId, NodeId)>,
    now: Instant,
    next_value: u64,
    proposed: BTreeMap<ShardId, BTreeSet<u64>>,
    stored: BTreeMap<ShardId, BTreeSet<u64>>,
    /// Batches that were refused.
    refused: u32,
    asked: BTreeSet<u64>,
    rows: BTreeMap<u8, u64>,
    /// What the state was at each index that some node has applied.
    states: BTreeMap<(ShardId, Index), u64>,
    crashes: u32,
}

fn options(node: NodeId, life: u64, founders: &[NodeId], seed: u64) -> Options {
    Options {
        segment_bytes: 32 << 10,
        young_bytes: 16 << 10,
        read_cache_bytes: 64 << 10,
        checkpoint_bytes_min: 8 << 10,
        resend_after_millis: 1000,
        founders: founders.to_vec(),
        seed: seed ^ node.0,
        ..Options::new(node, Life(life), SHARDS)
    }
}

fn row(key: u8) -> RowKey {
    RowKey {
        kind: 1,
        key: Bytes::copy_from_slice(&[key]),
    }
}

impl Cluster {
    pub(super) fn new(seed: u64, nodes: u64) -> Self {
        let ids: Vec<NodeId> = (1..=nodes).map(NodeId).collect();
        let node = |id: &NodeId| Node {
            id: *id,
            disk: SimDisk::new(seed ^ (id.0 << 20)),
            lane: None,
            inputs: VecDeque::new(),
            skew: 0,
            hangs: false,
            life: 0,
            leaders: BTreeMap::new(),
        };
        let mut cluster = Self {
            seed,
            random: seed,
            nodes: ids.iter().map(node).collect(),
            letters: Vec::new(),
            weather: Weather::default(),
            cut: BTreeSet::new(),
            now: Instant(0),
            next_value: 1,
            proposed: BTreeMap::new(),
            stored: BTreeMap::new(),
            refused: 0,
            asked: BTreeSet::new(),
            rows: BTreeMap::new(),
            states: BTreeMap::new(),
            crashes: 0,
        };
        for at in 0..cluster.nodes.len() {
            cluster.nodes[at].skew = cluster.below(400);
            cluster.start(at);
        }
        cluster
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % bound
    }

    fn any_node(&mut self) -> usize {
        self.below(self.nodes.len() as u64) as usize
    }

    fn shard(&mut self) -> ShardId {
        ShardId(1 + self.below(u64::from(SHARDS)) as u32)
    }

    fn start(&mut self, at: usize) {
        let founders: Vec<NodeId> = self.nodes.iter().map(|node| node.id).collect();
        let node = &mut self.nodes[at];
        node.life += 1;
        node.leaders.clear();
        let options = options(node.id, u64::from(node.life), &founders, self.seed);
        let lane = Lane::recover(options, &mut node.disk, |_| Double::default());
        node.lane = Some(lane.expect("what it wrote it reads"));
        node.inputs.clear();
        self.connect(at);
    }

    /// Tells both ends of every way that is open.
    fn connect(&mut self, at: usize) {
        let id = self.nodes[at].id;
        for other in 0..self.nodes.len() {
            let node = self.nodes[other].id;
            let up = self.nodes[other].lane.is_some() && self.nodes[at].lane.is_some();
            if other == at || !up || self.cut.contains(&(id, node)) {
                continue;
            }
            self.nodes[at].inputs.push_back(Input::Connected { node });
            self.nodes[other]
                .inputs
                .push_back(Input::Connected { node: id });
        }
    }

    fn crash(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        node.lane = None;
        node.disk.crash();
        node.inputs.clear();
        self.crashes += 1;
        let id = node.id;
        for other in &mut self.nodes {
            if other.lane.is_some() {
                other.inputs.push_back(Input::Disconnected { node: id });
            }
        }
    }

    fn now(&self, at: usize) -> Now {
        Now {
            mono: self.now,
            wall: Time(1_000_000 + self.now.0 / 1000 + self.nodes[at].skew),
        }
    }

    /// Steps a node once; whether it has more to do.
    fn step(&mut self, at: usize) -> bool {
        let now = self.now(at);
        let node = &mut self.nodes[at];
        let Some(lane) = &mut node.lane else {
            return false;
        };
        let mut outputs = Outputs::default();
        let more = super::step(lane, now, &mut node.inputs, &mut outputs, &mut node.disk);
        let from = node.id;
        assert!(outputs.foreign.is_empty(), "{:?}", outputs.foreign);
        for envelope in outputs.mail {
            self.post(from, envelope.to, envelope.class, &envelope.parts);
        }
        for (ticket, outcome) in outputs.done {
            self.done(ticket, outcome);
        }
        for (ticket, committed) in outputs.committed {
            self.committed(ticket, committed.as_ref());
        }
        self.check_agreement(at);
        more
    }

    fn post(&mut self, from: NodeId, to: NodeId, class: Class, parts: &[Bytes]) {
        let bytes = Bytes::from(parts.concat());
        let copies = if self.below(100) < self.weather.lost {
            0
        } else if self.below(100) < self.weather.doubled {
            2
        } else {
            1
        };
        for _ in 0..copies {
            let usual = if class == Class::Control { 200 } else { 500 };
            let delay = usual + self.below(1 + self.weather.delay_micros);
            let life = self.nodes[(to.0 - 1) as usize].life;
            self.letters.push(Letter {
                at: Instant(self.now.0 + delay),
                from,
                to,
                life,
                bytes: bytes.clone(),
            });
        }
    }

    fn done(&mut self, ticket: Ticket, outcome: Outcome) {
        let Ticket::Values {
            shard,
            first,
            count,
        } = ticket
        else {
            panic!("a ticket of a transaction");
        };
        self.refused += u32::from(outcome == Outcome::Refused);
        if outcome == Outcome::Stored {
            let stored = self.stored.entry(shard).or_default();
            for value in first..first + count {
                assert!(stored.insert(value), "answered twice");
            }
        }
    }

    fn committed(&mut self, ticket: Ticket, committed: Option<&Committed>) {
        let Ticket::Row { key, value } = ticket else {
            panic!("a ticket of a batch");
        };
        match committed {
            Some(Committed::Yes { .. }) => drop(self.rows.insert(key, value)),
            Some(Committed::Conflict { .. }) => panic!("nothing conflicts here"),
            // Not known: this node got the state that it is in from a peer.
            None => {}
        }
    }

    /// replicas-agree: at equal applied index, equal state.
    fn check_agreement(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let Some(lane) = &node.lane else {
            return;
        };
        for shard in (1..=SHARDS).map(ShardId) {
            if let Some(leader) = lane.status(shard).expect("hosted").leader {
                let before = node.leaders.insert(shard, leader);
                let id = node.id;
                assert!(
                    before <= Some(leader),
                    "{id}: {before:?} led, now {leader:?}"
                );
            }
            let (index, _) = lane.status(shard).expect("hosted").applied;
            let values = lane.machine(shard).expect("hosted").values();
            let mut hash = values.len() as u64;
            for value in values {
                hash = hash.wrapping_mul(0x0100_0000_01b3) ^ value;
            }
            let before = *self.states.entry((shard, index)).or_insert(hash);
            let id = node.id;
            assert_eq!(before, hash, "node {id}, shard {shard}, index {index}");
        }
    }

    /// Lets time pass to the next thing that happens, at most `micros`.
    fn advance(&mut self, micros: u64) {
        let until = Instant(self.now.0 + micros);
        loop {
            self.work();
            let letters = self.letters.iter().map(|letter| letter.at);
            let lanes = self.nodes.iter().filter_map(|node| node.lane.as_ref());
            let deadlines = lanes.filter_map(Lane::deadline);
            let next = letters.chain(deadlines).min().unwrap_or(until);
            let next = next.max(Instant(self.now.0 + 20)).min(until);
            self.now = next;
            self.deliver();
            if self.now == until {
                self.work();
                return;
            }
        }
    }

    /// Steps all nodes until none has anything to do now; their disks answer sometimes.
    fn work(&mut self) {
        for at in 0..self.nodes.len() {
            for _ in 0..100 {
                let more = self.step(at);
                let mut answered = false;
                if self.below(3) > 0 && !self.nodes[at].hangs {
                    let node = &mut self.nodes[at];
                    while let Some(completion) = node.disk.complete_one() {
                        answered = true;
                        if node.lane.is_some() {
                            node.inputs.push_back(Input::Disk(completion));
                        }
                    }
                }
                if !more && !answered && self.nodes[at].inputs.is_empty() {
                    break;
                }
            }
        }
    }

    fn deliver(&mut self) {
        let now = self.now;
        let mut due = Vec::new();
        let mut at = 0;
        while at < self.letters.len() {
            if self.letters[at].at <= now {
                due.push(self.letters.swap_remove(at));
            } else {
                at += 1;
            }
        }
        for letter in due {
            let cut = self.cut.contains(&(letter.from, letter.to));
            let node = &mut self.nodes[(letter.to.0 - 1) as usize];
            if !cut && node.lane.is_some() && node.life == letter.life {
                node.inputs.push_back(Input::Received {
                    from: letter.from,
                    envelope: letter.bytes,
                    at: now,
                });
            }
        }
    }

    pub(super) fn propose(&mut self, at: usize) {
        if self.nodes[at].lane.is_none() {
            return;
        }
        let shard = self.shard();
        let count = 1 + self.below(4);
        let len = match self.below(12) {
            0 => 20_000,
            1 => 0,
            _ => self.below(2000) as u32,
        };
        let first = self.next_value;
        self.next_value += count;
        let values: Vec<u64> = (first..first + count).collect();
        self.proposed.entry(shard).or_default().extend(&values);
        self.nodes[at].inputs.push_back(Input::Propose {
            shard,
            batch: put(&values, len),
            ticket: Ticket::Values {
                shard,
                first,
                count,
            },
        });
    }

    fn drop_some(&mut self, at: usize) {
        let shard = self.shard();
        let Some(lane) = &self.nodes[at].lane else {
            return;
        };
        let kept = &lane.machine(shard).expect("hosted").kept;
        let first: Vec<_> = kept
            .iter()
            .take(4)
            .map(|(id, it)| (*id, it.value))
            .collect();
        for (id, value) in first {
            self.asked.insert(value);
            let input = Ask::Drop(id);
            self.nodes[at]
                .inputs
                .push_back(Input::Machine { shard, input });
        }
    }

    fn transact(&mut self, at: usize) {
        if self.nodes[at].lane.is_none() {
            return;
        }
        let key = self.below(5) as u8;
        let value = self.next_value;
        self.next_value += 1;
        let write = Write::Put {
            row: row(key),
            value: Bytes::copy_from_slice(&value.to_le_bytes()),
        };
        self.nodes[at].inputs.push_back(Input::Transact {
            shard: ShardId::DEFINITIONS,
            transaction: Transaction {
                preconditions: Vec::new(),
                writes: vec![write],
            },
            wait: WaitFor::Everywhere(Ticket::Row { key, value }),
        });
    }

    fn act(&mut self) {
        let at = self.any_node();
        match self.below(60) {
            0..25 => self.propose(at),
            25..35 => self.drop_some(at),
            35..38 => self.transact(at),
            38 => {
                self.weather = Weather {
                    lost: self.below(20),
                    doubled: self.below(20),
                    delay_micros: [0, 3_000, 60_000][self.below(3) as usize],
                };
            }
            39 => {
                let other = self.any_node();
                let (a, b) = (self.nodes[at].id, self.nodes[other].id);
                self.cut.insert((a, b));
                if self.below(2) == 0 {
                    self.cut.insert((b, a));
                }
            }
            40 => self.heal(),
            41 if self.nodes[at].lane.is_some() => self.crash(at),
            42..44 if self.nodes[at].lane.is_none() => self.start(at),
            44 => self.hand_over(at),
            _ => {}
        }
        let micros = [100, 2_000, 30_000][self.below(3) as usize];
        self.advance(micros);
    }

    /// A leader hands a shard over to somebody.
    fn hand_over(&mut self, at: usize) {
        let shard = self.shard();
        let other = self.any_node();
        let to = crate::lane::founding(shard, self.nodes[other].id);
        if self.nodes[at].lane.is_some() && other != at {
            self.nodes[at]
                .inputs
                .push_back(Input::Transfer { shard, to });
        }
    }

    fn heal(&mut self) {
        self.cut.clear();
        for at in 0..self.nodes.len() {
            if self.nodes[at].lane.is_some() {
                self.connect(at);
            }
        }
    }

    /// Everything works again; gives the cluster time to come to rest, then looks.
    fn settle(&mut self) {
        self.weather = Weather::default();
        for at in 0..self.nodes.len() {
            if self.nodes[at].lane.is_none() {
                self.start(at);
            }
        }
        self.heal();
        for _ in 0..40 {
            self.advance(250_000);
        }
        self.check();
    }

    fn check(&mut self) {
        for shard in (1..=SHARDS).map(ShardId) {
            let statuses: Vec<_> = self
                .nodes
                .iter()
                .map(|node| {
                    let lane = node.lane.as_ref().expect("started");
                    lane.status(shard).expect("hosted")
                })
                .collect();
            let leader = statuses[0].leader;
            assert!(leader.is_some(), "shard {shard} has a leader");
            for status in &statuses {
                assert_eq!(status.leader, leader, "all know the leader of {shard}");
                assert_eq!(status.applied, statuses[0].applied, "all caught up");
            }
            let heads: Vec<_> = self
                .nodes
                .iter()
                .map(|node| {
                    let lane = node.lane.as_ref().expect("started");
                    let head = lane.head(shard).expect("hosted");
                    (
                        head.origins,
                        head.time,
                        lane.machine(shard).expect("hosted").values(),
                    )
                })
                .collect();
            assert!(heads.iter().all(|head| *head == heads[0]), "replicas agree");
            let values = &heads[0].2;
            let proposed = self.proposed.entry(shard).or_default();
            assert!(values.iter().all(|it| proposed.contains(it)), "no ghosts");
            let kept: BTreeSet<u64> = values.iter().copied().collect();
            assert_eq!(kept.len(), values.len(), "once in");
            for value in self.stored.entry(shard).or_default().difference(&kept) {
                assert!(self.asked.contains(value), "confirmed survives: {value}");
            }
        }
        for node in &self.nodes {
            let rows = node
                .lane
                .as_ref()
                .expect("started")
                .rows(ShardId::DEFINITIONS);
            for key in self.rows.keys() {
                assert!(rows.expect("hosted").row(&row(*key)).is_some());
            }
        }
    }
}

#[test]
fn three_nodes_elect_leaders_and_take_batches_from_all() {
    let mut cluster = Cluster::new(1, 3);
    cluster.advance(3_000_000);
    for round in 0..30 {
        cluster.propose(round % 3);
        cluster.advance(1_000);
    }
    cluster.advance(1_000_000);
    let stored: usize = cluster.stored.values().map(BTreeSet::len).sum();
    let proposed: usize = cluster.proposed.values().map(BTreeSet::len).sum();
    assert_eq!(stored, proposed, "all are answered");
    cluster.check();
}

/// How many queue shards each node leads.
fn led(cluster: &Cluster) -> Vec<usize> {
    let led = |node: &Node| {
        let lane = node.lane.as_ref().expect("started");
        let shards = (1..=SHARDS).map(ShardId);
        let statuses = shards.filter_map(|shard| lane.status(shard));
        let leads = statuses.filter(|it| it.leader.is_some_and(|(_, leader)| leader == node.id));
        leads.count()
    };
    cluster.nodes.iter().map(led).collect()
}

/// A node that leads something.
fn leader(cluster: &Cluster) -> usize {
    let led = led(cluster);
    led.iter().position(|led| *led > 0).expect("somebody leads")
}

/// Under load a node comes to lead nothing, and others all; gives who leads how many.
fn gives_its_leads_away(cluster: &mut Cluster, victim: usize) -> Vec<usize> {
    for round in 0..60 {
        cluster.propose(round % 3);
        cluster.advance(50_000);
    }
    let led_now = led(cluster);
    let seed = cluster.seed;
    assert_eq!(led_now[victim], 0, "seed {seed}: {led_now:?}");
    assert_eq!(led_now.iter().sum::<usize>(), SHARDS as usize);
    led_now
}

#[test]
fn a_leader_whose_disk_hangs_gives_its_leads_away() {
    for seed in 0..10 {
        let mut cluster = Cluster::new(seed, 3);
        cluster.advance(3_000_000);
        let victim = leader(&cluster);
        cluster.nodes[victim].hangs = true;
        gives_its_leads_away(&mut cluster, victim);
        // Also those of the node itself are answered, by whoever leads.
        cluster.advance(2_000_000);
        let stored: usize = cluster.stored.values().map(BTreeSet::len).sum();
        let proposed: usize = cluster.proposed.values().map(BTreeSet::len).sum();
        assert_eq!(stored, proposed, "seed {seed}");
        cluster.nodes[victim].hangs = false;
        cluster.settle();
    }
}

#[test]
fn a_leader_whose_clock_is_wrong_gives_its_leads_away() {
    for seed in 0..10 {
        let mut cluster = Cluster::new(seed, 3);
        cluster.advance(3_000_000);
        let victim = leader(&cluster);
        let before = cluster.nodes[victim].skew;
        cluster.nodes[victim].skew = before + 3_600_000;
        let led_now = gives_its_leads_away(&mut cluster, victim);
        // Nobody hands it a lead.
        let replica = |at: usize, shard| {
            let lane = cluster.nodes[at].lane.as_ref().expect("started");
            lane.status(shard).and_then(|it| it.replica).expect("here")
        };
        let moves: Vec<_> = (0..3)
            .flat_map(|at| (1..=SHARDS).map(move |shard| (at, ShardId(shard))))
            .map(|(at, shard)| (at, shard, replica(victim, shard)))
            .collect();
        for (at, shard, to) in moves {
            cluster.nodes[at]
                .inputs
                .push_back(Input::Transfer { shard, to });
        }
        cluster.advance(1_000_000);
        assert_eq!(led(&cluster), led_now, "seed {seed}");
        cluster.nodes[victim].skew = before;
        cluster.settle();
        let stored: usize = cluster.stored.values().map(BTreeSet::len).sum();
        let proposed: usize = cluster.proposed.values().map(BTreeSet::len).sum();
        assert_eq!(stored, proposed, "seed {seed}");
    }
}

#[test]
fn nobody_leads_while_all_disks_hang() {
    for seed in 0..10 {
        let mut cluster = Cluster::new(seed, 3);
        cluster.advance(3_000_000);
        cluster.nodes.iter_mut().for_each(|node| node.hangs = true);
        for round in 0..60 {
            // Every shard has something to write.
            cluster.propose(round % 3);
            cluster.advance(50_000);
        }
        assert_eq!(led(&cluster), [0, 0, 0], "seed {seed}");
        cluster.nodes.iter_mut().for_each(|node| node.hangs = false);
        cluster.settle();
        let stored: usize = cluster.stored.values().map(BTreeSet::len).sum();
        let proposed: usize = cluster.proposed.values().map(BTreeSet::len).sum();
        assert_eq!(stored, proposed, "seed {seed}");
    }
}

#[test]
fn a_leader_refuses_for_a_follower_whose_disk_is_full() {
    let mut cluster = Cluster::new(1, 3);
    cluster.advance(3_000_000);
    let full = (leader(&cluster) + 1) % 3;
    let bytes = |cluster: &mut Cluster, bytes| {
        let input = Input::FreeDisk { bytes };
        cluster.nodes[full].inputs.push_back(input);
        cluster.advance(100_000);
    };
    bytes(&mut cluster, 0);
    for round in 0..9 {
        cluster.propose(round % 3);
    }
    cluster.advance(1_000_000);
    assert_eq!(cluster.refused, 9);
    assert!(cluster.stored.is_empty());

    bytes(&mut cluster, u64::MAX);
    for round in 0..9 {
        cluster.propose(round % 3);
    }
    cluster.advance(1_000_000);
    assert_eq!(cluster.refused, 9);
    let stored: usize = cluster.stored.values().map(BTreeSet::len).sum();
    assert!(stored >= 9);

    // What a node said before it was lost does not count for ever.
    bytes(&mut cluster, 0);
    cluster.crash(full);
    cluster.advance(3_000_000);
    cluster.propose((full + 1) % 3);
    cluster.advance(1_000_000);
    assert_eq!(cluster.refused, 9);
    cluster.settle();
}

#[test]
fn what_is_answered_survives_whatever_happens_to_a_minority_at_a_time() {
    let (mut crashes, mut stored) = (0, 0);
    // The last ones once failed: a checkpoint that was replaced while it was being sent, one that
    // took more for agreed on than it held, and an election after a snapshot.
    for seed in (0..30).chain([318, 324, 918]) {
        eprintln!("seed {seed}");
        let mut cluster = Cluster::new(seed, 3);
        cluster.advance(2_000_000);
        for _ in 0..400 {
            cluster.act();
        }
        cluster.settle();
        crashes += cluster.crashes;
        stored += cluster.stored.values().map(BTreeSet::len).sum::<usize>();
    }
    assert!(crashes > 20, "{crashes} crashes");
    assert!(stored > 2000, "{stored} stored");
}
