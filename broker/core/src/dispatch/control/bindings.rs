//! Bindings: bind and unbind, of queues and of exchanges.

use std::sync::Arc;

use warren_cluster_core::rows::{Precondition, Transaction, Write};

use super::removal::Removal;
use super::{Next, Stage, Step};
use crate::auth::access::{Access, AccessCache, Resource};
use crate::definitions::changes::End;
use crate::definitions::{BindingKey, ExchangeKind, Store, changes};
use crate::dispatch::operation::{Answer, Bind, DestinationKind};
use crate::exception::Exception;
use crate::names::strip_line_breaks;
use crate::topology::{Exchange, Vhost, headers};

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
        let end = match bind.destination_kind {
            DestinationKind::Queue => {
                let queue = vhost.require_queue(&destination)?;
                self.check_owner(queue)?;
                End::queue(vhost.name(), &destination, queue.store)
            }
            DestinationKind::Exchange => {
                end_of_exchange(vhost, vhost.require_exchange(&destination)?)
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
        let (store, present) = changes::binding_ends(end, end_of_exchange(vhost, exchange));
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

fn end_of_exchange(vhost: &Vhost, exchange: &Exchange) -> End {
    if exchange.is_predeclared() {
        return End::predeclared();
    }
    End::exchange(vhost.name(), &exchange.name, exchange.store)
}
