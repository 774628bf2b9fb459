//! All that the simulation has to do with who is a member and where replicas are: the pure
//! functions of the core that say so, called as a node's own tasks call them.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use warren_cluster_core::ids::{NodeId, ReplicaId, ShardId, Term, Time};
use warren_cluster_core::inbox::Input;
use warren_cluster_core::lane::ShardStatus;
use warren_cluster_core::members::steps::{self, Step};
use warren_cluster_core::members::{
    Authority, CLUSTER_VERSION, Cluster, Directory, Founding, Node as NodeRow, NodeState,
};
use warren_cluster_core::placement::{self, Known};
use warren_cluster_core::rows::Transaction;

use crate::node::Node;

/// Shards of a leader that change their members at a time, and that one transaction assigns.
const MOVING_MAX: usize = 4;
const ASSIGNED_MAX: usize = 256;
/// How often a node looks at its shards.
pub(super) const PERIOD_MICROS: u64 = 100_000;
/// A proposal that came to nothing is made again after this, and a lead is offered again.
const PROPOSE_AGAIN_MICROS: u64 = 3_000_000;
const TRANSFER_AGAIN_MICROS: u64 = 10_000_000;
/// Of the one join token that there is.
const TOKEN: u64 = 1;

/// What all nodes that one of them reaches say of their replicas.
#[derive(Debug, Default)]
pub(super) struct Look {
    /// Shards as those who lead them see them.
    led: BTreeMap<ShardId, ShardStatus>,
    has: BTreeMap<NodeId, BTreeSet<(ShardId, ReplicaId)>>,
}

/// A node's part in keeping shards where they should be.
#[derive(Debug, Default)]
pub(super) struct Steward {
    proposed: Option<(Transaction, u64)>,
    /// Nodes that there is no way to, and since when.
    down: BTreeMap<NodeId, Time>,
    /// When leads were offered, in the term in which the node has them.
    transferred: BTreeMap<(ShardId, Term), u64>,
}

impl Look {
    pub(super) fn at<'a>(nodes: impl Iterator<Item = &'a Node>) -> Self {
        let mut look = Self::default();
        for node in nodes {
            let has = look.has.entry(node.id()).or_default();
            for status in node.shards() {
                has.extend(status.replica.map(|replica| (status.shard, replica)));
                let leader = status.leader.filter(|it| it.1 == node.id());
                let known = look.led.get(&status.shard).and_then(|known| known.leader);
                // One that was cut off may still take itself for the leader: the newest counts.
                if leader.is_some() && known < leader {
                    look.led.insert(status.shard, status);
                }
            }
        }
        look
    }

    fn known(&self, down: &BTreeMap<NodeId, Time>) -> Known {
        Known {
            shards: self.led.clone(),
            weights: BTreeMap::new(),
            down: down.clone(),
        }
    }

    /// What is to be changed next in the rows, and whether something waits for its turn.
    fn next(&self, directory: &Directory, down: &BTreeMap<NodeId, Time>, now: u64) -> Next {
        let known = self.known(down);
        let gone = placement::gone(directory, &known);
        let removal = |node| directory.put_state(node, NodeState::Removed);
        if let Some(transaction) = gone.and_then(removal) {
            return Next::Propose(transaction);
        }
        let has = |shard, id: ReplicaId| {
            let has = self.has.get(&id.node())?;
            Some(has.contains(&(shard, id)))
        };
        if let Some(transaction) = directory.tidy(&known.shards, has, ASSIGNED_MAX) {
            return Next::Propose(transaction);
        }
        let options = placement::Options::default();
        let cluster = placement::cluster(directory, &known, &options, millis(now));
        let layout = placement::layout(&cluster, &options, millis(now));
        let wanted = layout.changes.into_iter();
        let wanted = wanted.map(|change| (change.shard, change.wanted));
        match directory.assign(&wanted.collect(), ASSIGNED_MAX) {
            Some(transaction) => Next::Propose(transaction),
            // What cannot be seen to yet is not where it should be.
            None if layout.waiting > 0 || !layout.held.is_empty() => Next::Wait,
            None => Next::Nothing,
        }
    }
}

/// What the leader of shard 0 does next.
enum Next {
    Propose(Transaction),
    Wait,
    Nothing,
}

impl Steward {
    /// Does what is to be done now. `look` is there where the node leads shard 0.
    pub(super) fn work(&mut self, node: &mut Node, look: Option<&Look>, now: u64) {
        let directory = node.directory();
        if directory.cluster.is_none() || directory.nodes.len() < 2 {
            return;
        }
        self.note_down(node, now);
        let directory = node.directory();
        let led = node.leads();
        let mut steps = steps::all(&directory.replicas, &led, node.reachable(), MOVING_MAX);
        self.transferred
            .retain(|_, at| now < *at + TRANSFER_AGAIN_MICROS);
        steps.retain(|(shard, step)| {
            let transfers = matches!(step, Step::Transfer(_));
            let term = led.iter().find(|status| status.shard == *shard);
            let term = term.and_then(|status| status.leader).unwrap_or_default().0;
            let offered = transfers && self.transferred.contains_key(&(*shard, term));
            if transfers && !offered {
                self.transferred.insert((*shard, term), now);
            }
            !offered
        });
        let next = look.map(|look| look.next(directory, &self.down, now));
        if let Some(Next::Propose(transaction)) = next {
            self.propose(node, transaction, now);
        }
        if look.is_some() {
            node.fence_removed();
        }
        for (shard, step) in steps {
            node.push(match step {
                Step::Change(changes) => Input::ChangeMembers { shard, changes },
                Step::Transfer(to) => Input::Transfer { shard, to },
            });
        }
    }

    fn note_down(&mut self, node: &Node, now: u64) {
        let members = node.directory().members().map(|(id, _)| id);
        let is_down = |id: &NodeId| *id != node.id() && !node.reachable().contains(id);
        let down: BTreeSet<NodeId> = members.filter(is_down).collect();
        self.down.retain(|id, _| down.contains(id));
        let since = millis(now);
        for id in down {
            self.down.entry(id).or_insert(since);
        }
    }

    fn propose(&mut self, node: &mut Node, transaction: Transaction, now: u64) {
        let same = |(before, at): &(Transaction, u64)| {
            *before == transaction && now < *at + PROPOSE_AGAIN_MICROS
        };
        if !self.proposed.as_ref().is_some_and(same) {
            self.proposed = Some((transaction.clone(), now));
            node.transact(transaction);
        }
    }
}

fn millis(micros: u64) -> Time {
    Time(micros / 1000)
}

/// Whether the rows are as they are to be, and the shards that the node leads as in the rows.
pub(super) fn is_settled(node: &Node, look: &Look) -> bool {
    let directory = node.directory();
    matches!(look.next(directory, &BTreeMap::new(), 0), Next::Nothing)
        && node.leads().iter().all(|status| {
            let row = directory.replicas.get(&status.shard);
            row.is_none_or(|row| steps::is_settled(&row.value, status))
        })
}

/// The rows of a cluster of one.
pub(super) fn found(first: NodeId, shards: u32) -> Transaction {
    Founding {
        cluster: Cluster {
            id: 1,
            version: CLUSTER_VERSION,
            name: "simulated".to_owned(),
            shards,
            founded: Time(0),
        },
        authority: Authority {
            certificate: Bytes::new(),
            key: Bytes::new(),
        },
        first,
        node: row(0),
    }
    .transaction()
}

/// A token that nodes can join with.
pub(super) fn grant(directory: &Directory) -> Transaction {
    directory.put_grant(TOKEN, Bytes::from_static(b"many"), &[])
}

pub(super) fn has_grant(directory: &Directory) -> bool {
    directory.grants.contains_key(&TOKEN)
}

/// Lets the node in that asks with this key.
pub(super) fn admit(directory: &Directory, key: u64) -> Option<Transaction> {
    let grant = directory.grants.get(&TOKEN)?.value.clone();
    let admission = directory.admit(&row(key), TOKEN, grant)?;
    Some(admission.transaction)
}

/// The node that was let in with this key, and its replica of shard 0.
pub(super) fn admitted(directory: &Directory, key: u64) -> Option<(NodeId, ReplicaId)> {
    let (node, _) = directory.node_of(&key.to_le_bytes())?;
    let row = directory.replicas.get(&ShardId::DEFINITIONS)?;
    Some((node, row.value.on(node)?))
}

pub(super) fn state_of(directory: &Directory, node: NodeId) -> Option<NodeState> {
    directory.nodes.get(&node).map(|row| row.value.state)
}

fn row(key: u64) -> NodeRow {
    NodeRow {
        name: format!("joiner-{key}"),
        zone: String::new(),
        addresses: Vec::new(),
        amqp: Vec::new(),
        http: Vec::new(),
        state: NodeState::Active,
        joined: Time(0),
        key: Bytes::copy_from_slice(&key.to_le_bytes()),
    }
}
