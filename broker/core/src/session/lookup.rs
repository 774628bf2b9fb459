//! Queues by name, as a connection may use them.

use warren_cluster_core::ids::ShardId;
use warren_protocol::{Method, ReplyCode};

use super::common::{Common, Turn};
use super::fault::Fault;
use crate::auth::access::{self, Access, Resource};
use crate::exception::{Exception, resource};
use crate::ids::QueueId;

/// A queue that exists and that this connection may use.
#[derive(Clone, Copy, Debug)]
pub(super) struct FoundQueue {
    pub(super) id: QueueId,
    pub(super) shard: ShardId,
}

/// The queue, unless it is missing (404) or another connection's own (405).
pub(super) fn queue(
    common: &Common,
    turn: &Turn<'_, '_>,
    name: &[u8],
) -> Result<FoundQueue, Fault> {
    let vhost = turn.env.topology.vhost(common.vhost_name());
    let Some(queue) = vhost.and_then(|vhost| vhost.queue(name)) else {
        return Err(no_queue(common, name));
    };
    let home = turn.env.home;
    let others = queue.row.owner.as_ref().is_some_and(|owner| {
        (owner.session, owner.node, owner.incarnation) != (common.id, home.node, home.incarnation)
    });
    if others {
        let text = format!(
            "cannot obtain exclusive access to locked {}. It could be originally declared on \
             another connection or the exclusive property value does not match that of the \
             original declaration.",
            queue_text(common, name)
        );
        return Err(Fault::new(ReplyCode::ResourceLocked, text));
    }
    let destination = queue.destination();
    Ok(FoundQueue {
        id: destination.queue,
        shard: destination.shard,
    })
}

/// 404 for a queue.
pub(super) fn no_queue(common: &Common, name: &[u8]) -> Fault {
    Exception::no_such("queue", name, common.vhost_name()).into()
}

/// The queue as RabbitMQ's texts name it.
pub(super) fn queue_text(common: &Common, name: &[u8]) -> String {
    resource("queue", name, common.vhost_name())
}

/// 503 for a method that only servers send, or that has no place on its channel.
pub(super) fn unexpected(method: &Method<'_>) -> Fault {
    Fault::new(ReplyCode::CommandInvalid, "unimplemented method").of(method.ids())
}

/// 403 unless the user may read from the queue, whether or not it exists.
pub(super) fn may_read_queue(
    common: &Common,
    turn: &Turn<'_, '_>,
    name: &[u8],
) -> Result<(), Fault> {
    let Some(login) = common.login.as_deref() else {
        return Ok(());
    };
    let actor = &login.actor;
    access::check(
        turn.env.topology,
        &actor.user,
        &actor.vhost,
        Access::Read,
        Resource::Queue(name),
    )?;
    Ok(())
}
