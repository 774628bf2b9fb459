//! The rows of something new, with what must hold for them: the same for a declare and an import.

use warren_cluster_core::ids::ShardId;
use warren_cluster_core::rows::{Precondition, RowKey, Transaction, Write};

use super::{ExchangeKey, ExchangeRow, QueueKey, QueueRow, Store, VhostKey};

/// An end of a binding.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct End {
    pub store: Store,
    /// `None` for what is predeclared.
    pub row: Option<RowKey>,
}

impl End {
    /// A queue as an end.
    #[must_use]
    pub fn queue(vhost: &str, name: &[u8], store: Store) -> Self {
        let row = Some(QueueKey { vhost, name }.encode());
        Self { store, row }
    }

    /// An exchange that has a row as an end.
    #[must_use]
    pub fn exchange(vhost: &str, name: &[u8], store: Store) -> Self {
        let row = Some(ExchangeKey { vhost, name }.encode());
        Self { store, row }
    }

    /// A predeclared exchange as an end.
    #[must_use]
    pub fn predeclared() -> Self {
        let (store, row) = (Store::Replicated, None);
        Self { store, row }
    }
}

/// Where a new durable queue lives. `draw` is random; shards of such queues are 1..=`shards`.
#[must_use]
pub fn queue_shard(draw: u64, shards: u32) -> ShardId {
    // Any will do on one node; the row says which it is from then on.
    ShardId(1 + (draw % u64::from(shards.max(1))) as u32)
}

/// The row of a queue that must not exist, in a vhost that must.
#[must_use]
pub fn create_queue(vhost: &str, name: &[u8], store: Store, row: &QueueRow) -> Transaction {
    let key = QueueKey { vhost, name }.encode();
    create(vhost, store, key, row.encode())
}

/// The row of an exchange that must not exist, in a vhost that must.
#[must_use]
pub fn create_exchange(vhost: &str, name: &[u8], row: &ExchangeRow) -> Transaction {
    let key = ExchangeKey { vhost, name }.encode();
    create(vhost, Store::Replicated, key, row.encode())
}

/// The store of a binding, and those of its ends' rows which that store has and which must be
/// there.
#[must_use]
pub fn binding_ends(destination: End, source: End) -> (Store, Vec<Precondition>) {
    let store = Store::of_binding(source.store, destination.store);
    let present = [destination, source]
        .into_iter()
        .filter(|end| end.store == store)
        .filter_map(|end| end.row.map(Precondition::Present))
        .collect();
    (store, present)
}

fn create(vhost: &str, store: Store, key: RowKey, value: bytes::Bytes) -> Transaction {
    let mut preconditions = vec![Precondition::Absent(key.clone())];
    if store == Store::Replicated {
        let vhost = VhostKey { name: vhost }.encode();
        preconditions.push(Precondition::Present(vhost));
    }
    Transaction {
        preconditions,
        writes: vec![Write::Put { row: key, value }],
    }
}
