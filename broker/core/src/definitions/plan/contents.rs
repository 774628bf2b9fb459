//! What is in a vhost: exchanges, queues, bindings.

use std::collections::BTreeSet;

use warren_cluster_core::rows::{RowKey, Transaction, Write};
use warren_protocol::{FieldValue, ReplyCode, ShortString};

use super::{Action, Planner, UnitPlan};
use crate::definitions::changes::{self, End};
use crate::definitions::interchange::{
    BindingDefinition, Contents, ExchangeDefinition, ObjectKind, QueueDefinition, Section,
    normalized,
};
use crate::definitions::{
    BindingKey, ExchangeKind, ExchangeRow, Predeclared, QueueRow, Store, VhostRow, arguments,
    equivalence,
};
use crate::dispatch::operation::{DeclareQueue, DestinationKind};
use crate::exception::Exception;
use crate::splitmix::mix;
use crate::topology::{Binding, Vhost, headers};

/// One vhost and what a file has for it.
pub(super) struct Room<'a> {
    pub(super) name: &'a str,
    /// As it will be.
    pub(super) row: VhostRow,
    /// `None` when the import makes it.
    pub(super) present: Option<&'a Vhost>,
    pub(super) wanted: &'a Contents,
}

impl Planner<'_> {
    /// Vhosts whose contents the import looks at, in order.
    pub(super) fn vhosts(&self) -> BTreeSet<&str> {
        let file = self.definitions;
        let mut vhosts: BTreeSet<&str> = file.contents.keys().map(String::as_str).collect();
        let unsupported = file.unsupported.iter();
        vhosts.extend(unsupported.filter_map(|object| self.vhost_of(object)));
        if self.options.prune {
            vhosts.extend(file.vhosts.keys().map(String::as_str));
        }
        // A file of one vhost without anything in it still says that it is to be there.
        vhosts.extend(file.vhost.as_deref());
        vhosts
    }

    pub(super) fn contents(&self, name: &str, cluster_is_blocked: bool, unit: &mut UnitPlan) {
        self.unsupported(unit);
        let present = self.topology.vhost(name).map(AsRef::as_ref);
        let wanted_row = self.definitions.vhosts.get(name);
        if present.is_none() && wanted_row.is_none() {
            unit.blocked = Some(format!("vhost '{name}' not found"));
        } else if present.is_none() && cluster_is_blocked {
            let cause = "because users, vhosts and permissions are not applied";
            unit.blocked = Some(format!("vhost '{name}' is not created, {cause}"));
        }
        let coming = wanted_row.filter(|_| !cluster_is_blocked);
        let row = coming.or_else(|| present.map(Vhost::row)).cloned();
        let none = Contents::default();
        let room = Room {
            name,
            row: row.unwrap_or_default(),
            present,
            wanted: self.definitions.contents.get(name).unwrap_or(&none),
        };
        for (name, wanted) in &room.wanted.exchanges {
            room.exchange(name, wanted, unit);
        }
        for (at, (name, wanted)) in room.wanted.queues.iter().enumerate() {
            let draw = mix(self.options.random, at as u64);
            room.queue(name, wanted, (draw, self.options.shards), unit);
        }
        let existing = room.existing_bindings();
        for (row, binding) in &room.wanted.bindings {
            room.binding(row, binding, &existing, unit);
        }
        if self.options.prune && present.is_some() {
            let sections = [Section::Exchanges, Section::Queues, Section::Bindings];
            room.prune(sections.map(|section| self.has(section)), unit);
        }
    }
}

impl Room<'_> {
    fn exchange(&self, name: &str, wanted: &ExchangeDefinition, unit: &mut UnitPlan) {
        let declare = wanted.declare(name);
        let kind = ObjectKind::Exchange;
        let Some(exchange_kind) = ExchangeKind::from_name(&declare.kind) else {
            let cause = format!("unknown exchange type '{}'", wanted.kind);
            unit.entry(kind, name, Action::Unsupported, cause);
            return;
        };
        let present = self
            .present
            .and_then(|vhost| vhost.exchange(name.as_bytes()))
            .map(|exchange| exchange.row.clone())
            .or_else(|| predeclared(name).map(Predeclared::row));
        if let Some(present) = present {
            let same = equivalence::check_exchange(self.name, &present, &declare);
            agree(unit, kind, name, same);
            return;
        }
        if name.starts_with("amq.") {
            refuse(
                unit,
                kind,
                name,
                &arguments::reserved("exchange", &declare.name),
            );
            return;
        }
        let checked = arguments::check_exchange(self.name, &declare.name, &declare.arguments);
        if let Err(exception) = checked {
            refuse(unit, kind, name, &exception);
            return;
        }
        if !wanted.durable {
            transient(unit, kind, name);
            return;
        }
        let row = ExchangeRow {
            kind: exchange_kind,
            durable: wanted.durable,
            auto_delete: wanted.auto_delete,
            internal: wanted.internal,
            home: None,
            arguments: declare.arguments,
        };
        unit.entry(kind, name, Action::Create, "");
        let piece = changes::create_exchange(self.name, name.as_bytes(), &row);
        unit.puts.add(Store::Replicated, piece);
    }

    fn queue(
        &self,
        name: &str,
        wanted: &QueueDefinition,
        (draw, shards): (u64, u32),
        unit: &mut UnitPlan,
    ) {
        let kind = ObjectKind::Queue;
        let declare = self.typed(name, wanted);
        let present = self.present.and_then(|vhost| vhost.queue(name.as_bytes()));
        if let Some(present) = present {
            let row = &present.row;
            let same = equivalence::check_queue(self.name, &self.row, row, &declare, None);
            agree(unit, kind, name, same);
            return;
        }
        let queue_kind = match arguments::check_queue(self.name, &self.row, &declare) {
            Ok(queue_kind) => queue_kind,
            Err(exception) => {
                refuse(unit, kind, name, &exception);
                return;
            }
        };
        if !wanted.durable {
            transient(unit, kind, name);
            return;
        }
        let row = QueueRow {
            kind: queue_kind,
            durable: declare.durable,
            auto_delete: declare.auto_delete,
            owner: None,
            home: None,
            shard: changes::queue_shard(draw, shards),
            created: None,
            // The type is in the row; the argument is there only if the file has it.
            arguments: wanted.arguments.clone(),
        };
        unit.entry(kind, name, Action::Create, "");
        let piece = changes::create_queue(self.name, name.as_bytes(), Store::Replicated, &row);
        unit.puts.add(Store::Replicated, piece);
    }

    /// The declaration of a queue, which says its type where the vhost would make it another.
    fn typed(&self, name: &str, wanted: &QueueDefinition) -> DeclareQueue {
        let mut declare = wanted.declare(name);
        let Some(kind) = &wanted.kind else {
            return declare;
        };
        let says_it = declare.arguments.get("x-queue-type").is_some();
        let by_default = arguments::queue_kind(&self.row, &declare);
        let needs_to = by_default.map_or(true, |default| default.name() != kind);
        if !says_it
            && needs_to
            && let Ok(argument) = ShortString::try_from("x-queue-type")
        {
            let value = FieldValue::from(kind.as_str());
            declare.arguments.set(argument, value);
        }
        declare
    }

    /// Bindings that are there, as a file would have them.
    fn existing_bindings(&self) -> BTreeSet<RowKey> {
        let Some(vhost) = self.present.filter(|_| !self.wanted.bindings.is_empty()) else {
            return BTreeSet::new();
        };
        let bindings = vhost.bindings();
        bindings
            .map(|binding| file_key(self.name, binding))
            .collect()
    }

    fn binding(
        &self,
        row: &RowKey,
        wanted: &BindingDefinition,
        existing: &BTreeSet<RowKey>,
        unit: &mut UnitPlan,
    ) {
        let kind = ObjectKind::Binding;
        let name = wanted.to_string();
        let ends = self
            .source(&wanted.source)
            .and_then(|(source_kind, source)| {
                if source_kind == Some(ExchangeKind::Headers) {
                    headers::check_binding(&wanted.arguments)?;
                }
                Ok((source, self.destination(wanted)?))
            });
        let (source, destination) = match ends {
            Ok(ends) => ends,
            Err(exception) => {
                refuse(unit, kind, &name, &exception);
                return;
            }
        };
        if existing.contains(row) {
            unit.entry(kind, name, Action::Same, "");
            return;
        }
        let (store, preconditions) = changes::binding_ends(destination, source);
        if store == Store::Local {
            transient(unit, kind, &name);
            return;
        }
        unit.entry(kind, name, Action::Create, "");
        let piece = Transaction {
            preconditions,
            writes: vec![Write::Put {
                row: row.clone(),
                value: BindingKey::value(),
            }],
        };
        unit.puts.add(store, piece);
    }

    /// Type (`None`: one that we do not have) and end of a binding's source.
    fn source(&self, name: &str) -> Result<(Option<ExchangeKind>, End), Exception> {
        let (vhost, bytes) = (self.name, name.as_bytes());
        let present = self.present.and_then(|vhost| vhost.exchange(bytes));
        let wanted = self.wanted.exchanges.get(name);
        if let Some(present) = present.filter(|present| !present.is_predeclared()) {
            let end = End::exchange(vhost, bytes, present.store);
            return Ok((Some(present.row.kind), end));
        }
        match (predeclared(name), wanted) {
            (Some(exchange), _) => Ok((Some(exchange.kind), End::predeclared())),
            (None, Some(wanted)) => {
                let kind = ExchangeKind::from_name(wanted.kind.as_bytes());
                let store = store_of_file(wanted.durable);
                Ok((kind, End::exchange(vhost, bytes, store)))
            }
            (None, None) => {
                let mut exception = Exception::no_such("exchange", bytes, vhost);
                let hint = " (files of RabbitMQ lack internal exchanges: declare it first)";
                exception.text.push_str(hint);
                Err(exception)
            }
        }
    }

    fn destination(&self, wanted: &BindingDefinition) -> Result<End, Exception> {
        let name = &wanted.destination;
        if wanted.destination_kind == DestinationKind::Exchange {
            return self.source(name).map(|(_, end)| end);
        }
        let (vhost, bytes) = (self.name, name.as_bytes());
        if let Some(present) = self.present.and_then(|vhost| vhost.queue(bytes)) {
            return Ok(End::queue(vhost, bytes, present.store));
        }
        match self.wanted.queues.get(name) {
            Some(queue) => {
                let store = store_of_file(queue.durable);
                Ok(End::queue(vhost, bytes, store))
            }
            None => Err(Exception::no_such("queue", bytes, vhost)),
        }
    }
}

/// What is not durable is not taken from files: as if it were somebody else's.
fn store_of_file(durable: bool) -> Store {
    if durable {
        Store::Replicated
    } else {
        Store::Local
    }
}

/// The exchange of that name that every vhost has.
fn predeclared(name: &str) -> Option<Predeclared> {
    let mut all = Predeclared::ALL.into_iter();
    all.find(|exchange| exchange.name == name)
}

/// The key that a binding would have, had it been read from a file.
pub(super) fn file_key(vhost: &str, binding: &Binding) -> RowKey {
    let is_text = std::str::from_utf8(&binding.routing_key).is_ok();
    if binding.arguments.is_empty() && is_text {
        return binding.row_key();
    }
    let routing_key = binding.routing_key.to_text();
    let key = BindingKey {
        vhost,
        source: &binding.source,
        destination: &binding.destination,
        destination_kind: binding.destination_kind,
        routing_key: routing_key.as_bytes(),
        arguments: normalized(&binding.arguments),
    };
    key.encode()
}

/// An object that is there: as the file has it, or not.
fn agree(unit: &mut UnitPlan, kind: ObjectKind, name: &str, same: Result<(), Exception>) {
    match same {
        Ok(()) => unit.entry(kind, name, Action::Same, ""),
        Err(exception) => refuse(unit, kind, name, &exception),
    }
}

fn refuse(unit: &mut UnitPlan, kind: ObjectKind, name: &str, exception: &Exception) {
    let action = match exception.code {
        ReplyCode::NotImplemented => Action::Unsupported,
        _ => Action::Conflict,
    };
    unit.entry(kind, name, action, exception.text.clone());
}

fn transient(unit: &mut UnitPlan, kind: ObjectKind, name: &str) {
    let cause = "what is not durable lives on the node that a client declared it on";
    unit.entry(kind, name, Action::Unsupported, cause);
}
