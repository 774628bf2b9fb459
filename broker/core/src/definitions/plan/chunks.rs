//! Many small transactions as few that each fit a log entry.
//!
//! Preconditions hold before a transaction's writes: what is made in it cannot be asked for in it
//! as well, and what was asked for once need not be again.

use std::collections::BTreeSet;

use warren_cluster_core::rows::{Precondition, RowKey, Transaction, Write};

use crate::definitions::Store;
use crate::definitions::interchange::{
    ARGUMENTS_BYTES_MAX, NAME_BYTES_MAX, TAGS_MAX, TEXT_BYTES_MAX,
};

/// The most bytes of one transaction: an entry of the log has 1 MiB, its header included.
pub const TRANSACTION_BYTES_MAX: usize = (1 << 20) - 1024;

/// What is not split fits: the arguments of a queue or exchange, the key of a binding, the tags and
/// texts of a user, vhost or permission, each with some names.
const _: () = assert!(2 * ARGUMENTS_BYTES_MAX + 16 * NAME_BYTES_MAX < TRANSACTION_BYTES_MAX);
const _: () = assert!(
    TAGS_MAX * (2 + NAME_BYTES_MAX) + 4 * TEXT_BYTES_MAX + 16 * NAME_BYTES_MAX
        < TRANSACTION_BYTES_MAX
);

/// Transactions that are being gathered for both stores.
#[derive(Default)]
pub(super) struct Chunks {
    replicated: Gathered,
    local: Gathered,
}

/// Those of one store, in order.
#[derive(Default)]
pub(crate) struct Gathered {
    done: Vec<Transaction>,
    open: Transaction,
    bytes: usize,
    /// Rows that the open transaction writes.
    written: BTreeSet<RowKey>,
    /// Rows that it asks to be present.
    present: BTreeSet<RowKey>,
}

impl Chunks {
    /// Adds what must be applied together.
    pub(super) fn add(&mut self, store: Store, piece: Transaction) {
        match store {
            Store::Replicated => self.replicated.add(piece),
            Store::Local => self.local.add(piece),
        }
    }

    pub(super) fn finish(self) -> impl Iterator<Item = (Store, Transaction)> {
        let of = |store, gathered: Gathered| {
            let transactions = gathered.finish().into_iter();
            transactions.map(move |transaction| (store, transaction))
        };
        of(Store::Replicated, self.replicated).chain(of(Store::Local, self.local))
    }
}

impl Gathered {
    pub(crate) fn add(&mut self, piece: Transaction) {
        let bytes = piece.encoded_len();
        if self.bytes + bytes > TRANSACTION_BYTES_MAX {
            self.close();
        }
        self.bytes += bytes;
        for precondition in piece.preconditions {
            if let Precondition::Present(row) = &precondition
                && (self.written.contains(row) || !self.present.insert(row.clone()))
            {
                continue;
            }
            self.open.preconditions.push(precondition);
        }
        for write in piece.writes {
            let (Write::Put { row, .. } | Write::Delete { row }) = &write;
            self.written.insert(row.clone());
            self.open.writes.push(write);
        }
    }

    fn close(&mut self) {
        let open = std::mem::take(&mut self.open);
        if !open.writes.is_empty() {
            self.done.push(open);
        }
        self.bytes = 0;
        self.written.clear();
        self.present.clear();
    }

    pub(crate) fn finish(mut self) -> Vec<Transaction> {
        self.close();
        self.done
    }
}
