//! What is made of rows and of what leaders say.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::consensus::Members;
use crate::ids::{Index, NodeId, ReplicaId, ShardId, Term, Time};
use crate::lane::ShardStatus;
use crate::members::{Directory, Node, NodeState, Replicas, Versioned};
use crate::placement::{Known, Options, cluster, gone};
use crate::rows::Version;

const SHARD: ShardId = ShardId::DEFINITIONS;

fn versioned<V>(value: V) -> Versioned<V> {
    let version = Version(1);
    Versioned { value, version }
}

fn node(state: NodeState) -> Versioned<Node> {
    versioned(Node {
        name: String::new(),
        zone: String::new(),
        addresses: Vec::new(),
        amqp: Vec::new(),
        http: Vec::new(),
        state,
        joined: Time(0),
        key: Bytes::new(),
    })
}

fn ids(nodes: &[u64]) -> Vec<ReplicaId> {
    let id = |node: &u64| ReplicaId::new(NodeId(*node), 1);
    nodes.iter().map(id).collect()
}

/// The nodes of voters and of learners.
type Places<'a> = (&'a [u64], &'a [u64]);

/// Five nodes, of which 1 leaves, and a shard that is to have these members.
fn directory(wanted: Places<'_>) -> Directory {
    let nodes = (1..=5).map(|id| match id {
        1 => (NodeId(id), node(NodeState::Leaving)),
        _ => (NodeId(id), node(NodeState::Active)),
    });
    let row = Replicas {
        voters: ids(wanted.0),
        learners: ids(wanted.1),
        ..Replicas::default()
    };
    Directory {
        nodes: nodes.collect(),
        replicas: BTreeMap::from([(SHARD, versioned(row))]),
        ..Directory::default()
    }
}

/// Node 2 leads the shard, which has these members.
fn led(members: Places<'_>) -> Known {
    let status = ShardStatus {
        shard: SHARD,
        replica: Some(ReplicaId::new(NodeId(2), 1)),
        leader: Some((Term(1), NodeId(2))),
        members: Members {
            voters: ids(members.0),
            learners: ids(members.1),
            ..Members::default()
        },
        applied: (Index(9), Term(1)),
        committed: Index(9),
        last: (Index(9), Term(1)),
        matched: Vec::new(),
    };
    Known {
        shards: BTreeMap::from([(SHARD, status)]),
        ..Known::default()
    }
}

/// Whether the shard is left alone that is to have these members, and has those.
fn is_busy(wanted: Places<'_>, members: Places<'_>) -> bool {
    let (directory, known) = (directory(wanted), led(members));
    let cluster = cluster(&directory, &known, &Options::default(), Time(0));
    cluster.shards[0].is_busy
}

#[test]
fn a_shard_on_its_way_is_left_alone_unless_it_waits_for_a_node_that_goes() {
    // Its vote goes, or went: what is planned meanwhile would undo what the leader does.
    assert!(is_busy((&[2, 3, 4], &[1, 5]), (&[1, 2, 3, 4, 5], &[])));
    assert!(is_busy((&[2, 3, 4], &[1, 5]), (&[2, 3, 5], &[1, 4])));
    assert!(!is_busy((&[2, 3, 5], &[1, 4]), (&[2, 3, 5], &[1, 4])));
    // It is to come, or to vote.
    assert!(!is_busy((&[2, 3, 5], &[1, 4]), (&[2, 3, 5], &[4])));
    assert!(!is_busy((&[1, 2, 3], &[4, 5]), (&[2, 3, 4], &[1, 5])));
}

#[test]
fn a_node_is_gone_when_nobody_can_count_on_it_any_more() {
    let without = directory((&[2, 3, 4], &[5]));
    let left = led((&[2, 3, 4], &[5]));
    assert_eq!(gone(&without, &left), Some(NodeId(1)));
    // It is still a member, or is to be one, or the shard has no leader who would know.
    assert_eq!(gone(&without, &led((&[2, 3, 4], &[1]))), None);
    assert_eq!(gone(&directory((&[2, 3, 4], &[1])), &left), None);
    assert_eq!(gone(&without, &Known::default()), None);
}
