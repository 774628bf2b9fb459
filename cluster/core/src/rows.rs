//! The definitions machine: versioned rows, changed by transactions with preconditions.
//!
//! It knows nothing of what a row means. Invariants:
//! - every write takes a version of its own, ascending without gaps from 1;
//! - a transaction is applied whole or not at all;
//! - a row's version is that of the write that made its present value.

mod codec;
pub(crate) mod feed;
mod kept;
mod machine;
pub(crate) mod mirror;
#[cfg(test)]
mod tests;

use bytes::Bytes;

use crate::ids::{Life, NodeId};

pub use machine::Rows;

/// The number of a write. 0 is before the first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Version(pub u64);

impl Version {
    const LOCAL: u64 = 1 << 62;
    const NODE_SHIFT: u32 = 46;
    const NODE_MASK: u64 = (1 << 16) - 1;
    const LIFE_SHIFT: u32 = 38;
    const LIFE_MASK: u64 = (1 << 8) - 1;

    /// Where the writes of a node's unlogged rows begin in a life of its process: versions of two
    /// nodes, or of two lives that follow each other, are never the same.
    #[must_use]
    pub fn local(node: NodeId, life: Life) -> Self {
        let node = (node.0 & Self::NODE_MASK) << Self::NODE_SHIFT;
        let life = (life.0 & Self::LIFE_MASK) << Self::LIFE_SHIFT;
        Self(Self::LOCAL | node | life)
    }

    /// The node whose unlogged rows have such a version.
    #[must_use]
    pub fn node(self) -> Option<NodeId> {
        let node = NodeId(self.0 >> Self::NODE_SHIFT & Self::NODE_MASK);
        (self.0 & Self::LOCAL != 0).then_some(node)
    }
}

/// What names a row: a kind (the user's own numbering) and a key.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RowKey {
    pub kind: u8,
    pub key: Bytes,
}

/// What must hold for a transaction to be applied.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Precondition {
    Absent(RowKey),
    Present(RowKey),
    /// The row exists and its last write has this version.
    Unchanged(RowKey, Version),
}

/// One change to a row.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Write {
    Put {
        row: RowKey,
        value: Bytes,
    },
    /// Deleting what is not there is a write like any other.
    Delete {
        row: RowKey,
    },
}

/// Preconditions and writes, applied whole or not at all.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Transaction {
    pub preconditions: Vec<Precondition>,
    pub writes: Vec<Write>,
}

/// What came of a transaction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Committed {
    /// The versions of its writes, in order, begin here.
    Yes { first: Version },
    /// The first precondition that did not hold, and the row's version, if it exists.
    Conflict { row: RowKey, found: Option<Version> },
}

/// What whoever wants a transaction's outcome waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WaitFor<T> {
    /// Nobody wants it.
    Nothing,
    /// This node has it: whoever on another node has to do with it asks for it
    /// ([`crate::inbox::Input::CatchUp`]).
    Here(T),
    /// Every node that counts has it (rule 10).
    Everywhere(T),
}

impl<T> WaitFor<T> {
    /// Everywhere, if anybody waits.
    pub fn everywhere(ticket: Option<T>) -> Self {
        ticket.map_or(Self::Nothing, Self::Everywhere)
    }

    /// The same for another kind of ticket.
    pub fn map<U>(self, of: impl FnOnce(T) -> U) -> WaitFor<U> {
        match self {
            Self::Nothing => WaitFor::Nothing,
            Self::Here(ticket) => WaitFor::Here(of(ticket)),
            Self::Everywhere(ticket) => WaitFor::Everywhere(of(ticket)),
        }
    }

    /// Who waits.
    pub fn ticket(self) -> Option<T> {
        match self {
            Self::Nothing => None,
            Self::Here(ticket) | Self::Everywhere(ticket) => Some(ticket),
        }
    }
}

/// A row as it is after a write; what watchers get.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    pub row: RowKey,
    /// `None` when the row was deleted.
    pub value: Option<Bytes>,
    pub version: Version,
}

/// A row's present value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row {
    pub value: Bytes,
    pub version: Version,
}
