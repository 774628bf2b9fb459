//! The cluster's own rows in shard 0: who its nodes are, which replicas they are to have, who may
//! join. Typed, with the transactions that change them.
//!
//! Always holds:
//! - kinds from [`KINDS_FIRST`] on are the cluster's; users of the rows machine keep below;
//! - node ids and replica numbers come from one row and are never given twice;
//! - a use of a join token, the node id and the replica of shard 0 that it buys are one
//!   transaction: all of them or nothing;
//! - replicas are assigned by whoever leads shard 0, and changed by whoever leads their shard.

mod codec;
mod directory;
pub mod steps;
#[cfg(test)]
mod tests;

use bytes::Bytes;

use crate::ids::{NodeId, ReplicaId, ShardId, Time};
use crate::rows::{RowKey, Version};

pub use directory::{Admission, Directory, Founding, Wanted};

/// The first kind of row that is the cluster's own; all above are too.
pub const KINDS_FIRST: u8 = 240;
/// The version of the cluster that this build makes, and the newest that it can serve in.
pub const CLUSTER_VERSION: u32 = 1;

/// Kinds of rows. Numbers are never reused.
pub(crate) mod kind {
    pub(crate) const CLUSTER: u8 = 240;
    pub(crate) const AUTHORITY: u8 = 241;
    pub(crate) const NODE: u8 = 242;
    pub(crate) const NEXT: u8 = 243;
    pub(crate) const GRANT: u8 = 244;
    pub(crate) const REPLICAS: u8 = 245;
}

const _: () = assert!(kind::CLUSTER >= KINDS_FIRST, "no kind of a user's");

/// Whether a row is one of the cluster's own.
#[must_use]
pub fn is_own(row: &RowKey) -> bool {
    row.kind >= KINDS_FIRST
}

/// A value and the version of the write that made it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Versioned<V> {
    pub value: V,
    pub version: Version,
}

/// The cluster as a whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cluster {
    pub id: u128,
    /// What all nodes can do; raised when the last one can.
    pub version: u32,
    /// For people.
    pub name: String,
    /// Queue shards, fixed.
    pub shards: u32,
    pub founded: Time,
}

/// The authority that signs the nodes' certificates. Every node has it: any of them lets a
/// joiner in. Not shown: the key is a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Authority {
    /// DER form.
    pub certificate: Bytes,
    /// PEM form.
    pub key: Bytes,
}

/// Where a node is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NodeState {
    Active,
    /// It leads nothing, gets nothing new and serves no clients; it keeps its replicas.
    Draining,
    /// Everything moves away from it; then it is removed.
    Leaving,
    /// It is no member; its id is never given again.
    Removed,
}

/// A node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    /// For people.
    pub name: String,
    pub zone: String,
    /// Where other nodes and administrators reach it, `host:port` each.
    pub addresses: Vec<String>,
    pub amqp: Vec<String>,
    pub http: Vec<String>,
    pub state: NodeState,
    pub joined: Time,
    /// The public key that it asked to join with.
    pub key: Bytes,
}

/// What is given next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Next {
    pub node: NodeId,
    /// The lower half of the next replica's id.
    pub replica: u32,
}

/// The replicas that a shard is to have.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Replicas {
    /// The first one is to lead.
    pub voters: Vec<ReplicaId>,
    pub learners: Vec<ReplicaId>,
    /// Of nodes that had one before: members still, perhaps. They may be wanted again.
    pub retired: Vec<ReplicaId>,
    /// What these had agreed to was given up: they are never wanted again.
    pub lost: Vec<ReplicaId>,
    /// No members any more: their nodes are to forget them. Never wanted again.
    pub gone: Vec<ReplicaId>,
}

impl Node {
    /// Whether it takes part in the cluster.
    #[must_use]
    pub fn is_member(&self) -> bool {
        self.state != NodeState::Removed
    }
}

impl Replicas {
    /// Voters and learners.
    pub fn all(&self) -> impl Iterator<Item = ReplicaId> {
        self.voters.iter().chain(&self.learners).copied()
    }

    /// The replica that a node is to have, or had.
    #[must_use]
    pub fn of(&self, node: NodeId) -> Option<ReplicaId> {
        let mut known = self.all().chain(self.retired.iter().copied());
        known.find(|replica| replica.node() == node)
    }

    /// The replica that a node is to have.
    #[must_use]
    pub fn on(&self, node: NodeId) -> Option<ReplicaId> {
        self.all().find(|replica| replica.node() == node)
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authority(..)")
    }
}

/// Shard 0 and all queue shards.
pub fn all_shards(shards: u32) -> impl Iterator<Item = ShardId> {
    (0..=shards).map(ShardId)
}
