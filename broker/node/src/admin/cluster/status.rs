//! The cluster as it is, for people and programs.

use std::collections::BTreeMap;

use warren_broker_core::topology::Topology;
use warren_cluster::Overview;
use warren_cluster::administration::is_settled;
use warren_cluster::cluster::Cluster as Node;
use warren_cluster_core::ids::{NodeId, ReplicaId, ShardId};
use warren_cluster_core::lane::ShardStatus;
use warren_cluster_core::members::{NodeState, Replicas};
use warren_cluster_core::placement::{self, Layout};

use crate::proto::admin_v1 as proto;

/// Names of queues in one answer.
pub(super) const QUEUES_MAX: usize = 1000;

pub(super) fn of_cluster(node: &Node, overview: &Overview) -> proto::ClusterStatusResponse {
    let directory = &overview.directory;
    let led = overview.led();
    let cluster = node.placed(overview);
    let layout = node.layout(&cluster);
    let row = directory.cluster.as_ref().map(|row| &row.value);
    let mut settled = 0;
    let (mut moving, mut without_leader, mut degraded) = (0, 0, 0);
    for (shard, row) in &directory.replicas {
        let status = led.get(shard);
        match status {
            None => without_leader += 1,
            Some(status) if is_settled(directory, status) => settled += 1,
            Some(_) => moving += 1,
        }
        let silent = |id: ReplicaId| !matches!(overview.nodes.get(&id.node()), Some(Ok(_)));
        if row.value.all().any(silent) {
            degraded += 1;
        }
    }
    let nodes = directory.members().map(|(id, row)| {
        let report = overview.nodes.get(&id).and_then(|it| it.as_ref().ok());
        let has = directory
            .replicas_on(id)
            .filter(|(shard, _)| is_queues(*shard));
        let leads = led
            .values()
            .filter(|it| leads(it, id) && is_queues(it.shard));
        proto::NodeStatus {
            id: id.0,
            name: row.name.clone(),
            zone: row.zone.clone(),
            state: state(row.state).into(),
            reachable: report.is_some(),
            addresses: row.addresses.clone(),
            amqp: row.amqp.clone(),
            http: row.http.clone(),
            replicas: has.count() as u32,
            leaders: leads.count() as u32,
            version: report.map_or(0, |report| report.version),
            quorum_critical: !placement::needs_node(&cluster, id).is_empty(),
        }
    });
    proto::ClusterStatusResponse {
        name: row.map_or_else(String::new, |row| row.name.clone()),
        id: row.map_or_else(String::new, |row| format!("{:032x}", row.id)),
        version: row.map_or(0, |row| row.version),
        shards: row.map_or(0, |row| row.shards),
        answered_by: node.node().0,
        nodes: nodes.collect(),
        shards_settled: settled,
        shards_moving: moving,
        shards_without_leader: without_leader,
        shards_degraded: degraded,
        settled: moving == 0
            && without_leader == 0
            && degraded == 0
            && layout.is_empty()
            && led.values().all(|it| is_led_as_wanted(overview, it)),
    }
}

fn is_queues(shard: ShardId) -> bool {
    shard != ShardId::DEFINITIONS
}

fn leads(status: &ShardStatus, id: NodeId) -> bool {
    status.leader.is_some_and(|(_, node)| node == id)
}

fn is_led_as_wanted(overview: &Overview, status: &ShardStatus) -> bool {
    let row = overview.directory.replicas.get(&status.shard);
    let first = row.and_then(|row| row.value.voters.first());
    first.is_none_or(|first| leads(status, first.node()))
}

fn state(state: NodeState) -> proto::NodeState {
    match state {
        NodeState::Active => proto::NodeState::Active,
        NodeState::Draining => proto::NodeState::Draining,
        NodeState::Leaving => proto::NodeState::Leaving,
        NodeState::Removed => proto::NodeState::Removed,
    }
}

/// How many durable queues each shard has.
pub(super) fn queues_by_shard(topology: &Topology) -> BTreeMap<ShardId, u32> {
    let mut queues = BTreeMap::new();
    for queue in topology.queues() {
        *queues.entry(queue.row.shard).or_default() += 1;
    }
    queues
}

/// Queues of these shards by name, at most so many, and how many there are.
pub(super) fn queues_of(topology: &Topology, shards: &[ShardId], max: usize) -> (Vec<String>, u64) {
    let mut names = Vec::new();
    let mut count = 0;
    for queue in topology.queues() {
        if shards.contains(&queue.row.shard) {
            count += 1;
            if names.len() < max {
                let name = String::from_utf8_lossy(&queue.name);
                names.push(format!("{}/{name}", queue.vhost));
            }
        }
    }
    names.sort_unstable();
    (names, count)
}

pub(super) fn of_shards(overview: &Overview, queues: &BTreeMap<ShardId, u32>) -> Vec<proto::Shard> {
    let led = overview.led();
    let rows = overview.directory.replicas.iter();
    let shards = rows.map(|(shard, row)| {
        let status = led.get(shard);
        let leader = status.and_then(|status| status.leader);
        proto::Shard {
            id: shard.0,
            leader: leader.map_or(0, |(_, node)| node.0),
            term: leader.map_or(0, |(term, _)| term.0),
            replicas: replicas(overview, *shard, &row.value, status),
            settled: status.is_some_and(|status| is_settled(&overview.directory, status)),
            committed: status.map_or(0, |status| status.committed.0),
            queues: queues.get(shard).copied().unwrap_or(0),
        }
    });
    shards.collect()
}

/// Every replica that is a member or is to be one.
pub(super) fn replicas(
    overview: &Overview,
    shard: ShardId,
    row: &Replicas,
    status: Option<&ShardStatus>,
) -> Vec<proto::Replica> {
    let members = status.map(|status| &status.members);
    let mut ids: Vec<ReplicaId> = row.all().collect();
    ids.extend(members.into_iter().flat_map(|members| members.all()));
    ids.sort_unstable();
    ids.dedup();
    let role = |id: ReplicaId| {
        let wanted = row.all().any(|it| it == id);
        let Some(members) = members else {
            let votes = row.voters.contains(&id);
            return if votes { "voter" } else { "learner" };
        };
        match (wanted, members.all().any(|it| it == id)) {
            (false, _) => "going",
            (true, false) => "coming",
            (true, true) if members.votes(id) => "voter",
            (true, true) => "learner",
        }
    };
    let last = |id: ReplicaId| {
        let mut all = overview.replicas();
        let found = all.find(|it| it.shard == shard && it.replica == Some(id));
        found.map(|found| found.last)
    };
    let replicas = ids.into_iter().map(|id| {
        let last = last(id);
        proto::Replica {
            node: id.node().0,
            id: id.0,
            role: role(id).to_owned(),
            last: last.map(|(index, _)| index.0),
            last_term: last.map(|(_, term)| term.0),
        }
    });
    replicas.collect()
}

/// A plan for people.
pub(super) fn of_layout(overview: &Overview, layout: &Layout) -> proto::RebalanceResponse {
    let moves = layout.moves.iter().map(|it| {
        let from = it
            .from
            .map_or_else(String::new, |from| format!(" from node {from}"));
        format!(
            "shard {}: replica{from} to node {} ({})",
            it.shard, it.to, it.reason
        )
    });
    let leads = layout.changes.iter().filter_map(|change| {
        let row = overview.directory.replicas.get(&change.shard)?;
        let before = row.value.voters.first()?.node();
        let after = *change.wanted.voters.first()?;
        let (shard, reason) = (change.shard, change.reason);
        (before != after)
            .then(|| format!("shard {shard}: lead from node {before} to node {after} ({reason})"))
    });
    let held = layout.held.iter();
    let held = held.map(|(shard, hold)| format!("shard {shard}: {hold}"));
    proto::RebalanceResponse {
        moves: moves.chain(leads).collect(),
        held: held.collect(),
    }
}
