//! The cluster's rows as one view, made from their changes, and the transactions upon it.
//!
//! Every transaction names the versions that it was made from. So whoever proposed one knows what
//! came of it from the rows alone: they are as it wrote them, or another one was first.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::codec::{Value, grant_key, node_key, number, replicas_key, single};
use super::{
    Authority, Cluster, Next, Node, NodeState, Replicas, Versioned, all_shards, is_own, kind, steps,
};
use crate::ids::{NodeId, ReplicaId, ShardId};
use crate::lane::{ShardStatus, founding};
use crate::machine::Malformed;
use crate::rows::{Change, Precondition, RowKey, Transaction, Write};

/// What the rows say.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Directory {
    pub cluster: Option<Versioned<Cluster>>,
    pub authority: Option<Versioned<Authority>>,
    pub next: Option<Versioned<Next>>,
    pub nodes: BTreeMap<NodeId, Versioned<Node>>,
    /// By token; what a grant says is the affair of who lets nodes in.
    pub grants: BTreeMap<u64, Versioned<Bytes>>,
    pub replicas: BTreeMap<ShardId, Versioned<Replicas>>,
}

/// What a new cluster begins with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Founding {
    pub cluster: Cluster,
    pub authority: Authority,
    pub first: NodeId,
    pub node: Node,
}

/// A node that is let in, once its transaction is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Admission {
    pub node: NodeId,
    /// The replica of shard 0 that it is to have.
    pub replica: ReplicaId,
    pub transaction: Transaction,
}

/// The nodes that are to have a shard.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Wanted {
    /// The first one is to lead.
    pub voters: Vec<NodeId>,
    pub learners: Vec<NodeId>,
}

impl Founding {
    /// The rows of a cluster of one. In conflict where there is a cluster already.
    #[must_use]
    pub fn transaction(&self) -> Transaction {
        let shards = self.cluster.shards;
        let next = Next {
            node: NodeId(self.first.0 + 1),
            // Above all that a founder gives itself.
            replica: founding(ShardId(shards), self.first).0 as u32 + 1,
        };
        let mut writes = vec![
            put(single(kind::CLUSTER), &self.cluster),
            put(single(kind::AUTHORITY), &self.authority),
            put(single(kind::NEXT), &next),
            put(node_key(self.first), &self.node),
        ];
        writes.extend(all_shards(shards).map(|shard| {
            let replicas = Replicas {
                voters: vec![founding(shard, self.first)],
                ..Replicas::default()
            };
            put(replicas_key(shard), &replicas)
        }));
        Transaction {
            preconditions: vec![Precondition::Absent(single(kind::CLUSTER))],
            writes,
        }
    }
}

impl Directory {
    /// Takes over the changes of shard 0, in order; the rows of others mean nothing here. Gives
    /// the shards whose replicas changed.
    ///
    /// # Errors
    /// The first row that this build cannot read; it counts as it was before, and the rest is
    /// taken all the same.
    pub fn apply(&mut self, changes: &[Change]) -> (BTreeSet<ShardId>, Result<(), Malformed>) {
        let mut moved = BTreeSet::new();
        let mut result = Ok(());
        for change in changes.iter().filter(|change| is_own(&change.row)) {
            if let Err(malformed) = self.apply_row(change, &mut moved) {
                result = result.and(Err(malformed));
            }
        }
        (moved, result)
    }

    fn apply_row(
        &mut self,
        change: &Change,
        moved: &mut BTreeSet<ShardId>,
    ) -> Result<(), Malformed> {
        match change.row.kind {
            kind::CLUSTER => self.cluster = read(change)?,
            kind::AUTHORITY => self.authority = read(change)?,
            kind::NEXT => self.next = read(change)?,
            kind::NODE => {
                let node = NodeId(u64::from_be_bytes(number(&change.row)?));
                set(&mut self.nodes, node, read(change)?);
            }
            kind::GRANT => {
                let token = u64::from_be_bytes(number(&change.row)?);
                let grant = change.value.clone().map(|value| Versioned {
                    value,
                    version: change.version,
                });
                set(&mut self.grants, token, grant);
            }
            kind::REPLICAS => {
                let shard = ShardId(u32::from_be_bytes(number(&change.row)?));
                set(&mut self.replicas, shard, read(change)?);
                moved.insert(shard);
            }
            // Of a later version.
            _ => {}
        }
        Ok(())
    }

    /// Nodes that take part.
    pub fn members(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        let nodes = self.nodes.iter().map(|(id, node)| (*id, &node.value));
        nodes.filter(|(_, node)| node.is_member())
    }

    /// The node that asked to join with this public key.
    #[must_use]
    pub fn node_of(&self, key: &[u8]) -> Option<(NodeId, &Node)> {
        let mut nodes = self.nodes.iter();
        let found = nodes.find(|(_, node)| node.value.key == key);
        found.map(|(id, node)| (*id, &node.value))
    }

    /// The replicas that a node is to have.
    pub fn replicas_on(&self, node: NodeId) -> impl Iterator<Item = (ShardId, ReplicaId)> {
        let rows = self.replicas.iter();
        rows.filter_map(move |(shard, row)| Some((*shard, row.value.on(node)?)))
    }

    /// Lets `node` in: takes a use of a token (whose grant is `grant` from then on), an id, and a
    /// learner of shard 0. `None` where there is no cluster, or no such grant.
    #[must_use]
    pub fn admit(&self, node: &Node, token: u64, grant: Bytes) -> Option<Admission> {
        let next = self.next.as_ref()?;
        let granted = self.grants.get(&token)?;
        let row = self.replicas.get(&ShardId::DEFINITIONS)?;
        let id = next.value.node;
        let replica = ReplicaId::new(id, next.value.replica);
        let after = Next {
            node: NodeId(id.0 + 1),
            replica: next.value.replica.checked_add(1)?,
        };
        let mut replicas = row.value.clone();
        replicas.learners.push(replica);
        let (next_key, replicas_key) = (single(kind::NEXT), replicas_key(ShardId::DEFINITIONS));
        let transaction = Transaction {
            preconditions: vec![
                Precondition::Unchanged(next_key.clone(), next.version),
                Precondition::Unchanged(grant_key(token), granted.version),
                Precondition::Unchanged(replicas_key.clone(), row.version),
                Precondition::Absent(node_key(id)),
            ],
            writes: vec![
                put(next_key, &after),
                Write::Put {
                    row: grant_key(token),
                    value: grant,
                },
                put(replicas_key, &replicas),
                put(node_key(id), node),
            ],
        };
        Some(Admission {
            node: id,
            replica,
            transaction,
        })
    }

    /// Forgets a token. `None` where it is not known.
    #[must_use]
    pub fn drop_grant(&self, token: u64) -> Option<Transaction> {
        self.grants.get(&token)?;
        Some(Transaction {
            preconditions: Vec::new(),
            writes: vec![Write::Delete {
                row: grant_key(token),
            }],
        })
    }

    /// Keeps the grant of a new token, and forgets others.
    #[must_use]
    pub fn put_grant(&self, token: u64, grant: Bytes, forgotten: &[u64]) -> Transaction {
        let row = grant_key(token);
        let put = Write::Put {
            row: row.clone(),
            value: grant,
        };
        let forgotten = forgotten.iter().map(|token| Write::Delete {
            row: grant_key(*token),
        });
        Transaction {
            preconditions: vec![Precondition::Absent(row)],
            writes: std::iter::once(put).chain(forgotten).collect(),
        }
    }

    /// Changes what is known of a node. `None` where there is no such node.
    #[must_use]
    pub fn put_node(&self, id: NodeId, node: &Node) -> Option<Transaction> {
        let before = self.nodes.get(&id)?;
        let row = node_key(id);
        Some(Transaction {
            preconditions: vec![Precondition::Unchanged(row.clone(), before.version)],
            writes: vec![put(row, node)],
        })
    }

    /// Changes where a node is in its life. `None` when it is there, or unknown.
    #[must_use]
    pub fn put_state(&self, id: NodeId, state: NodeState) -> Option<Transaction> {
        let before = &self.nodes.get(&id)?.value;
        let node = Node {
            state,
            ..before.clone()
        };
        (before.state != state).then(|| self.put_node(id, &node))?
    }

    /// Raises what all nodes of the cluster can do. `None` where there is no cluster.
    #[must_use]
    pub fn put_version(&self, version: u32) -> Option<Transaction> {
        let before = self.cluster.as_ref()?;
        let row = single(kind::CLUSTER);
        let mut cluster = before.value.clone();
        cluster.version = version;
        Some(Transaction {
            preconditions: vec![Precondition::Unchanged(row.clone(), before.version)],
            writes: vec![put(row, &cluster)],
        })
    }

    /// What is to be forgotten, and what was: replicas that are no members any more are to go from
    /// their nodes' disks; what is gone from there, or never was there, goes from the rows.
    /// `known`: shards as their leaders see them; `has`: whether a node has a replica, if that is
    /// known. `None`: nothing.
    #[must_use]
    pub fn tidy(
        &self,
        known: &BTreeMap<ShardId, ShardStatus>,
        has: impl Fn(ShardId, ReplicaId) -> Option<bool>,
        shards_max: usize,
    ) -> Option<Transaction> {
        let mut transaction = Transaction::default();
        for (shard, row) in &self.replicas {
            let mut after = row.value.clone();
            let is_member =
                |id: ReplicaId| self.nodes.get(&id.node()).map(|it| it.value.is_member());
            after.gone.retain(|id| {
                let is_there = has(*shard, *id).unwrap_or(true);
                is_there && is_member(*id) == Some(true)
            });
            if let Some(status) = known.get(shard) {
                let settled = steps::is_settled(&row.value, status);
                let leaves = |id: &ReplicaId| settled && status.members.all().all(|it| it != *id);
                let old = after.retired.iter().chain(&after.lost);
                let left: Vec<ReplicaId> = old.copied().filter(leaves).collect();
                after.retired.retain(|id| !left.contains(id));
                after.lost.retain(|id| !left.contains(id));
                after.gone.extend(left);
            }
            if after != row.value {
                let key = replicas_key(*shard);
                let unchanged = Precondition::Unchanged(key.clone(), row.version);
                transaction.preconditions.push(unchanged);
                transaction.writes.push(put(key, &after));
                if transaction.writes.len() == shards_max {
                    break;
                }
            }
        }
        (!transaction.writes.is_empty()).then_some(transaction)
    }

    /// A shard's majority is lost for ever: `replica` alone has it from here on, and the others
    /// that it had are never wanted again. `None` where there is no such shard.
    #[must_use]
    pub fn recovered(&self, shard: ShardId, replica: ReplicaId) -> Option<Transaction> {
        let row = self.replicas.get(&shard)?;
        let before = &row.value;
        let others = before.all().chain(before.retired.iter().copied());
        let mut lost: Vec<ReplicaId> = before.lost.clone();
        lost.extend(others.filter(|id| *id != replica));
        let after = Replicas {
            voters: vec![replica],
            lost,
            gone: before.gone.clone(),
            ..Replicas::default()
        };
        let key = replicas_key(shard);
        Some(Transaction {
            preconditions: vec![Precondition::Unchanged(key.clone(), row.version)],
            writes: vec![put(key, &after)],
        })
    }

    /// Assigns replicas to nodes: new ones where a node never had one of the shard. `None` when
    /// everything is as wanted, or there is no cluster. At most `shards_max` shards are changed.
    #[must_use]
    pub fn assign(
        &self,
        wanted: &BTreeMap<ShardId, Wanted>,
        shards_max: usize,
    ) -> Option<Transaction> {
        let next = self.next.as_ref()?;
        let mut after = next.value;
        let next_key = single(kind::NEXT);
        let mut transaction = Transaction {
            preconditions: vec![Precondition::Unchanged(next_key.clone(), next.version)],
            writes: Vec::new(),
        };
        for (shard, wanted) in wanted {
            let Some(row) = self.replicas.get(shard) else {
                continue;
            };
            let mut number = after.replica;
            let replicas = assigned(&row.value, wanted, &mut number)?;
            if replicas == row.value {
                continue;
            }
            after.replica = number;
            let key = replicas_key(*shard);
            let unchanged = Precondition::Unchanged(key.clone(), row.version);
            transaction.preconditions.push(unchanged);
            transaction.writes.push(put(key, &replicas));
            if transaction.writes.len() == shards_max {
                break;
            }
        }
        if transaction.writes.is_empty() {
            return None;
        }
        // Written in any case: its version tells that the transaction went through.
        transaction.writes.push(put(next_key, &after));
        Some(transaction)
    }
}

/// The shard's replicas as `wanted` has them. A node that had one gets that one again: what is on
/// its disk was never lost, and a node holds at most one replica of a shard.
fn assigned(before: &Replicas, wanted: &Wanted, next: &mut u32) -> Option<Replicas> {
    let mut replica = |node: &NodeId| match before.of(*node) {
        Some(replica) => Some(replica),
        None => {
            let replica = ReplicaId::new(*node, *next);
            *next = next.checked_add(1)?;
            Some(replica)
        }
    };
    let voters = wanted.voters.iter().map(&mut replica);
    let voters: Vec<_> = voters.collect::<Option<_>>()?;
    let learners = wanted.learners.iter().map(&mut replica);
    let learners: Vec<_> = learners.collect::<Option<_>>()?;
    let known = before.all().chain(before.retired.iter().copied());
    let retired = known.filter(|id| !voters.contains(id) && !learners.contains(id));
    let mut retired: Vec<_> = retired.collect();
    retired.sort_unstable();
    Some(Replicas {
        voters,
        learners,
        retired,
        lost: before.lost.clone(),
        gone: before.gone.clone(),
    })
}

fn put(row: RowKey, value: &impl Value) -> Write {
    Write::Put {
        row,
        value: value.encode(),
    }
}

fn read<V: Value>(change: &Change) -> Result<Option<Versioned<V>>, Malformed> {
    let Some(value) = &change.value else {
        return Ok(None);
    };
    Ok(Some(Versioned {
        value: V::decode(value)?,
        version: change.version,
    }))
}

fn set<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => map.insert(key, value),
        None => map.remove(&key),
    };
}
