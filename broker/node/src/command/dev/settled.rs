//! Whether all shards have their replicas, as the cluster itself says.

use std::path::PathBuf;
use std::time::Duration;

use tokio::time::timeout;
use warren_cluster::grpc;
use warren_cluster::tls::{self, Files};

use crate::proto::admin_v1 as proto;
use crate::proto::admin_v1::cluster_client::ClusterClient;

/// How often the nodes are asked, and how long one may take to answer.
const PERIOD: Duration = Duration::from_millis(250);
const LIMIT: Duration = Duration::from_secs(5);

/// Where a node is, and the data folder that has the administrator's certificate.
pub(super) struct At {
    pub(super) address: String,
    pub(super) data: PathBuf,
}

/// Waits until some node says that all of the cluster's nodes are there, as many as these, and
/// every shard has its replicas.
pub(super) async fn wait(nodes: Vec<At>) {
    let mut period = tokio::time::interval(PERIOD);
    loop {
        for node in &nodes {
            period.tick().await;
            let status = timeout(LIMIT, ask(node)).await.ok().flatten();
            if status.is_some_and(|status| is_settled(&status, nodes.len())) {
                return;
            }
        }
    }
}

fn is_settled(status: &proto::ClusterStatusResponse, nodes: usize) -> bool {
    let there = status.nodes.iter().filter(|node| node.reachable).count();
    there == nodes && status.nodes.len() == nodes && status.settled
}

/// Nothing while the node cannot say.
async fn ask(node: &At) -> Option<proto::ClusterStatusResponse> {
    let keys = Files::new(&node.data).admin().ok().flatten()?;
    let dial = tls::admin_client(&keys).ok()?;
    let channel = grpc::connect(std::slice::from_ref(&node.address), &dial, LIMIT).await;
    let mut client = ClusterClient::new(channel.ok()?);
    let status = client.cluster_status(proto::ClusterStatusRequest {}).await;
    Some(status.ok()?.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_settled_when_all_nodes_are_there_and_the_cluster_says_so() {
        let status = |reachable: &[bool], settled| proto::ClusterStatusResponse {
            nodes: reachable
                .iter()
                .map(|reachable| proto::NodeStatus {
                    reachable: *reachable,
                    ..proto::NodeStatus::default()
                })
                .collect(),
            settled,
            ..proto::ClusterStatusResponse::default()
        };
        assert!(is_settled(&status(&[true; 3], true), 3));
        assert!(!is_settled(&status(&[true; 3], false), 3));
        assert!(
            !is_settled(&status(&[true; 2], true), 3),
            "one has not joined"
        );
        assert!(!is_settled(&status(&[true, true, false], true), 3));
    }
}
