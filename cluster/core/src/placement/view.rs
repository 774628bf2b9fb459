//! The cluster as the rows and the leaders of its shards know it, made ready for a layout.

use std::collections::BTreeMap;

use super::{Cluster, Node, NodeState, Options, Replica, Shard};
use crate::ids::{Index, NodeId, ReplicaId, ShardId, Time};
use crate::lane::ShardStatus;
use crate::members::{self, Directory, Replicas, Wanted, steps};

/// What is known besides the rows.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// Shards as those who lead them see them.
    pub shards: BTreeMap<ShardId, ShardStatus>,
    /// Bytes of the shards' live messages, where they are known.
    pub weights: BTreeMap<ShardId, u64>,
    /// Nodes that are not heard of, and since when.
    pub down: BTreeMap<NodeId, Time>,
}

/// A node that is to leave and that nothing is left on. Of a shard that nobody is known to lead
/// nobody knows who its members are: it may be one.
#[must_use]
pub fn gone(directory: &Directory, known: &Known) -> Option<NodeId> {
    let leaving = directory.members();
    let mut leaving = leaving.filter(|(_, node)| node.state == members::NodeState::Leaving);
    let gone = leaving.find(|(id, _)| {
        let has = |shard: &ShardId| {
            let status = known.shards.get(shard);
            status.is_none_or(|status| status.members.on(*id).is_some())
        };
        directory.replicas_on(*id).next().is_none() && !directory.replicas.keys().any(has)
    });
    gone.map(|(id, _)| id)
}

/// All that a layout is made from.
#[must_use]
pub fn cluster(directory: &Directory, known: &Known, options: &Options, now: Time) -> Cluster {
    let nodes: Vec<Node> = directory
        .members()
        .map(|(id, node)| Node {
            id,
            zone: node.zone.clone(),
            state: match node.state {
                members::NodeState::Active => NodeState::Active,
                members::NodeState::Draining => NodeState::Draining,
                members::NodeState::Leaving | members::NodeState::Removed => NodeState::Removed,
            },
            down_since: known.down.get(&id).copied(),
        })
        .collect();
    let is_bad = |id: ReplicaId| {
        let node = nodes.iter().find(|node| node.id == id.node());
        node.is_none_or(|node| {
            let down = node.down_since.map(|since| now.0.saturating_sub(since.0));
            let gone = down.is_some_and(|millis| millis >= options.replace_after_millis);
            gone || node.state == NodeState::Removed
        })
    };
    let shards = directory.replicas.iter();
    let shards = shards.map(|(id, row)| shard(*id, &row.value, known, is_bad));
    let shards = shards.collect();
    Cluster { nodes, shards }
}

fn shard(id: ShardId, row: &Replicas, known: &Known, is_bad: impl Fn(ReplicaId) -> bool) -> Shard {
    let nodes = |ids: &[ReplicaId]| ids.iter().map(|id| id.node()).collect();
    let wanted = Wanted {
        voters: nodes(&row.voters),
        learners: nodes(&row.learners),
    };
    let weight = known.weights.get(&id).copied().unwrap_or(0);
    let Some(status) = known.shards.get(&id) else {
        let replicas = row.all().map(|id| Replica { id, matched: None });
        return Shard {
            id,
            // As far as anybody knows.
            members: crate::consensus::Members {
                voters: row.voters.clone(),
                learners: row.learners.clone(),
                ..Default::default()
            },
            replicas: replicas.collect(),
            wanted,
            leader: None,
            committed: Index(0),
            weight,
            is_busy: false,
        };
    };
    let matched = |id: ReplicaId| {
        let leads = status.replica == Some(id);
        let known = status.matched.iter().find(|it| it.0 == id);
        leads
            .then_some(status.committed)
            .or_else(|| known.map(|it| it.1))
    };
    let replicas = row.all().map(|id| Replica {
        id,
        matched: matched(id),
    });
    let replicas = replicas.collect();
    let settled = steps::is_settled(row, status);
    // Nobody waits for a learner that is a member: nothing more is asked of it.
    let waits_for = |id: &ReplicaId| {
        row.voters.contains(id) || status.members.all().all(|member| member != *id)
    };
    let waits = row.all().filter(waits_for).any(is_bad);
    Shard {
        id,
        members: status.members.clone(),
        replicas,
        wanted,
        leader: status.leader.map(|(_, node)| node),
        committed: status.committed,
        weight,
        is_busy: !settled && !waits,
    }
}
