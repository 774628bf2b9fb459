//! What happens, as those hear it who watch one node.

use tonic::{Code, Streaming};
use warren_cluster_core::members::NodeState;

use super::*;
use crate::proto::admin_v1::cluster_client::ClusterClient;

/// Somebody who watches a node.
pub(super) struct Watcher(Streaming<proto::Event>);

impl Watcher {
    pub(super) async fn start(node: &Node) -> Self {
        Self(watch(node).await.expect("is let watch"))
    }

    async fn next(&mut self) -> Result<proto::Event, Status> {
        let event = tokio::time::timeout(WITHIN, self.0.message()).await;
        let event = event.expect("in time")?;
        Ok(event.expect("a stream of events ends with a reason"))
    }

    /// All events until there is one of this kind, that one too.
    async fn until(&mut self, kind: &str) -> Vec<proto::Event> {
        let mut all = Vec::new();
        loop {
            let event = self.next().await.expect("goes on");
            let found = event.kind == kind;
            all.push(event);
            if found {
                return all;
            }
        }
    }

    pub(super) async fn last(&mut self, kind: &str) -> proto::Event {
        self.until(kind).await.pop().expect("is there")
    }
}

async fn watch(node: &Node) -> Result<Streaming<proto::Event>, Status> {
    let mut client = ClusterClient::new(node.admin().await);
    let answer = client.watch_events(proto::WatchEventsRequest {}).await?;
    Ok(answer.into_inner())
}

/// Of a kind that nobody else tells.
fn tell(node: &Node, kind: &str) {
    let text = "the disk is full".to_owned();
    node.broker.events().tell(kind, None, None, text);
}

async fn joined(first: &Node) -> Node {
    let day = Duration::from_secs(86_400);
    let token = first.cluster.create_join_token(1, day).await;
    let token = token.expect("a token").to_string();
    Node::start(|config| config.join_token = Some(token)).await
}

fn follow(node: &Node) {
    let (broker, cluster) = (Arc::clone(&node.broker), Arc::clone(&node.cluster));
    tokio::spawn(crate::events::follow(broker, cluster));
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_told_to_those_who_watch() {
    let node = Node::start(|_| {}).await;
    tell(&node, "before");
    let mut events = Watcher::start(&node).await;
    tell(&node, "test-alarm");
    let all = events.until("test-alarm").await;
    assert!(all.iter().all(|event| event.kind != "before"), "{all:?}");
    let event = all.last().expect("an event");
    assert_eq!((event.node, event.told_by), (0, node.cluster.node().0));
    assert_eq!(event.text, "the disk is full");

    node.cluster.stop().await;
    let end = loop {
        if let Err(end) = events.next().await {
            break end;
        }
    };
    assert_eq!(end.code(), Code::Unavailable);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_watches_one_node_hears_of_all_and_of_everything_once() {
    let first = Node::start(|_| {}).await;
    let mut early = Watcher::start(&first).await;
    let second = joined(&first).await;
    let (one, two) = (first.cluster.node(), second.cluster.node());
    // The one who watched before the other node came hears it, too.
    tell(&second, "test-late");
    assert_eq!(early.last("test-late").await.told_by, two.0);
    follow(&first);
    follow(&second);

    let mut here = Watcher::start(&first).await;
    let mut there = Watcher::start(&second).await;
    let set = first.cluster.set_state(two, NodeState::Draining).await;
    set.expect("drains");
    // Both have seen it, and both have told.
    assert_eq!(there.last("node-state").await.told_by, two.0);
    let own = here.until("node-state").await;
    tell(&first, "test-end");
    tell(&second, "test-end");
    let (here, there) = ((&mut here, own, vec![one.0]), (&mut there, vec![], vec![]));
    for (watcher, mut all, of_rows) in [here, there] {
        // One end from each: what each of them told before has come.
        for _ in 0..2 {
            all.extend(watcher.until("test-end").await);
        }
        let tellers = |kind: &str| {
            let told = all.iter().filter(|event| event.kind == kind);
            let mut tellers: Vec<u64> = told.map(|event| event.told_by).collect();
            tellers.sort_unstable();
            tellers
        };
        assert_eq!(tellers("test-end"), [one.0, two.0]);
        assert_eq!(tellers("node-state"), of_rows);
    }
    second.stop().await;
    first.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_may_watch_as_the_limit_says() {
    let node = Node::start(|_| {}).await;
    let mut watchers = Vec::new();
    let refused = loop {
        match watch(&node).await {
            Ok(events) => watchers.push(events),
            Err(refused) => break refused,
        }
        assert!(watchers.len() < 1000, "there is no limit");
    };
    assert_eq!(refused.code(), Code::ResourceExhausted);
    watchers.pop().expect("some may");
    // The node hears of it a moment later.
    let again = async {
        while let Err(refused) = watch(&node).await {
            assert_eq!(refused.code(), Code::ResourceExhausted);
        }
    };
    tokio::time::timeout(WITHIN, again).await.expect("in time");
    drop(watchers);
    node.stop().await;
}
