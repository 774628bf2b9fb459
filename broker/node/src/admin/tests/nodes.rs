//! Several nodes: what is moved, what is refused because it would be lost, and what an operator
//! who consents gets.

use tonic::{Code, Streaming};

use super::*;
use crate::proto::admin_v1::cluster_client::ClusterClient;

/// For replicas to move and leads to be taken.
const MOVED_WITHIN: Duration = Duration::from_secs(90);
/// Between two looks at what comes by itself.
const LOOK_PERIOD: Duration = Duration::from_millis(50);
const DAY: Duration = Duration::from_secs(86_400);

type Client = ClusterClient<Channel>;

async fn client(node: &Node) -> Client {
    ClusterClient::new(node.admin().await)
}

/// So many nodes of one cluster, once every shard has the replicas that it is to have. The first
/// one has queues.
async fn nodes(count: u32) -> Vec<Node> {
    let first = Node::start(|config| config.shards = 2).await;
    let imported = first.import(FIXTURE, proto::ImportOptions::default());
    imported.await.expect("imports");
    let token = first.cluster.create_join_token(count, DAY).await;
    let token = token.expect("a token").to_string();
    let at = first.cluster.address().to_string();
    let mut nodes = vec![first];
    for _ in 1..count {
        let joins = |config: &mut Config| {
            config.join = vec![at.clone()];
            config.join_token = Some(token.clone());
        };
        nodes.push(Node::start(joins).await);
    }
    let mut cluster = client(&nodes[0]).await;
    eventually("all is settled", async || {
        let status = status(&mut cluster).await;
        status.settled && status.nodes.len() == count as usize
    })
    .await;
    nodes
}

/// Looks until it is so.
async fn eventually(what: &str, mut look: impl AsyncFnMut() -> bool) {
    let mut period = tokio::time::interval(LOOK_PERIOD);
    let looking = async {
        while !look().await {
            period.tick().await;
        }
    };
    let found = tokio::time::timeout(MOVED_WITHIN, looking).await;
    assert!(found.is_ok(), "not in time: {what}");
}

async fn status(cluster: &mut Client) -> proto::ClusterStatusResponse {
    let answer = cluster.cluster_status(proto::ClusterStatusRequest {}).await;
    answer.expect("answers").into_inner()
}

async fn shards(cluster: &mut Client) -> Vec<proto::Shard> {
    let answer = cluster.list_shards(proto::ListShardsRequest {}).await;
    answer.expect("answers").into_inner().shards
}

fn ids(status: &proto::ClusterStatusResponse) -> Vec<u64> {
    status.nodes.iter().map(|node| node.id).collect()
}

/// Nodes with a replica of a shard, in their order.
fn on(shard: &proto::Shard) -> Vec<u64> {
    let mut on: Vec<u64> = shard.replicas.iter().map(|it| it.node).collect();
    on.sort_unstable();
    on
}

fn refusal<T>(answer: Result<T, Status>) -> String {
    let status = answer.err().expect("is refused");
    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
    status.message().to_owned()
}

/// Follows work until it is done; gives its last words.
async fn done(answer: Result<tonic::Response<Streaming<proto::WorkProgress>>, Status>) -> String {
    let mut steps = answer.expect("begins").into_inner();
    let mut last = proto::WorkProgress::default();
    let working = async {
        while !last.finished {
            let step = steps.message().await.expect("goes on");
            last = step.expect("the last one says that it is");
            assert!(last.done <= last.total, "{last:?}");
        }
    };
    let done = tokio::time::timeout(MOVED_WITHIN, working).await;
    assert!(done.is_ok(), "not in time: {last:?}");
    assert_eq!(last.done, last.total, "{last:?}");
    last.text
}

async fn recover(
    cluster: &mut Client,
    shard: u32,
    node: u64,
    confirm: bool,
) -> Result<proto::RecoverShardResponse, Status> {
    let request = proto::RecoverShardRequest {
        shard,
        node,
        confirm,
    };
    let answer = cluster.recover_shard(request).await;
    answer.map(tonic::Response::into_inner)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_is_recovered_only_where_no_majority_is_left_and_with_consent() {
    let mut nodes = nodes(3).await;
    let mut cluster = client(&nodes[0]).await;
    for confirm in [false, true] {
        let text = refusal(recover(&mut cluster, 1, 1, confirm).await);
        assert!(text.contains("nothing to recover"), "{text}");
    }
    gone(nodes.pop().expect("three")).await;
    // Two are a majority, whether they have a leader yet or not.
    let text = refusal(recover(&mut cluster, 1, 1, true).await);
    let is_refused = text.contains("nothing to recover") || text.contains("a majority");
    assert!(is_refused, "{text}");
    gone(nodes.pop().expect("two")).await;
    eventually("nobody leads", async || {
        let shards = shards(&mut cluster).await;
        shards.iter().all(|shard| shard.leader == 0)
    })
    .await;

    let version = nodes[0].version();
    let before = shards(&mut cluster).await;
    for node in [0, 1] {
        let shown = recover(&mut cluster, 1, node, false).await.expect("shows");
        assert!(!shown.recovered);
        let replicas: Vec<_> = shown.replicas.iter().map(|it| it.node).collect();
        assert_eq!(replicas.len(), 3, "{replicas:?}");
        let left = shown.replicas.iter().filter(|it| it.last.is_some());
        let left: Vec<_> = left.collect();
        assert_eq!((left.len(), left[0].node), (1, 1), "{left:?}");
        let (last, term) = (left[0].last.expect("is there"), left[0].last_term);
        let term = term.expect("is there");
        let ends = format!("on node 1 ends at entry {last} of term {term}.");
        assert!(shown.text.contains(&ends), "{}", shown.text);
        let lost = "confirmed, and acknowledgements";
        assert!(shown.text.contains(lost), "{}", shown.text);
    }
    let text = refusal(recover(&mut cluster, 1, 2, true).await);
    assert!(text.contains("node 2 has no replica"), "{text}");
    let text = refusal(recover(&mut cluster, 1, 1, true).await);
    assert!(text.contains("recover shard 0 first"), "{text}");
    assert_eq!(nodes[0].version(), version, "nothing has changed");
    assert_eq!(shards(&mut cluster).await, before, "here neither");

    for shard in 0..=2 {
        let recovered = recover(&mut cluster, shard, 1, true).await;
        let recovered = recovered.expect("acts");
        assert!(recovered.recovered);
        let leads = format!("Node 1 leads shard {shard} alone");
        assert!(recovered.text.contains(&leads), "{}", recovered.text);
    }
    assert!(shards(&mut cluster).await.iter().all(|it| it.leader == 1));
    let text = refusal(recover(&mut cluster, 1, 1, true).await);
    assert!(text.contains("nothing to recover"), "{text}");
    gone(nodes.pop().expect("one")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_takes_the_places_of_one_that_leaves() {
    let nodes = nodes(4).await;
    let mut cluster = client(&nodes[0]).await;
    let before = shards(&mut cluster).await;
    let itself = proto::ReplaceNodeRequest { node: 2, by: 2 };
    let text = refusal(cluster.replace_node(itself).await);
    assert!(text.contains("cannot replace itself"), "{text}");
    let nobody = proto::ReplaceNodeRequest { node: 2, by: 9 };
    let answer = cluster.replace_node(nobody).await;
    assert_eq!(answer.err().map(|it| it.code()), Some(Code::NotFound));
    assert_eq!(shards(&mut cluster).await, before, "nothing has changed");

    let request = proto::ReplaceNodeRequest { node: 2, by: 4 };
    let text = done(cluster.replace_node(request).await).await;
    assert_eq!(text, "node 2 has left the cluster");
    let after = shards(&mut cluster).await;
    for (old, new) in before.iter().zip(&after) {
        let (was, is) = (on(old), on(new));
        assert!(!is.contains(&2), "{new:?}");
        assert_eq!(is, [1, 3, 4], "shard {} was on {was:?}", new.id);
    }
    // Nodes that have left are nobody's affair any more.
    assert_eq!(ids(&status(&mut cluster).await), [1, 3, 4]);
    let left = tokio::time::timeout(MOVED_WITHIN, nodes[1].cluster.dismissed()).await;
    left.expect("it learns that it has left");
    let again = proto::ReplaceNodeRequest { node: 2, by: 4 };
    let text = done(cluster.replace_node(again).await).await;
    assert_eq!(text, "node 2 has left the cluster");
    for node in nodes {
        gone(node).await;
    }
}

/// Ends a node as a kill does: nothing is handed over, nothing waits for the others.
async fn gone(node: Node) {
    node.cluster.stop().await;
    std::fs::remove_dir_all(&node.folder).expect("removes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_from_shards_without_a_majority_names_the_queues_and_wants_force() {
    let mut nodes = nodes(3).await;
    let mut cluster = client(&nodes[0]).await;
    for dead in nodes.split_off(1) {
        gone(dead).await;
    }
    eventually("nobody leads", async || {
        let shards = shards(&mut cluster).await;
        shards.iter().all(|shard| shard.leader == 0)
    })
    .await;
    // The definitions can be changed again, and nothing else.
    let recovered = recover(&mut cluster, 0, 1, true).await.expect("acts");
    assert!(recovered.recovered);
    let mut request = proto::RemoveNodeRequest {
        node: 2,
        force: false,
    };
    let text = refusal(cluster.remove_node(request).await);
    let wanted = "without node 2 these shards would have no majority: 1, 2; their queues: ";
    let queues = text.strip_prefix(wanted).expect(&text);
    let topology = nodes[0].broker.topology().clone();
    assert!(topology.queues().next().is_some());
    for queue in topology.queues() {
        let name = format!("{}/{}", queue.vhost, String::from_utf8_lossy(&queue.name));
        assert!(queues.contains(&name), "{name}: {queues}");
    }
    let status_before = status(&mut cluster).await;
    assert_eq!(ids(&status_before), [1, 2, 3], "nothing has changed");

    request.force = true;
    let text = done(cluster.remove_node(request).await).await;
    assert_eq!(text, "node 2 has left the cluster");
    assert_eq!(ids(&status(&mut cluster).await), [1, 3]);
    gone(nodes.remove(0)).await;
}
