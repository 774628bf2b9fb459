//! Definitions as typed rows: what a vhost, user, exchange, queue or binding is, and its bytes.
//!
//! Invariants:
//! - a row's value begins with a version byte; whatever the bytes, decoding ends in a value or a
//!   [`RowError`];
//! - keys are lists of length-prefixed parts, the vhost first, so that rows of one kind that share
//!   their first parts lie side by side;
//! - kinds are numbered so that rows in the order of their keys build up: a vhost comes before its
//!   exchanges and queues, those before their bindings.
//!
//! The layout of each row stands at the head of its file; a change of it takes a new version byte.

use warren_cluster_core::ids::ShardId;

use crate::dispatch::operation::DestinationKind;

pub mod arguments;
mod binding;
pub mod changes;
mod codec;
pub mod diff;
pub mod equivalence;
mod exchange;
pub mod interchange;
mod life;
mod permission;
pub mod plan;
mod queue;
mod tombstone;
mod user;
mod vhost;

pub use binding::{BindingKey, canonical_arguments};
pub use codec::RowError;
pub use exchange::{ExchangeKey, ExchangeKind, ExchangeRow, Predeclared};
pub use life::{Home, LifeRow};
pub use permission::{PermissionKey, PermissionRow, TopicPermissionKey, TopicPermissionRow};
pub use queue::{Owner, QueueKey, QueueKind, QueueRow};
pub use tombstone::Tombstone;
pub use user::{HashingAlgorithm, UserKey, UserLimits, UserRow};
pub use vhost::{VhostKey, VhostRow};

/// Kinds of rows. Numbers are never reused; 10 and 11 are kept for parameters and policies.
pub mod kind {
    pub const VHOST: u8 = 1;
    pub const USER: u8 = 2;
    pub const PERMISSION: u8 = 3;
    pub const TOPIC_PERMISSION: u8 = 4;
    pub const EXCHANGE: u8 = 5;
    pub const QUEUE: u8 = 6;
    pub const BINDING: u8 = 7;
    pub const TOMBSTONE: u8 = 8;
    pub const PARAMETER: u8 = 10;
    pub const POLICY: u8 = 11;
    pub const LIFE: u8 = 12;
}

/// Where a row lives.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Store {
    /// In shard 0, on every node.
    Replicated,
    /// On its client's node, unlogged, and told to the others: exclusive queues whose name nobody
    /// else can ask for, and bindings to them. Only that node writes it.
    Local,
}

impl Store {
    /// The shard whose rows machine holds it.
    #[must_use]
    pub fn shard(self) -> ShardId {
        match self {
            Self::Replicated => ShardId::DEFINITIONS,
            Self::Local => ShardId::LOCAL_DEFINITIONS,
        }
    }

    /// The store of a rows shard; `None` for a shard of queues.
    #[must_use]
    pub fn of_shard(shard: ShardId) -> Option<Self> {
        match shard {
            ShardId::DEFINITIONS => Some(Self::Replicated),
            ShardId::LOCAL_DEFINITIONS => Some(Self::Local),
            _ => None,
        }
    }

    /// Where a queue belongs. `unrivalled`: no other node can be asked for one of its name.
    #[must_use]
    pub fn of_queue(exclusive: bool, unrivalled: bool) -> Self {
        if exclusive && unrivalled {
            Self::Local
        } else {
            Self::Replicated
        }
    }

    /// Where a binding between two objects of these stores belongs.
    #[must_use]
    pub fn of_binding(source: Self, destination: Self) -> Self {
        source.max(destination)
    }
}

/// One letter for a destination kind, in keys: queues sort before exchanges.
fn destination_letter(kind: DestinationKind) -> u8 {
    match kind {
        DestinationKind::Queue => 0,
        DestinationKind::Exchange => 1,
    }
}

#[cfg(test)]
mod tests;
