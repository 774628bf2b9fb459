//! What goes because the file lacks it.
//!
//! Only what a file can have: never predeclared, transient or exclusive objects, and never internal
//! exchanges or their bindings, which RabbitMQ leaves out of its files. Bindings of exclusive
//! queues to an exchange that goes are left dangling, and are swept as such.

use std::sync::Arc;

use warren_cluster_core::rows::{Precondition, RowKey, Transaction, Write};

use super::contents::{Room, file_key};
use super::{Action, Planner, UnitPlan};
use crate::definitions::interchange::{BindingDefinition, ObjectKind, touches_internal};
use crate::definitions::{ExchangeKey, Store};
use crate::dispatch::operation::DestinationKind;
use crate::topology::{Binding, Exchange, Queue, Vhost};

impl Planner<'_> {
    /// All that is in a vhost that goes, on this node: what a file could have and what not.
    pub(super) fn empty_vhost(&self, name: &str, unit: &mut UnitPlan) {
        let Some(vhost) = self.topology.vhost(name) else {
            return;
        };
        // What other nodes have of their own goes there, when they hear that the vhost is gone.
        let topology = self.topology;
        for binding in in_order(vhost, |it| !topology.is_elsewhere(it.store, it.version)) {
            delete_binding(&binding, unit);
        }
        for queue in queues(vhost, |it| !topology.is_elsewhere(it.store, it.version)) {
            delete_queue(&queue, unit);
        }
        for exchange in exchanges(vhost, |exchange| !exchange.is_predeclared()) {
            delete_exchange(vhost, &exchange, unit);
        }
    }
}

impl Room<'_> {
    /// Deletes of those kinds that the file has a section of.
    pub(super) fn prune(
        &self,
        [of_exchanges, of_queues, of_bindings]: [bool; 3],
        unit: &mut UnitPlan,
    ) {
        let Some(vhost) = self.present else {
            return;
        };
        let text = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
        let going_exchanges = exchanges(vhost, |exchange| {
            of_exchanges
                && exchange.is_kept()
                && !exchange.name.starts_with(b"amq.")
                && !exchange.is_predeclared()
                && !exchange.row.internal
                && !self.wanted.exchanges.contains_key(&text(&exchange.name))
        });
        let going_queues = queues(vhost, |queue| {
            of_queues && queue.is_kept() && !self.wanted.queues.contains_key(&text(&queue.name))
        });
        let going = in_order(vhost, |binding| {
            of_bindings
                && vhost.keeps(binding)
                && !touches_internal(vhost, binding)
                && !self
                    .wanted
                    .bindings
                    .contains_key(&file_key(self.name, binding))
        });
        for binding in going {
            delete_binding(&binding, unit);
        }
        for queue in going_queues {
            self.delete_bindings_to(vhost, DestinationKind::Queue, &queue.name, unit);
            delete_queue(&queue, unit);
        }
        for exchange in going_exchanges {
            self.delete_bindings_to(vhost, DestinationKind::Exchange, &exchange.name, unit);
            for binding in vhost.bindings_of_source(&exchange.name) {
                delete_replicated(binding, unit);
            }
            delete_exchange(vhost, &exchange, unit);
        }
    }

    /// What leads to something that goes, whether or not bindings are pruned.
    fn delete_bindings_to(
        &self,
        vhost: &Vhost,
        kind: DestinationKind,
        name: &[u8],
        unit: &mut UnitPlan,
    ) {
        for binding in vhost.bindings_of_destination(kind, name) {
            delete_replicated(binding, unit);
        }
    }
}

fn in_order(vhost: &Vhost, goes: impl Fn(&Binding) -> bool) -> Vec<Arc<Binding>> {
    let bindings = vhost.bindings().filter(|binding| goes(binding));
    bindings.cloned().collect()
}

fn queues(vhost: &Vhost, goes: impl Fn(&Queue) -> bool) -> Vec<Arc<Queue>> {
    let queues = vhost.queues().filter(|queue| goes(queue));
    let mut queues: Vec<_> = queues.cloned().collect();
    queues.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    queues
}

fn exchanges(vhost: &Vhost, goes: impl Fn(&Exchange) -> bool) -> Vec<Arc<Exchange>> {
    let exchanges = vhost.exchanges().filter(|exchange| goes(exchange));
    let mut exchanges: Vec<_> = exchanges.cloned().collect();
    exchanges.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    exchanges
}

fn delete_replicated(binding: &Binding, unit: &mut UnitPlan) {
    if binding.store == Store::Replicated {
        delete_binding(binding, unit);
    }
}

fn delete_binding(binding: &Binding, unit: &mut UnitPlan) {
    let shown = BindingDefinition {
        source: binding.source.to_text(),
        destination: binding.destination.to_text(),
        destination_kind: binding.destination_kind,
        routing_key: binding.routing_key.to_text(),
        arguments: binding.arguments.clone(),
    };
    let row = binding.row_key();
    if unit.gone.insert(row.clone()) {
        unit.entry(ObjectKind::Binding, shown.to_string(), Action::Delete, "");
        let unchanged = Precondition::Unchanged(row.clone(), binding.version);
        delete(binding.store, row, unchanged, None, unit);
    }
}

fn delete_queue(queue: &Queue, unit: &mut UnitPlan) {
    let cause = match (&queue.row.owner, queue.store) {
        (Some(_), _) => "exclusive; its messages go with it",
        (None, _) if !queue.row.durable => "transient; its messages go with it",
        (None, _) => "its messages go with it",
    };
    unit.entry(
        ObjectKind::Queue,
        queue.name.to_text(),
        Action::Delete,
        cause,
    );
    let row = queue.row_key();
    let unchanged = Precondition::Unchanged(row.clone(), queue.version);
    let tombstone = queue.tombstone().put();
    delete(queue.store, row, unchanged, Some(tombstone), unit);
}

fn delete_exchange(vhost: &Vhost, exchange: &Exchange, unit: &mut UnitPlan) {
    unit.entry(
        ObjectKind::Exchange,
        exchange.name.to_text(),
        Action::Delete,
        "",
    );
    let key = ExchangeKey {
        vhost: vhost.name(),
        name: &exchange.name,
    };
    let row = key.encode();
    let unchanged = Precondition::Unchanged(row.clone(), exchange.version);
    delete(exchange.store, row, unchanged, None, unit);
}

fn delete(
    store: Store,
    row: RowKey,
    unchanged: Precondition,
    besides: Option<Write>,
    unit: &mut UnitPlan,
) {
    let mut writes = vec![Write::Delete { row }];
    writes.extend(besides);
    let piece = Transaction {
        preconditions: vec![unchanged],
        writes,
    };
    unit.deletes.add(store, piece);
}
