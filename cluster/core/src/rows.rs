//! The definitions machine: versioned rows, changed by transactions with preconditions.
//!
//! It knows nothing of what a row means. Invariants:
//! - every write takes a version of its own, ascending without gaps from 1;
//! - a transaction is applied whole or not at all;
//! - a row's version is that of the write that made its present value.

mod codec;
mod machine;
#[cfg(test)]
mod tests;

use bytes::Bytes;

pub use machine::Rows;

/// The number of a write. 0 is before the first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Version(pub u64);

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
