//! The topology from outside: rows in, routes and look-ups out.

use std::collections::BTreeMap;

use bytes::Bytes;
use warren_cluster_core::ids::NodeId;
use warren_cluster_core::rows::Change;
use warren_protocol::table::FieldValue;
use warren_protocol::{Properties, ShortString};

use super::*;
use crate::definitions::{ExchangeKey, ExchangeKind, Owner, QueueKey, QueueKind, VhostKey};

mod lookups;
mod model;
mod scenarios;

/// Two stores and the topology that follows them; every route is asked for in three ways.
pub(super) struct World {
    pub(super) topology: Topology,
    versions: BTreeMap<Store, u64>,
    cache: RouteCache,
    buffer: RouteBuffer,
}

/// A binding in short.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Bound {
    pub(super) source: String,
    pub(super) destination: String,
    pub(super) kind: DestinationKind,
    pub(super) key: String,
    pub(super) arguments: FieldTable,
}

impl World {
    /// A world with the vhost `/`.
    pub(super) fn new() -> Self {
        let mut world = Self::empty();
        world.put_vhost("/");
        world
    }

    pub(super) fn empty() -> Self {
        Self {
            topology: Topology::new(7),
            versions: BTreeMap::new(),
            cache: RouteCache::new(),
            buffer: RouteBuffer::new(),
        }
    }

    /// Changes a row; gives its version.
    pub(super) fn change(&mut self, store: Store, row: RowKey, value: Option<Bytes>) -> Version {
        let next = self.versions.entry(store).or_default();
        *next += 1;
        let version = Version(*next);
        let change = Change {
            row,
            value,
            version,
        };
        let before = self.topology.clone();
        let applied = self.topology.apply(store, &[change]);
        assert_eq!(applied, Ok(()));
        assert_eq!(self.topology.version(store), version);
        assert_ne!(self.topology.serial(), before.serial());
        version
    }

    pub(super) fn put_vhost(&mut self, name: &str) {
        let value = VhostRow::default().encode();
        self.change(Store::Replicated, VhostKey { name }.encode(), Some(value));
    }

    pub(super) fn exchange(&mut self, store: Store, name: &str, row: Option<&ExchangeRow>) {
        let key = ExchangeKey {
            vhost: "/",
            name: name.as_bytes(),
        };
        self.change(store, key.encode(), row.map(ExchangeRow::encode));
    }

    pub(super) fn queue(&mut self, store: Store, name: &str, present: bool) -> Version {
        let key = QueueKey {
            vhost: "/",
            name: name.as_bytes(),
        };
        let row = queue_row(None);
        self.change(store, key.encode(), present.then(|| row.encode()))
    }

    pub(super) fn bind(&mut self, store: Store, bound: &Bound, present: bool) {
        let row = bound.key().encode();
        self.change(store, row, present.then(BindingKey::value));
    }

    /// The names of the queues that a message reaches, in order; straight, through the cache, and
    /// out of the cache.
    pub(super) fn route(
        &mut self,
        exchange: &str,
        key: &str,
        headers: &FieldTable,
    ) -> Result<Vec<String>, Exception> {
        let properties = properties(headers);
        let properties = Properties::from_raw(&properties);
        let vhost = self.topology.vhost("/").expect("every world has it");
        let (exchange, key) = (exchange.as_bytes(), key.as_bytes());
        let mut straight = RouteBuffer::new();
        let routed = vhost
            .exchange_to_publish(exchange)
            .and_then(|exchange| vhost.route(exchange, key, properties, &mut straight));
        for _ in 0..2 {
            let (cache, buffer) = (&mut self.cache, &mut self.buffer);
            let cached = cache.route(vhost, exchange, key, properties, buffer);
            assert_eq!(cached, routed);
            if routed.is_ok() {
                assert_eq!(buffer.destinations(), straight.destinations());
                assert_eq!(buffer.has_bcc(), straight.has_bcc());
            }
        }
        routed?;
        let name = |destination: &Destination| {
            let queue = self.topology.queue(destination.queue);
            let queue = queue.expect("routes lead to queues that exist");
            assert_eq!(queue.destination(), *destination);
            queue.name.to_text()
        };
        let mut names: Vec<_> = straight.destinations().iter().map(name).collect();
        names.sort_unstable();
        Ok(names)
    }
}

impl Bound {
    pub(super) fn key(&self) -> BindingKey<'_> {
        BindingKey {
            vhost: "/",
            source: self.source.as_bytes(),
            destination: self.destination.as_bytes(),
            destination_kind: self.kind,
            routing_key: self.key.as_bytes(),
            arguments: self.arguments.clone(),
        }
    }
}

pub(super) fn queue_row(owner: Option<u64>) -> QueueRow {
    let owner = owner.map(|session| {
        Box::new(Owner {
            session: SessionId(session),
            node: NodeId(1),
            incarnation: 1,
        })
    });
    QueueRow {
        kind: QueueKind::Classic,
        durable: true,
        auto_delete: false,
        owner,
        shard: ShardId(3),
        created: None,
        home: None,
        arguments: FieldTable::new(),
    }
}

pub(super) fn exchange_row(kind: ExchangeKind, alternate: Option<&str>) -> ExchangeRow {
    let mut arguments = FieldTable::new();
    if let Some(alternate) = alternate {
        arguments = arguments.with("alternate-exchange", alternate);
    }
    ExchangeRow {
        kind,
        durable: true,
        auto_delete: false,
        internal: false,
        home: None,
        arguments,
    }
}

/// Properties in wire form with these headers, or none at all.
fn properties(headers: &FieldTable) -> Vec<u8> {
    if headers.is_empty() {
        return Vec::new();
    }
    let table = headers.to_bytes();
    let mut bytes = warren_protocol::Property::Headers
        .flag()
        .to_be_bytes()
        .to_vec();
    bytes.extend_from_slice(&(table.len() as u32).to_be_bytes());
    bytes.extend_from_slice(&table);
    bytes
}

/// `1`, `true`, `void`, `[a,b]` or a string.
pub(super) fn value(text: &str) -> FieldValue {
    if let Some(list) = text
        .strip_prefix('[')
        .and_then(|list| list.strip_suffix(']'))
    {
        return FieldValue::Array(list.split(',').map(value).collect());
    }
    match (text, text.parse::<i64>()) {
        ("void", _) => FieldValue::Void,
        ("true", _) => FieldValue::Bool(true),
        ("false", _) => FieldValue::Bool(false),
        (_, Ok(number)) => FieldValue::Long(number),
        (text, Err(_)) => text.into(),
    }
}

/// The words `name=value` as a table.
pub(super) fn table<'a>(words: impl Iterator<Item = &'a str>) -> FieldTable {
    words
        .map(|word| {
            let (name, text) = word.split_once('=').expect("fields are name=value");
            (
                ShortString::try_from(name).expect("names are short"),
                value(text),
            )
        })
        .collect()
}
