//! Where a publish goes: permissions and routes, remembered as long as they hold.
//!
//! Invariant: nothing is remembered that the topology at hand would not say again.

use std::sync::Arc;

use warren_cluster_core::ids::ShardId;
use warren_protocol::{Properties, Property, Table};

use super::common::{Common, Turn};
use super::fault::Fault;
use super::publish::Publish;
use crate::auth::access::{Access, AccessCache, Resource};
use crate::definitions::ExchangeKind;
use crate::exception::Exception;
use crate::ids::QueueId;
use crate::topology::Vhost;
use crate::topology::route::{RouteBuffer, RouteCache};

/// What a session that publishes remembers.
pub(super) struct Routing {
    access: AccessCache,
    cache: RouteCache,
    buffer: RouteBuffer,
    /// The queues of one shard.
    queues: Vec<QueueId>,
}

impl Routing {
    fn new(user: &Arc<str>, vhost: &Arc<str>) -> Self {
        Self {
            access: AccessCache::new(user.clone(), vhost.clone()),
            cache: RouteCache::new(),
            buffer: RouteBuffer::new(),
            queues: Vec::new(),
        }
    }

    /// Whether the user may publish this.
    ///
    /// # Errors
    /// 403.
    #[inline]
    pub(super) fn check(
        &mut self,
        turn: &mut Turn<'_, '_>,
        vhost: &Vhost,
        publish: &Publish<'_>,
    ) -> Result<(), Fault> {
        let topology = turn.env.topology;
        let exchange = publish.exchange;
        self.access
            .check(topology, Access::Write, Resource::Exchange(exchange))?;
        if exchange.is_empty() {
            return Ok(());
        }
        let key = publish.routing_key;
        let checked = self
            .access
            .check_topic(topology, Access::Write, exchange, key);
        if let Err(refusal) = checked
            && vhost
                .exchange(exchange)
                .is_some_and(|exchange| exchange.row.kind == ExchangeKind::Topic)
        {
            return Err(refusal.into());
        }
        Ok(())
    }

    /// Finds the queues.
    ///
    /// # Errors
    /// 404 and 403 for the exchange, 406 for headers that are not what they should be.
    #[inline]
    pub(super) fn route(
        &mut self,
        vhost: &Vhost,
        publish: &Publish<'_>,
        properties: Properties<'_>,
    ) -> Result<(), Fault> {
        let (exchange, key) = (publish.exchange, publish.routing_key);
        self.cache
            .route(vhost, exchange, key, properties, &mut self.buffer)?;
        Ok(())
    }

    pub(super) fn is_unroutable(&self) -> bool {
        self.buffer.destinations().is_empty()
    }

    /// The properties as they are delivered, if that is not as they came: without `BCC`.
    pub(super) fn delivered_properties(&self, properties: Properties<'_>) -> Option<Vec<u8>> {
        if !self.buffer.has_bcc() || !properties.has(Property::Headers) {
            return None;
        }
        let mut kept = Vec::new();
        properties.headers()?.copy_without(b"BCC", &mut kept).ok()?;
        Some(properties.edit().headers(Table::from_raw(&kept)).finish())
    }

    /// How many shards the queues are in.
    #[inline]
    pub(super) fn shards(&self) -> u32 {
        match self.buffer.destinations() {
            [_] => 1,
            many => many.chunk_by(|a, b| a.shard == b.shard).count() as u32,
        }
    }

    /// Calls `each` with every shard and its queues.
    #[inline]
    pub(super) fn each_shard(&mut self, mut each: impl FnMut(ShardId, &[QueueId])) {
        if let [only] = self.buffer.destinations() {
            each(only.shard, &[only.queue]);
            return;
        }
        let shards = self.buffer.destinations();
        for group in shards.chunk_by(|a, b| a.shard == b.shard) {
            self.queues.clear();
            self.queues.extend(group.iter().map(|to| to.queue));
            each(group[0].shard, &self.queues);
        }
    }
}

impl Common {
    /// What is remembered, made when it is first needed; put back into `routing` after use.
    #[inline]
    pub(super) fn take_routing(&mut self) -> Box<Routing> {
        if let Some(routing) = self.routing.take() {
            return routing;
        }
        let nobody: Arc<str> = Arc::from("");
        let (user, vhost) = match self.login.as_deref() {
            Some(login) => (&login.actor.user, &login.actor.vhost),
            None => (&nobody, &nobody),
        };
        Box::new(Routing::new(user, vhost))
    }
}

impl<'a> Turn<'a, '_> {
    /// The session's vhost; looked up once a turn.
    ///
    /// # Errors
    /// 404 for the exchange when the vhost is gone.
    #[inline]
    pub(super) fn vhost(&mut self, common: &Common, exchange: &[u8]) -> Result<&'a Vhost, Fault> {
        if let Some(vhost) = self.vhost {
            return Ok(vhost);
        }
        let name = common.vhost_name();
        let Some(vhost) = self.env.topology.vhost(name) else {
            return Err(Exception::no_such("exchange", exchange, name).into());
        };
        self.vhost = Some(vhost);
        Ok(vhost)
    }
}
