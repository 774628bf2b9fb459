//! Queues: declare, delete, purge.

use std::fmt::Write as _;

use warren_cluster_core::ids::ShardId;

use super::removal::Removal;
use super::{Next, Stage, Step};
use crate::auth::access::{Access, Resource};
use crate::definitions::{Owner, QueueKind, QueueRow, Store, arguments, changes, equivalence};
use crate::dispatch::operation::{Actor, Answer, DeclareQueue, Operation};
use crate::exception::{Exception, resource};
use crate::ids::QueueId;
use crate::names::strip_line_breaks;
use crate::server_names;
use crate::shard::effect::Reply;
use crate::shard::input::Input;
use crate::topology::Queue;

impl Step<'_, '_> {
    pub(super) fn declare_queue(&mut self, declare: &DeclareQueue) -> Result<Next, Exception> {
        let name = strip_line_breaks(&declare.name);
        if declare.passive {
            return self.declare_queue_passive(&name);
        }
        if name.starts_with(b"amq.") {
            return Err(arguments::reserved("queue", &name));
        }
        let mut wanted = declare.clone();
        let prefix = arguments::take_name_prefix(&self.actor.vhost, &mut wanted.arguments)?;
        let is_nameless = name.is_empty();
        wanted.name = if is_nameless {
            arguments::check_server_named(self.vhost()?.row(), &wanted)?;
            let prefix = prefix.as_deref().unwrap_or(b"amq.gen");
            server_names::draw(prefix, self.scene.home.node, self.scene.random)
        } else {
            name
        };
        self.require(Access::Configure, Resource::Queue(&wanted.name))?;
        let vhost = self.vhost()?;
        if let Some(queue) = vhost.queue(&wanted.name).cloned() {
            let Actor {
                vhost: name,
                session,
                ..
            } = self.actor;
            equivalence::check_queue(name, vhost.row(), &queue.row, &wanted, *session)?;
            return Ok(self.count(&queue));
        }
        let kind = arguments::check_queue(&self.actor.vhost, vhost.row(), &wanted)?;
        let row = self.queue_row(kind, &wanted);
        // A name that the server draws is nobody else's, and on a node that is alone all that is
        // there is known here.
        let home = self.scene.home.node;
        let unrivalled = is_nameless || self.scene.topology.is_alone(home);
        let store = Store::of_queue(wanted.exclusive, unrivalled);
        // Whoever else uses a name of the server's asks this node for it.
        let is_found_by_name = is_nameless && store == Store::Local;
        self.create_queue(wanted.name, store, is_found_by_name, &row)
    }

    fn declare_queue_passive(&mut self, name: &[u8]) -> Result<Next, Exception> {
        let queue = self.vhost()?.require_queue(name)?.clone();
        self.require_any(Resource::Queue(name))?;
        self.check_owner(&queue)?;
        Ok(self.count(&queue))
    }

    fn queue_row(&self, kind: QueueKind, wanted: &DeclareQueue) -> QueueRow {
        let home = self.scene.home;
        let owner = self
            .actor
            .session
            .filter(|_| wanted.exclusive)
            .map(|session| {
                Box::new(Owner {
                    session,
                    node: home.node,
                    incarnation: home.incarnation,
                })
            });
        let is_kept = wanted.durable && !wanted.exclusive;
        let shard = if is_kept {
            changes::queue_shard(self.scene.random, self.scene.shards)
        } else {
            ShardId::queues_of(home.node)
        };
        let transient = !is_kept && owner.is_none();
        QueueRow {
            kind,
            durable: wanted.durable,
            auto_delete: wanted.auto_delete,
            owner,
            home: transient.then(|| Box::new(home)),
            shard,
            created: None,
            arguments: wanted.arguments.clone(),
        }
    }

    fn create_queue(
        &mut self,
        name: Vec<u8>,
        store: Store,
        is_found_by_name: bool,
        row: &QueueRow,
    ) -> Result<Next, Exception> {
        let mut transaction = changes::create_queue(self.vhost()?.name(), &name, store, row);
        if store == Store::Replicated && row.lives_with().is_some() {
            transaction.preconditions.extend(self.alive()?);
        }
        if is_found_by_name {
            self.work.transact_here(transaction, self.token);
        } else {
            self.work
                .transact(store.shard(), transaction, Some(self.token));
        }
        Ok(Next::Wait(Stage::Writing(Answer::QueueDeclared {
            name,
            ready: 0,
            consumers: 0,
        })))
    }

    fn count(&mut self, queue: &Queue) -> Next {
        let asker = self.asker();
        let input = Input::Count {
            queue: queue.id(),
            asker,
            token: self.token,
        };
        self.work.ask(queue.row.shard, input);
        Next::Wait(Stage::Counting {
            queue: queue.id(),
            name: queue.name.to_vec(),
        })
    }

    pub(super) fn counted(&mut self, name: &[u8], reply: Reply) -> Result<Next, Exception> {
        match reply {
            Reply::Counts {
                ready, consumers, ..
            } => Ok(Next::Done(Answer::QueueDeclared {
                name: name.to_vec(),
                ready,
                consumers,
            })),
            // Deleted since: what the client wanted to know is that it is not there.
            _ => Err(Exception::no_such("queue", name, &self.actor.vhost)),
        }
    }

    pub(super) fn delete_queue(
        &mut self,
        name: &[u8],
        if_unused: bool,
        if_empty: bool,
    ) -> Result<Next, Exception> {
        let name = strip_line_breaks(name);
        self.require(Access::Configure, Resource::Queue(&name))?;
        let Some(queue) = self.vhost()?.queue(&name).cloned() else {
            return Ok(Next::Done(Answer::QueueDeleted { messages: 0 }));
        };
        self.check_owner(&queue)?;
        let asker = self.asker();
        let id = queue.id();
        let input = Input::Close {
            queue: id,
            if_unused,
            if_empty,
            asker,
            token: self.token,
        };
        self.work.ask(queue.row.shard, input);
        Ok(Next::Wait(Stage::Closing { queue: id }))
    }

    pub(super) fn closed(
        &mut self,
        queue: QueueId,
        operation: &Operation,
        reply: Reply,
    ) -> Result<Next, Exception> {
        let refuse = |what: &str| {
            let name = match operation {
                Operation::DeleteQueue { name, .. } => strip_line_breaks(name),
                _ => Vec::new(),
            };
            let mut text = resource("queue", &name, &self.actor.vhost);
            let _ = write!(text, " {what}");
            Err(Exception::precondition(text))
        };
        let messages = match reply {
            Reply::Closed { messages } => messages,
            Reply::InUse => return refuse("in use"),
            Reply::NotEmpty => return refuse("not empty"),
            Reply::NoQueue | Reply::Counts { .. } | Reply::Purged { .. } => 0,
        };
        Ok(self.remove_queue(queue, messages))
    }

    /// The rows of a closed queue go, so that its name is free for the one that is declared.
    /// `None` when they are gone already.
    pub(super) fn make_way(&mut self, queue: QueueId) -> Option<Stage> {
        let topology = self.scene.topology;
        let queue = topology.queue(queue)?;
        let mut removal = Removal::new(topology);
        removal.queue(queue);
        removal.submit(Some((queue.store, self.token)), self.work);
        Some(Stage::MakingWay)
    }

    /// The queue's rows go, if it is still the one that was closed.
    pub(super) fn remove_queue(&mut self, queue: QueueId, messages: u64) -> Next {
        let answer = Answer::QueueDeleted { messages };
        let topology = self.scene.topology;
        let Some(queue) = topology.queue(queue) else {
            return Next::Done(answer);
        };
        let mut removal = Removal::new(topology);
        removal.queue(queue);
        removal.submit(Some((queue.store, self.token)), self.work);
        Next::Wait(Stage::Removing(answer))
    }

    pub(super) fn purge_queue(&mut self, name: &[u8]) -> Result<Next, Exception> {
        let name = strip_line_breaks(name);
        self.require(Access::Read, Resource::Queue(&name))?;
        let queue = self.vhost()?.require_queue(&name)?.clone();
        self.check_owner(&queue)?;
        let asker = self.asker();
        self.work.ask(
            queue.row.shard,
            Input::Purge {
                queue: queue.id(),
                asker,
                token: self.token,
            },
        );
        Ok(Next::Wait(Stage::Purging))
    }

    pub(super) fn purged(
        &mut self,
        operation: &Operation,
        reply: Reply,
    ) -> Result<Next, Exception> {
        match (reply, operation) {
            (Reply::Purged { messages }, _) => Ok(Next::Done(Answer::QueuePurged { messages })),
            (_, Operation::PurgeQueue { name }) => {
                Err(Exception::no_such("queue", name, &self.actor.vhost))
            }
            _ => Ok(Next::Done(Answer::QueuePurged { messages: 0 })),
        }
    }

    /// An exclusive queue is its connection's alone.
    pub(super) fn check_owner(&self, queue: &Queue) -> Result<(), Exception> {
        let Actor { vhost, session, .. } = self.actor;
        equivalence::check_exclusive(vhost, &queue.name, &queue.row, *session)
    }
}
