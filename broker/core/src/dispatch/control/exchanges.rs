//! Exchanges: declare and delete.

use warren_protocol::ReplyCode;

use super::removal::Removal;
use super::{Next, Stage, Step};
use crate::auth::access::{Access, Resource};
use crate::definitions::{ExchangeKind, ExchangeRow, Store, arguments, changes, equivalence};
use crate::dispatch::operation::{Answer, DeclareExchange};
use crate::exception::{Exception, resource};
use crate::names::strip_line_breaks;

impl Step<'_, '_> {
    pub(super) fn declare_exchange(
        &mut self,
        declare: &DeclareExchange,
    ) -> Result<Next, Exception> {
        let name = strip_line_breaks(&declare.name);
        self.check_not_default(&name)?;
        if declare.passive {
            self.vhost()?.require_exchange(&name)?;
            return Ok(Next::Done(Answer::Done));
        }
        let Some(kind) = ExchangeKind::from_name(&declare.kind) else {
            let kind = String::from_utf8_lossy(&declare.kind);
            return Err(Exception::precondition(format!(
                "unknown exchange type '{kind}'"
            )));
        };
        self.require(Access::Configure, Resource::Exchange(&name))?;
        let mut wanted = declare.clone();
        wanted.name.clone_from(&name);
        let row = ExchangeRow {
            kind,
            durable: declare.durable,
            auto_delete: declare.auto_delete,
            internal: declare.internal,
            home: (!declare.durable).then_some(self.scene.home),
            arguments: declare.arguments.clone(),
        };
        if let Some(alternate) = row.alternate() {
            self.require(Access::Read, Resource::Exchange(&name))?;
            self.require(Access::Write, Resource::Exchange(alternate))?;
        }
        if let Some(exchange) = self.vhost()?.exchange(&name) {
            equivalence::check_exchange(&self.actor.vhost, &exchange.row, &wanted)?;
            return Ok(Next::Done(Answer::Done));
        }
        if name.starts_with(b"amq.") {
            return Err(arguments::reserved("exchange", &name));
        }
        arguments::check_exchange(&self.actor.vhost, &name, &wanted.arguments)?;
        self.create_exchange(&name, &row)
    }

    fn create_exchange(&mut self, name: &[u8], row: &ExchangeRow) -> Result<Next, Exception> {
        let mut transaction = changes::create_exchange(self.vhost()?.name(), name, row);
        if row.home.is_some() {
            transaction.preconditions.extend(self.alive()?);
        }
        let shard = Store::Replicated.shard();
        self.work.transact(shard, transaction, Some(self.token));
        Ok(Next::Wait(Stage::Writing(Answer::Done)))
    }

    pub(super) fn delete_exchange(
        &mut self,
        name: &[u8],
        if_unused: bool,
    ) -> Result<Next, Exception> {
        let name = strip_line_breaks(name);
        self.check_not_default(&name)?;
        if name.starts_with(b"amq.") {
            let what = resource("exchange", &name, &self.actor.vhost);
            let text = format!("deletion of system {what} not allowed");
            return Err(Exception::new(ReplyCode::AccessRefused, text));
        }
        self.require(Access::Configure, Resource::Exchange(&name))?;
        let topology = self.scene.topology;
        let Some(vhost) = topology.vhost(&self.actor.vhost) else {
            return Ok(Next::Done(Answer::Done));
        };
        let Some(exchange) = vhost.exchange(&name) else {
            return Ok(Next::Done(Answer::Done));
        };
        if if_unused && vhost.bindings_of_source(&name).next().is_some() {
            let what = resource("exchange", &name, &self.actor.vhost);
            return Err(Exception::precondition(format!("{what} in use")));
        }
        let mut removal = Removal::new(topology);
        removal.exchange(vhost, exchange);
        removal.submit(Some((exchange.store, self.token)), self.work);
        Ok(Next::Wait(Stage::Removing(Answer::Done)))
    }

    /// The default exchange cannot be declared, deleted, bound or unbound.
    pub(super) fn check_not_default(&self, name: &[u8]) -> Result<(), Exception> {
        if name.is_empty() {
            let text = "operation not permitted on the default exchange";
            return Err(Exception::new(ReplyCode::AccessRefused, text));
        }
        Ok(())
    }
}
