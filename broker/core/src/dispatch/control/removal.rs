//! What goes with something that is deleted: its bindings, and auto-delete exchanges that lose
//! their last one.
//!
//! A transaction changes one store, so a removal is up to two of them. Only rows are named that
//! the topology at hand shows; what is bound meanwhile dangles and is swept later.

use std::collections::BTreeSet;
use std::sync::Arc;

use warren_cluster_core::rows::{Precondition, RowKey, Transaction, Version, Write};

use super::super::operation::DestinationKind;
use super::super::work::Work;
use crate::definitions::{ExchangeKey, Store};
use crate::ids::Token;
use crate::names::Name;
use crate::topology::{Binding, Exchange, Queue, Topology, Vhost};

/// Writes gathered for both stores.
pub(super) struct Removal<'a> {
    topology: &'a Topology,
    replicated: Transaction,
    local: Transaction,
    /// Rows that already go.
    gone: BTreeSet<RowKey>,
}

impl<'a> Removal<'a> {
    pub(super) fn new(topology: &'a Topology) -> Self {
        Self {
            topology,
            replicated: Transaction::default(),
            local: Transaction::default(),
            gone: BTreeSet::new(),
        }
    }

    fn store(&mut self, store: Store) -> &mut Transaction {
        match store {
            Store::Replicated => &mut self.replicated,
            Store::Local => &mut self.local,
        }
    }

    /// The row goes. What another node has of its own goes there, when it hears of what goes here.
    fn delete(&mut self, store: Store, row: RowKey, version: Version) -> bool {
        if !self.gone.insert(row.clone()) {
            return false;
        }
        if !self.topology.is_elsewhere(store, version) {
            self.store(store).writes.push(Write::Delete { row });
        }
        true
    }

    /// The queue's row becomes a tombstone, its bindings go.
    pub(super) fn queue(&mut self, queue: &Queue) {
        let row = queue.row_key();
        let unchanged = Precondition::Unchanged(row.clone(), queue.version);
        if !self.delete(queue.store, row, queue.version) {
            return;
        }
        if !self.topology.is_elsewhere(queue.store, queue.version) {
            let transaction = self.store(queue.store);
            transaction.preconditions.push(unchanged);
            transaction.writes.push(queue.tombstone().put());
        }
        let topology = self.topology;
        if let Some(vhost) = topology.vhost(&queue.vhost) {
            self.bindings_to(vhost, DestinationKind::Queue, &queue.name);
        }
    }

    /// The exchange's row, unchanged, and all its bindings go.
    pub(super) fn exchange(&mut self, vhost: &'a Vhost, exchange: &Exchange) {
        let row = ExchangeKey {
            vhost: vhost.name(),
            name: &exchange.name,
        }
        .encode();
        let unchanged = Precondition::Unchanged(row, exchange.version);
        self.store(exchange.store).preconditions.push(unchanged);
        self.exchange_too(vhost, exchange);
    }

    /// An exchange goes with something else, which must not fail because this one has changed.
    fn exchange_too(&mut self, vhost: &'a Vhost, exchange: &Exchange) {
        let row = ExchangeKey {
            vhost: vhost.name(),
            name: &exchange.name,
        }
        .encode();
        if exchange.is_predeclared() || !self.delete(exchange.store, row, exchange.version) {
            return;
        }
        for binding in vhost.bindings_of_source(&exchange.name) {
            self.delete(binding.store, binding.row_key(), binding.version);
        }
        self.bindings_to(vhost, DestinationKind::Exchange, &exchange.name);
    }

    /// One binding goes, and its source with it if that was the last of an auto-delete exchange.
    pub(super) fn binding(&mut self, vhost: &'a Vhost, binding: &Binding) {
        if self.delete(binding.store, binding.row_key(), binding.version) {
            self.source_lost_one(vhost, &binding.source);
        }
    }

    /// Bindings one of whose ends is gone.
    pub(super) fn dangling(&mut self) {
        for (store, row, version) in self.topology.dangling() {
            let elsewhere = self.topology.is_elsewhere(store, version);
            if !elsewhere && self.delete(store, row.clone(), version) {
                let unchanged = Precondition::Unchanged(row.clone(), version);
                self.store(store).preconditions.push(unchanged);
            }
        }
    }

    fn bindings_to(&mut self, vhost: &'a Vhost, kind: DestinationKind, name: &Name) {
        let bindings: Vec<Arc<Binding>> =
            vhost.bindings_of_destination(kind, name).cloned().collect();
        for binding in &bindings {
            self.delete(binding.store, binding.row_key(), binding.version);
        }
        for binding in &bindings {
            self.source_lost_one(vhost, &binding.source);
        }
    }

    fn source_lost_one(&mut self, vhost: &'a Vhost, source: &Name) {
        let Some(exchange) = vhost.exchange(source) else {
            return;
        };
        if !exchange.row.auto_delete {
            return;
        }
        let some_left = vhost
            .bindings_of_source(source)
            .any(|binding| !self.gone.contains(&binding.row_key()));
        if !some_left {
            self.exchange_too(vhost, exchange);
        }
    }

    /// What was gathered for the definitions since this was asked last.
    pub(super) fn take_replicated(&mut self) -> Transaction {
        std::mem::take(&mut self.replicated)
    }

    /// Sends what was gathered; `wanted` names the store whose outcome is waited for, and the
    /// token it is told with.
    pub(super) fn submit(self, wanted: Option<(Store, Token)>, work: &mut Work) {
        for (store, transaction) in [
            (Store::Replicated, self.replicated),
            (Store::Local, self.local),
        ] {
            let token = wanted
                .filter(|(of, _)| *of == store)
                .map(|(_, token)| token);
            if token.is_some() || !transaction.writes.is_empty() {
                work.transact(store.shard(), transaction, token);
            }
        }
    }
}
