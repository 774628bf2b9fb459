//! Where a message goes: each kind of exchange, with and without a session's cache.

use std::hint::black_box;
use std::sync::Arc;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use warren_benches::PERSISTENT;
use warren_broker_core::definitions::{
    BindingKey, QueueKey, QueueKind, QueueRow, Store, VhostKey, VhostRow,
};
use warren_broker_core::dispatch::operation::DestinationKind;
use warren_broker_core::topology::{RouteBuffer, RouteCache, Topology, Vhost};
use warren_cluster_core::ids::ShardId;
use warren_cluster_core::rows::{Change, RowKey, Version};
use warren_protocol::{FieldTable, FieldValue, Properties, ShortStr};

const SHARDS: u32 = 16;
const QUEUES: u32 = 10_000;
const TOPIC_BINDINGS: u32 = 100_000;
const FANOUT_BINDINGS: u32 = 100;
const HEADERS_BINDINGS: u32 = 100;

/// The rows of everything that is routed by.
#[derive(Default)]
struct Definitions(Vec<Change>);

impl Definitions {
    fn put(&mut self, row: RowKey, value: Bytes) {
        let version = Version(self.0.len() as u64 + 1);
        self.0.push(Change {
            row,
            value: Some(value),
            version,
        });
    }

    fn queue(&mut self, number: u32) {
        let name = queue_name(number);
        let key = QueueKey {
            vhost: "/",
            name: name.as_bytes(),
        };
        let row = QueueRow {
            kind: QueueKind::Classic,
            durable: true,
            auto_delete: false,
            owner: None,
            shard: ShardId(1 + number % SHARDS),
            created: None,
            home: None,
            arguments: FieldTable::new(),
        };
        self.put(key.encode(), row.encode());
    }

    fn bind(&mut self, source: &str, number: u32, routing_key: &str, arguments: FieldTable) {
        let name = queue_name(number % QUEUES);
        let key = BindingKey {
            vhost: "/",
            source: source.as_bytes(),
            destination: name.as_bytes(),
            destination_kind: DestinationKind::Queue,
            routing_key: routing_key.as_bytes(),
            arguments,
        };
        self.put(key.encode(), BindingKey::value());
    }
}

fn queue_name(number: u32) -> String {
    format!("queue-{number:06}")
}

/// Header `number` with this value.
fn header(number: u32) -> FieldTable {
    let name = ShortStr::truncated("number").to_short_string();
    let mut table = FieldTable::new();
    table.0.push((name, FieldValue::SignedInt(number as i32)));
    table
}

fn topology() -> Topology {
    let mut all = Definitions::default();
    all.put(
        VhostKey { name: "/" }.encode(),
        VhostRow::default().encode(),
    );
    (0..QUEUES).for_each(|number| all.queue(number));
    for number in 0..TOPIC_BINDINGS {
        let pattern = match number % 4 {
            0 => format!("region.{number}.*.closed"),
            1 => format!("*.{number}.order.#"),
            _ => format!("region.{number}.order.opened"),
        };
        all.bind("amq.topic", number, &pattern, FieldTable::new());
    }
    for number in 0..FANOUT_BINDINGS {
        all.bind("amq.fanout", number, "", FieldTable::new());
        let key = queue_name(number);
        all.bind("amq.direct", number, &key, FieldTable::new());
    }
    for number in 0..HEADERS_BINDINGS {
        all.bind("amq.headers", number, "", header(number));
    }
    let mut topology = Topology::new(1);
    let applied = topology.apply(Store::Replicated, &all.0);
    applied.expect("rows that can be read");
    topology
}

/// Checks that a message goes to so many queues; gives what routes it.
fn router<'a>(
    vhost: &'a Vhost,
    (exchange, key): (&'a str, &'a str),
    properties: &'a [u8],
    queues: usize,
) -> impl FnMut() -> usize + 'a {
    let mut buffer = RouteBuffer::new();
    let mut route = move || {
        let exchange = black_box(exchange.as_bytes());
        let properties = Properties::from_raw(properties);
        let exchange = vhost.exchange_to_publish(exchange).expect("it is there");
        let routed = vhost.route(exchange, black_box(key.as_bytes()), properties, &mut buffer);
        routed.expect("a valid message");
        black_box(buffer.destinations()).len()
    };
    assert_eq!(route(), queues, "{key}");
    route
}

fn route(criterion: &mut Criterion) {
    let topology = topology();
    let vhost: &Arc<Vhost> = topology.vhost("/").expect("it is there");
    let mut group = criterion.benchmark_group("route");
    group.throughput(Throughput::Elements(1));
    let plain = &PERSISTENT[..];
    let with_header = Properties::EMPTY.edit().headers_from(&header(50)).finish();
    let cases = [
        ("default", ("", "queue-004321"), plain, 1),
        ("direct", ("amq.direct", "queue-000050"), plain, 1),
        (
            "topic, 100k bindings",
            ("amq.topic", "region.5.order.opened"),
            plain,
            1,
        ),
        (
            "topic, 100k bindings, unroutable",
            ("amq.topic", "region.none.order.opened"),
            plain,
            0,
        ),
        ("fanout to 100", ("amq.fanout", ""), plain, 100),
        (
            "headers, 100 bindings",
            ("amq.headers", ""),
            &with_header,
            1,
        ),
    ];
    for (name, to, properties, queues) in cases {
        let mut route = router(vhost, to, properties, queues);
        group.bench_function(name, |b| b.iter(&mut route));
    }

    let mut cache = RouteCache::new();
    let mut buffer = RouteBuffer::new();
    let properties = Properties::from_raw(plain);
    group.bench_function("topic, 100k bindings, cached", |b| {
        b.iter(|| {
            let (exchange, key) = (black_box(b"amq.topic"), black_box(b"region.5.order.opened"));
            let routed = cache.route(vhost, exchange, key, properties, &mut buffer);
            routed.expect("a valid message");
            black_box(buffer.destinations()).len()
        });
    });
}

/// What a bind costs the topology: every node does it for every declaration.
fn change(criterion: &mut Criterion) {
    let mut topology = topology();
    let mut one = Definitions::default();
    one.bind("amq.topic", 1, "a.new.*.binding", FieldTable::new());
    let mut bind = one.0;
    let mut version = topology.version(Store::Replicated).0;
    let mut group = criterion.benchmark_group("topology");
    group.throughput(Throughput::Elements(2));
    group.bench_function("bind and unbind beside 100k", |b| {
        b.iter(|| {
            for value in [Some(BindingKey::value()), None] {
                version += 1;
                bind[0].value = value;
                bind[0].version = Version(version);
                let mut next = topology.clone();
                next.apply(Store::Replicated, &bind).expect("readable");
                topology = next;
            }
        });
    });
}

criterion_group!(benches, route, change);
criterion_main!(benches);
