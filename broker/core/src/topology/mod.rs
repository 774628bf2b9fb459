//! The topology: what the definitions mean, as an immutable snapshot that routes messages.
//!
//! A node keeps one, derives the next from changed rows ([`Topology::apply`] on a clone) and swaps
//! it in whole. A clone costs a few reference counts; a change copies the paths to what it touches
//! and shares the rest.
//!
//! Invariants:
//! - a binding is in its source's routing table exactly when both its ends exist; one that is not
//!   is listed by [`Topology::dangling`];
//! - every vhost has the predeclared exchanges, which have no rows;
//! - an exchange's `generation` changes with everything that changes what it routes by itself, and
//!   no two states of exchanges of one name ever have the same;
//! - names are held once and shared by all that refer to them.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::hash::BuildHasher;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use equivalent::{Comparable, Equivalent};
use foldhash::fast::{FixedState, FoldHasher};
use imbl::shared_ptr::DefaultSharedPtr;
use imbl::{GenericHashMap, OrdMap, OrdSet};
use warren_cluster_core::ids::{NodeId, ShardId};
use warren_cluster_core::rows::{RowKey, Version};
use warren_protocol::table::FieldTable;

use crate::auth::access::Pattern;
use crate::definitions::{
    BindingKey, ExchangeRow, Home, LifeRow, PermissionRow, QueueKey, QueueRow, Store, Tombstone,
    TopicPermissionRow, UserRow, VhostRow,
};
use crate::dispatch::operation::DestinationKind;
use crate::exception::Exception;
use crate::ids::{QueueId, SessionId};
use crate::names::Name;

mod build;
pub mod headers;
pub mod route;
mod table;
mod topic;

pub use build::ApplyError;
pub use route::{RouteBuffer, RouteCache};
use table::Table;

/// A persistent hash map whose seed the topology was made with.
type Map<K, V> = GenericHashMap<K, V, Seed, DefaultSharedPtr>;

/// The seed of a topology's hash maps.
#[derive(Clone, Copy, Debug)]
struct Seed(u64);

/// A snapshot of all definitions.
#[derive(Clone)]
pub struct Topology {
    seed: Seed,
    /// Counts the calls of `apply`.
    serial: u64,
    /// The node that it is kept on; 0 is any.
    home: NodeId,
    replicated: Version,
    local: Version,
    /// The serial of the last change to a user or a permission.
    security: u64,
    vhosts: Map<Arc<str>, Arc<Vhost>>,
    users: Map<Arc<str>, Arc<User>>,
    /// By user, then vhost.
    grants: Map<Arc<str>, Map<Arc<str>, Arc<Grants>>>,
    indexes: Indexes,
}

/// A row that means nothing here.
#[derive(Clone)]
struct Dangling {
    store: Store,
    version: Version,
    /// Of a node's own row whose vhost is not known yet: the definitions and what each node has of
    /// its own come on ways of their own, in any order.
    early: Option<Bytes>,
}

/// What is found without a vhost's name.
#[derive(Clone)]
struct Indexes {
    queues: OrdMap<QueueId, Arc<Queue>>,
    owned: OrdSet<(SessionId, QueueId)>,
    tombstones: OrdMap<QueueId, Tombstone>,
    dangling: OrdMap<RowKey, Dangling>,
    lives: OrdMap<NodeId, (Version, LifeRow)>,
}

/// A vhost and all that is in it.
#[derive(Clone)]
pub struct Vhost {
    seed: Seed,
    name: Arc<str>,
    version: Version,
    row: VhostRow,
    /// The topology's serial at the last change of anything in the vhost.
    serial: u64,
    exchanges: Map<Name, Arc<Exchange>>,
    queues: OrdSet<QueueByName>,
    by_destination: OrdSet<ByKey>,
    by_source: OrdMap<SourceKey, Arc<Binding>>,
}

/// An exchange and its routing table.
#[derive(Clone)]
pub struct Exchange {
    pub name: Name,
    pub store: Store,
    /// The row's; 0 for a predeclared exchange, which has none.
    pub version: Version,
    pub row: ExchangeRow,
    /// See [`Exchange::generation`].
    generation: u64,
    table: Table,
}

/// A queue. Whether it has messages or consumers its shard knows.
#[derive(Debug)]
pub struct Queue {
    pub vhost: Arc<str>,
    pub name: Name,
    pub store: Store,
    pub version: Version,
    pub row: QueueRow,
}

/// A binding; all of it is its identity.
#[derive(Debug)]
pub struct Binding {
    /// The row's key.
    key: Bytes,
    pub store: Store,
    pub version: Version,
    pub source: Name,
    pub destination: Name,
    pub destination_kind: DestinationKind,
    pub routing_key: Name,
    /// In canonical order.
    pub arguments: FieldTable,
}

/// A user.
#[derive(Debug)]
pub struct User {
    pub name: Arc<str>,
    pub version: Version,
    pub row: UserRow,
}

/// What a user may do in a vhost.
#[derive(Clone)]
pub struct Grants {
    serial: u64,
    permission: Option<Arc<Permission>>,
    topics: Map<Name, Arc<TopicPermission>>,
}

/// A permission row and its patterns.
#[derive(Debug)]
pub struct Permission {
    pub version: Version,
    pub row: PermissionRow,
    pub(crate) configure: Pattern,
    pub(crate) write: Pattern,
    pub(crate) read: Pattern,
}

/// A topic permission row; its patterns hold variables, so sessions compile them.
#[derive(Debug)]
pub struct TopicPermission {
    pub version: Version,
    pub row: TopicPermissionRow,
}

/// Where a message goes: a queue and the shard that it lives in.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Destination {
    pub shard: ShardId,
    pub queue: QueueId,
}

/// A queue as an entry of its vhost, in the order of its name's hash. A tree of these takes half
/// of what a hash map takes, and is copied in smaller pieces.
#[derive(Clone)]
struct QueueByName {
    hash: u64,
    queue: Arc<Queue>,
}

/// What a queue is looked for by.
struct HashedName<'a> {
    hash: u64,
    name: &'a [u8],
}

/// A binding in the order of its row key.
#[derive(Clone)]
struct ByKey(Arc<Binding>);

/// A binding in the order of its source, then of its making.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct SourceKey {
    source: Name,
    store: Store,
    version: Version,
}

impl Topology {
    /// Nothing at all. The seed keeps those who choose names from choosing hash collisions.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let seed = Seed(seed);
        Self {
            seed,
            serial: 0,
            home: NodeId(0),
            replicated: Version(0),
            local: Version(0),
            security: 0,
            vhosts: Map::with_hasher(seed),
            users: Map::with_hasher(seed),
            grants: Map::with_hasher(seed),
            indexes: Indexes {
                queues: OrdMap::new(),
                owned: OrdSet::new(),
                tombstones: OrdMap::new(),
                dangling: OrdMap::new(),
                lives: OrdMap::new(),
            },
        }
    }

    /// The newest version of the store that this snapshot has.
    #[must_use]
    pub fn version(&self, store: Store) -> Version {
        match store {
            Store::Replicated => self.replicated,
            Store::Local => self.local,
        }
    }

    /// It is kept on this node, which has a part of the unlogged rows for its own.
    pub fn set_home(&mut self, node: NodeId) {
        self.home = node;
    }

    #[must_use]
    pub fn home(&self) -> NodeId {
        self.home
    }

    /// Whether another node has the unlogged row of this version.
    #[must_use]
    pub fn is_elsewhere(&self, store: Store, version: Version) -> bool {
        let node = version.node().filter(|_| store == Store::Local);
        node.is_some_and(|node| node != self.home && self.home != NodeId(0))
    }

    /// The newest life of a node, and the version of its row.
    #[must_use]
    pub fn life(&self, node: NodeId) -> Option<(Version, LifeRow)> {
        self.indexes.lives.get(&node).copied()
    }

    /// The newest life of every node that ever served clients.
    pub fn lives(&self) -> impl Iterator<Item = (NodeId, LifeRow)> {
        self.indexes
            .lives
            .iter()
            .map(|(node, (_, life))| (*node, *life))
    }

    /// Whether no node but this one ever served clients of the cluster.
    #[must_use]
    pub fn is_alone(&self, node: NodeId) -> bool {
        self.indexes.lives.keys().all(|it| *it == node)
    }

    /// Whether that life of a node is over, or was never begun.
    #[must_use]
    pub fn is_over(&self, home: Home) -> bool {
        let life = self.life(home.node);
        life.is_some_and(|(_, it)| it.incarnation != home.incarnation || it.fenced)
    }

    /// Moves whenever anything does.
    #[must_use]
    pub fn serial(&self) -> u64 {
        self.serial
    }

    /// Moves whenever a user or a permission does; what sessions remember of either is checked
    /// against it.
    #[must_use]
    pub fn security_serial(&self) -> u64 {
        self.security
    }

    #[must_use]
    pub fn vhost(&self, name: &str) -> Option<&Arc<Vhost>> {
        self.vhosts.get(name)
    }

    /// In no order.
    pub fn vhosts(&self) -> impl Iterator<Item = &Arc<Vhost>> {
        self.vhosts.values()
    }

    #[must_use]
    pub fn user(&self, name: &str) -> Option<&Arc<User>> {
        self.users.get(name)
    }

    /// In no order.
    pub fn users(&self) -> impl Iterator<Item = &Arc<User>> {
        self.users.values()
    }

    /// What the user may do in the vhost; without it not even enter.
    #[must_use]
    pub fn permission(&self, user: &str, vhost: &str) -> Option<&Arc<Permission>> {
        self.grants(user, vhost)?.permission.as_ref()
    }

    /// The user's permissions of both kinds in the vhost.
    #[must_use]
    pub fn grants(&self, user: &str, vhost: &str) -> Option<&Arc<Grants>> {
        self.grants.get(user)?.get(vhost)
    }

    /// User, vhost and what the one may do in the other; in no order.
    pub fn all_grants(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<str>, &Arc<Grants>)> {
        self.grants.iter().flat_map(|(user, vhosts)| {
            vhosts
                .iter()
                .map(move |(vhost, grants)| (user, vhost, grants))
        })
    }

    /// The queue of that id, while it exists.
    #[must_use]
    pub fn queue(&self, id: QueueId) -> Option<&Arc<Queue>> {
        self.indexes.queues.get(&id)
    }

    /// Every queue of every vhost, in no order.
    pub fn queues(&self) -> impl Iterator<Item = &Arc<Queue>> {
        self.indexes.queues.values()
    }

    /// The exclusive queues of a connection, in the order of their making.
    pub fn queues_owned_by(&self, session: SessionId) -> impl Iterator<Item = &Arc<Queue>> {
        let ids = (session, QueueId(0))..=(session, QueueId(u64::MAX));
        let owned = self.indexes.owned.range(ids);
        owned.filter_map(|(_, id)| self.queue(*id))
    }

    /// Sessions of a node that have exclusive queues.
    pub fn owners(&self, node: NodeId) -> impl Iterator<Item = SessionId> {
        let (first, last) = SessionId::all_of(node);
        let ids = (first, QueueId(0))..=(last, QueueId(u64::MAX));
        let mut before = None;
        let owners = self.indexes.owned.range(ids).map(|(session, _)| *session);
        owners.filter(move |session| before.replace(*session) != Some(*session))
    }

    /// Queues that were deleted and whose shards have not yet said that they dropped them.
    pub fn tombstones(&self) -> impl Iterator<Item = &Tombstone> {
        self.indexes.tombstones.values()
    }

    /// Whether a queue was deleted and its shard has not said that it has dropped it.
    #[must_use]
    pub fn has_tombstone(&self, queue: QueueId) -> bool {
        self.indexes.tombstones.contains_key(&queue)
    }

    /// Rows that mean nothing, because an end of the binding or the vhost is gone: they can be
    /// deleted on condition that they are unchanged.
    pub fn dangling(&self) -> impl Iterator<Item = (Store, &RowKey, Version)> {
        let rows = self.indexes.dangling.iter();
        rows.map(|(row, it)| (it.store, row, it.version))
    }
}

impl Vhost {
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    #[must_use]
    pub fn row(&self) -> &VhostRow {
        &self.row
    }

    /// Moves whenever anything in the vhost does; never the same for two vhosts of one name.
    #[must_use]
    pub fn serial(&self) -> u64 {
        self.serial
    }

    /// The exchange, predeclared ones included; the default exchange is the one without a name.
    #[must_use]
    #[inline]
    pub fn exchange(&self, name: &[u8]) -> Option<&Arc<Exchange>> {
        self.exchanges.get(name)
    }

    #[must_use]
    #[inline]
    pub fn queue(&self, name: &[u8]) -> Option<&Arc<Queue>> {
        let hash = self.seed.hash_one(name);
        let found = self.queues.get(&HashedName { hash, name });
        found.map(|entry| &entry.queue)
    }

    /// The exchange, or 404 in RabbitMQ's words.
    ///
    /// # Errors
    /// 404 NOT_FOUND.
    pub fn require_exchange(&self, name: &[u8]) -> Result<&Arc<Exchange>, Exception> {
        self.exchange(name)
            .ok_or_else(|| Exception::no_such("exchange", name, &self.name))
    }

    /// The queue, or 404 in RabbitMQ's words.
    ///
    /// # Errors
    /// 404 NOT_FOUND.
    pub fn require_queue(&self, name: &[u8]) -> Result<&Arc<Queue>, Exception> {
        self.queue(name)
            .ok_or_else(|| Exception::no_such("queue", name, &self.name))
    }

    /// In no order.
    pub fn exchanges(&self) -> impl ExactSizeIterator<Item = &Arc<Exchange>> {
        self.exchanges.values()
    }

    /// In no order.
    pub fn queues(&self) -> impl ExactSizeIterator<Item = &Arc<Queue>> {
        self.queues.iter().map(|entry| &entry.queue)
    }

    /// Every binding that has a row, those to one destination side by side. The default exchange
    /// has none: every queue is bound to it by its name.
    pub fn bindings(&self) -> impl Iterator<Item = &Arc<Binding>> {
        self.by_destination.iter().map(|ByKey(binding)| binding)
    }

    /// The bindings that lead from an exchange, whether or not it exists.
    pub fn bindings_of_source(&self, source: &[u8]) -> impl Iterator<Item = &Arc<Binding>> {
        let source = Name::new(source);
        let first = |store, version| SourceKey {
            source: source.clone(),
            store,
            version: Version(version),
        };
        let range = first(Store::Replicated, 0)..=first(Store::Local, u64::MAX);
        self.by_source.range(range).map(|(_, binding)| binding)
    }

    /// The bindings that lead to a queue or an exchange, whether or not it exists.
    pub fn bindings_of_destination(
        &self,
        kind: DestinationKind,
        name: &[u8],
    ) -> impl Iterator<Item = &Arc<Binding>> {
        let prefix = BindingKey::destination_prefix(&self.name, kind, name);
        let from: (Bound<&[u8]>, Bound<&[u8]>) = (Bound::Included(&prefix), Bound::Unbounded);
        let rows = self.by_destination.range::<_, [u8]>(from);
        rows.map(|ByKey(binding)| binding)
            .take_while(move |binding| binding.key.starts_with(&prefix))
    }

    /// Whether a binding is what files and backups have: both ends stay when nodes go.
    #[must_use]
    pub fn keeps(&self, binding: &Binding) -> bool {
        let source = self.exchange(&binding.source);
        let destination = match binding.destination_kind {
            DestinationKind::Queue => {
                let queue = self.queue(&binding.destination);
                queue.is_none_or(|queue| queue.is_kept())
            }
            DestinationKind::Exchange => {
                let exchange = self.exchange(&binding.destination);
                exchange.is_none_or(|exchange| exchange.is_kept())
            }
        };
        binding.store == Store::Replicated
            && destination
            && source.is_none_or(|source| source.is_kept())
    }

    /// The binding that this key names.
    #[must_use]
    pub fn binding(&self, key: &RowKey) -> Option<&Arc<Binding>> {
        let at: (Bound<&[u8]>, Bound<&[u8]>) =
            (Bound::Included(&key.key), Bound::Included(&key.key));
        let mut found = self.by_destination.range::<_, [u8]>(at);
        found.next().map(|ByKey(binding)| binding)
    }
}

impl Exchange {
    /// Moves with everything that changes what the exchange routes by itself: its row and its
    /// bindings. Never the same for two exchanges of one name and vhost.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether every vhost has it without a row.
    #[must_use]
    pub fn is_predeclared(&self) -> bool {
        self.version == Version(0)
    }

    /// Whether it stays when nodes go: what files and backups have.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.store == Store::Replicated && self.row.durable
    }

    /// Whether it is the default exchange.
    #[must_use]
    pub fn is_default(&self) -> bool {
        self.name.is_empty()
    }
}

impl Queue {
    /// Unique for ever: the version of the row that created it.
    #[must_use]
    pub fn id(&self) -> QueueId {
        self.row.id(self.store, self.version)
    }

    /// Whether it stays when clients and nodes go: what files and backups have.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.store == Store::Replicated && self.row.durable && !self.row.is_exclusive()
    }

    /// The key of its row.
    #[must_use]
    pub fn row_key(&self) -> RowKey {
        let (vhost, name) = (&*self.vhost, &*self.name);
        QueueKey { vhost, name }.encode()
    }

    /// What takes the place of its row when it is deleted.
    #[must_use]
    pub fn tombstone(&self) -> Tombstone {
        Tombstone {
            queue: self.id(),
            shard: self.row.shard,
        }
    }

    /// Where messages for it go.
    #[must_use]
    pub fn destination(&self) -> Destination {
        Destination {
            shard: self.row.shard,
            queue: self.id(),
        }
    }
}

impl Binding {
    /// The key of its row.
    #[must_use]
    pub fn row_key(&self) -> RowKey {
        RowKey {
            kind: crate::definitions::kind::BINDING,
            key: self.key.clone(),
        }
    }
}

impl Grants {
    /// Moves whenever one of them does.
    #[must_use]
    pub fn serial(&self) -> u64 {
        self.serial
    }

    #[must_use]
    pub fn permission(&self) -> Option<&Arc<Permission>> {
        self.permission.as_ref()
    }

    /// The topic permission at an exchange; without one every routing key is allowed there.
    #[must_use]
    pub fn topic(&self, exchange: &[u8]) -> Option<&Arc<TopicPermission>> {
        self.topics.get(exchange)
    }

    /// Exchange and permission, in no order.
    pub fn topics(&self) -> impl Iterator<Item = (&Name, &Arc<TopicPermission>)> {
        self.topics.iter()
    }
}

impl BuildHasher for Seed {
    type Hasher = FoldHasher<'static>;

    #[inline]
    fn build_hasher(&self) -> FoldHasher<'static> {
        FixedState::with_seed(self.0).build_hasher()
    }
}

impl QueueByName {
    fn hashed(&self) -> HashedName<'_> {
        HashedName {
            hash: self.hash,
            name: &self.queue.name,
        }
    }
}

impl HashedName<'_> {
    #[inline]
    fn order(&self, other: &HashedName<'_>) -> Ordering {
        let by_hash = self.hash.cmp(&other.hash);
        by_hash.then_with(|| self.name.cmp(other.name))
    }
}

impl Comparable<QueueByName> for HashedName<'_> {
    #[inline]
    fn compare(&self, entry: &QueueByName) -> Ordering {
        self.order(&entry.hashed())
    }
}

impl Equivalent<QueueByName> for HashedName<'_> {
    fn equivalent(&self, entry: &QueueByName) -> bool {
        self.compare(entry).is_eq()
    }
}

impl Ord for QueueByName {
    fn cmp(&self, other: &Self) -> Ordering {
        self.hashed().order(&other.hashed())
    }
}

impl PartialOrd for QueueByName {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for QueueByName {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for QueueByName {}

impl Borrow<[u8]> for ByKey {
    fn borrow(&self) -> &[u8] {
        &self.0.key
    }
}

impl PartialEq for ByKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.key == other.0.key
    }
}

impl Eq for ByKey {}

impl PartialOrd for ByKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ByKey {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.key.cmp(&other.0.key)
    }
}

#[cfg(test)]
mod tests;
