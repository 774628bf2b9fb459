//! What can be found in a topology, and what is left when things go.

use super::*;
use crate::definitions::{Tombstone, kind};

fn bound(source: &str, destination: &str, key: &str) -> Bound {
    Bound {
        source: source.to_owned(),
        destination: destination.to_owned(),
        kind: DestinationKind::Queue,
        key: key.to_owned(),
        arguments: FieldTable::new(),
    }
}

fn keys<'a>(bindings: impl Iterator<Item = &'a Arc<Binding>>) -> Vec<String> {
    let mut keys: Vec<_> = bindings
        .map(|binding| binding.routing_key.to_text())
        .collect();
    keys.sort_unstable();
    keys
}

#[test]
fn predeclared_exchanges() {
    let world = World::new();
    let vhost = world.topology.vhost("/").expect("it is there");
    let mut names: Vec<_> = vhost
        .exchanges()
        .map(|exchange| exchange.name.to_text())
        .collect();
    names.sort_unstable();
    let expected = [
        "",
        "amq.direct",
        "amq.fanout",
        "amq.headers",
        "amq.match",
        "amq.rabbitmq.trace",
        "amq.topic",
    ];
    assert_eq!(names, expected);
    assert!(vhost.exchanges().all(|exchange| exchange.is_predeclared()));
    let default = vhost.exchange(b"").expect("it is there");
    assert!(default.is_default());
    assert!(
        vhost
            .exchange(b"amq.rabbitmq.trace")
            .is_some_and(|trace| trace.row.internal)
    );
}

#[test]
fn bindings_are_found_from_both_ends() {
    let mut world = World::new();
    world.queue(Store::Replicated, "q", true);
    world.queue(Store::Replicated, "qq", true);
    for (source, destination, key) in [
        ("amq.direct", "q", "1"),
        ("amq.topic", "q", "2"),
        ("amq.direct", "qq", "3"),
        ("amq.direct", "", "4"),
    ] {
        world.bind(Store::Replicated, &bound(source, destination, key), true);
    }
    world.bind(Store::Local, &bound("amq.direct", "q", "5"), true);
    let vhost = world.topology.vhost("/").expect("it is there");
    assert_eq!(
        keys(vhost.bindings_of_source(b"amq.direct")),
        ["1", "3", "4", "5"]
    );
    assert_eq!(keys(vhost.bindings_of_source(b"amq.")), [""; 0]);
    let to = |name: &[u8]| keys(vhost.bindings_of_destination(DestinationKind::Queue, name));
    assert_eq!(to(b"q"), ["1", "2", "5"]);
    assert_eq!(to(b"qq"), ["3"]);
    let exchanges = vhost.bindings_of_destination(DestinationKind::Exchange, b"q");
    assert_eq!(exchanges.count(), 0);
    let key = bound("amq.topic", "q", "2").key().encode();
    let found = vhost.binding(&key).expect("it is there");
    assert_eq!(found.row_key(), key);
    assert_eq!(vhost.bindings().count(), 5);
}

/// A node that joins, or is slow, may hear of other nodes' own rows before their vhost.
#[test]
fn nodes_own_rows_wait_for_their_vhost() {
    let mut world = World::empty();
    world.put_vhost("/other");
    world.bind(Store::Local, &bound("x", "q", "k"), true);
    world.queue(Store::Local, "q", true);
    world.queue(Store::Local, "gone", true);
    world.queue(Store::Local, "gone", false);
    let row = exchange_row(ExchangeKind::Direct, None);
    world.exchange(Store::Local, "x", Some(&row));
    // The definitions are in order: what comes without its vhost comes after it.
    world.queue(Store::Replicated, "late", true);
    assert_eq!(world.topology.dangling().count(), 4);
    assert_eq!(world.topology.queues().count(), 0);
    world.put_vhost("/");
    let vhost = world.topology.vhost("/").expect("it is there");
    assert!(vhost.queue(b"q").is_some());
    assert!(vhost.queue(b"gone").is_none() && vhost.queue(b"late").is_none());
    let routed = world.route("x", "k", &FieldTable::new());
    assert_eq!(routed.expect("routes"), ["q"]);
    assert_eq!(world.topology.dangling().count(), 1);
    // What a vhost had does not come back with another one of its name.
    world.change(Store::Replicated, VhostKey { name: "/" }.encode(), None);
    assert_eq!(world.topology.dangling().count(), 4);
    world.put_vhost("/");
    assert_eq!(world.topology.queues().count(), 0);
    assert_eq!(world.topology.dangling().count(), 4);
}

#[test]
fn dangling_rows_are_listed_until_they_mean_something() {
    let mut world = World::new();
    let dangling = |world: &World| world.topology.dangling().count();
    world.bind(Store::Local, &bound("x", "q", "k"), true);
    assert_eq!(dangling(&world), 1);
    world.queue(Store::Local, "q", true);
    assert_eq!(dangling(&world), 1);
    world.exchange(
        Store::Replicated,
        "x",
        Some(&exchange_row(ExchangeKind::Topic, None)),
    );
    assert_eq!(dangling(&world), 0);
    world.exchange(Store::Replicated, "x", None);
    let (store, row, version) = world.topology.dangling().next().expect("the binding");
    assert_eq!((store, version), (Store::Local, Version(1)));
    assert_eq!(*row, bound("x", "q", "k").key().encode());
    world.bind(Store::Local, &bound("x", "q", "k"), false);
    assert_eq!(dangling(&world), 0);

    world.queue(Store::Replicated, "d", true);
    world.change(Store::Replicated, VhostKey { name: "/" }.encode(), None);
    let left: Vec<_> = world
        .topology
        .dangling()
        .map(|(store, row, _)| (store, row.kind))
        .collect();
    assert_eq!(
        left,
        [
            (Store::Replicated, kind::QUEUE),
            (Store::Local, kind::QUEUE)
        ]
    );
    assert_eq!(world.topology.queues().count(), 0);
    world.queue(Store::Replicated, "d", false);
    world.queue(Store::Local, "q", false);
    assert_eq!(dangling(&world), 0);
}

#[test]
fn queues_are_found_by_id_and_owner() {
    let mut world = World::new();
    let durable = world.queue(Store::Replicated, "durable", true);
    let key = |name: &'static str| QueueKey {
        vhost: "/",
        name: name.as_bytes(),
    };
    for (name, session) in [("a", 5), ("b", 5), ("c", 6)] {
        let value = queue_row(Some(session)).encode();
        world.change(Store::Local, key(name).encode(), Some(value));
    }
    let owned = |world: &World, session| {
        let queues = world.topology.queues_owned_by(SessionId(session));
        queues.map(|queue| queue.name.to_text()).collect::<Vec<_>>()
    };
    assert_eq!(owned(&world, 5), ["a", "b"]);
    assert_eq!(owned(&world, 6), ["c"]);
    assert_eq!(owned(&world, 4), [""; 0]);
    world.change(Store::Local, key("a").encode(), None);
    assert_eq!(owned(&world, 5), ["b"]);

    let id = QueueId(durable.0);
    assert!(world.topology.queue(id).is_some());
    let other = world.topology.queue(QueueId::local(durable.0));
    assert_eq!(
        other.map(|queue| queue.name.to_text()).as_deref(),
        Some("b")
    );
    // The row is written again, with what made it.
    let again = QueueRow {
        created: Some(durable),
        ..queue_row(None)
    };
    world.change(
        Store::Replicated,
        key("durable").encode(),
        Some(again.encode()),
    );
    let queue = world.topology.queue(id).expect("it kept its id");
    assert_ne!(queue.version, durable);
    let vhost = world.topology.vhost("/").expect("it is there");
    let by_name = vhost.queue(b"durable").expect("it is there");
    assert!(Arc::ptr_eq(by_name, queue));
    world.queue(Store::Replicated, "durable", false);
    assert!(world.topology.queue(id).is_none());
    assert_eq!(world.topology.queues().count(), 2);
}

#[test]
fn tombstones() {
    let mut world = World::new();
    let tombstone = Tombstone {
        queue: QueueId(9),
        shard: ShardId(4),
    };
    let warren_cluster_core::rows::Write::Put { row, value } = tombstone.put() else {
        panic!("a tombstone is put");
    };
    world.change(Store::Replicated, row.clone(), Some(value));
    assert_eq!(
        world.topology.tombstones().collect::<Vec<_>>(),
        [&tombstone]
    );
    world.change(Store::Replicated, row, None);
    assert_eq!(world.topology.tombstones().count(), 0);
}

#[test]
fn rows_that_are_not_understood_are_reported_and_the_rest_is_applied() {
    let mut topology = Topology::new(1);
    let change = |version, row, value: &[u8]| Change {
        row,
        value: Some(Bytes::copy_from_slice(value)),
        version: Version(version),
    };
    let changes = [
        change(1, VhostKey { name: "bad" }.encode(), &[200]),
        change(
            2,
            VhostKey { name: "good" }.encode(),
            &VhostRow::default().encode(),
        ),
    ];
    let error = topology
        .apply(Store::Replicated, &changes)
        .expect_err("one is bad");
    assert_eq!(
        error.to_string(),
        "definitions row of kind 1 and version 1: row of format 200, this version knows up to 1"
    );
    assert!(topology.vhost("good").is_some());
    assert!(topology.vhost("bad").is_none());
    assert_eq!(topology.version(Store::Replicated), Version(2));
}

#[test]
fn a_clone_does_not_change_with_the_next() {
    let mut world = World::new();
    world.queue(Store::Replicated, "q", true);
    world.bind(Store::Replicated, &bound("amq.topic", "q", "a.#"), true);
    let before = world.topology.clone();
    world.bind(Store::Replicated, &bound("amq.topic", "q", "a.#"), false);
    world.queue(Store::Replicated, "q", false);
    assert_eq!(
        world.route("amq.topic", "a.b", &FieldTable::new()),
        Ok(vec![])
    );
    world.topology = before;
    world.cache.clear();
    let names = vec!["q".to_owned()];
    assert_eq!(
        world.route("amq.topic", "a.b", &FieldTable::new()),
        Ok(names)
    );
}
