//! A cluster that does what layouts say, and complains about what they must not say.
//!
//! Rows and the steps of each shard are the real ones; members change as Raft would change them.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Bytes, BytesMut};

use crate::consensus::{MemberChange, Members};
use crate::ids::{Index, NodeId, ReplicaId, ShardId, Term, Time};
use crate::lane::ShardStatus;
use crate::members::steps::{self, Step};
use crate::members::{self, Directory, Founding, Replicas};
use crate::placement::{Change, Cluster, Known, Layout, Options, Shard, cluster, layout};
use crate::rows::{Committed, Rows, Transaction};

const COMMITTED: Index = Index(1_000_000);
/// Turns that a learner needs to catch up.
const TURNS: u32 = 2;
/// More than enough for every change that a test makes.
const TURNS_MAX: usize = 4000;
const TOKEN: u64 = 1;

pub(super) use crate::members::NodeState;

pub(super) struct Toy {
    rows: Rows,
    directory: Directory,
    known: Known,
    pub(super) options: Options,
    pub(super) now: Time,
    /// Copies that were made so far.
    pub(super) made: usize,
    present: BTreeSet<ReplicaId>,
    behind: BTreeMap<ReplicaId, u32>,
    /// Shards whose leaders nobody hears of.
    unheard: BTreeSet<ShardId>,
    /// As of the last look.
    pub(super) cluster: Cluster,
}

impl Toy {
    /// One node that has all shards, the definitions and `shards` others.
    pub(super) fn new(shards: u32, zone: &str) -> Self {
        let mut toy = Self {
            rows: Rows::default(),
            directory: Directory::default(),
            known: Known::default(),
            options: Options {
                weight_gain_min_bytes: 1,
                copying_max: 2,
                ..Options::default()
            },
            now: Time(1_000_000_000),
            made: 0,
            present: BTreeSet::new(),
            behind: BTreeMap::new(),
            unheard: BTreeSet::new(),
            cluster: Cluster::default(),
        };
        let founding = Founding {
            cluster: members::Cluster {
                id: 1,
                version: 1,
                name: String::new(),
                shards,
                founded: toy.now,
            },
            authority: members::Authority {
                certificate: Bytes::new(),
                key: Bytes::new(),
            },
            first: NodeId(1),
            node: toy.node_row(zone, 1),
        };
        assert!(toy.transact(&founding.transaction()));
        let grant = toy.directory.put_grant(TOKEN, Bytes::new(), &[]);
        assert!(toy.transact(&grant));
        for (shard, row) in toy.directory.replicas.clone() {
            let id = row.value.voters[0];
            toy.present.insert(id);
            toy.known.weights.insert(shard, 100);
            let status = ShardStatus {
                shard,
                replica: Some(id),
                leader: Some((Term(1), id.node())),
                members: Members {
                    voters: vec![id],
                    ..Members::default()
                },
                applied: (COMMITTED, Term(1)),
                committed: COMMITTED,
                last: (COMMITTED, Term(1)),
                matched: Vec::new(),
            };
            toy.known.shards.insert(shard, status);
        }
        toy.look();
        toy
    }

    fn node_row(&self, zone: &str, number: u64) -> members::Node {
        members::Node {
            name: number.to_string(),
            zone: zone.to_owned(),
            addresses: Vec::new(),
            amqp: Vec::new(),
            http: Vec::new(),
            state: NodeState::Active,
            joined: self.now,
            key: Bytes::copy_from_slice(&number.to_le_bytes()),
        }
    }

    fn transact(&mut self, transaction: &Transaction) -> bool {
        let mut bytes = BytesMut::new();
        transaction.encode(&mut bytes);
        let read = Transaction::decode(bytes.freeze()).expect("reads back");
        let mut changes = Vec::new();
        let committed = self.rows.transact(&read, &mut changes);
        let (_, applied) = self.directory.apply(&changes);
        assert_eq!(applied, Ok(()));
        matches!(committed, Committed::Yes { .. })
    }

    fn look(&mut self) {
        let mut known = self.known.clone();
        known
            .shards
            .retain(|id, status| status.leader.is_some() && !self.unheard.contains(id));
        self.cluster = cluster(&self.directory, &known, &self.options, self.now);
    }

    pub(super) fn add(&mut self, zone: &str) -> NodeId {
        let next = self.directory.next.as_ref().expect("founded").value.node;
        let node = self.node_row(zone, next.0);
        let admission = self.directory.admit(&node, TOKEN, Bytes::new());
        let admission = admission.expect("the token is good for ever");
        assert!(self.transact(&admission.transaction));
        self.take_new_rows();
        self.look();
        next
    }

    pub(super) fn set(&mut self, id: NodeId, state: NodeState) {
        let mut node = self.directory.nodes[&id].value.clone();
        node.state = state;
        let transaction = self.directory.put_node(id, &node).expect("a known node");
        assert!(self.transact(&transaction));
        self.look();
    }

    pub(super) fn kill(&mut self, id: NodeId) {
        self.known.down.entry(id).or_insert(self.now);
        self.elect();
        self.look();
    }

    pub(super) fn revive(&mut self, id: NodeId) {
        self.known.down.remove(&id);
        self.elect();
        self.look();
    }

    /// Whether a node is a member of a shard of queues, whoever knows it, and of the definitions.
    pub(super) fn takes_part(&self, id: NodeId) -> (bool, bool) {
        let shards = self.known.shards.values();
        let (definitions, queues): (Vec<_>, Vec<_>) = shards
            .filter(|status| status.members.on(id).is_some())
            .partition(|status| status.shard == ShardId::DEFINITIONS);
        (!queues.is_empty(), !definitions.is_empty())
    }

    /// Nobody hears of the shards that a node is a member of and is not to be, if `unheard`; else
    /// of all.
    pub(super) fn lose_sight(&mut self, id: NodeId, unheard: bool) {
        let shards = self.known.shards.values();
        let is_lost = |status: &&ShardStatus| {
            let wanted = self.row(status.shard).all().any(|it| it.node() == id);
            let is_member = status.members.on(id).is_some();
            unheard && is_member && !wanted && status.shard != ShardId::DEFINITIONS
        };
        self.unheard = shards.filter(is_lost).map(|it| it.shard).collect();
    }

    pub(super) fn weigh(&mut self, shard: ShardId, weight: u64) {
        self.known.weights.insert(shard, weight);
        self.look();
    }

    pub(super) fn wait_out_the_delay(&mut self) {
        self.now.0 += self.options.replace_after_millis;
        self.look();
    }

    pub(super) fn is_alive(&self, id: NodeId) -> bool {
        is_alive(&self.directory, &self.known, id)
    }

    pub(super) fn plan(&self) -> Layout {
        layout(&self.cluster, &self.options, self.now)
    }

    /// Plans and does until there is nothing to do. Gives how many turns that took.
    pub(super) fn settle(&mut self) -> usize {
        for turn in 0..TURNS_MAX {
            if !self.turn() {
                return turn;
            }
        }
        panic!("no end: {:#?}", self.plan());
    }

    /// One plan, and what comes of it. Gives whether anything was, or is, to be done.
    pub(super) fn turn(&mut self) -> bool {
        self.elect();
        self.look();
        let plan = self.plan();
        assert_eq!(plan, self.plan(), "the same facts give the same plan");
        let copying = self.copying();
        let wanted = plan.changes.iter();
        let wanted = wanted.map(|change| (change.shard, change.wanted.clone()));
        plan.changes.iter().for_each(|it| self.check_row(it));
        if let Some(transaction) = self.directory.assign(&wanted.collect(), usize::MAX) {
            assert!(self.transact(&transaction));
            self.take_new_rows();
        }
        // A shard's first two copies come at once.
        let most = self.options.copying_max + self.options.replication;
        assert!(self.copying() <= copying.max(most));
        let stepped = self.step();
        let joint = self.leave_joint();
        let copied = self.copy();
        self.forget_the_empty();
        self.elect();
        self.look();
        !plan.changes.is_empty() || stepped || joint || copied
    }

    /// Copies that the rows have and had not before.
    fn take_new_rows(&mut self) {
        let rows = self.directory.replicas.values();
        let now: BTreeSet<ReplicaId> = rows.flat_map(|row| row.value.all()).collect();
        for id in now.difference(&self.present) {
            let shards = self.known.shards.values();
            let mut members = shards.flat_map(|status| status.members.all());
            // One that was to go and is wanted again before it went has everything.
            if !members.any(|member| member == *id) {
                self.behind.insert(*id, TURNS);
                self.made += 1;
            }
        }
        self.present = now;
    }

    /// Copies of queues on their way. What nobody leads, nobody copies.
    fn copying(&self) -> usize {
        let rows = self.directory.replicas.iter();
        let rows =
            rows.filter(|(shard, _)| **shard != ShardId::DEFINITIONS && self.is_led(**shard));
        let ids: BTreeSet<ReplicaId> = rows.flat_map(|(_, row)| row.value.all()).collect();
        let behind = self.behind.keys().filter(|id| ids.contains(id));
        behind.filter(|id| self.is_alive(id.node())).count()
    }

    /// Somebody leads the shard, and is heard of.
    fn is_led(&self, shard: ShardId) -> bool {
        self.known.shards[&shard].leader.is_some() && !self.unheard.contains(&shard)
    }

    /// The next step of every shard.
    fn step(&mut self) -> bool {
        let alive = self.directory.members().map(|(id, _)| id);
        let alive: BTreeSet<NodeId> = alive.filter(|id| self.is_alive(*id)).collect();
        let led: Vec<ShardStatus> = self
            .known
            .shards
            .values()
            .filter(|status| self.is_led(status.shard))
            .cloned()
            .collect();
        let steps = steps::all(&self.directory.replicas, &led, &alive, usize::MAX);
        for (shard, step) in &steps {
            match step {
                Step::Transfer(to) => {
                    let status = self.known.shards.get_mut(shard).expect("is led");
                    assert!(status.members.voters.contains(to) && alive.contains(&to.node()));
                    assert_ne!(status.replica, Some(*to));
                    status.replica = Some(*to);
                    status.leader = Some((Term(1), to.node()));
                }
                Step::Change(changes) => self.change(*shard, changes),
            }
        }
        !steps.is_empty()
    }

    fn change(&mut self, shard: ShardId, changes: &[MemberChange]) {
        let before = self.known.shards[&shard].members.clone();
        assert!(before.outgoing.is_empty(), "one change at a time");
        let mut after = before.clone();
        for change in changes {
            let (MemberChange::Learner(id) | MemberChange::Voter(id) | MemberChange::Remove(id)) =
                change;
            after.voters.retain(|it| it != id);
            after.learners.retain(|it| it != id);
            match change {
                MemberChange::Learner(_) => after.learners.push(*id),
                MemberChange::Voter(_) => {
                    assert!(before.learners.contains(id), "learner first");
                    assert!(!self.behind.contains_key(id), "{id} has not caught up");
                    after.voters.push(*id);
                }
                MemberChange::Remove(_) => {}
            }
        }
        after.voters.sort_unstable();
        after.learners.sort_unstable();
        self.check_change(&before, &after, shard);
        let status = self.known.shards.get_mut(&shard).expect("is led");
        let leads = status.replica.expect("is led");
        assert!(after.voters.contains(&leads));
        if before.voters != after.voters {
            after.outgoing = before.voters;
        }
        status.members = after;
    }

    /// How many more of its nodes a shard can lose.
    fn spare(&self, members: &Members) -> Option<usize> {
        let voters = members.voters.iter().map(|id| id.node());
        spare(&self.directory, &self.known, voters)
    }

    /// With the votes of a row a shard can lose no fewer nodes than with those that it has, or the
    /// cluster has no room for more.
    fn check_row(&self, change: &Change) {
        let members = &self.known.shards[&change.shard].members;
        let voters = change.wanted.voters.iter().copied();
        let after = spare(&self.directory, &self.known, voters);
        let most = change.wanted.voters.len() == self.voters_wanted(change.shard);
        let is_safe = after >= self.spare(members) || (most && after.is_some());
        assert!(is_safe, "{change:?} of {members:?}");
    }

    /// A step hurts a shard no more than its row says: that was checked when it was written, and
    /// who came or came back since counts with the next one.
    fn check_change(&self, before: &Members, after: &Members, shard: ShardId) {
        let (had, has) = (self.spare(before), self.spare(after));
        assert!(had.is_some() && has.is_some(), "{shard}: no majority");
        let shrinks = after.voters.len() < before.voters.len();
        let wanted = self.row(shard).voters.len();
        // With the leader that is to go they are one more for a while.
        let grows = after.voters.len() == wanted + 1 || before.voters.len() > wanted;
        assert!(
            has >= had || (shrinks && grows),
            "{shard}: {before:?} {after:?}"
        );
    }

    pub(super) fn row(&self, shard: ShardId) -> &Replicas {
        &self.directory.replicas[&shard].value
    }

    pub(super) fn copies_wanted(&self, shard: ShardId) -> usize {
        let room = self.directory.members();
        let room = room.filter(|(_, node)| node.state != NodeState::Leaving);
        let room = room.count().max(1);
        match shard {
            ShardId::DEFINITIONS => room,
            _ => room.min(self.options.replication.max(1)),
        }
    }

    pub(super) fn voters_wanted(&self, shard: ShardId) -> usize {
        let most = match shard {
            ShardId::DEFINITIONS => self.options.definitions_voters,
            _ => self.options.replication.max(1),
        };
        let copies = self.copies_wanted(shard).min(most);
        if copies % 2 == 0 {
            copies.saturating_sub(1)
        } else {
            copies
        }
    }

    fn leave_joint(&mut self) -> bool {
        let mut any = false;
        for status in self.known.shards.values_mut() {
            any |= !status.members.outgoing.is_empty();
            status.members.outgoing.clear();
        }
        any
    }

    fn copy(&mut self) -> bool {
        let mut any = false;
        let (directory, known) = (&self.directory, &self.known);
        let alive = self.behind.keys().copied();
        let alive: Vec<_> = alive
            .filter(|id| is_alive(directory, known, id.node()))
            .collect();
        for id in alive {
            let shards = self.known.shards.values_mut();
            let mut shards = shards.filter(|shard| shard.members.learners.contains(&id));
            let Some(status) = shards.find(|shard| shard.leader.is_some()) else {
                continue;
            };
            any = true;
            let left = self.behind.get_mut(&id).expect("was listed");
            *left -= 1;
            if *left == 0 {
                self.behind.remove(&id);
                status.matched.push((id, COMMITTED));
            }
        }
        any
    }

    fn forget_the_empty(&mut self) {
        let shards = &self.known.shards;
        let has = |id: NodeId| {
            let members = shards.values().any(|shard| shard.members.on(id).is_some());
            members || self.directory.replicas_on(id).count() > 0
        };
        let leaving = self.directory.members();
        let leaving = leaving.filter(|(_, node)| node.state == NodeState::Leaving);
        let empty: Vec<NodeId> = leaving.map(|it| it.0).filter(|id| !has(*id)).collect();
        for id in empty {
            self.set(id, NodeState::Removed);
        }
    }

    fn elect(&mut self) {
        let (directory, known) = (self.directory.clone(), self.known.clone());
        for status in self.known.shards.values_mut() {
            let leader = status.leader.map(|(_, node)| node);
            let leads = leader.is_some_and(|node| is_alive(&directory, &known, node));
            let voters = status.members.voters.iter().map(|id| id.node());
            let decides = spare(&directory, &known, voters).is_some();
            let mut heirs = status.members.voters.iter().map(|id| id.node());
            let heir = heirs.find(|node| is_alive(&directory, &known, *node));
            let leader = leader.filter(|_| leads).or(heir).filter(|_| decides);
            status.leader = leader.map(|node| (Term(1), node));
            status.replica = leader.and_then(|node| status.members.on(node));
            let members = status.members.clone();
            let matched = members.all().filter(|id| !self.behind.contains_key(id));
            status.matched = matched.map(|id| (id, COMMITTED)).collect();
        }
    }

    /// Copies of queue shards on each node.
    pub(super) fn copies(&self) -> Vec<usize> {
        self.per_node(|shard, node| {
            let counts = shard.id != ShardId::DEFINITIONS;
            usize::from(counts && shard.members.on(node).is_some())
        })
    }

    pub(super) fn leaders(&self) -> Vec<usize> {
        self.per_node(|shard, node| usize::from(shard.leader == Some(node)))
    }

    pub(super) fn weights(&self) -> Vec<usize> {
        self.per_node(|shard, node| match shard.members.on(node) {
            Some(_) if shard.id != ShardId::DEFINITIONS => shard.weight as usize,
            _ => 0,
        })
    }

    fn per_node(&self, count: impl Fn(&Shard, NodeId) -> usize) -> Vec<usize> {
        let nodes = self.cluster.nodes.iter().map(|node| {
            let shards = self.cluster.shards.iter();
            shards.map(|shard| count(shard, node.id)).sum()
        });
        nodes.collect()
    }

    /// In how many zones a shard's voters are, at most how many in one.
    pub(super) fn zones(&self, shard: &Shard) -> (usize, usize) {
        let mut zones = BTreeMap::new();
        for voter in &shard.members.voters {
            let nodes = self.cluster.nodes.iter();
            let mut of = nodes.filter(|node| node.id == voter.node());
            let zone = of.next().map(|node| node.zone.as_str());
            *zones.entry(zone).or_insert(0) += 1;
        }
        (zones.len(), zones.values().copied().max().unwrap_or(0))
    }

    /// What must be so whenever nothing is left to do.
    pub(super) fn check_rest(&self) {
        let plan = self.plan();
        assert!(plan.changes.is_empty(), "{plan:#?}");
        for shard in &self.cluster.shards {
            let held = plan.held.iter().any(|(held, _)| *held == shard.id);
            let mut rows = shard.replicas.iter();
            let down = rows.any(|row| !self.is_alive(row.id.node()));
            if held || down {
                continue;
            }
            let members = &shard.members;
            let id = shard.id;
            assert_eq!(members.voters.len() % 2, 1, "{id}: {members:?}");
            assert_eq!(shard.replicas.len(), members.all().count(), "{id}");
            let status = &self.known.shards[&id];
            assert!(steps::is_settled(self.row(id), status), "{id}: {status:?}");
            let first = self.row(id).voters[0].node();
            assert_eq!(shard.leader, Some(first), "{id}");
        }
    }
}

fn is_alive(directory: &Directory, known: &Known, id: NodeId) -> bool {
    let member = directory.nodes.get(&id);
    member.is_some_and(|node| node.value.is_member()) && !known.down.contains_key(&id)
}

/// How many of its voters a shard can lose.
fn spare(
    directory: &Directory,
    known: &Known,
    voters: impl ExactSizeIterator<Item = NodeId>,
) -> Option<usize> {
    let majority = voters.len() / 2 + 1;
    let alive = voters.filter(|id| is_alive(directory, known, *id));
    alive.count().checked_sub(majority)
}

/// The most is at most one more than the least.
pub(super) fn is_even(counts: &[usize]) -> bool {
    counts.iter().max().unwrap_or(&0) - counts.iter().min().unwrap_or(&0) <= 1
}
