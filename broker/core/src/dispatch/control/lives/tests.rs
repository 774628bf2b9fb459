//! Lives against real rows and a real topology.

use warren_cluster_core::ids::Life;
use warren_cluster_core::rows::{Committed, Rows, Version};
use warren_protocol::FieldTable;

use super::*;
use crate::definitions::{
    BindingKey, ExchangeKey, ExchangeKind, ExchangeRow, Owner, QueueKind, QueueRow, VhostKey,
    VhostRow, changes,
};
use crate::dispatch::operation::DestinationKind;
use crate::ids::SessionId;

const HERE: NodeId = NodeId(1);
const THERE: NodeId = NodeId(2);

struct World {
    topology: Topology,
    replicated: Rows,
    /// The unlogged rows of this node and of another one.
    local: [Rows; 2],
}

fn home(node: NodeId, incarnation: u64) -> Home {
    Home { node, incarnation }
}

impl World {
    fn new() -> Self {
        let mut topology = Topology::new(1);
        topology.set_home(HERE);
        let rows = |node| Rows::beginning_at(Version::local(node, Life(1)));
        let mut world = Self {
            topology,
            replicated: Rows::default(),
            local: [rows(HERE), rows(THERE)],
        };
        let row = VhostKey { name: "/" }.encode();
        let value = VhostRow::default().encode();
        world.write(vec![Write::Put { row, value }]);
        for node in [HERE, THERE] {
            let began = begin(&world.topology, home(node, 1));
            assert_eq!(world.run(began).len(), 1);
        }
        world
    }

    fn write(&mut self, writes: Vec<Write>) -> Vec<Change> {
        let preconditions = Vec::new();
        self.run(vec![Transaction {
            preconditions,
            writes,
        }])
    }

    /// Carries transactions of the definitions out; gives what changed.
    fn run(&mut self, transactions: Vec<Transaction>) -> Vec<Change> {
        let mut all = Vec::new();
        for transaction in transactions {
            let mut changes = Vec::new();
            let committed = self.replicated.transact(&transaction, &mut changes);
            assert!(matches!(committed, Committed::Yes { .. }), "{committed:?}");
            let applied = self.topology.apply(Store::Replicated, &changes);
            applied.expect("our own rows");
            all.extend(changes);
        }
        all
    }

    fn run_local(&mut self, node: NodeId, transaction: &Transaction) {
        let mut changes = Vec::new();
        let rows = &mut self.local[(node.0 - 1) as usize];
        let committed = rows.transact(transaction, &mut changes);
        assert!(matches!(committed, Committed::Yes { .. }), "{committed:?}");
        let applied = self.topology.apply(Store::Local, &changes);
        applied.expect("our own rows");
    }

    fn exchange(&mut self, name: &str, home: Option<Home>) {
        let row = ExchangeRow {
            kind: ExchangeKind::Fanout,
            durable: home.is_none(),
            auto_delete: home.is_none(),
            internal: false,
            home,
            arguments: FieldTable::new(),
        };
        self.run(vec![changes::create_exchange("/", name.as_bytes(), &row)]);
    }

    fn queue(&mut self, name: &str, home: Home) {
        let create =
            changes::create_queue("/", name.as_bytes(), Store::Replicated, &row(home, false));
        self.run(vec![create]);
    }

    /// An exclusive queue that its node alone has, bound to an exchange.
    fn own_queue(&mut self, name: &str, home: Home, exchange: &str) {
        let row = row(home, true);
        let mut create = changes::create_queue("/", name.as_bytes(), Store::Local, &row);
        create.writes.push(binding(exchange, name));
        self.run_local(home.node, &create);
    }

    fn names(&self) -> String {
        let vhost = self.topology.vhost("/").expect("made at first");
        let queues = vhost.queues().map(|queue| queue.name.to_string());
        let exchanges = vhost.exchanges().filter(|it| !it.is_predeclared());
        let exchanges = exchanges.map(|exchange| exchange.name.to_string());
        let mut names: Vec<_> = queues.chain(exchanges).collect();
        names.sort();
        names.join(" ")
    }
}

fn row(home: Home, exclusive: bool) -> QueueRow {
    let owner = Owner {
        session: SessionId::new(home.node, 1),
        node: home.node,
        incarnation: home.incarnation,
    };
    QueueRow {
        kind: QueueKind::Classic,
        durable: false,
        auto_delete: false,
        owner: exclusive.then(|| Box::new(owner)),
        home: (!exclusive).then(|| Box::new(home)),
        shard: ShardId::queues_of(home.node),
        created: None,
        arguments: FieldTable::new(),
    }
}

fn binding(source: &str, queue: &str) -> Write {
    let key = BindingKey {
        vhost: "/",
        source: source.as_bytes(),
        destination: queue.as_bytes(),
        destination_kind: DestinationKind::Queue,
        routing_key: b"",
        arguments: FieldTable::new(),
    };
    Write::Put {
        row: key.encode(),
        value: BindingKey::value(),
    }
}

#[test]
fn a_new_life_begins_without_what_an_earlier_one_left() {
    let mut world = World::new();
    world.queue("q", home(HERE, 1));
    world.queue("q of another", home(THERE, 1));
    world.exchange("x", Some(home(HERE, 1)));
    world.exchange("auto-delete", None);
    world.write(vec![
        binding("auto-delete", "q"),
        binding("x", "q of another"),
    ]);
    assert!(
        begin(&world.topology, home(HERE, 1)).is_empty(),
        "it goes on"
    );
    let before = world.topology.clone();
    let began = begin(&world.topology, home(HERE, 2));
    let changes = world.run(began);
    assert_eq!(world.names(), "q of another");
    let vhost = world.topology.vhost("/").expect("it stays");
    assert_eq!(vhost.bindings().count(), 0);
    assert_eq!(world.topology.tombstones().count(), 0);
    let [(shard, Input::Drop { .. })] = dropped(&before, &changes)[..] else {
        panic!("one queue is dropped");
    };
    assert_eq!(shard, ShardId::queues_of(HERE));
    assert!(begin(&world.topology, home(HERE, 2)).is_empty());
    assert!(world.topology.is_over(home(HERE, 1)));
    assert!(!world.topology.is_over(home(HERE, 2)));
}

#[test]
fn a_fence_ends_a_life_and_nothing_can_be_added_to_it() {
    let mut world = World::new();
    world.queue("kept", home(HERE, 1));
    world.queue("q", home(THERE, 1));
    world.exchange("x", Some(home(THERE, 1)));
    world.exchange("auto-delete", None);
    world.own_queue("own", home(THERE, 1), "auto-delete");
    // What a node was about to make when it was ruled out.
    let (version, _) = world.topology.life(THERE).expect("begun");
    let mut late =
        changes::create_queue("/", b"late", Store::Replicated, &row(home(THERE, 1), false));
    let life = Precondition::Unchanged(LifeRow::key(THERE), version);
    late.preconditions.push(life);
    let fenced = fence(&world.topology, THERE);
    let changes = world.run(fenced);
    assert_eq!(fences(&changes), [(THERE, 1)]);
    assert_eq!(world.names(), "kept own", "its own rows go with its mirror");
    assert!(fence(&world.topology, THERE).is_empty(), "done");
    assert!(fence(&world.topology, NodeId(9)).is_empty(), "never seen");
    let committed = world.replicated.transact(&late, &mut Vec::new());
    assert!(matches!(committed, Committed::Conflict { .. }));
    assert!(world.topology.is_over(home(THERE, 1)));
    let began = begin(&world.topology, home(THERE, 2));
    let changes = world.run(began);
    assert_eq!(
        fences(&changes),
        [(THERE, 1)],
        "what is older than this one"
    );
}

#[test]
fn own_rows_that_hang_on_what_was_deleted_elsewhere_go_at_once() {
    let mut world = World::new();
    world.exchange("d", None);
    world.own_queue("mine", home(HERE, 1), "d");
    world.own_queue("theirs", home(THERE, 1), "d");
    let row = ExchangeKey {
        vhost: "/",
        name: b"d",
    }
    .encode();
    let changes = world.write(vec![Write::Delete { row }]);
    let orphans = orphans(&world.topology, &changes).expect("one binding");
    assert_eq!(orphans.writes.len(), 1);
    world.run_local(HERE, &orphans);
    world.exchange("d", None);
    let vhost = world.topology.vhost("/").expect("it stays");
    let left: Vec<_> = vhost.bindings_of_source(b"d").collect();
    assert_eq!(left.len(), 1, "the other node deletes its own");
    assert_eq!(&*left[0].destination, b"theirs");
}

#[test]
fn a_vhost_that_goes_takes_own_queues_along() {
    let mut world = World::new();
    world.exchange("d", None);
    world.own_queue("mine", home(HERE, 1), "d");
    let row = VhostKey { name: "/" }.encode();
    let changes = world.write(vec![Write::Delete { row }]);
    let orphans = orphans(&world.topology, &changes).expect("a queue and a binding");
    let deletes = |write: &&Write| matches!(write, Write::Delete { .. });
    assert_eq!(orphans.writes.iter().filter(deletes).count(), 2);
    world.run_local(HERE, &orphans);
    assert_eq!(world.topology.tombstones().count(), 1, "its shard is told");
}
