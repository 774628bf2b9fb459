//! A node that has a shard's state from another one, and its process that ends at bad moments.

use std::collections::VecDeque;

use super::double::{Ask, Double, put};
use crate::consensus::MemberChange;
use crate::ids::{Life, NodeId, Now, ReplicaId, ShardId, Time};
use crate::inbox::{Input, Outputs};
use crate::lane::{Lane, Options, ShardStatus, queue_at};
use crate::link::{self, About, Parcel};
use crate::log::disk::{FileName, Op};
use crate::log::sim::SimDisk;

const SHARD: ShardId = ShardId(1);

struct Node {
    id: NodeId,
    disk: SimDisk,
    /// Its disk does what it is asked to.
    answers: bool,
    life: u64,
    lane: Option<Lane<Double, u32>>,
    inputs: VecDeque<Input<Ask, u32>>,
}

/// The founder of a cluster, and one that joins it.
struct Pair {
    nodes: [Node; 2],
    now: Now,
    /// What the joiner says of an install that is done is lost; how often it said so.
    deaf: bool,
    unheard: u32,
    /// Nothing that the founder says arrives.
    mute: bool,
    /// Of what it says of checkpoints nothing arrives.
    withheld: bool,
    /// Why a node's lane ended.
    ended: Option<String>,
}

impl Pair {
    fn new() -> Self {
        let node = |id| Node {
            id: NodeId(id),
            disk: SimDisk::new(id),
            answers: true,
            life: 0,
            lane: None,
            inputs: VecDeque::new(),
        };
        let mut pair = Self {
            nodes: [node(1), node(2)],
            now: Now {
                wall: Time(1_000_000),
                ..Now::default()
            },
            deaf: false,
            unheard: 0,
            mute: false,
            withheld: false,
            ended: None,
        };
        pair.start(0);
        pair.start(1);
        pair
    }

    fn start(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        node.life += 1;
        let founders = if at == 0 { vec![node.id] } else { Vec::new() };
        let options = Options {
            founders,
            ..Options::new(node.id, Life(node.life), 1)
        };
        let lane = Lane::recover(options, &mut node.disk, |_| Double::default());
        node.lane = Some(lane.expect("what it wrote it reads"));
        if self.nodes[1 - at].lane.is_some() {
            self.link(Input::Connected { node: NodeId(1) }, 1);
            self.link(Input::Connected { node: NodeId(2) }, 0);
        }
        self.run();
    }

    fn link(&mut self, input: Input<Ask, u32>, at: usize) {
        self.nodes[at].inputs.push_back(input);
    }

    /// The joiner's process ends, and its disk forgets what it was not made to keep.
    fn crash(&mut self) {
        let node = &mut self.nodes[1];
        node.lane = None;
        node.disk.crash();
        node.inputs.clear();
        self.link(Input::Disconnected { node: NodeId(2) }, 0);
        self.run();
    }

    /// Steps both until nothing moves.
    fn run(&mut self) {
        super::rest(|| [self.step(0), self.step(1)] != [false, false]);
    }

    fn step(&mut self, at: usize) -> bool {
        let (now, node) = (self.now, &mut self.nodes[at]);
        let Some(lane) = &mut node.lane else {
            node.inputs.clear();
            return false;
        };
        let mut outputs = Outputs::default();
        let (inputs, disk) = (&mut node.inputs, &mut node.disk);
        let mut more = match super::try_step(lane, now, inputs, &mut outputs, disk) {
            Ok(more) => more,
            Err(error) => {
                self.ended = Some(error.to_string());
                node.lane = None;
                return false;
            }
        };
        while node.answers
            && let Some(completion) = node.disk.complete_one()
        {
            node.inputs.push_back(Input::Disk(completion));
        }
        let from = node.id;
        for envelope in outputs.mail {
            more = true;
            let envelope = envelope.parts.concat().into();
            let parcels = link::open(&envelope).expect("a node reads what another one says");
            let done = |parcel: &Parcel| {
                let Parcel::Transfer(it) = parcel else {
                    return false;
                };
                matches!(it.about, About::Installed { .. })
            };
            if self.deaf && parcels.iter().any(|(_, parcel)| done(parcel)) {
                self.unheard += 1;
                continue;
            }
            let transfers = |parcel: &Parcel| matches!(parcel, Parcel::Transfer(_));
            let withheld = self.withheld && parcels.iter().any(|(_, it)| transfers(it));
            if at == 0 && (self.mute || withheld) {
                continue;
            }
            let input = Input::Received {
                from,
                envelope,
                at: self.now.mono,
            };
            self.nodes[1 - at].inputs.push_back(input);
        }
        more || !self.nodes[at].inputs.is_empty()
    }

    fn pass(&mut self, millis: u64) {
        for _ in 0..millis.div_ceil(40) {
            self.now.mono = self.now.mono.plus_millis(40);
            self.now.wall.0 += 40;
            for node in &mut self.nodes {
                node.inputs.push_back(Input::Tick);
            }
            self.run();
        }
    }

    /// The founder is asked to store these.
    fn propose(&mut self, values: &[u64], ticket: u32) {
        let (shard, batch) = (SHARD, put(values, 100));
        let input = Input::Propose {
            shard,
            batch,
            ticket,
        };
        self.link(input, 0);
    }

    /// The founder has something, and the joiner is to have it too.
    fn join(&mut self) {
        let (shard, replica) = (SHARD, ReplicaId::new(NodeId(2), 9));
        let changes = vec![MemberChange::Learner(replica)];
        self.propose(&[1, 2, 3], 1);
        self.link(Input::Host { shard, replica }, 1);
        self.run();
        self.link(Input::ChangeMembers { shard, changes }, 0);
        self.run();
    }

    fn lane(&self, at: usize) -> &Lane<Double, u32> {
        self.nodes[at].lane.as_ref().expect("started")
    }

    fn status(&self, at: usize) -> ShardStatus {
        self.lane(at).status(SHARD).expect("hosted")
    }

    fn values(&self, at: usize) -> Vec<u64> {
        self.lane(at).machine(SHARD).expect("hosted").values()
    }
}

#[test]
fn an_install_that_is_being_saved_needs_nothing_that_a_full_disk_loses() {
    let mut pair = Pair::new();
    pair.deaf = true;
    pair.join();
    let waits = |pair: &Pair| pair.values(1).is_empty();
    while waits(&pair) {
        // Its disk answers one thing at a time, so that it is seen between two of them.
        pair.nodes[1].answers = false;
        pair.pass(40);
        let node = &mut pair.nodes[1];
        let completion = node.disk.complete_one().map(Input::Disk);
        node.inputs.extend(completion);
    }
    assert_eq!(pair.lane(1).installing_shard(), Some(SHARD), "not saved");
    let lane = pair.nodes[1].lane.as_mut().expect("started");
    lane.store.log.lose_adopted();
    pair.run();
    // Else the founder is told that it is on disk.
    assert_eq!(pair.lane(1).installing_shard(), Some(SHARD));
    pair.pass(2_000);
    assert_eq!(pair.unheard, 0);
    (pair.nodes[1].answers, pair.deaf) = (true, false);
    pair.pass(2_000);
    assert_eq!(pair.lane(1).installing_shard(), None);
    assert_eq!(pair.status(1).applied, pair.status(0).applied);
}

/// Seed 1304 of the simulator: the state took its place in the step that brought the news.
#[test]
fn bodies_that_a_full_disk_has_lost_are_fetched_again() {
    let mut pair = Pair::new();
    pair.join();
    let fetches = |pair: &Pair| {
        let writes = |op: &Op| match op {
            Op::Write {
                file: FileName::Segment(id),
                ..
            } => id.is_survivor(),
            _ => false,
        };
        pair.nodes[1].disk.waiting().iter().any(writes)
    };
    while !fetches(&pair) {
        pair.nodes[1].answers = false;
        pair.pass(40);
        assert!(pair.values(1).is_empty());
        if !fetches(&pair) {
            let node = &mut pair.nodes[1];
            let completion = node.disk.complete_one().map(Input::Disk);
            node.inputs.extend(completion);
        }
    }
    let node = &mut pair.nodes[1];
    node.disk.set_bytes_limit(node.disk.used_bytes());
    while let Some(completion) = pair.nodes[1].disk.complete_one() {
        pair.link(Input::Disk(completion), 1);
        pair.run();
        assert!(pair.values(1).is_empty(), "nothing takes its place");
    }
    pair.nodes[1].disk.set_bytes_limit(u64::MAX);
    pair.nodes[1].answers = true;
    pair.link(Input::FreeDisk { bytes: u64::MAX }, 1);
    pair.pass(20_000);
    assert_eq!(pair.values(1), [1, 2, 3]);
    assert_eq!(pair.status(1).applied, pair.status(0).applied);
    // Its log finds what it refers to.
    pair.crash();
    pair.start(1);
    assert_eq!(pair.values(1), [1, 2, 3]);
}

/// Seed 373 of the simulator: the checkpoint that was sent was of a time in which it was none.
#[test]
fn one_that_was_no_member_for_a_while_is_sent_a_state_that_has_it() {
    let mut pair = Pair::new();
    pair.withheld = true;
    pair.join();
    pair.pass(200);
    let replica = ReplicaId::new(NodeId(2), 9);
    let change = |pair: &mut Pair, change| {
        let (shard, changes) = (SHARD, vec![change]);
        pair.link(Input::ChangeMembers { shard, changes }, 0);
        pair.pass(200);
    };
    change(&mut pair, MemberChange::Remove(replica));
    assert_eq!(pair.status(0).members.learners, []);
    let lane = pair.nodes[0].lane.as_mut().expect("started");
    lane.store.log.request_checkpoint(SHARD);
    pair.pass(200);
    change(&mut pair, MemberChange::Learner(replica));
    pair.withheld = false;
    pair.pass(20_000);
    assert_eq!(pair.values(1), [1, 2, 3]);
    assert_eq!(pair.status(1).members.learners, [replica]);
    assert_eq!(pair.status(1).applied, pair.status(0).applied);
}

#[test]
fn an_old_copy_of_a_data_folder_is_told_from_the_one_that_was_here() {
    let mut pair = Pair::new();
    pair.join();
    pair.pass(2_000);
    let copy = pair.nodes[1].disk.clone();
    pair.propose(&[4, 5], 2);
    pair.pass(400);
    assert_eq!(pair.values(1), [1, 2, 3, 4, 5]);
    pair.crash();
    pair.nodes[1].disk = copy;
    pair.start(1);
    pair.pass(400);
    let why = pair.ended.expect("it ends");
    assert!(why.contains("old copy of the data folder"), "{why}");
    assert!(pair.nodes[0].lane.is_some());
}

#[test]
fn a_joiner_that_ends_before_it_says_what_it_has_goes_on_from_there() {
    let mut pair = Pair::new();
    pair.deaf = true;
    pair.join();
    pair.pass(2_000);
    assert!(pair.unheard > 0, "it was installed");
    assert_eq!(pair.values(1), [1, 2, 3]);
    pair.crash();
    pair.deaf = false;
    pair.start(1);
    // Nothing is added that would make the founder offer a later state.
    pair.pass(2_000);
    let (founder, joiner) = (pair.status(0), pair.status(1));
    let replica = ReplicaId::new(NodeId(2), 9);
    assert!(founder.matched.contains(&(replica, founder.committed)));
    assert_eq!(joiner.applied, founder.applied);
    let batch = put(&[4], 100);
    let (shard, ticket) = (SHARD, 2);
    let propose = Input::Propose {
        shard,
        batch,
        ticket,
    };
    pair.link(propose, 0);
    pair.pass(1_000);
    assert_eq!(pair.values(1), [1, 2, 3, 4]);
}

#[test]
fn a_joiner_that_was_installed_and_then_gets_the_log_knows_the_members() {
    let (mut pair, shard) = (Pair::new(), SHARD);
    pair.join();
    pair.pass(2_000);
    let third = ReplicaId::new(NodeId(3), 10);
    let change = |change| Input::ChangeMembers {
        shard,
        changes: vec![change],
    };
    pair.mute = true;
    pair.link(change(MemberChange::Learner(third)), 0);
    pair.pass(40);
    let head = pair.lane(0).head(SHARD).expect("hosted");
    assert!(head.members.learners.contains(&third));
    assert!(head.applied.0 > pair.status(1).applied.0);

    // Somebody else who led for a moment gave the joiner its state.
    let now = pair.now;
    let lane = pair.nodes[1].lane.as_mut().expect("started");
    let at = queue_at(SHARD, &lane.options).expect("a queue shard");
    let replica = &mut lane.queues[at];
    let (mut state, members) = (replica.blank_state(), head.members.clone());
    state.restore(head);
    let mut before = replica.install(state, members, now, &mut Vec::new());
    std::mem::swap(replica.machine_mut(), before.machine_mut());
    pair.mute = false;
    pair.pass(2_000);
    assert_eq!(pair.status(1).applied, pair.status(0).applied);
    assert_eq!(pair.status(1).members, pair.status(0).members);

    // Nor does its next checkpoint say what was so when it was installed.
    pair.link(change(MemberChange::Remove(third)), 0);
    pair.pass(2_000);
    let members = |at| pair.lane(at).head(SHARD).expect("hosted").members;
    assert_eq!(members(1), members(0));
    assert_eq!(pair.values(1), [1, 2, 3]);
}
