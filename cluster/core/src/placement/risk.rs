//! What would be lost if nodes were.

use super::facts::{Facts, ShardFacts, majority};
use super::{Cluster, NodeState, Options, Shard, target};
use crate::ids::{NodeId, ShardId, Time};

/// The nodes of a zone.
#[must_use]
pub fn nodes_of_zone(cluster: &Cluster, zone: &str) -> Vec<NodeId> {
    let nodes = cluster.nodes.iter().filter(|node| node.zone == zone);
    nodes.map(|node| node.id).collect()
}

/// Shards that have a majority now, and would have none if these nodes went.
#[must_use]
pub fn quorum_risk(cluster: &Cluster, lost: &[NodeId]) -> Vec<ShardId> {
    let shards = cluster.shards.iter();
    let shards =
        shards.filter(|shard| decides(cluster, shard, &[]) && !decides(cluster, shard, lost));
    shards.map(|shard| shard.id).collect()
}

/// Shards with a vote on this node that have no majority without it, or none already: it must not
/// be stopped by anybody who can wait. None where the node is a cluster of its own.
#[must_use]
pub fn needs_node(cluster: &Cluster, node: NodeId) -> Vec<ShardId> {
    let members = cluster.nodes.iter();
    if members.filter(|it| it.state != NodeState::Removed).count() < 2 {
        return Vec::new();
    }
    let votes = |shard: &Shard| {
        let sets = [&shard.members.voters, &shard.members.outgoing];
        let mut all = sets.into_iter().flatten();
        all.any(|id| id.node() == node)
    };
    let shards = cluster.shards.iter();
    let shards = shards.filter(|shard| votes(shard) && !decides(cluster, shard, &[node]));
    shards.map(|shard| shard.id).collect()
}

/// Whether a shard has a majority of nodes that are alive, without those that are lost.
fn decides(cluster: &Cluster, shard: &Shard, lost: &[NodeId]) -> bool {
    let alive = |node: NodeId| {
        let known = cluster.nodes.iter().find(|known| known.id == node);
        known.is_some_and(|known| known.down_since.is_none())
    };
    let is_left = |node: NodeId| alive(node) && !lost.contains(&node);
    shard.members.are_decided_by(|id| is_left(id.node()))
}

/// Shards with a vote on the node that could not be decided without it: they have no majority with
/// which to move away, or nobody alive to move to.
#[must_use]
pub fn would_break(cluster: &Cluster, options: &Options, now: Time, node: NodeId) -> Vec<ShardId> {
    let mut without = cluster.clone();
    for known in without.nodes.iter_mut().filter(|known| known.id == node) {
        known.state = NodeState::Removed;
    }
    let facts = Facts::new(&without, options, now);
    let targets = target::all(&facts);
    let all = facts.shards.iter().zip(&targets);
    let broken = all.filter(|(shard, target)| {
        let votes = shard
            .voters()
            .any(|at| facts.nodes[shard.copies[at].node].id == node);
        votes && !is_decided_after(&facts, shard, target, node)
    });
    broken.map(|(shard, _)| shard.shard.id).collect()
}

fn is_decided_after(
    facts: &Facts<'_>,
    shard: &ShardFacts<'_>,
    target: &target::Target,
    node: NodeId,
) -> bool {
    let others = target.voters.iter().map(|at| &facts.nodes[*at]);
    let alive = others.filter(|other| other.is_alive && other.id != node);
    // While a change is under way its outcome is not known: what counts is who is alive now.
    let voters = target.voters.len().max(1);
    shard.has_majority && alive.count() >= majority(voters)
}
