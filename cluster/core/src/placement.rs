//! Which node has a copy of which shard, and who leads it: a plan, made from what is known.
//!
//! A pure function of the cluster, the options and the time. Whoever leads the definitions shard
//! calls [`layout()`] again and again, and writes what it gives into the shards' rows; whoever
//! leads a shard takes the steps that make its members those of the row
//! ([`crate::members::steps`]).
//! Nothing is remembered between two calls. When there is nothing to do the layout is empty.
//!
//! What is wanted, the first before the second:
//! 1. as many copies as the options say; an odd number of them votes; every node has the
//!    definitions. Two nodes are a voter and a learner;
//! 2. nothing on nodes that were removed, or are down for longer than a delay, as soon as there is
//!    another node to take it;
//! 3. a shard's copies in as many zones as can be;
//! 4. the same number of copies on every node, then about the same weight;
//! 5. the same number of leaders on every node, and none on one that drains.
//!
//! Always holds:
//! - a shard whose members are not yet those of its row is left alone, unless a node that it waits
//!   for is bad;
//! - a shard without a majority is left alone, and reported;
//! - a shard with a copy down is moved for no other reason than that;
//! - a balanced cluster gives an empty layout, and no layout undoes what another one began.

mod balance;
mod facts;
mod layout;
mod leads;
mod paths;
mod risk;
mod target;
#[cfg(test)]
mod tests;
mod view;

use std::fmt;

use crate::consensus::Members;
use crate::ids::{Index, NodeId, ReplicaId, ShardId, Time};
use crate::members::Wanted;
pub use risk::{needs_node, nodes_of_zone, quorum_risk, would_break};
pub use view::{Known, cluster, gone};

/// What an operator wants of a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NodeState {
    Active,
    /// Leads nothing and gets no new copies; keeps those that it has.
    Draining,
    /// Everything moves away.
    Removed,
}

/// A node as the cluster knows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    pub id: NodeId,
    /// Nodes that fail together have the same.
    pub zone: String,
    pub state: NodeState,
    /// Since when the node is not heard of; `None` when it is alive.
    pub down_since: Option<Time>,
}

/// A copy of a shard that the definitions' rows name, whether it is a member yet or not.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Replica {
    pub id: ReplicaId,
    /// How far it has the log, as far as the leader knows.
    pub matched: Option<Index>,
}

/// A logged shard as its leader, or else the definitions' rows, know it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shard {
    pub id: ShardId,
    pub members: Members,
    pub replicas: Vec<Replica>,
    /// What its row says.
    pub wanted: Wanted,
    pub leader: Option<NodeId>,
    pub committed: Index,
    /// Bytes of its live messages.
    pub weight: u64,
    /// Its members are on their way to what the row says, and will come to it.
    pub is_busy: bool,
}

/// All that a plan is made from.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Cluster {
    pub nodes: Vec<Node>,
    pub shards: Vec<Shard>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// Copies of a shard, where there are as many nodes.
    pub replication: usize,
    /// Voters of the definitions shard at most; the other nodes learn.
    pub definitions_voters: usize,
    /// Copies of queue shards that are filled at the same time.
    pub copying_max: usize,
    /// Rows that change votes or the lead at a time.
    pub changes_max: usize,
    /// How long a node is down before its copies are made anew elsewhere.
    pub replace_after_millis: u64,
    /// A learner gets the vote when it has all but this many of the entries.
    pub lag_entries_max: u64,
    /// Weight moves only if that takes at least this share of a node's mean weight away from the
    /// heavier node..
    pub weight_gain_percent: u64,
    /// ..and at least this many bytes.
    pub weight_gain_min_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            replication: 3,
            definitions_voters: 5,
            copying_max: 8,
            changes_max: 16,
            replace_after_millis: 10 * 60 * 1000,
            lag_entries_max: 1000,
            weight_gain_percent: 10,
            weight_gain_min_bytes: 256 << 20,
        }
    }
}

/// Why something is to be done.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Reason {
    /// There are fewer copies than wanted.
    Missing,
    /// This node is down for longer than the delay.
    Down(NodeId),
    /// This node is being removed.
    Removed(NodeId),
    /// More or fewer voters are wanted, or others.
    Voters,
    /// Two copies are in one zone while another zone has room.
    Zones,
    /// This node has more copies than others.
    Copies(NodeId),
    /// This node has more weight than others.
    Weight(NodeId),
    /// This node, which leads, drains.
    Draining(NodeId),
    /// The leader's copy is to go.
    Replaced,
    /// This node leads more than others.
    Leaders(NodeId),
}

/// What a shard's row becomes, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    pub shard: ShardId,
    pub wanted: Wanted,
    pub reason: Reason,
}

/// A copy that moves, or is made; may wait for its turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Move {
    pub shard: ShardId,
    pub from: Option<NodeId>,
    pub to: NodeId,
    pub reason: Reason,
}

/// Why nothing can be done for a shard though something ought to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Hold {
    #[error("only {alive} of {voters} voters are alive: no majority")]
    NoMajority { alive: usize, voters: usize },
    #[error("nobody leads it")]
    NoLeader,
    #[error("no node can take what node {0} has of it")]
    NoRoom(NodeId),
}

/// What to write into rows now, and what will be left to do.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Layout {
    /// In the order of their urgency.
    pub changes: Vec<Change>,
    /// Changes that wait for their turn.
    pub waiting: usize,
    /// All copies that are to be made, those of `changes` too, as far as can be foreseen.
    pub moves: Vec<Move>,
    pub held: Vec<(ShardId, Hold)>,
}

impl Layout {
    /// Whether all is where it belongs, or on its way there.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.waiting == 0 && self.moves.is_empty()
    }
}

/// What to write next. Also a dry run: nothing is done by asking.
#[must_use]
pub fn layout(cluster: &Cluster, options: &Options, now: Time) -> Layout {
    let facts = facts::Facts::new(cluster, options, now);
    let targets = target::all(&facts);
    layout::layout(&facts, &targets)
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => write!(f, "too few copies"),
            Self::Down(node) => write!(f, "node {node} is down"),
            Self::Removed(node) => write!(f, "node {node} is being removed"),
            Self::Voters => write!(f, "other voters are wanted"),
            Self::Zones => write!(f, "spreads over zones"),
            Self::Copies(node) => write!(f, "node {node} has more copies than others"),
            Self::Weight(node) => write!(f, "node {node} has more weight than others"),
            Self::Draining(node) => write!(f, "node {node} drains"),
            Self::Replaced => write!(f, "the leader's copy is to go"),
            Self::Leaders(node) => write!(f, "node {node} leads more than others"),
        }
    }
}
