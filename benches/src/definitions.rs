//! What messages are routed by.

use std::sync::Arc;

use bytes::Bytes;
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
pub struct Definitions(pub Vec<Change>);

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

    /// Binds a queue to an exchange.
    pub fn bind(&mut self, source: &str, number: u32, routing_key: &str, arguments: FieldTable) {
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
#[must_use]
pub fn header(number: u32) -> FieldTable {
    let name = ShortStr::truncated("number").to_short_string();
    let mut table = FieldTable::new();
    table.0.push((name, FieldValue::SignedInt(number as i32)));
    table
}

/// Ten thousand queues, and bindings of each kind of exchange.
///
/// # Panics
/// When the rows cannot be read.
#[must_use]
pub fn topology() -> Topology {
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

/// Routes one message; gives how many queues it goes to.
///
/// # Panics
/// When there is no such exchange.
#[inline(never)]
pub fn route(
    vhost: &Vhost,
    (exchange, key): (&str, &str),
    properties: &[u8],
    buffer: &mut RouteBuffer,
) -> usize {
    let properties = Properties::from_raw(properties);
    let exchange = vhost.exchange_to_publish(exchange.as_bytes());
    let exchange = exchange.expect("it is there");
    let routed = vhost.route(exchange, key.as_bytes(), properties, buffer);
    routed.expect("a valid message");
    buffer.destinations().len()
}

/// The same with a session's cache.
///
/// # Panics
/// When there is no such exchange.
#[inline(never)]
pub fn route_cached(
    cache: &mut RouteCache,
    vhost: &Arc<Vhost>,
    (exchange, key): (&str, &str),
    properties: &[u8],
    buffer: &mut RouteBuffer,
) -> usize {
    let properties = Properties::from_raw(properties);
    let routed = cache.route(
        vhost,
        exchange.as_bytes(),
        key.as_bytes(),
        properties,
        buffer,
    );
    routed.expect("a valid message");
    buffer.destinations().len()
}
