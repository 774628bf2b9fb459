//! Queues as their shards should have them, from the rows as they change.
//!
//! Invariant: a queue is dropped only on its tombstone, never because its row is absent.
//!
//! Run on every change before anyone else sees it, so that a queue is made in its shard ahead of
//! the first publish or consumer that can name it. Both commands may come again without harm:
//! after a start all rows come as changes.

use std::collections::BTreeSet;

use bytes::Bytes;
use warren_cluster_core::ids::ShardId;
use warren_cluster_core::rows::{Change, Transaction};

use crate::definitions::{QueueRow, RowError, Store, Tombstone, kind};
use crate::ids::QueueId;
use crate::shard::input::{Input, QueueConfig};
use crate::topology::Topology;

/// The inputs that follow from rows of `store` that changed.
///
/// # Errors
/// A row that this build cannot read: the first one.
pub fn reconcile(store: Store, changes: &[Change]) -> Result<Vec<(ShardId, Input)>, RowError> {
    let mut inputs = Vec::new();
    for change in changes {
        let Some(value) = &change.value else {
            continue;
        };
        match change.row.kind {
            kind::QUEUE => {
                let row = QueueRow::decode(value)?;
                let queue = row.id(store, change.version);
                let config = QueueConfig {
                    auto_delete: row.auto_delete,
                    options: Bytes::new(),
                };
                inputs.push((row.shard, Input::Create { queue, config }));
            }
            kind::TOMBSTONE => {
                let queue = Tombstone::decode_key(&change.row.key)?;
                let tombstone = Tombstone::decode(queue, value)?;
                inputs.push((tombstone.shard, Input::Drop { queue }));
            }
            _ => {}
        }
    }
    Ok(inputs)
}

/// The inputs for shards that this node leads from here on: every queue that there is, and every
/// tombstone. What changes later comes through [`reconcile`].
#[must_use]
pub fn lead(topology: &Topology, shards: &BTreeSet<ShardId>) -> Vec<(ShardId, Input)> {
    let queues = topology
        .queues()
        .filter(|queue| shards.contains(&queue.row.shard));
    let creates = queues.map(|queue| {
        let config = QueueConfig {
            auto_delete: queue.row.auto_delete,
            options: Bytes::new(),
        };
        let queue_id = queue.id();
        let create = Input::Create {
            queue: queue_id,
            config,
        };
        (queue.row.shard, create)
    });
    let gone = topology
        .tombstones()
        .filter(|it| shards.contains(&it.shard));
    let drops = gone.map(|it| (it.shard, Input::Drop { queue: it.queue }));
    creates.chain(drops).collect()
}

/// The shard has dropped the queue: its tombstone is not needed any more.
#[must_use]
pub fn forget(queue: QueueId) -> (ShardId, Transaction) {
    let store = if queue.is_local() {
        Store::Local
    } else {
        Store::Replicated
    };
    let transaction = Transaction {
        preconditions: Vec::new(),
        writes: vec![Tombstone::delete(queue)],
    };
    (store.shard(), transaction)
}
