//! What lives and dies with a node: begun anew when the node starts, swept when it is gone.
//!
//! Each gives transactions in order. The first carries the node's life; from it on nothing can be
//! made that lives with an earlier one, so the others may come later, and again.

use std::sync::Arc;

use warren_cluster_core::ids::{NodeId, ShardId};
use warren_cluster_core::rows::{Change, Precondition, RowKey, Transaction, Write};

use super::removal::Removal;
use crate::definitions::plan::Gathered;
use crate::definitions::{Home, LifeRow, QueueKey, Store, Tombstone, kind};
use crate::ids::QueueId;
use crate::shard::input::Input;
use crate::topology::{Exchange, Queue, Topology};

/// A node's life begins: what earlier ones left goes.
#[must_use]
pub fn begin(topology: &Topology, home: Home) -> Vec<Transaction> {
    let life = LifeRow {
        incarnation: home.incarnation,
        fenced: false,
    };
    sweep(topology, home.node, life)
}

/// A node is gone for long: its life is over, and what lived with it goes. Nothing when that is
/// done, or the node never served anybody.
#[must_use]
pub fn fence(topology: &Topology, node: NodeId) -> Vec<Transaction> {
    let Some((_, life)) = topology.life(node) else {
        return Vec::new();
    };
    if life.fenced && is_swept(topology, node) {
        return Vec::new();
    }
    let fenced = true;
    sweep(topology, node, LifeRow { fenced, ..life })
}

/// Whether nothing in the definitions lives with the node.
fn is_swept(topology: &Topology, node: NodeId) -> bool {
    let lives = |home: Option<Home>| home.is_some_and(|home| home.node == node);
    let queue =
        |queue: &Arc<Queue>| queue.store == Store::Replicated && lives(queue.row.lives_with());
    let exchange = |exchange: &Arc<Exchange>| lives(exchange.row.home);
    !topology.queues().any(queue)
        && !topology
            .vhosts()
            .any(|vhost| vhost.exchanges().any(exchange))
}

fn sweep(topology: &Topology, node: NodeId, life: LifeRow) -> Vec<Transaction> {
    let before = topology.life(node);
    let mut gathered = Gathered::default();
    if before.map(|(_, row)| row) != Some(life) {
        let key = LifeRow::key(node);
        gathered.add(Transaction {
            preconditions: vec![match before {
                Some((version, _)) => Precondition::Unchanged(key, version),
                None => Precondition::Absent(key),
            }],
            writes: vec![life.put(node)],
        });
    }
    let over = |home: Option<Home>| {
        home.is_some_and(|home| {
            home.node == node && (life.fenced || home.incarnation != life.incarnation)
        })
    };
    let mut removal = Removal::new(topology);
    let queues = topology.queues();
    for queue in queues.filter(|queue| over(queue.row.lives_with())) {
        removal.queue(queue);
        gather(&mut removal, &mut gathered);
    }
    for vhost in topology.vhosts() {
        for exchange in vhost.exchanges().filter(|it| over(it.row.home)) {
            removal.exchange(vhost, exchange);
            gather(&mut removal, &mut gathered);
        }
    }
    let shard = ShardId::queues_of(node);
    for tombstone in topology.tombstones().filter(|it| it.shard == shard) {
        gathered.add(Transaction {
            preconditions: Vec::new(),
            writes: vec![Tombstone::delete(tombstone.queue)],
        });
    }
    gathered.finish()
}

/// The state of such queues is gone with the process, or goes with the rows ([`dropped`]): they
/// need no tombstones.
fn gather(removal: &mut Removal<'_>, gathered: &mut Gathered) {
    let mut piece = removal.take_replicated();
    piece.writes.retain(|write| match write {
        Write::Put { row, .. } | Write::Delete { row } => row.kind != kind::TOMBSTONE,
    });
    if !piece.writes.is_empty() {
        gathered.add(piece);
    }
}

/// This node's unlogged queues whose rows the changes of the definitions delete: `before` is the
/// topology ahead of them. That these rows go is decided where the rows are.
#[must_use]
pub fn dropped(before: &Topology, changes: &[Change]) -> Vec<(ShardId, Input)> {
    let shard = ShardId::queues_of(before.home());
    let deleted = changes.iter().filter(|it| it.value.is_none());
    let queues = deleted.filter_map(|change| find(before, &change.row));
    let own = queues.filter(|queue| queue.store == Store::Replicated && queue.row.shard == shard);
    let drop = |queue: Arc<Queue>| (shard, Input::Drop { queue: queue.id() });
    own.map(drop).collect()
}

fn find(topology: &Topology, row: &RowKey) -> Option<Arc<Queue>> {
    if row.kind != kind::QUEUE {
        return None;
    }
    let key = QueueKey::decode(&row.key).ok()?;
    topology.vhost(key.vhost)?.queue(key.name).cloned()
}

/// This node's unlogged rows that mean nothing any more, because the changes of the definitions
/// deleted a vhost or an exchange: they go in the same turn, so that one made anew does not get
/// them. Nothing when there are none.
#[must_use]
pub fn orphans(after: &Topology, changes: &[Change]) -> Option<Transaction> {
    let ends = |change: &Change| {
        change.value.is_none() && [kind::VHOST, kind::EXCHANGE].contains(&change.row.kind)
    };
    if !changes.iter().any(ends) {
        return None;
    }
    let mut transaction = Transaction::default();
    for (store, row, version) in after.dangling() {
        if store != Store::Local || after.is_elsewhere(store, version) {
            continue;
        }
        let (preconditions, writes) = (&mut transaction.preconditions, &mut transaction.writes);
        preconditions.push(Precondition::Unchanged(row.clone(), version));
        writes.push(Write::Delete { row: row.clone() });
        if row.kind == kind::QUEUE {
            let tombstone = Tombstone {
                queue: QueueId::local(version.0),
                shard: ShardId::queues_of(after.home()),
            };
            writes.push(tombstone.put());
        }
    }
    (!transaction.writes.is_empty()).then_some(transaction)
}

/// What lanes are to know of changed lives: nodes, and up to which of their lives nothing counts.
#[must_use]
pub fn fences(changes: &[Change]) -> Vec<(NodeId, u64)> {
    let lives = changes.iter().filter(|it| it.row.kind == kind::LIFE);
    let fence = |change: &Change| {
        let node = LifeRow::decode_key(&change.row.key).ok()?;
        let life = LifeRow::decode(change.value.as_deref()?).ok()?;
        let upto = if life.fenced {
            life.incarnation
        } else {
            life.incarnation.checked_sub(1)?
        };
        Some((node, upto))
    };
    lives.filter_map(fence).collect()
}

#[cfg(test)]
mod tests;
