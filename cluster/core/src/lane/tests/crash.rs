//! A lane on a disk that loses power at random moments: what it answered stays, once, in order.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

use super::double::{Ask, Double, Told, put};
use crate::batch::Outcome;
use crate::ids::{Life, NodeId, Now, ShardId, Time};
use crate::inbox::{Input, Outputs};
use crate::lane::{Lane, Options};
use crate::log::sim::SimDisk;
use crate::rows::{Committed, RowKey, Transaction, Version, WaitFor, Write};

const SHARDS: u32 = 3;
const STEPS: u32 = 400;

/// Who waits: for values of a shard, or for a row's new value.
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

#[derive(Default)]
struct Expected {
    /// Values that were proposed, per shard.
    proposed: BTreeMap<ShardId, BTreeSet<u64>>,
    /// Of those, the ones that were answered as stored.
    stored: BTreeMap<ShardId, BTreeSet<u64>>,
    /// Values whose drop was asked for, and whose drop was applied.
    asked: BTreeSet<u64>,
    gone: BTreeSet<u64>,
    /// The newest answered version and value of each row.
    rows: BTreeMap<u8, (Version, u64)>,
}

struct World {
    random: u64,
    disk: SimDisk,
    lane: Lane<Double, Ticket>,
    inputs: VecDeque<Input<Ask, Ticket>>,
    now: Now,
    next_value: u64,
    expected: Expected,
    lives: u64,
    crashes: u32,
    resends: u32,
}

fn options(life: u64) -> Options {
    Options {
        segment_bytes: 32 << 10,
        young_bytes: 16 << 10,
        read_cache_bytes: 64 << 10,
        checkpoint_bytes_min: 8 << 10,
        resend_after_millis: 400,
        ..Options::new(NodeId(5), Life(life), SHARDS)
    }
}

fn recover(disk: &mut SimDisk, life: u64) -> Lane<Double, Ticket> {
    Lane::recover(options(life), disk, |_| Double::default()).expect("what it wrote it reads")
}

impl World {
    fn new(seed: u64) -> Self {
        let mut disk = SimDisk::new(seed);
        let lane = recover(&mut disk, 1);
        Self {
            random: seed,
            disk,
            lane,
            inputs: VecDeque::new(),
            now: Now {
                wall: Time(1_000_000),
                ..Now::default()
            },
            next_value: 1,
            expected: Expected::default(),
            lives: 1,
            crashes: 0,
            resends: 0,
        }
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % bound
    }

    fn act(&mut self) {
        match self.below(40) {
            0..10 => self.propose(),
            10..18 => self.drop_some(),
            18..22 => self.read_one(),
            22..26 => self.transact(),
            26..36 => self.answer_some(),
            36..38 => self.pass(),
            38 => self.stall(),
            _ => self.crash(),
        }
        self.step();
    }

    fn shard(&mut self) -> ShardId {
        ShardId(1 + self.below(u64::from(SHARDS)) as u32)
    }

    fn propose(&mut self) {
        let shard = self.shard();
        let count = 1 + self.below(5);
        let len = match self.below(10) {
            0 => 40_000,
            1 => 0,
            _ => self.below(3000) as u32,
        };
        let first = self.next_value;
        self.next_value += count;
        let values: Vec<u64> = (first..first + count).collect();
        self.expected
            .proposed
            .entry(shard)
            .or_default()
            .extend(&values);
        self.inputs.push_back(Input::Propose {
            shard,
            batch: put(&values, len),
            ticket: Ticket::Values {
                shard,
                first,
                count,
            },
        });
    }

    fn any_id(&mut self, shard: ShardId) -> Option<(u64, u64)> {
        let kept = &self.lane.machine(shard).expect("hosted").kept;
        let ids: Vec<(u64, u64)> = kept.iter().map(|(id, kept)| (*id, kept.value)).collect();
        if ids.is_empty() {
            return None;
        }
        let at = self.below(ids.len() as u64) as usize;
        Some(ids[at])
    }

    fn drop_some(&mut self) {
        let shard = self.shard();
        if !self.lane.all_led() {
            return;
        }
        for _ in 0..4 {
            if let Some((id, value)) = self.any_id(shard) {
                self.expected.asked.insert(value);
                let input = Ask::Drop(id);
                self.inputs.push_back(Input::Machine { shard, input });
            }
        }
    }

    fn read_one(&mut self) {
        let shard = self.shard();
        if !self.lane.all_led() {
            return;
        }
        if let Some((id, _)) = self.any_id(shard) {
            let input = Ask::Read(id);
            self.inputs.push_back(Input::Machine { shard, input });
        }
    }

    fn transact(&mut self) {
        let key = self.below(5) as u8;
        let value = self.next_value;
        self.next_value += 1;
        let write = Write::Put {
            row: row(key),
            value: Bytes::copy_from_slice(&value.to_le_bytes()),
        };
        self.inputs.push_back(Input::Transact {
            shard: ShardId::DEFINITIONS,
            transaction: Transaction {
                preconditions: Vec::new(),
                writes: vec![write],
            },
            wait: WaitFor::Everywhere(Ticket::Row { key, value }),
        });
    }

    fn answer_some(&mut self) {
        for _ in 0..=self.below(6) {
            if let Some(completion) = self.disk.complete_one() {
                self.inputs.push_back(Input::Disk(completion));
            }
        }
    }

    fn pass(&mut self) {
        let millis = [1, 10, 150][self.below(3) as usize];
        self.now.mono = self.now.mono.plus_millis(millis);
        self.now.wall.0 += millis;
        self.inputs.push_back(Input::Tick);
    }

    /// The disk answers nothing for so long that batches are sent again.
    fn stall(&mut self) {
        for _ in 0..3 {
            self.step();
            self.now.mono = self.now.mono.plus_millis(500);
            self.resends += 1;
        }
    }

    fn crash(&mut self) {
        self.note_gone();
        self.disk.crash();
        self.inputs.clear();
        self.crashes += 1;
        self.lives += 1;
        self.lane = recover(&mut self.disk, self.lives);
        self.settle();
        self.check();
    }

    /// Steps with a disk that answers everything, until nothing moves.
    fn settle(&mut self) {
        for _ in 0..2000 {
            let more = self.step();
            let mut answered = false;
            while let Some(completion) = self.disk.complete_one() {
                answered = true;
                self.inputs.push_back(Input::Disk(completion));
            }
            if !more && !answered && self.inputs.is_empty() {
                return;
            }
        }
        panic!("the lane never rests");
    }

    fn step(&mut self) -> bool {
        let mut outputs = Outputs::default();
        let (inputs, disk) = (&mut self.inputs, &mut self.disk);
        let more = super::step(&mut self.lane, self.now, inputs, &mut outputs, disk);
        for (ticket, outcome) in outputs.done {
            self.done(ticket, outcome);
        }
        for (ticket, committed) in outputs.committed {
            self.committed(ticket, committed.as_ref());
        }
        for Told::Body {
            id: _,
            value,
            bytes,
        } in outputs.effects
        {
            assert!(
                bytes.iter().all(|byte| *byte == value as u8),
                "a body of another"
            );
        }
        more
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
        if outcome == Outcome::Stored {
            let stored = self.expected.stored.entry(shard).or_default();
            for value in first..first + count {
                assert!(stored.insert(value), "answered twice");
            }
        }
    }

    fn committed(&mut self, ticket: Ticket, committed: Option<&Committed>) {
        let Ticket::Row { key, value } = ticket else {
            panic!("a ticket of a batch");
        };
        let Some(&Committed::Yes { first }) = committed else {
            panic!("nothing refuses or conflicts here");
        };
        let before = self.expected.rows.insert(key, (first, value));
        assert!(before < Some((first, value)), "versions ascend");
    }

    /// What a leader has applied is agreed on: it must not come back.
    fn note_gone(&mut self) {
        for shard in (1..=SHARDS).map(ShardId) {
            let kept: BTreeSet<u64> = self.values(shard).into_iter().collect();
            let stored = self.expected.stored.entry(shard).or_default();
            for value in stored.difference(&kept) {
                assert!(self.expected.asked.contains(value), "lost without a crash");
                self.expected.gone.insert(*value);
            }
        }
    }

    fn values(&self, shard: ShardId) -> Vec<u64> {
        self.lane.machine(shard).expect("hosted").values()
    }

    fn check(&mut self) {
        for shard in (1..=SHARDS).map(ShardId) {
            let values = self.values(shard);
            let proposed = self.expected.proposed.entry(shard).or_default();
            assert!(
                values.iter().all(|value| proposed.contains(value)),
                "no ghosts"
            );
            assert!(values.is_sorted_by(|a, b| a < b), "once in, in order");
            let kept: BTreeSet<u64> = values.into_iter().collect();
            assert!(
                kept.is_disjoint(&self.expected.gone),
                "what is gone stays gone"
            );
            let stored = self.expected.stored.entry(shard).or_default();
            for value in stored.difference(&kept) {
                assert!(
                    self.expected.asked.contains(value),
                    "confirmed survives: {value}"
                );
            }
        }
        let rows = self.lane.rows(ShardId::DEFINITIONS).expect("hosted");
        for (key, (version, value)) in &self.expected.rows {
            let found = rows.row(&row(*key)).expect("a committed row survives");
            assert!(found.version >= *version);
            if found.version == *version {
                assert_eq!(found.value, value.to_le_bytes()[..]);
            }
        }
    }

    /// Reads every body that is left, through the lane.
    fn read_all(&mut self) {
        for shard in (1..=SHARDS).map(ShardId) {
            let kept = &self.lane.machine(shard).expect("hosted").kept;
            let ids: Vec<u64> = kept.keys().copied().collect();
            for id in ids {
                let input = Ask::Read(id);
                self.inputs.push_back(Input::Machine { shard, input });
            }
        }
        self.settle();
        for shard in (1..=SHARDS).map(ShardId) {
            let reading = &self.lane.machine(shard).expect("hosted").reading;
            assert!(reading.is_empty(), "every body was read");
        }
    }

    fn stop_and_open(&mut self) {
        self.inputs.push_back(Input::Stop);
        self.settle();
        self.note_gone();
        self.lives += 1;
        self.lane = recover(&mut self.disk, self.lives);
        self.settle();
        self.check();
    }
}

fn row(key: u8) -> RowKey {
    RowKey {
        kind: 1,
        key: Bytes::copy_from_slice(&[key]),
    }
}

fn run(seed: u64) -> World {
    let mut world = World::new(seed);
    for _ in 0..STEPS {
        world.act();
    }
    world.settle();
    world.read_all();
    world.stop_and_open();
    world.read_all();
    world
}

#[test]
fn what_is_answered_survives_crashes_at_any_moment() {
    let (mut crashes, mut stored) = (0, 0);
    for seed in 0..25 {
        let world = run(seed);
        crashes += world.crashes;
        stored += world
            .expected
            .stored
            .values()
            .map(BTreeSet::len)
            .sum::<usize>();
    }
    assert!(crashes > 100, "{crashes} crashes");
    assert!(stored > 2500, "{stored} stored");
}

#[test]
fn the_disk_goes_back_to_its_floor() {
    let mut world = World::new(7);
    for _ in 0..3000 {
        world.propose();
        world.settle();
        for shard in (1..=SHARDS).map(ShardId) {
            for id in world
                .lane
                .machine(shard)
                .expect("hosted")
                .kept
                .keys()
                .copied()
            {
                let input = Ask::Drop(id);
                world.inputs.push_back(Input::Machine { shard, input });
            }
        }
        world.now.mono = world.now.mono.plus_millis(20);
        world.settle();
    }
    let used = world.disk.used_bytes();
    assert!(
        used < 16 * u64::from(options(1).segment_bytes),
        "{used} bytes used"
    );
}
