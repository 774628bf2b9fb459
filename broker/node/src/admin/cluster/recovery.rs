//! Recovering a shard whose majority is lost for ever: shows what is left, says what would be lost,
//! and acts only when it is told so.

use std::time::Duration;

use tokio::time::Instant;
use tonic::Status;
use warren_cluster::Overview;
use warren_cluster::cluster::Cluster as Node;
use warren_cluster_core::ids::{NodeId, ReplicaId, ShardId};
use warren_cluster_core::lane::ShardStatus;

use super::{refused, status};
use crate::proto::admin_v1 as proto;

/// How long the replica may take to lead.
const LEAD_TIMEOUT: Duration = Duration::from_secs(20);
const LOOK_PERIOD: Duration = Duration::from_millis(200);
/// What goes in any case.
const LOSS: &str = "What only replicas that do not answer have is lost: messages that were \
                    confirmed, and acknowledgements.";

pub(super) async fn recover(
    node: &Node,
    request: &proto::RecoverShardRequest,
) -> Result<proto::RecoverShardResponse, Status> {
    let shard = ShardId(request.shard);
    let overview = node.overview().await;
    let row = overview.directory.replicas.get(&shard);
    let row = row.ok_or_else(|| Status::not_found(format!("there is no shard {shard}")))?;
    let led = overview.led();
    let replicas = status::replicas(&overview, shard, &row.value, led.get(&shard));
    if let Some((_, leader)) = led.get(&shard).and_then(|status| status.leader) {
        let text = format!("shard {shard} is led by node {leader}: there is nothing to recover");
        return Err(Status::failed_precondition(text));
    }
    let left = left(&overview, shard);
    let Some(best) = left.iter().max_by_key(|it| (it.last.1, it.last.0)) else {
        let text = format!("no node that answers has a replica of shard {shard}");
        return Err(Status::failed_precondition(text));
    };
    if has_majority(&left, best) {
        let text = format!(
            "a majority of shard {shard}'s replicas answers: they elect a leader by themselves"
        );
        return Err(Status::failed_precondition(text));
    }
    if request.node == 0 {
        let text = format!("{} {LOSS} Choose one with its node's id.", told(best));
        return Ok(answer(replicas, text, false));
    }
    let chosen = left.iter().find(|it| on(it) == Some(NodeId(request.node)));
    let Some(chosen) = chosen else {
        let text = format!(
            "node {} has no replica of shard {shard} that answers",
            request.node
        );
        return Err(Status::failed_precondition(text));
    };
    let loss = loss(chosen, best);
    if !request.confirm {
        let text = format!("{} {loss} Nothing was done.", told(chosen));
        return Ok(answer(replicas, text, false));
    }
    let id = on(chosen).unwrap_or_default();
    let done = node.recover(id, chosen).await;
    done.map_err(|why| refused(&why))?;
    let until = Instant::now() + LEAD_TIMEOUT;
    loop {
        tokio::time::sleep(LOOK_PERIOD).await;
        let overview = node.overview().await;
        let led = overview.led();
        let leader = led.get(&shard).and_then(|status| status.leader);
        if leader.is_some_and(|(_, node)| node == id) {
            let text = format!("Node {id} leads shard {shard} alone; new replicas follow. {loss}");
            return Ok(answer(replicas, text, true));
        }
        if Instant::now() > until {
            let text = format!("node {id} was told, and does not lead shard {shard} yet");
            return Err(Status::deadline_exceeded(text));
        }
    }
}

fn answer(
    replicas: Vec<proto::Replica>,
    text: String,
    recovered: bool,
) -> proto::RecoverShardResponse {
    proto::RecoverShardResponse {
        replicas,
        text,
        recovered,
    }
}

fn on(status: &ShardStatus) -> Option<NodeId> {
    status.replica.map(|id| id.node())
}

/// Replicas that answer.
fn left(overview: &Overview, shard: ShardId) -> Vec<ShardStatus> {
    let all = overview.replicas();
    all.filter(|status| status.shard == shard)
        .cloned()
        .collect()
}

/// What is lost where `chosen` goes on alone.
fn loss(chosen: &ShardStatus, best: &ShardStatus) -> String {
    if (best.last.1, best.last.0) <= (chosen.last.1, chosen.last.0) {
        return LOSS.to_owned();
    }
    format!(
        "The replica on node {} has more: all between entry {} and entry {} is lost, and what only \
         replicas that do not answer have.",
        on(best).unwrap_or_default(),
        chosen.last.0,
        best.last.0
    )
}

/// Whether those that answer can elect one of them, as the one that knows most sees its members.
fn has_majority(left: &[ShardStatus], best: &ShardStatus) -> bool {
    let answers = |id: ReplicaId| left.iter().any(|status| status.replica == Some(id));
    !best.members.voters.is_empty() && best.members.are_decided_by(answers)
}

fn told(status: &ShardStatus) -> String {
    format!(
        "The replica on node {} ends at entry {} of term {}.",
        on(status).unwrap_or_default(),
        status.last.0,
        status.last.1
    )
}
