//! Which nodes are to have which shards: the simple rule.
//!
//! One node: one voter. Two: a voter and a learner. From three on: three voters. Shard 0 is on
//! every node, with up to five voters. Whoever has a shard keeps it; what is missing goes to the
//! nodes that have the least.

use std::collections::BTreeMap;

use super::{Directory, NodeState, Wanted, all_shards};
use crate::ids::{NodeId, ShardId};

/// Voters of a queue shard.
const VOTERS: usize = 3;
/// Voters of shard 0 at most.
const DEFINITIONS_VOTERS_MAX: usize = 5;

/// What every shard is to have; nothing where there is no cluster, or nobody in it.
#[must_use]
pub fn wanted(directory: &Directory) -> BTreeMap<ShardId, Wanted> {
    let Some(cluster) = &directory.cluster else {
        return BTreeMap::new();
    };
    let members = directory.members();
    let active = members.filter(|(_, node)| node.state == NodeState::Active);
    let active: Vec<NodeId> = active.map(|(id, _)| id).collect();
    if active.is_empty() {
        return BTreeMap::new();
    }
    let mut load = Load::new(&active);
    all_shards(cluster.value.shards)
        .map(|shard| {
            let had = directory.replicas.get(&shard).map(|row| &row.value);
            let nodes = |ids: &[crate::ids::ReplicaId]| -> Vec<NodeId> {
                let nodes = ids.iter().map(|id| id.node());
                nodes.filter(|node| active.contains(node)).collect()
            };
            let voters = had.map_or_else(Vec::new, |had| nodes(&had.voters));
            let learners = had.map_or_else(Vec::new, |had| nodes(&had.learners));
            let mut wanted = load.choose(shard, voters, learners);
            if shard == ShardId::DEFINITIONS {
                // A node that is being drained still serves its clients.
                let others = directory.members().map(|(id, _)| id);
                let others = others.filter(|id| !wanted.voters.contains(id));
                wanted.learners = others.collect();
            }
            (shard, wanted)
        })
        .collect()
}

/// What nodes have so far.
struct Load {
    /// Shards that are there, and of these the ones to be led.
    nodes: BTreeMap<NodeId, (usize, usize)>,
}

impl Load {
    fn new(active: &[NodeId]) -> Self {
        let nodes = active.iter().map(|node| (*node, (0, 0)));
        Self {
            nodes: nodes.collect(),
        }
    }

    fn choose(&mut self, shard: ShardId, mut voters: Vec<NodeId>, had: Vec<NodeId>) -> Wanted {
        let nodes = self.nodes.len();
        let count = match (shard, nodes) {
            (_, ..VOTERS) => 1,
            (ShardId::DEFINITIONS, _) => {
                let most = nodes.min(DEFINITIONS_VOTERS_MAX);
                // An even number decides no better than the odd one below it.
                most - (most + 1) % 2
            }
            _ => VOTERS,
        };
        voters.truncate(count);
        // Learners have most of what it takes.
        let known = had.into_iter().filter(|node| !voters.contains(node));
        let known: Vec<NodeId> = known.collect();
        voters.extend(known);
        voters.truncate(count);
        self.fill(&mut voters, count);
        let mut learners = Vec::new();
        if nodes < VOTERS {
            let mut all = voters.clone();
            self.fill(&mut all, nodes);
            learners = all.split_off(voters.len());
        }
        let leader = self.leader_of(&voters);
        voters.swap(0, leader);
        for (at, node) in voters.iter().chain(&learners).enumerate() {
            if let Some((has, leads)) = self.nodes.get_mut(node) {
                *has += 1;
                *leads += usize::from(at == 0);
            }
        }
        Wanted { voters, learners }
    }

    /// Adds the nodes that have the least, until there are `count`.
    fn fill(&self, chosen: &mut Vec<NodeId>, count: usize) {
        while chosen.len() < count {
            let free = self.nodes.iter().filter(|(id, _)| !chosen.contains(id));
            let Some((node, _)) = free.min_by_key(|(id, (has, _))| (*has, **id)) else {
                return;
            };
            chosen.push(*node);
        }
    }

    /// The one that leads the least; the first one when it leads no more than that.
    fn leader_of(&self, voters: &[NodeId]) -> usize {
        let leads = |node: &NodeId| self.nodes.get(node).map_or(usize::MAX, |it| it.1);
        let least = voters.iter().enumerate().min_by_key(|(_, it)| leads(it));
        least.map_or(0, |(at, _)| at)
    }
}
