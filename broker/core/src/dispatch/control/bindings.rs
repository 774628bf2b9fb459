//! Bindings: bind and unbind, of queues and of exchanges.

use std::sync::Arc;

use warren_cluster_core::rows::{Precondition, Transaction, Write};

use super::removal::Removal;
use super::{Next, Stage, Step};
use crate::auth::access::{Access, AccessCache, Resource};
use crate::definitions::{BindingKey, ExchangeKey, ExchangeKind, QueueKey, Store, changes};
use crate::dispatch::operation::{Answer, Bind, DestinationKind};
use crate::exception::Exception;
use crate::names::strip_line_breaks;
use crate::topology::headers;

/// Both ends of a binding, found.
struct Ends {
    source: Vec<u8>,
    destination: Vec<u8>,
    /// The store that the binding's row belongs to.
    store: Store,
    /// Rows that must still be there, as far as that store has them.
    present: Vec<Precondition>,
    kind: ExchangeKind,
}

impl Step<'_, '_> {
    pub(super) fn bind(&mut self, bind: &Bind) -> Result<Next, Exception> {
        let ends = self.ends(bind)?;
        if ends.kind == ExchangeKind::Headers {
            headers::check_binding(&bind.arguments)?;
        }
        let vhost = self.vhost()?;
        let row = self.binding_key(bind, &ends).encode();
        if vhost.binding(&row).is_some() {
            return Ok(Next::Done(Answer::Done));
        }
        let writes = vec![Write::Put {
            row,
            value: BindingKey::value(),
        }];
        let transaction = Transaction {
            preconditions: ends.present,
            writes,
        };
        self.work
            .transact(ends.store.shard(), transaction, Some(self.token));
        Ok(Next::Wait(Stage::Writing(Answer::Done)))
    }

    pub(super) fn unbind(&mut self, bind: &Bind) -> Result<Next, Exception> {
        let ends = self.ends(bind)?;
        let row = self.binding_key(bind, &ends).encode();
        let topology = self.scene.topology;
        let Some(vhost) = topology.vhost(&self.actor.vhost) else {
            return Ok(Next::Done(Answer::Done));
        };
        let Some(binding) = vhost.binding(&row) else {
            return Ok(Next::Done(Answer::Done));
        };
        let mut removal = Removal::new(topology);
        removal.binding(vhost, binding);
        removal.submit(Some((binding.store, self.token)), self.work);
        Ok(Next::Wait(Stage::Removing(Answer::Done)))
    }

    fn binding_key<'b>(&'b self, bind: &'b Bind, ends: &'b Ends) -> BindingKey<'b> {
        BindingKey {
            vhost: &self.actor.vhost,
            source: &ends.source,
            destination: &ends.destination,
            destination_kind: bind.destination_kind,
            routing_key: &bind.routing_key,
            arguments: bind.arguments.clone(),
        }
    }

    /// Checks access (write to the destination, read from the source) and finds both ends.
    fn ends(&self, bind: &Bind) -> Result<Ends, Exception> {
        let source = strip_line_breaks(&bind.source);
        let destination = strip_line_breaks(&bind.destination);
        let target = match bind.destination_kind {
            DestinationKind::Queue => Resource::Queue(&destination),
            DestinationKind::Exchange => {
                self.check_not_default(&destination)?;
                Resource::Exchange(&destination)
            }
        };
        self.check_not_default(&source)?;
        self.require(Access::Write, target)?;
        self.require(Access::Read, Resource::Exchange(&source))?;
        let vhost = self.vhost()?;
        let (destination_store, destination_row) = match bind.destination_kind {
            DestinationKind::Queue => {
                let queue = vhost.require_queue(&destination)?;
                self.check_owner(queue)?;
                let key = QueueKey {
                    vhost: vhost.name(),
                    name: &destination,
                }
                .encode();
                (queue.store, Some(key))
            }
            DestinationKind::Exchange => {
                let exchange = vhost.require_exchange(&destination)?;
                let key = ExchangeKey {
                    vhost: vhost.name(),
                    name: &destination,
                }
                .encode();
                (exchange.store, (!exchange.is_predeclared()).then_some(key))
            }
        };
        let exchange = vhost.require_exchange(&source)?;
        if exchange.row.kind == ExchangeKind::Topic {
            let mut cache =
                AccessCache::new(Arc::clone(&self.actor.user), Arc::clone(&self.actor.vhost));
            cache.check_topic(
                self.scene.topology,
                Access::Read,
                &source,
                &bind.routing_key,
            )?;
        }
        let source_key = ExchangeKey {
            vhost: vhost.name(),
            name: &source,
        }
        .encode();
        let source_row = (!exchange.is_predeclared()).then_some(source_key);
        let (store, present) = changes::binding_ends(
            (destination_store, destination_row),
            (exchange.store, source_row),
        );
        let kind = exchange.row.kind;
        Ok(Ends {
            source,
            destination,
            store,
            present,
            kind,
        })
    }
}
