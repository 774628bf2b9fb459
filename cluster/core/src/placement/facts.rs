//! What a plan is made from, looked up once: nodes by number, copies with their roles.

use std::collections::{BTreeMap, BTreeSet};

use super::{Cluster, Node, NodeState, Options, Shard};
use crate::ids::{NodeId, ReplicaId, ShardId, Time};

pub(super) struct Facts<'a> {
    pub(super) options: &'a Options,
    /// In the order of their ids; a place in here is what the rest calls a node.
    pub(super) nodes: Vec<NodeFacts>,
    pub(super) shards: Vec<ShardFacts<'a>>,
    pub(super) zones: usize,
}

#[derive(Clone, Copy)]
pub(super) struct NodeFacts {
    pub(super) id: NodeId,
    pub(super) zone: usize,
    pub(super) is_alive: bool,
    pub(super) is_draining: bool,
    pub(super) is_removed: bool,
    /// Down for longer than the delay.
    pub(super) is_gone: bool,
    /// May get new copies and leaders.
    pub(super) receives: bool,
    /// Goes, and has copies of other shards than the definitions, or may have some of one that
    /// nobody is known to lead: it needs those until it has none, as it takes its last steps by
    /// them.
    pub(super) lingers: bool,
}

impl NodeFacts {
    /// Whether what it has should be elsewhere.
    pub(super) fn is_bad(&self) -> bool {
        self.is_removed || self.is_gone
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Role {
    Voter,
    Learner,
    /// Has a row, and is no member yet.
    Assigned,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Copy {
    pub(super) replica: ReplicaId,
    pub(super) node: usize,
    pub(super) role: Role,
    /// Alive, and has (about) all that is committed.
    pub(super) is_caught_up: bool,
    /// A member that the row does not have any more, and that is not needed in the place of one
    /// that the row has and that cannot be counted on.
    pub(super) is_replaced: bool,
}

pub(super) struct ShardFacts<'a> {
    pub(super) shard: &'a Shard,
    /// In the order of their ids: of two on one node the newer comes last.
    pub(super) copies: Vec<Copy>,
    /// The copy that leads, if it is alive.
    pub(super) leader: Option<usize>,
    /// The node that is to lead.
    pub(super) leads: Option<usize>,
    pub(super) alive: usize,
    pub(super) has_majority: bool,
}

impl<'a> Facts<'a> {
    pub(super) fn new(cluster: &'a Cluster, options: &'a Options, now: Time) -> Self {
        let mut zones = BTreeMap::new();
        let mut nodes: BTreeMap<NodeId, NodeFacts> = BTreeMap::new();
        for node in &cluster.nodes {
            let next = zones.len();
            let zone = *zones.entry(node.zone.as_str()).or_insert(next);
            nodes.insert(node.id, node_facts(node, zone, options, now));
        }
        // Nodes that nobody knows any more are as good as removed.
        let replicas = cluster.shards.iter().flat_map(|shard| &shard.replicas);
        let members = cluster.shards.iter().flat_map(|shard| shard.members.all());
        for id in replicas.map(|replica| replica.id).chain(members) {
            nodes.entry(id.node()).or_insert_with(|| NodeFacts {
                id: id.node(),
                zone: 0,
                is_alive: false,
                is_draining: false,
                is_removed: true,
                is_gone: true,
                receives: false,
                lingers: false,
            });
        }
        let queues = cluster.shards.iter();
        let queues = queues.filter(|shard| shard.id != ShardId::DEFINITIONS);
        // Who the members of a shard are, its leader alone knows: rows tell who they are to be.
        let mut unled = queues.clone().filter(|shard| shard.leader.is_none());
        let is_unsure = unled.any(|shard| !shard.id.is_unlogged());
        let has_queues: BTreeSet<NodeId> = queues
            .flat_map(|shard| {
                let rows = shard.replicas.iter().map(|replica| replica.id);
                rows.chain(shard.members.all())
            })
            .map(ReplicaId::node)
            .collect();
        for (id, node) in &mut nodes {
            // Also while it is away: else it would not hear that it is to go.
            let goes = node.is_removed && !node.is_gone;
            node.lingers = goes && (is_unsure || has_queues.contains(id));
        }
        let nodes: Vec<_> = nodes.into_values().collect();
        let shards = cluster.shards.iter();
        let shards = shards.filter(|shard| !shard.id.is_unlogged());
        let mut shards: Vec<_> = shards
            .map(|shard| ShardFacts::new(shard, &nodes, options))
            .collect();
        shards.sort_by_key(|facts| facts.shard.id);
        Self {
            options,
            zones: zones.len().max(1),
            nodes,
            shards,
        }
    }

    /// How many copies a shard should have, and how many of them should vote.
    pub(super) fn wanted(&self, shard: ShardId) -> (usize, usize) {
        let (copies, voters) = self.has_room_for(shard);
        let usable = self.nodes.iter().filter(|node| !node.is_bad()).count();
        // Three that are alive can lose one; five of which two are gone can lose none.
        let fewer = odd(usable.min(voters));
        let left = usable.saturating_sub(majority(voters));
        let is_better = fewer >= 3 && fewer - majority(fewer) > left;
        (copies, if is_better { fewer } else { voters })
    }

    /// Whether what a node has of a shard should be elsewhere.
    pub(super) fn is_bad_for(&self, shard: ShardId, node: usize) -> bool {
        let node = &self.nodes[node];
        node.is_bad() && !(node.lingers && shard == ShardId::DEFINITIONS)
    }

    /// The same, if all nodes that were not removed were well.
    pub(super) fn has_room_for(&self, shard: ShardId) -> (usize, usize) {
        let kept = self.nodes.iter().filter(|node| !node.is_removed);
        // The last node keeps what it has.
        let room = kept.count().max(1);
        let copies = room.min(self.options.replication.max(1));
        if shard == ShardId::DEFINITIONS {
            let voters = room.min(self.options.definitions_voters.max(1));
            let lingering = self.nodes.iter().filter(|node| node.lingers).count();
            return (room + lingering, odd(voters));
        }
        (copies, odd(copies))
    }
}

fn node_facts(node: &Node, zone: usize, options: &Options, now: Time) -> NodeFacts {
    let down_millis = node.down_since.map(|since| now.0.saturating_sub(since.0));
    NodeFacts {
        id: node.id,
        zone,
        is_alive: node.down_since.is_none(),
        is_draining: node.state == NodeState::Draining,
        is_removed: node.state == NodeState::Removed,
        is_gone: down_millis.is_some_and(|millis| millis >= options.replace_after_millis),
        receives: node.state == NodeState::Active && node.down_since.is_none(),
        lingers: false,
    }
}

impl<'a> ShardFacts<'a> {
    fn new(shard: &'a Shard, nodes: &[NodeFacts], options: &Options) -> Self {
        let members = &shard.members;
        let rows: BTreeMap<_, _> = shard.replicas.iter().map(|it| (it.id, it)).collect();
        let mut ids: Vec<_> = rows.keys().copied().chain(members.all()).collect();
        ids.sort_unstable();
        ids.dedup();
        let mut copies = Vec::with_capacity(ids.len());
        for id in ids {
            let learns = members.learners.contains(&id) || members.learners_next.contains(&id);
            let role = if members.voters.contains(&id) {
                Role::Voter
            } else if learns {
                Role::Learner
            } else if members.outgoing.contains(&id) {
                continue;
            } else {
                Role::Assigned
            };
            let row = rows.get(&id);
            let matched = row.and_then(|row| row.matched);
            let enough = shard.committed.0.saturating_sub(options.lag_entries_max);
            let node = place(nodes, id.node());
            let leads = shard.leader == Some(id.node()) && role == Role::Voter;
            let has_all = leads || matched.is_some_and(|matched| matched.0 >= enough);
            copies.push(Copy {
                replica: id,
                node,
                role,
                is_caught_up: nodes[node].is_alive && role != Role::Assigned && has_all,
                is_replaced: false,
            });
        }
        let is_known = |copy: &Copy| rows.contains_key(&copy.replica);
        let bad = copies.iter().filter(|copy| is_known(copy));
        let mut needed = bad.filter(|copy| nodes[copy.node].is_bad()).count();
        for copy in copies
            .iter_mut()
            .filter(|copy| !rows.contains_key(&copy.replica))
        {
            copy.is_replaced = needed == 0;
            needed = needed.saturating_sub(1);
        }
        let leader = copies.iter().position(|copy| {
            let node = &nodes[copy.node];
            Some(node.id) == shard.leader && node.is_alive && copy.role == Role::Voter
        });
        let is_alive = |id: &&ReplicaId| nodes[place(nodes, id.node())].is_alive;
        let alive = members.voters.iter().filter(is_alive).count();
        let outgoing = members.outgoing.iter().filter(is_alive).count();
        let has_majority = alive >= majority(members.voters.len())
            && (members.outgoing.is_empty() || outgoing >= majority(members.outgoing.len()));
        let leads = shard.wanted.voters.first();
        let leads = leads.and_then(|id| nodes.binary_search_by_key(id, |node| node.id).ok());
        Self {
            shard,
            copies,
            leader,
            leads,
            alive,
            has_majority,
        }
    }

    /// The newest copy on a node.
    pub(super) fn on(&self, node: usize) -> Option<usize> {
        self.copies.iter().rposition(|copy| copy.node == node)
    }

    pub(super) fn voters(&self) -> impl Iterator<Item = usize> + '_ {
        let copies = self.copies.iter().enumerate();
        copies.filter_map(|(at, copy)| (copy.role == Role::Voter).then_some(at))
    }

    /// A change of members is on its way, or something whose outcome is not known.
    pub(super) fn is_changing(&self) -> bool {
        self.shard.is_busy || !self.shard.members.outgoing.is_empty()
    }

    /// Whether a step can be taken at all.
    pub(super) fn can_change(&self) -> bool {
        self.has_majority && self.leader.is_some() && !self.is_changing()
    }
}

/// Where a node stands in the list, which has all.
fn place(nodes: &[NodeFacts], id: NodeId) -> usize {
    let found = nodes.binary_search_by_key(&id, |node| node.id);
    found.expect("every node that a shard names was listed")
}

/// How many of so many voters decide.
pub(super) fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

/// The largest odd number of voters among so many; 0 of none.
pub(super) fn odd(count: usize) -> usize {
    count.saturating_sub(usize::from(count.is_multiple_of(2)))
}
