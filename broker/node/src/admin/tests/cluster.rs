//! Nodes and shards: what there is, and what is refused.

use std::time::Duration;

use tonic::Code;

use super::*;
use crate::proto::admin_v1::cluster_client::ClusterClient;

async fn client(node: &Node) -> ClusterClient<Channel> {
    ClusterClient::new(node.admin().await)
}

fn code<T>(answer: Result<T, Status>) -> (Code, String) {
    let status = answer.err().expect("is refused");
    (status.code(), status.message().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_of_one_says_what_it_is() {
    let node = Node::start(|_| {}).await;
    node.import(FIXTURE, proto::ImportOptions::default())
        .await
        .expect("imports");
    let mut cluster = client(&node).await;
    let answer = cluster.cluster_status(proto::ClusterStatusRequest {}).await;
    let status = answer.expect("answers").into_inner();
    assert!(status.settled, "{status:?}");
    assert_eq!((status.shards, status.shards_settled), (4, 5));
    assert_eq!(status.nodes.len(), 1);
    let first = &status.nodes[0];
    assert_eq!((first.id, first.replicas, first.leaders), (1, 4, 4));
    // A cluster of its own has nobody to wait for.
    assert!(first.reachable && !first.quorum_critical);

    let answer = cluster.list_shards(proto::ListShardsRequest {}).await;
    let shards = answer.expect("answers").into_inner().shards;
    assert_eq!(shards.len(), 5);
    let durable = node.broker.topology();
    let durable = durable.queues().count() as u32;
    assert!(durable > 0);
    assert_eq!(shards.iter().map(|it| it.queues).sum::<u32>(), durable);
    assert!(shards.iter().all(|it| it.leader == 1 && it.settled));

    let request = proto::PredictLossRequest {
        nodes: vec![1],
        zone: String::new(),
    };
    let answer = cluster.predict_loss(request).await;
    let loss = answer.expect("answers").into_inner();
    assert_eq!(
        (loss.shards.len(), loss.queue_count),
        (5, u64::from(durable))
    );

    let request = proto::PredictLossRequest {
        nodes: Vec::new(),
        zone: "nowhere".to_owned(),
    };
    let (kind, text) = code(cluster.predict_loss(request).await);
    assert_eq!(kind, Code::NotFound);
    assert!(text.contains("`nowhere`"), "{text}");

    let request = proto::RebalanceRequest { dry_run: true };
    let plan = cluster.rebalance(request).await.expect("answers");
    assert_eq!(plan.into_inner(), proto::RebalanceResponse::default());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_break_the_cluster_is_refused() {
    let node = Node::start(|_| {}).await;
    node.import(FIXTURE, proto::ImportOptions::default())
        .await
        .expect("imports");
    let version = node.version();
    let mut cluster = client(&node).await;
    let drained = cluster
        .drain_node(proto::DrainNodeRequest { node: 1 })
        .await;
    let (kind, text) = code(drained);
    assert_eq!(kind, Code::FailedPrecondition);
    assert!(text.contains("the last one"), "{text}");
    let request = proto::RemoveNodeRequest {
        node: 1,
        force: false,
    };
    let (kind, text) = code(cluster.remove_node(request).await);
    assert_eq!(kind, Code::FailedPrecondition);
    let queue = {
        let topology = node.broker.topology();
        let queue = topology.queues().next().expect("the file has queues");
        String::from_utf8_lossy(&queue.name).into_owned()
    };
    assert!(
        text.contains("no majority") && text.contains(&queue),
        "{text}"
    );
    let request = proto::RemoveNodeRequest {
        node: 1,
        force: true,
    };
    assert_eq!(
        code(cluster.remove_node(request).await).0,
        Code::FailedPrecondition
    );
    let request = proto::ReplaceNodeRequest { node: 1, by: 2 };
    assert_eq!(
        code(cluster.replace_node(request).await).0,
        Code::FailedPrecondition
    );

    assert_eq!(node.version(), version, "nothing has changed");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_there_is_not_is_refused() {
    let node = Node::start(|_| {}).await;
    let version = node.version();
    let mut cluster = client(&node).await;
    let request = proto::DrainNodeRequest { node: 7 };
    assert_eq!(code(cluster.drain_node(request).await).0, Code::NotFound);
    let request = proto::RemoveNodeRequest {
        node: 7,
        force: true,
    };
    assert_eq!(code(cluster.remove_node(request).await).0, Code::NotFound);
    let request = proto::MoveReplicaRequest {
        shard: 1,
        from: 1,
        to: 7,
    };
    assert_eq!(code(cluster.move_replica(request).await).0, Code::NotFound);
    let request = proto::TransferLeaderRequest { shard: 9, to: 1 };
    assert_eq!(
        code(cluster.transfer_leader(request).await).0,
        Code::NotFound
    );
    let request = proto::RecoverShardRequest {
        shard: 1,
        node: 1,
        confirm: true,
    };
    let (kind, text) = code(cluster.recover_shard(request).await);
    assert_eq!(kind, Code::FailedPrecondition);
    assert!(text.contains("nothing to recover"), "{text}");

    for (uses, ttl_seconds) in [(5000, 0), (1, u64::MAX)] {
        let request = proto::CreateJoinTokenRequest { uses, ttl_seconds };
        let (kind, _) = code(cluster.create_join_token(request).await);
        assert_eq!(kind, Code::InvalidArgument);
    }
    let request = proto::AddNodeRequest {
        address: "127.0.0.1:1".to_owned(),
        fingerprint: "zz".to_owned(),
    };
    assert_eq!(
        code(cluster.add_node(request).await).0,
        Code::InvalidArgument
    );
    assert_eq!(node.version(), version, "nothing has changed");
    node.stop().await;
}

/// What a start with these settings does before it opens the data.
async fn prepared(config: &Config) -> Result<(), String> {
    let prepared = tokio::time::timeout(WITHIN, crate::cluster::prepare(config, now())).await;
    let prepared = prepared.expect("decides");
    prepared.map(drop).map_err(|error| format!("{error:#}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_has_joined_asks_no_more_and_one_that_was_cut_short_asks_again() {
    let node = Node::start(|_| {}).await;
    let day = Duration::from_secs(86_400);
    let token = node.cluster.create_join_token(1, day).await;
    let token = token.expect("a token").to_string();
    let file = node.folder.join("token");
    std::fs::write(&file, &token).expect("writes");
    let blank = Config {
        data_dir: node.folder.join("second"),
        cluster: "127.0.0.1:0".parse().expect("an address"),
        ..Config::default()
    };
    let by_file = Config {
        join: vec![node.cluster.address().to_string()],
        bootstrap_token_file: Some(file),
        ..blank.clone()
    };
    assert_eq!(prepared(&by_file).await, Ok(()));
    let files = Files::new(&blank.data_dir);
    let joined = files.node().expect("whole").expect("a member");

    let certificate = blank.data_dir.join("tls/node.pem");
    std::fs::remove_file(&certificate).expect("as when it was cut short");
    assert_eq!(prepared(&by_file).await, Ok(()));
    let again = files.node().expect("whole").expect("a member");
    assert_eq!(
        again.node, joined.node,
        "its use of the token was spent before"
    );

    let garbled = Config {
        join_token: Some("garbled".to_owned()),
        ..blank.clone()
    };
    assert_eq!(prepared(&garbled).await, Ok(()), "it needs none");
    let awaits = Config {
        await_join: true,
        ..blank
    };
    assert_eq!(prepared(&awaits).await, Ok(()));
    node.stop().await;
}
