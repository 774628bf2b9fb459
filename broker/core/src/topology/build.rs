//! Changed rows to the next topology.
//!
//! Rows come in any order (a checkpoint's in the order of their keys, a transaction's as written),
//! from two stores that know nothing of each other. So every step leaves the invariants of the
//! topology true by itself: an object that comes links the bindings that wait for it, one that
//! goes leaves its bindings dangling.

use std::hash::BuildHasher;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use warren_cluster_core::rows::{Change, RowKey, Version};

use super::table::{Table, Target};
use super::{
    Binding, ByKey, Dangling, Exchange, Grants, HashedName, Indexes, Map, Permission, Queue,
    QueueByName, Seed, SourceKey, TopicPermission, Topology, User, Vhost,
};
use crate::auth::access::Pattern;
use crate::definitions::{
    BindingKey, ExchangeKey, ExchangeRow, LifeRow, PermissionKey, PermissionRow, Predeclared,
    QueueKey, QueueRow, RowError, Store, Tombstone, TopicPermissionKey, TopicPermissionRow,
    UserKey, UserRow, VhostKey, VhostRow, kind,
};
use crate::dispatch::operation::DestinationKind;
use crate::names::Name;

/// A row that this version of the program does not understand. All others were applied.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("definitions row of kind {} and version {}: {error}", .row.kind, .version.0)]
pub struct ApplyError {
    pub row: RowKey,
    pub version: Version,
    pub error: RowError,
}

/// One change, its store and the serial that it gets.
struct Step<'a> {
    store: Store,
    serial: u64,
    seed: Seed,
    change: &'a Change,
}

impl Topology {
    /// Takes over what a store changed, in the order of its versions.
    ///
    /// # Errors
    /// The first row that cannot be read; the rest is applied all the same. A node that gets it
    /// must not go on serving: it would not do what was declared.
    pub fn apply(&mut self, store: Store, changes: &[Change]) -> Result<(), ApplyError> {
        self.serial += 1;
        let mut result = Ok(());
        for change in changes {
            let step = Step {
                store,
                serial: self.serial,
                seed: self.seed,
                change,
            };
            if let Err(error) = self.apply_row(&step) {
                result = result.and(Err(ApplyError {
                    row: change.row.clone(),
                    version: change.version,
                    error,
                }));
            }
            let version = match store {
                Store::Replicated => &mut self.replicated,
                Store::Local => &mut self.local,
            };
            *version = change.version.max(*version);
        }
        result
    }

    fn apply_row(&mut self, step: &Step<'_>) -> Result<(), RowError> {
        let kind = step.change.row.kind;
        let of_node = [kind::EXCHANGE, kind::QUEUE, kind::BINDING, kind::TOMBSTONE];
        if step.store == Store::Local && !of_node.contains(&kind) {
            let field = "the kind of a node's own row";
            return Err(RowError::Unknown { field, value: kind });
        }
        match kind {
            kind::VHOST => self.apply_vhost(step),
            kind::USER => self.apply_user(step),
            kind::PERMISSION => self.apply_permission(step),
            kind::TOPIC_PERMISSION => self.apply_topic_permission(step),
            kind::EXCHANGE => {
                let key = ExchangeKey::decode(&step.change.row.key)?;
                let row = step.value(ExchangeRow::decode)?;
                self.in_vhost(key.vhost, step, |vhost, indexes| match row {
                    Some(row) => vhost.put_exchange(key.name, row, step, indexes),
                    None => vhost.delete_exchange(key.name, step, indexes),
                });
                Ok(())
            }
            kind::QUEUE => {
                let key = QueueKey::decode(&step.change.row.key)?;
                let row = step.value(QueueRow::decode)?;
                self.in_vhost(key.vhost, step, |vhost, indexes| match row {
                    Some(row) => vhost.put_queue(key.name, row, step, indexes),
                    None => vhost.delete_queue(key.name, step, indexes),
                });
                Ok(())
            }
            kind::BINDING => {
                let key = BindingKey::decode(&step.change.row.key)?;
                let present = step.value(BindingKey::check_value)?.is_some();
                let vhost = key.vhost;
                self.in_vhost(vhost, step, |vhost, indexes| {
                    vhost.delete_binding(step, indexes);
                    if present {
                        vhost.put_binding(key, step, indexes);
                    }
                });
                Ok(())
            }
            kind::TOMBSTONE => {
                let queue = Tombstone::decode_key(&step.change.row.key)?;
                let row = step.value(|value| Tombstone::decode(queue, value))?;
                match row {
                    Some(tombstone) => self.indexes.tombstones.insert(queue, tombstone),
                    None => self.indexes.tombstones.remove(&queue),
                };
                Ok(())
            }
            kind::LIFE => {
                let node = LifeRow::decode_key(&step.change.row.key)?;
                match step.value(LifeRow::decode)? {
                    Some(life) => {
                        let life = (step.change.version, life);
                        self.indexes.lives.insert(node, life);
                    }
                    None => drop(self.indexes.lives.remove(&node)),
                }
                Ok(())
            }
            // Parameters and policies mean nothing to routing yet; other kinds are not ours.
            _ => Ok(()),
        }
    }

    fn apply_vhost(&mut self, step: &Step<'_>) -> Result<(), RowError> {
        let VhostKey { name } = VhostKey::decode(&step.change.row.key)?;
        let row = step.value(VhostRow::decode)?;
        match (self.vhosts.get_mut(name), row) {
            (Some(vhost), Some(row)) => {
                let vhost = Arc::make_mut(vhost);
                vhost.row = row;
                vhost.version = step.change.version;
                vhost.serial = step.serial;
            }
            (None, Some(row)) => {
                let vhost = Arc::new(Vhost::new(name, row, step));
                self.vhosts.insert(vhost.name.clone(), vhost);
                return self.take_early(step);
            }
            (Some(_), None) => {
                if let Some(vhost) = self.vhosts.remove(name) {
                    self.indexes.forget_vhost(&vhost);
                }
            }
            (None, None) => {}
        }
        Ok(())
    }

    /// Nodes' own rows of a vhost that has just come, which came before it.
    fn take_early(&mut self, vhost: &Step<'_>) -> Result<(), RowError> {
        // Rows of a vhost begin with its name, as its own does.
        let name = &vhost.change.row.key;
        for kind in [kind::EXCHANGE, kind::QUEUE, kind::BINDING] {
            let first = RowKey {
                kind,
                key: name.clone(),
            };
            let rows = self.indexes.dangling.range(first..);
            let rows = rows.take_while(|(row, _)| row.kind == kind && row.key.starts_with(name));
            let early = rows.filter_map(|(row, it)| {
                let value = it.early.clone()?;
                Some(Change {
                    row: row.clone(),
                    value: Some(value),
                    version: it.version,
                })
            });
            for change in early.collect::<Vec<_>>() {
                self.indexes.dangling.remove(&change.row);
                self.apply_row(&Step {
                    store: Store::Local,
                    change: &change,
                    ..*vhost
                })?;
            }
        }
        Ok(())
    }

    fn apply_user(&mut self, step: &Step<'_>) -> Result<(), RowError> {
        let UserKey { name } = UserKey::decode(&step.change.row.key)?;
        self.security = step.serial;
        match step.value(UserRow::decode)? {
            Some(row) => {
                let name: Arc<str> = Arc::from(name);
                let version = step.change.version;
                let user = User {
                    name: name.clone(),
                    version,
                    row,
                };
                self.users.insert(name, Arc::new(user));
            }
            None => {
                self.users.remove(name);
            }
        }
        Ok(())
    }

    fn apply_permission(&mut self, step: &Step<'_>) -> Result<(), RowError> {
        let PermissionKey { user, vhost } = PermissionKey::decode(&step.change.row.key)?;
        let row = step.value(PermissionRow::decode)?;
        let permission = row.map(|row| Arc::new(Permission::new(row, step.change.version)));
        self.change_grants(user, vhost, step, |grants| grants.permission = permission);
        Ok(())
    }

    fn apply_topic_permission(&mut self, step: &Step<'_>) -> Result<(), RowError> {
        let key = TopicPermissionKey::decode(&step.change.row.key)?;
        let row = step.value(TopicPermissionRow::decode)?;
        let version = step.change.version;
        self.change_grants(key.user, key.vhost, step, |grants| match row {
            Some(row) => {
                let permission = Arc::new(TopicPermission { version, row });
                grants.topics.insert(Name::new(key.exchange), permission);
            }
            None => {
                grants.topics.remove(key.exchange);
            }
        });
        Ok(())
    }

    fn change_grants(
        &mut self,
        user: &str,
        vhost: &str,
        step: &Step<'_>,
        change: impl FnOnce(&mut Grants),
    ) {
        self.security = step.serial;
        let mut vhosts = self.grants.remove(user);
        let vhosts_of_user = vhosts.get_or_insert_with(|| Map::with_hasher(step.seed));
        let mut grants = vhosts_of_user.remove(vhost).unwrap_or_else(|| {
            Arc::new(Grants {
                serial: 0,
                permission: None,
                topics: Map::with_hasher(step.seed),
            })
        });
        let changed = Arc::make_mut(&mut grants);
        changed.serial = step.serial;
        change(changed);
        if grants.permission.is_some() || !grants.topics.is_empty() {
            vhosts_of_user.insert(Arc::from(vhost), grants);
        }
        if let Some(vhosts) = vhosts.filter(|vhosts| !vhosts.is_empty()) {
            self.grants.insert(Arc::from(user), vhosts);
        }
    }

    /// Changes what is in a vhost. Rows of a vhost that is not there are remembered as dangling.
    fn in_vhost(
        &mut self,
        name: &str,
        step: &Step<'_>,
        change: impl FnOnce(&mut Vhost, &mut Indexes),
    ) {
        let Some(vhost) = self.vhosts.get_mut(name) else {
            match step.change.value {
                Some(_) => self.indexes.dangle(&step.change.row, step),
                None => self.indexes.settle(&step.change.row, step.store),
            }
            return;
        };
        let vhost = Arc::make_mut(vhost);
        vhost.serial = step.serial;
        change(vhost, &mut self.indexes);
    }
}

impl Step<'_> {
    /// The decoded row, `None` when it was deleted.
    fn value<T>(
        &self,
        decode: impl FnOnce(&[u8]) -> Result<T, RowError>,
    ) -> Result<Option<T>, RowError> {
        self.change.value.as_deref().map(decode).transpose()
    }
}

impl Permission {
    fn new(row: PermissionRow, version: Version) -> Self {
        Self {
            version,
            configure: Pattern::new(&row.configure),
            write: Pattern::new(&row.write),
            read: Pattern::new(&row.read),
            row,
        }
    }
}

impl Vhost {
    fn new(name: &str, row: VhostRow, step: &Step<'_>) -> Self {
        let mut exchanges = Map::with_hasher(step.seed);
        for predeclared in Predeclared::ALL {
            let name = Name::from(predeclared.name);
            let exchange = Exchange {
                name: name.clone(),
                store: Store::Replicated,
                version: Version(0),
                row: predeclared.row(),
                generation: step.serial,
                table: Table::new(predeclared.kind, step.seed),
            };
            exchanges.insert(name, Arc::new(exchange));
        }
        Self {
            seed: step.seed,
            name: Arc::from(name),
            version: step.change.version,
            row,
            serial: step.serial,
            exchanges,
            queues: OrdSet::new(),
            by_destination: OrdSet::new(),
            by_source: OrdMap::new(),
        }
    }

    fn put_exchange(
        &mut self,
        name: &[u8],
        row: ExchangeRow,
        step: &Step<'_>,
        indexes: &mut Indexes,
    ) {
        if let Some(present) = self.exchanges.get_mut(name) {
            // A row that is written again does not change the type, so its bindings stay.
            if present.row.kind == row.kind {
                let exchange = Arc::make_mut(present);
                exchange.row = row;
                exchange.version = step.change.version;
                exchange.store = step.store;
                exchange.generation = step.serial;
                return;
            }
            self.remove_exchange(name, indexes);
        }
        let name = Name::new(name);
        let exchange = Exchange {
            name: name.clone(),
            store: step.store,
            version: step.change.version,
            table: Table::new(row.kind, step.seed),
            row,
            generation: step.serial,
        };
        self.exchanges.insert(name.clone(), Arc::new(exchange));
        let mut waiting: Vec<_> = self.bindings_of_source(&name).cloned().collect();
        waiting.extend(
            self.bindings_of_destination(DestinationKind::Exchange, &name)
                .filter(|binding| binding.source != name)
                .cloned(),
        );
        for binding in waiting {
            self.link(&binding, step.serial, indexes);
        }
    }

    fn delete_exchange(&mut self, name: &[u8], step: &Step<'_>, indexes: &mut Indexes) {
        let stored = |exchange: &Arc<Exchange>| exchange.store == step.store;
        if !self.exchanges.get(name).is_some_and(stored) {
            return;
        }
        self.remove_exchange(name, indexes);
    }

    fn remove_exchange(&mut self, name: &[u8], indexes: &mut Indexes) {
        let serial = self.serial;
        let incoming: Vec<_> = self
            .bindings_of_destination(DestinationKind::Exchange, name)
            .cloned()
            .collect();
        for binding in incoming {
            self.unlink(&binding, serial, indexes);
        }
        let outgoing: Vec<_> = self.bindings_of_source(name).cloned().collect();
        self.exchanges.remove(name);
        for binding in outgoing {
            indexes.dangle_binding(&binding);
        }
    }

    fn put_queue(&mut self, name: &[u8], row: QueueRow, step: &Step<'_>, indexes: &mut Indexes) {
        let known = self.queue(name).cloned();
        // Two nodes can have been asked at once while they did not know each other.
        let outranked = |known: &Arc<Queue>| known.store < step.store;
        if known.as_ref().is_some_and(outranked) {
            return;
        }
        let queue = Arc::new(Queue {
            vhost: self.name.clone(),
            name: known
                .as_ref()
                .map_or_else(|| Name::new(name), |known| known.name.clone()),
            store: step.store,
            version: step.change.version,
            row,
        });
        let moved = known
            .as_ref()
            .is_none_or(|known| known.destination() != queue.destination());
        if let Some(known) = known.filter(|_| moved) {
            self.remove_queue(&known, step.serial, indexes);
        }
        let hash = self.seed.hash_one(name);
        let entry = QueueByName {
            hash,
            queue: Arc::clone(&queue),
        };
        self.queues.insert(entry);
        indexes.add_queue(&queue);
        if moved {
            let waiting: Vec<_> = self
                .bindings_of_destination(DestinationKind::Queue, name)
                .cloned()
                .collect();
            for binding in waiting {
                self.link(&binding, step.serial, indexes);
            }
        }
    }

    fn delete_queue(&mut self, name: &[u8], step: &Step<'_>, indexes: &mut Indexes) {
        let known = self.queue(name).cloned();
        if let Some(known) = known.filter(|known| known.store == step.store) {
            self.remove_queue(&known, step.serial, indexes);
        }
    }

    fn remove_queue(&mut self, queue: &Queue, serial: u64, indexes: &mut Indexes) {
        let incoming: Vec<_> = self
            .bindings_of_destination(DestinationKind::Queue, &queue.name)
            .cloned()
            .collect();
        for binding in incoming {
            self.unlink(&binding, serial, indexes);
        }
        let hash = self.seed.hash_one(&*queue.name);
        let name = &*queue.name;
        self.queues.remove(&HashedName { hash, name });
        indexes.remove_queue(queue);
    }

    fn put_binding(&mut self, key: BindingKey<'_>, step: &Step<'_>, indexes: &mut Indexes) {
        let source = self.exchanges.get(key.source);
        let destination = match key.destination_kind {
            DestinationKind::Queue => self.queue(key.destination).map(|queue| &queue.name),
            DestinationKind::Exchange => self.exchanges.get(key.destination).map(|it| &it.name),
        };
        let destination = destination.map_or_else(|| Name::new(key.destination), Name::clone);
        // Queues are mostly bound by their own name.
        let routing_key = if *destination == *key.routing_key {
            destination.clone()
        } else {
            Name::new(key.routing_key)
        };
        let binding = Arc::new(Binding {
            key: step.change.row.key.clone(),
            store: step.store,
            version: step.change.version,
            source: source.map_or_else(|| Name::new(key.source), |source| source.name.clone()),
            destination,
            destination_kind: key.destination_kind,
            routing_key,
            arguments: key.arguments,
        });
        self.by_destination.insert(ByKey(Arc::clone(&binding)));
        self.by_source
            .insert(SourceKey::of(&binding), Arc::clone(&binding));
        self.link(&binding, step.serial, indexes);
    }

    fn delete_binding(&mut self, step: &Step<'_>, indexes: &mut Indexes) {
        let Some(binding) = self.binding(&step.change.row).cloned() else {
            return;
        };
        // The other store's row of the same identity stays, unless this one takes its place.
        if binding.store != step.store && step.change.value.is_none() {
            return;
        }
        self.unlink(&binding, step.serial, indexes);
        indexes.settle(&step.change.row, binding.store);
        self.by_source.remove(&SourceKey::of(&binding));
        self.by_destination.remove(&*binding.key);
    }

    /// Where the binding leads, if that exists.
    fn target(&self, binding: &Binding) -> Option<Target> {
        match binding.destination_kind {
            DestinationKind::Queue => {
                let queue = self.queue(&binding.destination)?;
                Some(Target::Queue(queue.destination()))
            }
            DestinationKind::Exchange => {
                let exchange = self.exchanges.get(&binding.destination)?;
                Some(Target::Exchange(exchange.name.clone()))
            }
        }
    }

    /// Puts the binding into its source's table, or among the dangling while an end is missing.
    fn link(&mut self, binding: &Arc<Binding>, serial: u64, indexes: &mut Indexes) {
        let target = self.target(binding);
        match (target, self.exchanges.get_mut(&binding.source)) {
            (Some(target), Some(source)) => {
                let source = Arc::make_mut(source);
                source.generation = serial;
                source.table.insert(binding, target);
                indexes.settle(&binding.row_key(), binding.store);
            }
            _ => indexes.dangle_binding(binding),
        }
    }

    /// Takes the binding out of its source's table, while both ends are still there.
    fn unlink(&mut self, binding: &Binding, serial: u64, indexes: &mut Indexes) {
        let target = self.target(binding);
        if let (Some(target), Some(source)) = (target, self.exchanges.get_mut(&binding.source)) {
            let source = Arc::make_mut(source);
            source.generation = serial;
            source.table.remove(binding, target);
            indexes.dangle_binding(binding);
        }
    }
}

impl SourceKey {
    fn of(binding: &Binding) -> Self {
        Self {
            source: binding.source.clone(),
            store: binding.store,
            version: binding.version,
        }
    }
}

impl Indexes {
    fn add_queue(&mut self, queue: &Arc<Queue>) {
        self.queues.insert(queue.id(), Arc::clone(queue));
        if let Some(owner) = &queue.row.owner {
            self.owned.insert((owner.session, queue.id()));
        }
    }

    fn remove_queue(&mut self, queue: &Queue) {
        self.queues.remove(&queue.id());
        if let Some(owner) = &queue.row.owner {
            self.owned.remove(&(owner.session, queue.id()));
        }
    }

    /// A row of a vhost that is not there.
    fn dangle(&mut self, row: &RowKey, step: &Step<'_>) {
        let early = match step.store {
            Store::Local => step.change.value.clone(),
            // It comes after its vhost: that is gone.
            Store::Replicated => None,
        };
        let it = Dangling {
            store: step.store,
            version: step.change.version,
            early,
        };
        self.dangling.insert(row.clone(), it);
    }

    /// A row that is kept where its other end or its vhost was, or went with that.
    fn dangle_known(&mut self, row: RowKey, store: Store, version: Version) {
        let it = Dangling {
            store,
            version,
            early: None,
        };
        self.dangling.insert(row, it);
    }

    fn dangle_binding(&mut self, binding: &Binding) {
        self.dangle_known(binding.row_key(), binding.store, binding.version);
    }

    /// The row means something now, or is gone.
    fn settle(&mut self, row: &RowKey, store: Store) {
        if self.dangling.is_empty() {
            return;
        }
        if self.dangling.get(row).is_some_and(|it| it.store == store) {
            self.dangling.remove(row);
        }
    }

    /// Lists what is left in a vhost whose row is gone: its rows are dangling now.
    fn forget_vhost(&mut self, vhost: &Vhost) {
        for queue in vhost.queues() {
            self.remove_queue(queue);
            let key = QueueKey {
                vhost: &vhost.name,
                name: &queue.name,
            };
            self.dangle_known(key.encode(), queue.store, queue.version);
        }
        for exchange in vhost.exchanges.values() {
            if exchange.is_predeclared() {
                continue;
            }
            let key = ExchangeKey {
                vhost: &vhost.name,
                name: &exchange.name,
            };
            self.dangle_known(key.encode(), exchange.store, exchange.version);
        }
        for binding in vhost.bindings() {
            self.dangle_binding(binding);
        }
    }
}
