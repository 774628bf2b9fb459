//! Rows there and back, transactions that race, growth by the simple rule, steps of a shard.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::codec::Value;
use super::steps::{self, Step};
use super::*;
use crate::consensus::{MemberChange, Members};
use crate::ids::{Index, Term};
use crate::lane::ShardStatus;
use crate::rows::{Change, Committed, Rows, Transaction};

const SHARDS: u32 = 8;

fn node(name: &str) -> Node {
    Node {
        name: name.to_owned(),
        zone: "a".to_owned(),
        addresses: vec![format!("{name}:25672"), "[::1]:1".to_owned()],
        amqp: vec!["127.0.0.1:5672".to_owned()],
        http: Vec::new(),
        state: NodeState::Active,
        joined: Time(7),
        key: Bytes::copy_from_slice(name.as_bytes()),
    }
}

fn founding_rows() -> Founding {
    Founding {
        cluster: Cluster {
            id: 5,
            version: CLUSTER_VERSION,
            name: "test".to_owned(),
            shards: SHARDS,
            founded: Time(3),
        },
        authority: Authority {
            certificate: Bytes::from_static(b"certificate"),
            key: Bytes::from_static(b"key"),
        },
        first: NodeId(1),
        node: node("one"),
    }
}

/// Shard 0 and the view of it.
#[derive(Default)]
struct Store {
    rows: Rows,
    directory: Directory,
}

impl Store {
    fn founded() -> Self {
        let mut store = Self::default();
        assert!(store.transact(&founding_rows().transaction()));
        store
    }

    fn transact(&mut self, transaction: &Transaction) -> bool {
        let mut bytes = bytes::BytesMut::new();
        transaction.encode(&mut bytes);
        let read = Transaction::decode(bytes.freeze()).expect("reads back");
        let mut changes = Vec::new();
        let committed = self.rows.transact(&read, &mut changes);
        let (_, applied) = self.directory.apply(&changes);
        assert_eq!(applied, Ok(()));
        matches!(committed, Committed::Yes { .. })
    }

    fn join(&mut self, name: &str) -> NodeId {
        let token = self.directory.grants.len() as u64;
        let grant = Bytes::from_static(b"grant");
        assert!(self.transact(&self.directory.put_grant(token, grant.clone(), &[])));
        let admission = self.directory.admit(&node(name), token, grant);
        let admission = admission.expect("a cluster");
        assert!(self.transact(&admission.transaction));
        admission.node
    }

    fn row(&self, shard: u32) -> &Replicas {
        &self.directory.replicas[&ShardId(shard)].value
    }
}

#[test]
fn a_view_is_the_same_from_changes_and_from_all_rows() {
    let mut store = Store::founded();
    assert!(!store.transact(&founding_rows().transaction()), "once");
    assert_eq!(store.join("two"), NodeId(2));
    let both = Wanted {
        voters: vec![NodeId(1)],
        learners: vec![NodeId(2)],
    };
    let wanted = all_shards(SHARDS).map(|shard| (shard, both.clone()));
    let assigned = store.directory.assign(&wanted.collect(), 99);
    assert!(store.transact(&assigned.expect("there is something to assign")));
    let mut again = Directory::default();
    let (moved, applied) = again.apply(&store.rows.all());
    assert_eq!((moved.len(), applied), (SHARDS as usize + 1, Ok(())));
    assert_eq!(again, store.directory);
    assert_eq!(again.node_of(b"two").map(|it| it.0), Some(NodeId(2)));
    assert_eq!(again.node_of(b"none"), None);
    assert_eq!(again.replicas_on(NodeId(2)).count(), SHARDS as usize + 1);
}

#[test]
fn a_use_and_an_id_are_given_once() {
    let mut store = Store::founded();
    let grant = Bytes::from_static(b"2 left");
    assert_eq!(store.directory.admit(&node("x"), 9, grant.clone()), None);
    assert!(store.transact(&store.directory.put_grant(9, grant, &[])));
    let spent = Bytes::from_static(b"1 left");
    let one = store.directory.admit(&node("two"), 9, spent.clone());
    let other = store.directory.admit(&node("three"), 9, spent);
    let (one, other) = (one.expect("granted"), other.expect("granted"));
    assert!(store.transact(&one.transaction));
    assert!(!store.transact(&other.transaction), "made from older rows");
    let spent = Bytes::from_static(b"0 left");
    let other = store.directory.admit(&node("three"), 9, spent.clone());
    let other = other.expect("granted");
    assert!(store.transact(&other.transaction));
    assert_eq!((one.node, other.node), (NodeId(2), NodeId(3)));
    assert_ne!(one.replica, other.replica);
    assert_eq!(store.row(0).learners, [one.replica, other.replica]);
    assert_eq!(store.directory.grants[&9].value, spent);
    assert!(store.transact(&store.directory.put_grant(10, spent.clone(), &[9])));
    assert!(!store.transact(&store.directory.put_grant(10, spent, &[])));
    assert_eq!(store.directory.grants.len(), 1);
}

#[test]
fn malformed_rows_change_nothing_and_the_rest_is_taken() {
    let store = Store::founded();
    let whole = store.rows.all();
    let (_, applied) = Directory::default().apply(&whole);
    assert_eq!(applied, Ok(()));
    for change in &whole {
        let value = change.value.clone().expect("a row");
        let cuts = (0..value.len()).map(|at| value.slice(..at));
        let longer = [&value[..], &[0]].concat().into();
        let other = [&[9], &value[1..]].concat().into();
        for bad in cuts.chain([longer, other]) {
            let mut directory = store.directory.clone();
            let bad = Change {
                value: Some(bad),
                ..change.clone()
            };
            let (_, applied) = directory.apply(&[bad, whole[0].clone()]);
            assert!(applied.is_err(), "{:?}", change.row);
            assert_eq!(directory, store.directory);
        }
    }
    let mut directory = Directory::default();
    for (key, value) in [
        (kind::NODE, node("x").encode()),
        (kind::REPLICAS, Replicas::default().encode()),
        (kind::GRANT, Bytes::new()),
    ] {
        let key = RowKey {
            kind: key,
            key: Bytes::from_static(b"odd"),
        };
        let change = Change {
            row: key,
            value: Some(value),
            version: Version(1),
        };
        assert!(directory.apply(&[change]).1.is_err());
    }
    for kind in [1, 8, 255] {
        let row = RowKey {
            kind,
            key: Bytes::new(),
        };
        let change = Change {
            row,
            value: Some(Bytes::from_static(b"?")),
            version: Version(1),
        };
        assert_eq!(directory.apply(&[change]).1, Ok(()), "of others");
    }
    assert_eq!(directory, Directory::default());
    assert_eq!(format!("{:?}", founding_rows().authority), "Authority(..)");
}

fn id(node: u64) -> ReplicaId {
    ReplicaId::new(NodeId(node), 1)
}

fn status(voters: &[u64], learners: &[u64], matched: &[(u64, u64)]) -> ShardStatus {
    let ids = |nodes: &[u64]| nodes.iter().map(|node| id(*node)).collect();
    ShardStatus {
        shard: ShardId(1),
        replica: Some(id(1)),
        leader: Some((Term(1), NodeId(1))),
        members: Members {
            voters: ids(voters),
            learners: ids(learners),
            ..Members::default()
        },
        applied: (Index(1000), Term(1)),
        committed: Index(1000),
        last: (Index(1000), Term(1)),
        matched: matched
            .iter()
            .map(|(node, at)| (id(*node), Index(*at)))
            .collect(),
    }
}

fn row(voters: &[u64], learners: &[u64]) -> Replicas {
    Replicas {
        voters: voters.iter().map(|node| id(*node)).collect(),
        learners: learners.iter().map(|node| id(*node)).collect(),
        ..Replicas::default()
    }
}

#[test]
fn a_shard_goes_step_by_step_to_where_it_should_be() {
    use MemberChange::{Learner, Remove, Voter};
    let all = BTreeSet::from([1, 2, 3, 4].map(NodeId));
    let change = |changes: &[MemberChange]| Some(Step::Change(changes.to_vec()));
    let next = |row: &Replicas, status: &ShardStatus| steps::next(row, status, &all);
    let three = row(&[2, 1, 3], &[]);
    let cases = [
        (status(&[1], &[], &[]), change(&[Learner(id(2))])),
        (status(&[1], &[2], &[]), change(&[Learner(id(3))])),
        (status(&[1], &[2, 3], &[(2, 1000)]), None),
        (status(&[1], &[2, 3], &[(2, 1000), (3, 871)]), None),
        (
            status(&[1], &[2, 3], &[(2, 1000), (3, 872)]),
            change(&[Voter(id(2)), Voter(id(3))]),
        ),
        (status(&[1, 2, 3], &[], &[(2, 999), (3, 1000)]), None),
        (
            status(&[1, 2, 3], &[], &[(2, 1000), (3, 5)]),
            Some(Step::Transfer(id(2))),
        ),
        (status(&[1, 2, 3, 4], &[], &[]), change(&[Remove(id(4))])),
        (
            status(&[1, 3, 4], &[2], &[(2, 990)]),
            change(&[Voter(id(2)), Remove(id(4))]),
        ),
    ];
    for (status, expected) in cases {
        assert_eq!(next(&three, &status), expected, "{status:?}");
    }
    let without_me = row(&[2, 3], &[]);
    let before = status(&[1, 2, 3], &[], &[(2, 7), (3, 1000)]);
    assert_eq!(next(&without_me, &before), Some(Step::Transfer(id(3))));
    let learns = status(&[2, 3], &[1], &[(1, 1000), (2, 1000), (3, 1000)]);
    assert_eq!(next(&three, &learns), change(&[Voter(id(1))]), "it leads");
    let demoted = row(&[1], &[2]);
    let before = status(&[1, 2], &[], &[(2, 1000)]);
    assert_eq!(next(&demoted, &before), change(&[Learner(id(2))]));
    assert_eq!(next(&row(&[], &[]), &before), None, "never nobody");
    let mut between = before.clone();
    between.members.outgoing = vec![id(1)];
    assert_eq!(next(&demoted, &between), None);
    let follower = ShardStatus {
        leader: Some((Term(1), NodeId(2))),
        ..before
    };
    assert_eq!(next(&demoted, &follower), None);
}

#[test]
fn few_shards_move_at_a_time_and_lost_nodes_hold_nobody_up() {
    let rows = |wanted: &Replicas| -> BTreeMap<ShardId, Versioned<Replicas>> {
        let row = Versioned {
            value: wanted.clone(),
            version: Version(1),
        };
        (1..=9).map(|shard| (ShardId(shard), row.clone())).collect()
    };
    let led = |status: &ShardStatus| -> Vec<ShardStatus> {
        let of = |shard| ShardStatus {
            shard: ShardId(shard),
            ..status.clone()
        };
        (1..=9).map(of).collect()
    };
    let reachable = BTreeSet::from([NodeId(2)]);
    let alone = led(&status(&[1], &[], &[]));
    let begun = steps::all(&rows(&row(&[1], &[2])), &alone, &reachable, 4);
    let shards: Vec<_> = begun.iter().map(|(shard, _)| shard.0).collect();
    assert_eq!(shards, [1, 2, 3, 4]);
    let lost = rows(&row(&[1], &[3]));
    assert_eq!(steps::all(&lost, &alone, &reachable, 4), []);
    let mut mixed = lost;
    mixed.extend(rows(&row(&[1], &[2])).split_off(&ShardId(7)));
    let begun = steps::all(&mixed, &alone, &reachable, 4);
    assert_eq!(begun.len(), 3, "those of the lost node do not count");
    let settled = led(&status(&[1, 2], &[], &[(2, 1000)]));
    let handed = steps::all(&rows(&row(&[2, 1], &[])), &settled, &reachable, 0);
    assert_eq!(handed.len(), 9, "leads are given away all at once");
}
