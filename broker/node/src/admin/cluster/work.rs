//! Work that takes long, as those see it who wait for it. Nobody has to: what is wanted stands in
//! rows, and is done without a watcher.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tonic::Status;
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;
use warren_cluster::Overview;
use warren_cluster::cluster::Cluster as Node;
use warren_cluster_core::ids::{NodeId, ShardId};
use warren_cluster_core::members::NodeState;

use super::Answers;
use crate::proto::admin_v1 as proto;

/// How often a watcher is told.
const PERIOD: Duration = Duration::from_millis(300);

#[derive(Clone, Copy, Debug)]
pub(super) enum Work {
    Drain(NodeId),
    Remove(NodeId),
    Move {
        shard: ShardId,
        from: NodeId,
        to: NodeId,
    },
    Transfer {
        shard: ShardId,
        to: NodeId,
    },
}

/// Tells how far it is until it is done, or nobody listens.
pub(super) fn watch(node: Arc<Node>, work: Work) -> Answers<proto::WorkProgress> {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(tell(node, work, sender));
    Box::pin(ReceiverStream::new(receiver))
}

async fn tell(
    node: Arc<Node>,
    work: Work,
    sender: mpsc::Sender<Result<proto::WorkProgress, Status>>,
) {
    let mut total = 0;
    let mut period = tokio::time::interval(PERIOD);
    loop {
        period.tick().await;
        let overview = node.overview().await;
        if let Some(why) = is_over(&overview, work) {
            // Nobody hears it who does not listen any more.
            let _ = sender.send(Err(Status::aborted(why))).await;
            return;
        }
        let left = left(&node, &overview, work);
        total = left.count.max(total);
        let progress = proto::WorkProgress {
            done: total - left.count,
            total,
            text: left.text,
            finished: left.is_done,
        };
        let said = sender.send(Ok(progress)).await;
        if said.is_err() || left.is_done {
            return;
        }
    }
}

/// Why the work will not be done: somebody wants something else by now.
fn is_over(overview: &Overview, work: Work) -> Option<String> {
    let directory = &overview.directory;
    let state = |id: NodeId| directory.nodes.get(&id).map(|row| row.value.state);
    match work {
        Work::Drain(id) | Work::Remove(id) if state(id) == Some(NodeState::Active) => {
            Some(format!("node {id} was resumed"))
        }
        Work::Move { shard, to, .. } => {
            let row = directory.replicas.get(&shard);
            let wanted = row.is_some_and(|row| row.value.on(to).is_some());
            (!wanted).then(|| format!("shard {shard} is not to be on node {to} any more"))
        }
        Work::Transfer { to, .. } if state(to) != Some(NodeState::Active) => {
            Some(format!("node {to} is not active any more"))
        }
        // Leads are evened out: this one may have been given back before it moved.
        Work::Transfer { shard, to } => {
            let first = directory.replicas.get(&shard);
            let first = first.and_then(|row| row.value.voters.first());
            let leader = overview.leaders().get(&shard).map(|(_, node)| *node);
            let wanted = first.is_some_and(|id| id.node() == to) || leader == Some(to);
            (!wanted).then(|| format!("node {to} is not to lead shard {shard} any more"))
        }
        Work::Drain(_) | Work::Remove(_) => None,
    }
}

struct Left {
    /// Units of work.
    count: u32,
    text: String,
    is_done: bool,
}

fn left(node: &Node, overview: &Overview, work: Work) -> Left {
    match work {
        Work::Drain(id) => drain(overview, id),
        Work::Remove(id) => remove(node, overview, id),
        Work::Move { shard, from, to } => {
            let status = overview.led().remove(&shard);
            let members = status.map(|status| status.members).unwrap_or_default();
            let is_there = members.on(to).is_some_and(|id| {
                members.votes(id) || {
                    let row = overview.directory.replicas.get(&shard);
                    row.is_some_and(|row| row.value.learners.contains(&id))
                }
            });
            let is_done = is_there && members.on(from).is_none();
            let text = match (members.on(to).is_some(), is_there) {
                (false, _) => format!("node {to} is about to get a replica of shard {shard}"),
                (true, false) => format!("node {to} catches up with shard {shard}"),
                (true, true) if !is_done => format!("node {from} is about to leave shard {shard}"),
                _ => format!("node {to} has the replica of shard {shard}"),
            };
            one(is_done, text)
        }
        Work::Transfer { shard, to } => {
            let status = overview.led().remove(&shard);
            let leader = status.and_then(|status| status.leader);
            let leader = leader.map(|(_, node)| node);
            let text = match leader {
                Some(leader) => format!("node {leader} leads shard {shard}"),
                None => format!("nobody leads shard {shard}"),
            };
            one(leader == Some(to), text)
        }
    }
}

fn one(is_done: bool, text: String) -> Left {
    Left {
        count: u32::from(!is_done),
        text,
        is_done,
    }
}

fn drain(overview: &Overview, id: NodeId) -> Left {
    // As all see it: a node that is slow to answer may still lead.
    let leaders = overview.leaders();
    let count = leaders.values().filter(|(_, node)| *node == id).count() as u32;
    Left {
        count,
        text: format!("node {id} leads {count} shards"),
        is_done: count == 0,
    }
}

fn remove(node: &Node, overview: &Overview, id: NodeId) -> Left {
    let directory = &overview.directory;
    let row = directory.nodes.get(&id);
    let led = overview.led();
    let on = led.values().filter(|it| it.members.on(id).is_some());
    let count = on.count() as u32;
    let has_left = row.is_none_or(|row| !row.value.is_member());
    // A node that was asked to remove itself hears nothing any more once it has left.
    let itself = id == node.node() && node.has_left();
    let is_done = has_left || itself;
    let text = if is_done {
        format!("node {id} has left the cluster")
    } else {
        format!("node {id} has replicas of {count} shards")
    };
    Left {
        count: if is_done { 0 } else { count.max(1) },
        text,
        is_done,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bytes::Bytes;
    use warren_cluster_core::ids::{ReplicaId, Time};
    use warren_cluster_core::members::{Directory, Node, Replicas, Versioned};
    use warren_cluster_core::rows::Version;

    use super::*;

    fn overview(state: NodeState) -> Overview {
        let value = Node {
            name: "n".to_owned(),
            zone: String::new(),
            addresses: Vec::new(),
            amqp: Vec::new(),
            http: Vec::new(),
            state,
            joined: Time(0),
            key: Bytes::new(),
        };
        let version = Version(1);
        let mut directory = Directory::default();
        let row = Versioned { value, version };
        directory.nodes.insert(NodeId(2), row);
        let row = Versioned {
            value: Replicas {
                voters: [2, 3].map(|node| ReplicaId::new(NodeId(node), 1)).to_vec(),
                ..Replicas::default()
            },
            version,
        };
        directory.replicas.insert(ShardId(1), row);
        Overview {
            directory: Arc::new(directory),
            nodes: BTreeMap::new(),
        }
    }

    #[test]
    fn nobody_waits_for_what_is_not_wanted_any_more() {
        let drain = Work::Drain(NodeId(2));
        let why = is_over(&overview(NodeState::Active), drain);
        assert_eq!(why.as_deref(), Some("node 2 was resumed"));
        assert_eq!(is_over(&overview(NodeState::Draining), drain), None);
        let (shard, to) = (ShardId(1), NodeId(2));
        let transfer = Work::Transfer { shard, to };
        assert_eq!(is_over(&overview(NodeState::Active), transfer), None);
        assert!(is_over(&overview(NodeState::Draining), transfer).is_some());
        // It was wanted, and somebody else is to lead by now.
        let mut given_back = overview(NodeState::Active);
        let directory = Arc::make_mut(&mut given_back.directory);
        let row = directory.replicas.get_mut(&shard).expect("it has a row");
        row.value.voters.reverse();
        let why = is_over(&given_back, transfer);
        let text = "node 2 is not to lead shard 1 any more";
        assert_eq!(why.as_deref(), Some(text));
        let from = NodeId(1);
        let (shard, to) = (ShardId(1), NodeId(9));
        let moves = Work::Move { shard, from, to };
        assert!(is_over(&overview(NodeState::Active), moves).is_some());
    }
}
