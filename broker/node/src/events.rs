//! What happens to the cluster, for those who watch: told once, kept for nobody.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::broadcast;
use warren_cluster::cluster::Cluster;
use warren_cluster_core::ids::{NodeId, ShardId};
use warren_cluster_core::members::{Directory, NodeState};

use crate::broker::Broker;
use crate::proto::admin_v1::Event;

/// Events that a slow watcher may be behind.
const BEHIND_MAX: usize = 1024;

/// Whoever tells, and whoever watches.
pub(crate) struct Events {
    sender: broadcast::Sender<Event>,
}

impl Events {
    pub(crate) fn new() -> Self {
        Self {
            sender: broadcast::Sender::new(BEHIND_MAX),
        }
    }

    pub(crate) fn watch(&self) -> broadcast::Receiver<Event> {
        self.sender.subscribe()
    }

    pub(crate) fn tell(
        &self,
        kind: &str,
        node: Option<NodeId>,
        shard: Option<ShardId>,
        text: String,
    ) {
        if self.sender.receiver_count() == 0 {
            return;
        }
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let millis = since.map_or(0, |since| since.as_millis());
        // Nobody watches any more: nobody misses it.
        let _ = self.sender.send(Event {
            time_millis: u64::try_from(millis).unwrap_or(u64::MAX),
            kind: kind.to_owned(),
            node: node.map_or(0, |node| node.0),
            shard: shard.map(|shard| shard.0),
            text,
        });
    }
}

/// Tells what the rows and the links say, as it changes.
pub(crate) async fn follow(broker: Arc<Broker>, cluster: Arc<Cluster>) {
    let mut directory = cluster.watch();
    let mut reachable = cluster.reachable();
    let mut before = directory.borrow_and_update().clone();
    let mut there = reachable.borrow_and_update().clone();
    loop {
        let changed = tokio::select! {
            changed = directory.changed() => changed,
            changed = reachable.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
        let now = directory.borrow_and_update().clone();
        tell_rows(broker.events(), &before, &now);
        before = now;
        let now = reachable.borrow_and_update().clone();
        for node in now.difference(&there) {
            let text = format!("node {node} is reached");
            broker.events().tell("node-up", Some(*node), None, text);
        }
        for node in there.difference(&now) {
            let text = format!("node {node} is not reached any more");
            broker.events().tell("node-down", Some(*node), None, text);
        }
        there = now;
    }
}

fn tell_rows(events: &Events, before: &Directory, now: &Directory) {
    for (id, row) in &now.nodes {
        let old = before.nodes.get(id).map(|row| row.value.state);
        let state = row.value.state;
        let (kind, what) = match (old, state) {
            (Some(old), state) if old == state => continue,
            (None, _) => ("node-joined", "has joined"),
            (_, NodeState::Active) => ("node-state", "is active again"),
            (_, NodeState::Draining) => ("node-state", "drains"),
            (_, NodeState::Leaving) => ("node-state", "is leaving"),
            (_, NodeState::Removed) => ("node-removed", "has left the cluster"),
        };
        let text = format!("node {id} ({}) {what}", row.value.name);
        events.tell(kind, Some(*id), None, text);
    }
    let nodes = |directory: &Directory| -> BTreeMap<ShardId, (Vec<NodeId>, Vec<NodeId>)> {
        let rows = directory.replicas.iter();
        let of =
            |ids: &[warren_cluster_core::ids::ReplicaId]| ids.iter().map(|id| id.node()).collect();
        rows.map(|(shard, row)| (*shard, (of(&row.value.voters), of(&row.value.learners))))
            .collect()
    };
    let old = nodes(before);
    for (shard, (voters, learners)) in nodes(now) {
        if old.get(&shard) == Some(&(voters.clone(), learners.clone())) {
            continue;
        }
        let list = |ids: &[NodeId]| {
            let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
            ids.join(", ")
        };
        let mut text = format!("shard {shard} is to be on nodes {}", list(&voters));
        if !learners.is_empty() {
            text.push_str(&format!(", learning {}", list(&learners)));
        }
        events.tell("shard-moving", voters.first().copied(), Some(shard), text);
    }
}
