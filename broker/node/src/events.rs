//! What happens to the cluster, for those who watch. Every node tells what it sees itself, and
//! whoever watches one of them hears them all; the last events are kept for those who are slow or
//! were away.
//!
//! What stands in the replicated rows every node sees and tells: of that, who watches hears the
//! node that it asked alone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use prost::Message as _;
use warren_cluster::cluster::Cluster;
use warren_cluster::news::{Heard, News, Scope};
use warren_cluster::watch::Told;
use warren_cluster_core::ids::{NodeId, ShardId};
use warren_cluster_core::members::{Directory, NodeState};

use crate::broker::Broker;
use crate::proto::admin_v1::Event;

/// Bytes of a text; what is longer is cut off.
const TEXT_BYTES_MAX: usize = 1024;

/// Whoever tells, and whoever watches.
pub(crate) struct Events {
    news: Arc<News>,
}

impl Events {
    /// `life` differs from start to start.
    pub(crate) fn new(life: u64) -> Self {
        Self {
            news: Arc::new(News::new(life)),
        }
    }

    /// As the cluster tells them on.
    pub(crate) fn news(&self) -> Arc<News> {
        Arc::clone(&self.news)
    }

    /// Tells what this node sees of itself or of others.
    pub(crate) fn tell(
        &self,
        kind: &str,
        node: Option<NodeId>,
        shard: Option<ShardId>,
        text: String,
    ) {
        let event = event(kind, node, shard, text);
        self.news
            .tell(Scope::Everywhere, event.encode_to_vec().into());
    }

    /// Tells what every node tells.
    fn tell_of_rows(&self, kind: &str, node: Option<NodeId>, shard: Option<ShardId>, text: String) {
        let event = event(kind, node, shard, text);
        self.news.tell(Scope::Here, event.encode_to_vec().into());
    }
}

fn event(kind: &str, node: Option<NodeId>, shard: Option<ShardId>, mut text: String) -> Event {
    text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let millis = since.map_or(0, |since| since.as_millis());
    Event {
        time_millis: u64::try_from(millis).unwrap_or(u64::MAX),
        kind: kind.to_owned(),
        node: node.map_or(0, |node| node.0),
        shard: shard.map(|shard| shard.0),
        text,
        // Says whoever hears it, who knows.
        told_by: 0,
    }
}

/// An event as it was heard; nothing where it cannot be read.
pub(crate) fn heard(told: Told) -> Option<Event> {
    let Told { node, heard } = told;
    let event = match heard {
        Heard::Item(bytes) => Event::decode(bytes),
        Heard::Missed(items) => {
            let text = format!("up to {items} events of this node were missed");
            Ok(event("missed", Some(node), None, text))
        }
    };
    match event {
        Ok(event) => Some(Event {
            told_by: node.0,
            ..event
        }),
        Err(error) => {
            tracing::warn!(%node, %error, "a node tells what cannot be read");
            None
        }
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
        events.tell_of_rows(kind, Some(*id), None, text);
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
        let first = voters.first().copied();
        events.tell_of_rows("shard-moving", first, Some(shard), text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(heard: Heard) -> Option<Event> {
        super::heard(Told {
            node: NodeId(3),
            heard,
        })
    }

    #[test]
    fn who_tells_is_whom_it_was_heard_from() {
        let says = Event {
            told_by: 1,
            ..event("alarm", Some(NodeId(2)), None, "full".to_owned())
        };
        let event = told(Heard::Item(says.encode_to_vec().into())).expect("an event");
        assert_eq!((&*event.kind, event.node, event.told_by), ("alarm", 2, 3));
        let event = told(Heard::Missed(7)).expect("an event");
        assert_eq!((&*event.kind, event.told_by), ("missed", 3));
        assert!(event.text.contains("up to 7 events"), "{}", event.text);
        let nonsense = &[0xff; 9][..];
        assert_eq!(told(Heard::Item(nonsense.into())), None);
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let text = format!("a{}", "\u{e4}".repeat(TEXT_BYTES_MAX));
        let event = event("backup-failed", None, None, text);
        assert_eq!(event.text.len(), TEXT_BYTES_MAX - 1);
        assert!(event.encode_to_vec().len() < warren_cluster::news::NEWS_BYTES_MAX);
    }
}
