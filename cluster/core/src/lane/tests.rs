//! A lane with a double of a machine, on a disk that answers when it is told to.

mod cluster;
mod crash;
mod double;
mod fresh;
mod hosts;
mod idle;
mod overtaking;
mod rebuild;

use std::collections::VecDeque;

use super::*;
use crate::ids::{Life, Time};
use crate::log::disk::{Completion, Data};
use crate::log::sim::SimDisk;
use double::{Ask, Double, Told, put};

type Ins = VecDeque<Input<Ask, u32>>;
type Outs = Outputs<Told, u32>;

/// Steps a lane once, and gives its disk what it is to do. Whether the lane has more to do.
fn step<T: Copy>(
    lane: &mut Lane<Double, T>,
    now: Now,
    inputs: &mut VecDeque<Input<Ask, T>>,
    outputs: &mut Outputs<Told, T>,
    disk: &mut SimDisk,
) -> bool {
    let more = try_step(lane, now, inputs, outputs, disk);
    more.expect("the disk does not fail")
}

fn try_step<T: Copy>(
    lane: &mut Lane<Double, T>,
    now: Now,
    inputs: &mut VecDeque<Input<Ask, T>>,
    outputs: &mut Outputs<Told, T>,
    disk: &mut SimDisk,
) -> Result<bool, Error> {
    let mut ops = Vec::new();
    let more = lane.step(now, inputs, outputs, &mut ops);
    ops.into_iter().for_each(|op| disk.submit(op));
    more
}

/// Steps until nothing moves: `moves` steps all lanes.
fn rest(mut moves: impl FnMut() -> bool) {
    for _ in 0..10_000 {
        if !moves() {
            return;
        }
    }
    panic!("lanes without work never rest");
}

/// A lane whose disk answers everything at once, if `answers`.
struct Bench {
    lane: Lane<Double, u32>,
    inputs: Ins,
    outputs: Outs,
    waiting: Vec<Op>,
    answers: bool,
    now: Now,
}

impl Bench {
    fn new() -> Self {
        let options = Options::new(NodeId(5), Life(1), 3);
        let mut bench = Self {
            lane: Lane::recover(options, &mut SimDisk::new(1), |_| Double::default())
                .expect("a fresh lane"),
            inputs: Ins::new(),
            outputs: Outs::default(),
            waiting: Vec::new(),
            answers: true,
            now: Now {
                wall: Time(1_000_000),
                ..Now::default()
            },
        };
        bench.run();
        bench
    }

    /// Steps until nothing moves.
    fn run(&mut self) {
        for _ in 0..1000 {
            let more = self.lane.step(
                self.now,
                &mut self.inputs,
                &mut self.outputs,
                &mut self.waiting,
            );
            let more = more.expect("no failure");
            if self.answers {
                let done = self.waiting.drain(..).map(|op| {
                    Input::Disk(Completion {
                        token: op.token(),
                        result: Ok(Data::Done),
                    })
                });
                self.inputs.extend(done);
            }
            if !more && self.inputs.is_empty() {
                return;
            }
        }
        panic!("a lane without work never rests");
    }

    fn propose(&mut self, shard: ShardId, ticket: u32, values: &[u64]) {
        self.inputs.push_back(Input::Propose {
            shard,
            batch: put(values, 10),
            ticket,
        });
    }

    fn values(&self, shard: ShardId) -> Vec<u64> {
        self.lane.machine(shard).expect("hosted").values()
    }

    fn pass(&mut self, millis: u64) {
        self.now.mono = self.now.mono.plus_millis(millis);
        self.now.wall.0 += millis;
        self.inputs.push_back(Input::Tick);
        self.run();
    }
}

/// Rule 8: leases count on ticks that are not closer together than they are.
#[test]
fn connections_that_come_and_go_make_no_ticks() {
    let mut bench = Bench::new();
    let node = NodeId(9);
    bench.inputs.push_back(Input::Connected { node });
    bench.run();
    bench.pass(1);
    let tick = bench.lane.next_tick;
    assert!(tick.is_some_and(|tick| tick > bench.now.mono && tick != NEVER));
    for _ in 0..10 {
        bench.inputs.push_back(Input::Disconnected { node });
        bench.inputs.push_back(Input::Connected { node });
        bench.pass(1);
        assert_eq!(bench.lane.next_tick, tick);
    }
}

#[test]
fn every_shard_leads_after_one_write() {
    let bench = Bench::new();
    assert!(bench.lane.all_led());
    assert_eq!(bench.outputs.roles.len(), 6);
    assert_eq!(bench.outputs.changes, [(ShardId::DEFINITIONS, Vec::new())]);
    assert!(bench.lane.machine(ShardId(3)).expect("hosted").leads);
}

#[test]
fn a_logged_batch_is_answered_when_it_is_on_disk() {
    let mut bench = Bench::new();
    bench.propose(ShardId(1), 1, &[1]);
    bench.run();
    bench.outputs = Outs::default();
    bench.answers = false;
    bench.propose(ShardId(1), 7, &[10, 11]);
    bench.propose(ShardId(2), 8, &[20]);
    bench.run();
    assert!(bench.outputs.is_empty());
    assert_eq!(bench.waiting.len(), 1, "one write for all shards");
    bench.answers = true;
    bench.run();
    assert_eq!(
        bench.outputs.done,
        [(7, Outcome::Stored), (8, Outcome::Stored)]
    );
    assert_eq!(bench.values(ShardId(1)), [1, 10, 11]);
}

#[test]
fn what_a_machine_hurries_with_comes_before_batches_that_came_later() {
    for shard in [ShardId(1), ShardId::queues_of(NodeId(5))] {
        let mut bench = Bench::new();
        for value in [1, 3] {
            let input = Ask::Put(value);
            bench.inputs.push_back(Input::Machine { shard, input });
            bench.propose(shard, 7, &[value + 1]);
        }
        bench.run();
        let place = |value| {
            let mut values = bench.values(shard).into_iter();
            values.position(|it| it == value).expect("put")
        };
        assert!(place(1) < place(2) && place(3) < place(4), "shard {shard}");
    }
}

#[test]
fn an_unlogged_batch_is_answered_at_once() {
    let mut bench = Bench::new();
    bench.answers = false;
    bench.propose(ShardId::queues_of(NodeId(5)), 7, &[10, 11]);
    bench.run();
    assert_eq!(bench.outputs.done, [(7, Outcome::Stored)]);
    assert!(bench.waiting.is_empty());
    let before = bench.lane.figures().memory_bytes;
    assert!(before > 0);
    for id in [1, 2] {
        bench.inputs.push_back(Input::Machine {
            shard: ShardId::queues_of(NodeId(5)),
            input: Ask::Drop(id),
        });
    }
    bench.run();
    assert!(bench.values(ShardId::queues_of(NodeId(5))).is_empty());
    assert_eq!(bench.lane.figures().memory_bytes, 0);
}

#[test]
fn a_disk_that_does_not_keep_up_or_is_full_refuses_batches_but_no_drops() {
    let mut bench = Bench::new();
    bench.propose(ShardId(1), 1, &[1, 2]);
    bench.run();
    bench.outputs = Outs::default();
    bench.lane.options.unpaid_bytes_limit = 500_000;
    bench.answers = false;
    for ticket in 2..40 {
        // So large that they do not wait for company.
        let first = 10_000 * u64::from(ticket);
        let values: Vec<u64> = (first..first + 5000).collect();
        bench.propose(ShardId(1 + ticket % 3), ticket, &values);
        bench.run();
    }
    let refused = bench.outputs.done.len();
    assert!((1..30).contains(&refused), "{refused} refused");
    bench.answers = true;
    bench.run();
    assert_eq!(bench.outputs.done.len(), 38);

    bench.outputs = Outs::default();
    bench.inputs.push_back(Input::FreeDisk { bytes: 1 << 20 });
    bench.propose(ShardId(1), 40, &[200]);
    bench.inputs.push_back(Input::Machine {
        shard: ShardId(1),
        input: Ask::Drop(1),
    });
    bench.run();
    bench.pass(10);
    assert_eq!(bench.outputs.done, [(40, Outcome::Refused)]);
    assert_eq!(bench.values(ShardId(1)).first(), Some(&2));
}

#[test]
fn what_is_not_hosted_is_refused() {
    let mut bench = Bench::new();
    bench.propose(ShardId(9), 1, &[1]);
    bench.propose(ShardId::DEFINITIONS, 2, &[1]);
    bench.run();
    let refused = Outcome::Refused;
    assert_eq!(bench.outputs.done, [(1, refused), (2, refused)]);
}

#[test]
fn an_acknowledgement_waits_for_company_but_not_long() {
    let mut bench = Bench::new();
    bench.propose(ShardId(1), 1, &[1, 2, 3]);
    bench.run();
    bench.answers = false;
    let drop = |id| Input::Machine {
        shard: ShardId(1),
        input: Ask::Drop(id),
    };
    bench.inputs.push_back(drop(1));
    bench.run();
    assert!(bench.waiting.is_empty(), "no sync of its own");
    bench.pass(10);
    assert_eq!(bench.waiting.len(), 1);
    bench.answers = true;
    bench.run();
    assert_eq!(bench.values(ShardId(1)), [2, 3]);

    bench.answers = false;
    bench.inputs.push_back(drop(2));
    bench.propose(ShardId(1), 2, &[4]);
    bench.run();
    bench.answers = true;
    bench.run();
    assert_eq!(bench.values(ShardId(1)), [3, 4], "it rode along");
}

#[test]
fn an_idle_lane_has_no_deadline() {
    let mut bench = Bench::new();
    bench.propose(ShardId(1), 1, &[1]);
    bench.run();
    bench.pass(200);
    assert_eq!(bench.lane.deadline(), None);
}

#[test]
fn transactions_are_answered_with_their_versions() {
    use crate::rows::{Precondition, RowKey, Version, WaitFor, Write};
    let row = RowKey {
        kind: 1,
        key: "a".into(),
    };
    let transaction = Transaction {
        preconditions: vec![Precondition::Absent(row.clone())],
        writes: vec![Write::Put {
            row: row.clone(),
            value: "x".into(),
        }],
    };
    for shard in [ShardId::DEFINITIONS, ShardId::LOCAL_DEFINITIONS] {
        let mut bench = Bench::new();
        bench.outputs = Outs::default();
        for ticket in [1, 2] {
            bench.inputs.push_back(Input::Transact {
                shard,
                transaction: transaction.clone(),
                wait: WaitFor::Everywhere(ticket),
            });
        }
        bench.run();
        let first = match shard {
            ShardId::DEFINITIONS => Version(1),
            _ => Version(Version::local(NodeId(5), Life(1)).0 + 1),
        };
        let conflict = Committed::Conflict {
            row: row.clone(),
            found: Some(first),
        };
        let yes = Committed::Yes { first };
        let expected = [(1, Some(yes)), (2, Some(conflict))];
        assert_eq!(bench.outputs.committed, expected);
        let [(changed, changes)] = &bench.outputs.changes[..] else {
            panic!("one list of changes");
        };
        assert_eq!((*changed, changes.len()), (shard, 1));
    }
}

#[test]
fn a_stop_answers_what_is_under_way_and_writes_checkpoints() {
    let mut bench = Bench::new();
    bench.propose(ShardId(1), 1, &[1]);
    bench.inputs.push_back(Input::Stop);
    bench.propose(ShardId(1), 2, &[2]);
    bench.run();
    assert!(bench.outputs.stopped);
    let done = &bench.outputs.done;
    assert_eq!(done[..], [(2, Outcome::Refused), (1, Outcome::Stored)]);
}
